"""The page Training: margins, loss, KL, frontier, win rates. Draws training.json, evaluation.json and win_rates."""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from dashboard import charts, parts, tables
from dashboard.runs import Run
from pipeline.figures import count, interval, precise, share

CURVES = {"loss": "Loss", "reward_accuracy": "Reward accuracy", "reward_margin": "Reward margin"}


def draw(run: Run, runs: list[Run]) -> None:
    """Draw the page for *run*; *runs* are the frontier."""
    found = run.json("evaluation.json")
    trained = run.json("model/training.json")
    if found is None:
        parts.missing("Nothing is evaluated yet.", "jurybox evaluate CONFIG")
    else:
        parts.figures(figures(found))
    _history(trained)
    _frontier(runs)
    _win_rates(run)
    _margins(run)


def figures(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The evaluation's figures: name, value, what stands beside it."""
    items: list[tuple[str, str, str]] = []
    if found.get("win_rate") is not None:
        span = interval(found["win_rate_low"], found["win_rate_high"])
        about = f"{span}, n = {found['n']}, by {found.get('decided_by') or 'nobody'}"
        items.append(("Win rate over the untrained model", share(found["win_rate"]), about))
    if found.get("panel_win_rate") is not None:
        about = "the panel made the data, so this is no proof"
        items.append(("Win rate by the panel", share(found["panel_win_rate"]), about))
    if found.get("verifier"):
        before, after = (share(found["verifier"][when]) for when in ("before", "after"))
        items.append(("Verifier's pass rate", after, f"untrained {before}, n = {found['verifier']['n']}"))
    if found.get("kl") is not None:
        items.append(("KL from the untrained model", f"{found['kl']:.2f}", f"nats an answer, n = {found.get('kl_n')}"))
    if found.get("reward_accuracy") is not None:
        items.append(("Reward accuracy", share(found["reward_accuracy"]), "on the test split"))
    return items


def _history(trained: Mapping[str, Any] | None) -> None:
    parts.heading("While training")
    if trained is None:
        parts.missing("This run has trained no model.", "jurybox train CONFIG")
        return
    history: list[dict[str, Any]] = trained.get("loss") or []
    there = [name for name in CURVES if any(step.get(name) is not None for step in history)]
    if not there:
        parts.note("The training wrote no history.")
        return
    rows = trained.get("rows", {})
    parts.note(
        f"{trained.get('method', 'training').upper()}, {trained.get('steps', len(history)):,} optimiser steps on "
        f"{rows.get('train', 0):,} pairs; the implicit rewards are those of the batches trained on."
    )
    for column, name in zip(st.columns(len(there), gap="large"), there, strict=True):
        with column:
            parts.small_heading(CURVES[name])
            parts.chart(charts.training(history, name))
    with st.expander("Every step in figures"):
        heads = ["step", *(CURVES[name].lower() for name in there)]
        rows_ = [[count(step["step"]), *(precise(step.get(name)) for name in there)] for step in history]
        parts.table("Training", heads, thinned(rows_), numbers=range(len(heads)))


MOST = 200
"""Rows of a table of steps; of more, every so many-th is shown."""


def thinned(rows: list[list[str]]) -> list[list[str]]:
    """At most about MOST of *rows*, evenly; the last one always."""
    step = -(-len(rows) // MOST) or 1
    return rows[::step] if not rows or rows[-1] is rows[::step][-1] else [*rows[::step], rows[-1]]


def frontier(runs: list[Run]) -> list[dict[str, Any]]:
    """Win rate and KL of every run that was evaluated."""
    made: list[dict[str, Any]] = []
    for run in runs:
        found = run.json("evaluation.json") or {}
        if found.get("kl") is not None and found.get("win_rate") is not None:
            ends = {"low": found["win_rate_low"], "high": found["win_rate_high"]}
            made.append({"name": run.name, "kl": found["kl"], "win_rate": found["win_rate"], **ends, "n": found["n"]})
    return made


def _frontier(runs: list[Run]) -> None:
    points = frontier(runs)
    if not points:
        return
    parts.heading(
        "Win rate against distance",
        "Every evaluated run: what it wins for how far it moved from the untrained model. Up and left is better.",
    )
    parts.chart(charts.frontier(points))
    with st.expander("Every run in figures"):
        heads = ["run", "KL, nats an answer", "win rate", "95% interval", "n"]
        rows = [
            [
                one["name"],
                precise(one["kl"]),
                share(one["win_rate"]),
                interval(one["low"], one["high"]),
                count(one["n"]),
            ]
            for one in points
        ]
        parts.table("Win rate against distance", heads, rows, numbers=range(1, 5))


def _win_rates(run: Run) -> None:
    parts.heading("Win rate by temperature")
    found = run.frame("win_rates")
    if found.is_empty():
        parts.missing("How often answers win by temperature is not there yet.", "jurybox measure CONFIG --force")
        return
    parts.note("How often answers of a model at a temperature win against others to the same prompt, by the verdicts.")
    parts.chart(charts.win_rates(found))
    rows = found.with_columns(value="win_rate")
    parts.measured("Win rates", rows, [("model", "model"), ("temperature", "temperature")])


def _margins(run: Run) -> None:
    if not run.summary.get("margins"):
        return
    parts.heading(
        "Margins of the verdicts", "What the dataset is made of: verdicts by margin, those kept and those dropped."
    )
    parts.chart(charts.margins(run.summary))
    with st.expander("Every bin in figures"):
        parts.figures_table(tables.margins(run.summary))
