"""The page Bias: what moves a judge besides the answers' quality. Draws the frame bias and summary.json's controls."""

from typing import Any

import polars as pl
import streamlit as st

from dashboard import charts, parts, tables
from dashboard.runs import Run

NUMBERS = ("length_slope", "length_slope_given_people")
"""Measures that are slopes, not shares."""
GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "Position": {
        "first_slot_rate": ("First slot preferred", "A judge without this bias, or one that guesses, shows 50 %."),
        "swap_consistency": ("Same verdict in both orders", "A judge that guesses between two shows 50 %."),
    },
    "Length": {
        "longer_rate": ("Longer answer preferred", "The mark is what people do on the pairs they labelled."),
        "length_bias": ("Longer preferred, beyond people", "Judge minus people on the same pairs; 0 is no bias."),
        "length_slope": ("Vote by length ratio", "Slope of the vote on the log length ratio; the mark is people's."),
        "length_slope_given_people": ("The same, people held fixed", "0: length moves nothing that people do not."),
    },
    "Own model": {
        "own_win_rate": ("Own answers preferred", "Against other models' answers; the mark is what people do."),
        "self_preference": ("Own preferred, beyond people", "Judge minus people on the same pairs; 0 is no bias."),
    },
    "Ties and failures": {
        "tie_rate": ("Ties", "The mark is the share of people who said tie."),
        "failure_rate": (
            "No verdict",
            "Judgments without a preference. A failure is not a tie and never counted as one.",
        ),
    },
}


def draw(run: Run, _runs: list[Run]) -> None:
    """Draw the page for *run*."""
    found = run.frame("bias")
    if found.is_empty():
        parts.missing("This run has not measured its judges yet.", "jurybox measure CONFIG")
    else:
        parts.note(
            "Estimates with 95% intervals over whole prompts, and beside each what no bias or what people would show."
        )
        subsets = sorted(found["subset"].unique().to_list(), key=lambda name: (name != "all", name))
        subset = "all"
        if len(subsets) > 1:
            subset = parts.choice("Prompts", subsets, "subset")
        for group, measures in GROUPS.items():
            _group(found.filter(pl.col("subset") == subset), group, measures, subset)
    _controls(run)


def _group(found: pl.DataFrame, group: str, measures: dict[str, tuple[str, str]], subset: str) -> None:
    """The measures of one group that were taken, two beside each other."""
    rows = {name: found.filter(pl.col("measure").cast(pl.String) == name) for name in measures}
    there = [name for name in measures if rows[name].height]
    if not there:
        return
    parts.heading(group)
    for at in range(0, len(there), 2):
        for column, name in zip(st.columns(2, gap="large"), there[at : at + 2], strict=False):
            with column:
                title, meaning = measures[name]
                parts.small_heading(title, meaning)
                parts.chart(charts.biases(found, name, subset=subset))
    taken = pl.concat([rows[name] for name in there]).with_columns(pl.col("measure").cast(pl.String))
    for unit in ("share", "number"):
        part = taken.filter(pl.col("measure").is_in(NUMBERS) == (unit == "number"))
        if part.height:
            titled = part.with_columns(pl.col("measure").replace({name: measures[name][0] for name in there}))
            names = [("judge", "judge"), ("measure", "measure"), ("reference", "no bias, or people")]
            kind = "shares" if unit == "share" else "slopes"
            parts.measured(f"{group}, {kind}", titled, names, unit=unit)


def _controls(run: Run) -> None:
    won: dict[str, Any] = run.summary.get("controls") or {}
    counted = {name: one for name, one in won.items() if one["win_rate"] is not None}
    if not counted:
        return
    parts.heading("Constant answers", tables.CONSTANT)
    parts.chart(charts.controls(counted))
    with st.expander("The figures: constant answers"):
        parts.figures_table(tables.controls(counted))
    flags: dict[str, int] = run.summary.get("flags") or {}
    if flags:
        said = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in flags.items())
        parts.note(f"Answers in the data that look written for the judge: {said}. The page Pairs finds them.")
