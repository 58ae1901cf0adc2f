"""Which models and temperatures win: how often their answers are preferred to others'. Pure.

An answer's outcome in a pair is the verdict's probability that people prefer it; pairs of answers by the same model at
the same temperature say nothing here and are left out. Intervals resample whole prompts.
"""

import numpy as np
import polars as pl

from pipeline import ids, schemas
from pipeline.statistics import intervals as bootstrap
from pipeline.statistics.raters import Rows


def table(verdicts: pl.DataFrame, pairs: pl.DataFrame, samples: Rows, decide_by: str, seed: int) -> pl.DataFrame:
    """The frame ``win_rates``.

    Args:
        verdicts: frame ``verdicts``.
        pairs: frame ``pairs``.
        samples: frame ``samples``; of a lazy one no text is held.
        decide_by: ``p_a`` or ``p_a_lc``.
        seed: of the resampling.
    """
    makers = samples.lazy().select("sample_id", "model", "temperature").unique("sample_id", keep="any")
    compared = (
        verdicts.lazy()
        .select("pair_id", p=decide_by)
        .join(pairs.lazy().select("pair_id", "prompt_id", "sample_a", "sample_b"), on="pair_id")
        .join(makers.rename({"sample_id": "sample_a", "model": "model_a", "temperature": "at_a"}), on="sample_a")
        .join(makers.rename({"sample_id": "sample_b", "model": "model_b", "temperature": "at_b"}), on="sample_b")
        .filter((pl.col("model_a") != pl.col("model_b")) | pl.col("at_a").ne_missing(pl.col("at_b")))
        .sort("pair_id")
        .with_columns(prompt=pl.col("prompt_id").rank("dense").cast(pl.Int64) - 1)
        .collect(engine="streaming")
    )
    sides = [
        compared.select("prompt", model=f"model_{side}", temperature=f"at_{side}", won=won)
        for side, won in (("a", pl.col("p")), ("b", 1 - pl.col("p")))
    ]
    seed = ids.seed_from(seed, "win_rates")
    rows: list[dict[str, object]] = []
    for (model, temperature), part in pl.concat(sides).group_by("model", "temperature"):
        prompt, won = part["prompt"].to_numpy(), part["won"].to_numpy()
        sums = bootstrap.prompt_sums(prompt, np.column_stack([won, np.ones(len(won))]))
        draws = bootstrap.resampled(sums, seed)
        low, high = bootstrap.interval(bootstrap.ratio(draws[:, 0], draws[:, 1]))
        rows.append(
            {
                "made_by": str(model) if temperature is None else f"{model} at {temperature:g}",
                "model": model,
                "temperature": temperature,
                "win_rate": float(won.mean()),
                "low": low,
                "high": high,
                "n": part.height,
                "prompts": bootstrap.distinct(prompt),
            }
        )
    return schemas.frame("win_rates", rows)
