"""Does a probability mean what it says? Reliability of the panel's verdicts on labels that fitted nothing. Pure.

A verdict's confidence is max(p, 1 - p); people's share for its side, a tie one half, is what it should be. Pairs are
put into ten bins of confidence from .5 to 1 (p and its mirror image fall into the same), and

    ECE = sum over bins of n / N * abs(mean share - mean confidence)      (Naeini et al. 2015)
    Brier = mean of (people's share for a - p)^2                          (Brier 1950)

ECE is never below 0, so that few labels make it too large: a perfectly calibrated panel shows about .3 / sqrt(n) a bin.
"""

import math

import numpy as np
import polars as pl

from pipeline import schemas
from pipeline.statistics import intervals as bootstrap

BINS = 10
WIDTH = 0.5 / BINS
ROUNDING = 1e-9


def table(verdicts: pl.DataFrame, told: pl.DataFrame, pairs: pl.DataFrame, decide_by: str, seed: int) -> pl.DataFrame:
    """The frame ``calibration``.

    Args:
        verdicts: frame ``verdicts``.
        told: ``pipeline.frames.people`` of labels that fitted nothing.
        pairs: frame ``pairs``, for the prompts, which are what is drawn again for the intervals.
        decide_by: ``p_a`` or ``p_a_lc``.
        seed: of the resampling.
    """
    found = (
        verdicts.select("pair_id", pl.col(decide_by).alias("p"))
        .join(told.select("pair_id", "human"), on="pair_id")
        .join(pairs.select("pair_id", "prompt_id"), on="pair_id")
        .sort("pair_id")
    )
    p, human = found["p"].to_numpy(), found["human"].to_numpy()
    prompt = (found["prompt_id"].rank("dense").cast(pl.Int64) - 1).to_numpy()
    confidence, share = np.maximum(p, 1 - p), np.where(p >= 1 / 2, human, 1 - human)
    at = np.minimum(((confidence - 1 / 2) / WIDTH + ROUNDING).astype(np.int64), BINS - 1)
    rows: list[dict[str, object]] = []
    for number in np.unique(at):
        here = at == number
        sums = bootstrap.prompt_sums(prompt[here], np.column_stack([share[here], np.ones(int(here.sum()))]))
        draws = bootstrap.resampled(sums, seed)
        low, high = bootstrap.interval(bootstrap.ratio(draws[:, 0], draws[:, 1]))
        rows.append(
            {
                "confidence_from": round(0.5 + float(number) * WIDTH, 2),
                "n": int(here.sum()),
                "confidence": float(confidence[here].mean()),
                "people": float(share[here].mean()),
                "low": None if math.isnan(low) else low,
                "high": None if math.isnan(high) else high,
                "brier": float(((human[here] - p[here]) ** 2).mean()),
            }
        )
    return schemas.frame("calibration", rows)


def errors(made: pl.DataFrame) -> dict[str, float | int] | None:
    """``ece``, ``brier`` and ``n`` of the frame ``calibration``; None when it is empty."""
    if made.is_empty():
        return None
    weight = made["n"].to_numpy()
    gap = np.abs(made["people"].to_numpy() - made["confidence"].to_numpy())
    return {
        "ece": float(np.average(gap, weights=weight)),
        "brier": float(np.average(made["brier"].to_numpy(), weights=weight)),
        "n": int(weight.sum()),
    }
