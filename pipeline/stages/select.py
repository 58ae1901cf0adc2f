"""select: verdicts -> kept and dropped pairs. Pure. Chosen and rejected follow the verdict, never the position.

Drop reasons, in this order: ``tie`` (the verdict is exactly one half), ``not_selected`` (another pair of the prompt was
taken), ``length_ratio``, ``low_margin`` (below select.min_margin), ``below_gate`` (below the certified threshold).
Every pair with a verdict is kept or dropped, once.
"""

from collections.abc import Mapping

import polars as pl

from pipeline.config import Config, SelectConfig
from pipeline.errors import StageError
from pipeline.runner import Result, Shard, Stage
from pipeline.workbench import Workbench


def decide(
    verdicts: pl.DataFrame,
    pairs: pl.DataFrame,
    samples: pl.DataFrame,
    rule: SelectConfig,
    decide_by: str,
    threshold: float | None,
) -> pl.DataFrame:
    """Every verdict with ``prompt_id``, ``chosen_id``, ``rejected_id`` and ``reason`` (null: kept).

    Args:
        verdicts: frame ``verdicts``.
        pairs: frame ``pairs``.
        samples: frame ``samples``, for lengths.
        rule: strategy and filters.
        decide_by: ``p_a`` or ``p_a_lc``.
        threshold: the gate's smallest margin, if it certified one.
    """
    a_wins = pl.col(decide_by) > 1 / 2
    table = verdicts.join(pairs.select("pair_id", "prompt_id", "sample_a", "sample_b"), on="pair_id").with_columns(
        pl.when(a_wins).then("sample_a").otherwise("sample_b").alias("chosen_id"),
        pl.when(a_wins).then("sample_b").otherwise("sample_a").alias("rejected_id"),
    )
    taken = table.select("pair_id") if rule.strategy == "all" else _best_vs_worst(table, decide_by).select("pair_id")
    lengths = samples.select("sample_id", pl.col("completion").str.len_chars().alias("length"))
    table = (
        table.join(lengths.rename({"sample_id": "sample_a", "length": "length_a"}), on="sample_a")
        .join(lengths.rename({"sample_id": "sample_b", "length": "length_b"}), on="sample_b")
        .join(taken.with_columns(pl.lit(value=True).alias("taken")), on="pair_id", how="left")
    )
    longer, shorter = pl.max_horizontal("length_a", "length_b"), pl.min_horizontal("length_a", "length_b")
    faults = [
        pl.when(pl.col(decide_by) == 1 / 2).then(pl.lit("tie")),
        pl.when(pl.col("taken").is_null()).then(pl.lit("not_selected")),
        pl.when(longer / shorter > (rule.max_length_ratio or float("inf"))).then(pl.lit("length_ratio")),
        pl.when(pl.col("margin") < rule.min_margin).then(pl.lit("low_margin")),
        pl.when(pl.col("margin") < (threshold or 0.0)).then(pl.lit("below_gate")),
    ]
    return table.with_columns(pl.coalesce(faults).alias("reason")).sort("pair_id")


def _best_vs_worst(table: pl.DataFrame, decide_by: str) -> pl.DataFrame:
    """One pair a prompt: the answer with the highest mean win probability against the one with the lowest.

    Where these two were not compared, or their own verdict says the opposite, the prompt's pair with the largest
    difference in mean win probability on the side of its own verdict is taken.
    """
    p = pl.col(decide_by)
    wins = pl.concat(
        [
            table.select("prompt_id", pl.col("sample_a").alias("sample_id"), p.alias("win")),
            table.select("prompt_id", pl.col("sample_b").alias("sample_id"), (1 - p).alias("win")),
        ]
    )
    scores = wins.group_by("prompt_id", "sample_id").agg(pl.col("win").mean().alias("score"))
    scored = (
        table.filter(p != 1 / 2)
        .join(scores.rename({"sample_id": "chosen_id", "score": "chosen_score"}), on=["prompt_id", "chosen_id"])
        .join(scores.rename({"sample_id": "rejected_id", "score": "rejected_score"}), on=["prompt_id", "rejected_id"])
    )
    gap = (pl.col("chosen_score") - pl.col("rejected_score")).alias("gap")
    ranked = scored.with_columns(gap.round(12)).sort(["gap", "margin", "pair_id"], descending=[True, True, False])
    return ranked.unique("prompt_id", keep="first", maintain_order=True)


def _run(shard: Shard, config: Config, bench: Workbench) -> Result:
    frames = shard.frames
    certificate = bench.folder.read_json("certificate.json")
    if certificate is None:
        raise StageError("there is no certificate.json; run `jurybox gate CONFIG` first")
    if config.gate.required and not certificate["certified"]:
        raise StageError(f"gate.required is set and nothing is certified: {certificate['reason']}")
    table = decide(
        frames["verdicts"],
        frames["pairs"],
        frames["samples"],
        config.select,
        config.aggregate.decide_by,
        certificate["threshold"],
    )
    kept = table.filter(pl.col("reason").is_null())
    dropped = table.filter(pl.col("reason").is_not_null()).select(
        pl.lit("select").alias("stage"), pl.col("pair_id").alias("id"), "reason"
    )
    return Result({"kept": kept, "dropped": dropped})


def reads(config: Config) -> Mapping[str, object]:
    """The config that decides which pairs are kept."""
    return {**config.select.model_dump(mode="json"), "decide_by": config.aggregate.decide_by}


STAGE = Stage(
    name="select",
    inputs=("verdicts", "pairs", "samples"),
    outputs=("kept",),
    artefacts_in=("certificate.json",),
    run=_run,
    reads=lambda config: [reads(config), config.gate.required],
)
