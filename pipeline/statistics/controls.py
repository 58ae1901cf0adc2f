"""How often constant answers win against real ones. Touches nothing."""

from typing import Any

import polars as pl

from pipeline.statistics.intervals import wilson


def rates(controls: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """Judge -> how often constant answers won from it.

    Keys: ``win_rate``, ``low``, ``high``, ``n`` (comparisons read), ``prompts``, ``failures``, ``by_control``. A win is
    a mean preference over the orders above one half, one half itself half a win. The prompt is the unit: the interval
    is Wilson's (1927) for as many draws as there are prompts, which is conservative for means in [0, 1] and, unlike a
    bootstrap, says something where nothing was won. ``by_control`` has the wins of each constant answer.
    """
    read = controls.filter(pl.col("preference").is_not_null())
    won = (
        read.group_by("judge", "control", "prompt_id", "sample_id")
        .agg(pl.col("preference").mean().alias("mean"))
        .with_columns(won=((pl.col("mean") - 0.5).sign() + 1) / 2)
    )
    found: dict[str, dict[str, Any]] = {}
    for judge, failures in (
        controls.group_by("judge").agg(pl.col("error").is_not_null().sum()).sort("judge").iter_rows()
    ):
        own = won.filter(pl.col("judge") == judge)
        by_prompt = own.group_by("prompt_id").agg(pl.col("won").mean())["won"]
        by_control = own.group_by("control").agg(pl.col("won").mean(), pl.len().alias("n")).sort("control")
        rate = float(by_prompt.to_numpy().mean()) if by_prompt.len() else None
        low, high = (None, None) if rate is None else wilson(rate, by_prompt.len())
        found[judge] = {
            "win_rate": rate,
            "low": low,
            "high": high,
            "n": own.height,
            "prompts": by_prompt.len(),
            "failures": int(failures),
            "by_control": {name: {"win_rate": wins, "n": n} for name, wins, n in by_control.iter_rows()},
        }
    return found
