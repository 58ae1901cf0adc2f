"""What calls cost, by who made them: sums over the frame ``calls``, the only place where cost is summed. Pure."""

from typing import Any

import polars as pl


def by_caller(calls: pl.LazyFrame) -> dict[str, dict[str, Any]]:
    """Judge (or ``generate:<model>``, ``evaluate:<side>``) -> what its calls were.

    Args:
        calls: the frame ``calls``.

    Returns:
        ``calls``, ``unanswered``, ``cost_usd``, ``prompt_tokens``, ``cached_tokens``, ``completion_tokens`` (0 where
        nothing was counted) and ``latency_s``, the median over answered calls (None where it was not taken); the
        dearest first, then those with most calls.
    """
    tokens = ("prompt_tokens", "cached_tokens", "completion_tokens")
    found = (
        calls.group_by("judge")
        .agg(
            pl.len().alias("calls"),
            (pl.col("status").cast(pl.String) == "unanswered").sum().alias("unanswered"),
            pl.col("cost_usd").sum(),
            *(pl.col(name).sum() for name in tokens),
            pl.col("latency_s").median(),
        )
        .sort("cost_usd", "calls", "judge", descending=[True, True, False])
        .collect(engine="streaming")
    )
    return {row.pop("judge"): row for row in found.iter_rows(named=True)}
