"""Drift: what was measured of each judge, run after run, and how far it moved. Pure.

A run of one config goes through one folder again and again (a schedule does), or through several. Each time its
judgments or labels changed, a snapshot of its judges' figures is added, and set against the one before.
"""

import polars as pl

from pipeline import schemas
from pipeline.statistics import intervals as bootstrap

FOLLOWED = (
    "accuracy",
    "first_slot_rate",
    "swap_consistency",
    "tie_rate",
    "failure_rate",
    "longer_rate",
    "length_bias",
    "self_preference",
)


def extended(
    earlier: pl.DataFrame, agreement: pl.DataFrame, bias: pl.DataFrame, snapshot: str, measured_at: str
) -> pl.DataFrame:
    """The frame ``trend`` with one more snapshot; *earlier* as it is when it has that snapshot already.

    The interval of a difference takes the two snapshots for independent samples. Where they share prompts it is wider
    than it need be, and a change in the new ones is diluted by the old.

    Args:
        earlier: the frame ``trend`` so far.
        agreement: the frame ``agreement`` now.
        bias: the frame ``bias`` now.
        snapshot: digest of what they were made from.
        measured_at: ISO 8601, UTC; later than everything in *earlier*.
    """
    if snapshot in earlier["snapshot"]:
        return earlier
    columns = ("judge", "measure", "value", "low", "high", "n")
    against_people = agreement.filter(
        (pl.col("between").cast(pl.String) == "judge_people")
        & (pl.col("subset") == "all")
        & pl.col("value").is_not_null()
    ).rename({"rater_1": "judge"})
    now = pl.concat(
        [
            rows.with_columns(pl.col("measure").cast(pl.String)).select(columns)
            for rows in (against_people, bias.filter(pl.col("subset") == "all"))
        ]
    ).filter(pl.col("measure").is_in(FOLLOWED))
    before = {
        (judge, measure): (value, low, high)
        for judge, measure, value, low, high in earlier.sort("measured_at")
        .select("judge", "measure", "value", "low", "high")
        .iter_rows()
    }
    rows: list[dict[str, object]] = []
    for row in now.iter_rows(named=True):
        then = before.get((row["judge"], row["measure"]))
        moved: tuple[float | None, ...] = (None, None, None)
        if then is not None and None not in then and row["low"] is not None:
            moved = bootstrap.difference_interval((row["value"], row["low"], row["high"]), then)
        ends = dict(zip(("difference", "difference_low", "difference_high"), moved, strict=True))
        rows.append({**row, "snapshot": snapshot, "measured_at": measured_at, **ends})
    return schemas.frame("trend", pl.concat([earlier, schemas.frame("trend", rows)]))
