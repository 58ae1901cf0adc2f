"""Charts of training: its course, win rate against distance, which answers win. Pure."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl

from dashboard import marks, theme
from dashboard.charts.measured import MEASURES, SHARES, Chart, ends_of, estimate, span
from dashboard.marks import Kind, Row
from pipeline import figures

MOST_STEPS = 600
"""Steps of a training history that are drawn."""
MOST_POINTS = 60
"""Points of a line that are drawn large."""
NO_BETTER = "no better than the untrained model"
SHAPES = ("circle", "square", "diamond", "triangle-up", "cross")
MODEL, HALF = Kind("model", theme.BLUE), "as often as not"


def training(history: Sequence[Mapping[str, Any]], measure: str) -> Chart:
    """*measure* (``loss``, ``reward_accuracy``, ``reward_margin``) by optimiser step; ``loss`` of training.json."""
    what = MEASURES.get(measure, "measure")
    found = [row for row in history if figures.number(row.get(measure)) is not None and row.get("step") is not None]
    if not found:
        return marks.nothing(f"{what[0].upper()}{what[1:]} by step")
    every = -(-len(found) // MOST_STEPS)
    shares = measure in SHARES
    rows: list[Row] = [
        {
            "step": row["step"],
            "value": row[measure],
            "at": f"{row['step']:,}",
            "figure": figures.share(row[measure]) if shares else f"{row[measure]:.4f}",
        }
        for row in found[::every]
    ]
    base = alt.Chart(marks.values(rows)).encode(
        x=marks.x_of("step", "optimiser step", shares=False),
        y=marks.y_of("value", what, shares=shares),
        tooltip=marks.tips(at="step", figure=what),
    )
    line = base.mark_line(color=theme.BLUE, strokeWidth=2, aria=False)
    points = base.mark_point(filled=True, color=theme.BLUE, size=30 if len(rows) <= MOST_POINTS else 8, aria=False)
    said = f"{what[0].upper()}{what[1:]} by optimiser step: {rows[0]['figure']} at step {rows[0]['at']}, "
    said += f"{rows[-1]['figure']} at step {rows[-1]['at']}."
    return marks.finished(marks.layered(line, points), said, 200)


def frontier(points: Sequence[Mapping[str, Any]]) -> Chart:
    """Win rate against KL from the untrained model: ``name``, ``kl``, ``win_rate``, ``low``, ``high`` of each run."""
    found = [row for row in points if None not in (figures.number(row.get("kl")), figures.number(row.get("win_rate")))]
    if not found:
        return marks.nothing("Win rate against KL")
    found.sort(key=lambda row: (row["kl"], str(row["name"])))
    rows: list[Row] = []
    for at, row in enumerate(found):
        low, high = figures.number(row.get("low")), figures.number(row.get("high"))
        rows.append(
            {
                "run": marks.placed(at, str(row["name"])),
                "kl": row["kl"],
                "value": row["win_rate"],
                "low": low,
                "high": high,
                "name": marks.told(str(row["name"])),
                "distance": f"{row['kl']:.3f}",
                "figure": figures.share(row["win_rate"]),
                "interval": figures.interval(low, high),
            }
        )
    # Colour and shape together keep five times as many runs apart as colours alone; entries are in the order of KL.
    colours = [theme.SERIES[at % len(theme.SERIES)] for at in range(len(rows))]
    turns = [SHAPES[(at + at // len(SHAPES)) % len(SHAPES)] for at in range(len(rows))]
    for row, colour in zip(rows, colours, strict=True):
        row["colour"] = colour
    coloured = alt.Color("run:N", sort="ascending", scale=alt.Scale(range=colours), legend=_runs_legend())
    # Two legends do not become one in every renderer. The shapes keep points apart; which is which, their tooltips say.
    shaped = alt.Shape("run:N", sort="ascending", scale=alt.Scale(range=turns), legend=None)
    tip = marks.tips(name="run", figure="win rate", interval="95% interval", distance="KL, nats an answer")
    domain = marks.reach([*(row[end] for row in rows for end in ("value", "low", "high")), 0.5], within=(0, 1))
    y = marks.y_of("value", "win rate over the untrained model", domain)
    distances = marks.reach([row["kl"] for row in rows], within=(0, math.inf))
    base = alt.Chart(marks.values(rows)).encode(
        x=marks.x_of("kl", "KL from the untrained model, nats an answer", distances, shares=False), tooltip=tip
    )
    # The intervals have their colours as data: on the scale of the points they would split its legend in two.
    whiskers = base.mark_rule(strokeWidth=2.5, opacity=0.75, aria=False).encode(
        y=marks.on(y, "low"), y2="high:Q", color=alt.Color("colour:N", scale=None)
    )
    dots = base.mark_point(filled=True, size=90, opacity=1, aria=False).encode(y=y, color=coloured, shape=shaped)
    coin = marks.lines([{"at": 0.5, "line": NO_BETTER, "told": "50.0%"}], y, (NO_BETTER,))
    said = f"Win rate against KL from the untrained model: {span([{'value': r['value']} for r in rows], 'run')}, "
    said += f"at {rows[0]['distance']} to {rows[-1]['distance']} nats an answer."
    return marks.finished(marks.layered(*coin, whiskers, dots), said, 300)


def _runs_legend() -> alt.Legend:
    return alt.Legend(
        title=None,
        orient="bottom",
        columns=2,
        labelExpr=marks.WITHOUT_PLACE,
        labelLimit=marks.LABEL_PX,
        symbolLimit=0,
        symbolOpacity=1,
    )


def win_rates(found: pl.DataFrame) -> Chart:
    """Frame ``win_rates``: how often answers of each model and temperature win, with intervals."""
    known = (
        [] if found.is_empty() else found.filter(pl.col("win_rate").is_finite()).sort("model", "temperature").to_dicts()
    )
    if not known:
        return marks.nothing("Win rates by model and temperature")
    rows: list[Row] = []
    several = len({row["model"] for row in known}) > 1
    for at, row in enumerate(known):
        heat = "temperature unknown" if row["temperature"] is None else f"temperature {row['temperature']:g}"
        one = estimate({**row, "value": row["win_rate"]}, at, MODEL.name, row["model"])
        label = f"{one['row'][5:]}, {heat.removeprefix('temperature ')}" if several else heat
        rows.append({**one, "row": f"{at:04d} {label}", "heat": heat, "prompts": figures.count(row["prompts"])})
    domain = marks.reach([*ends_of([{**row, "value": row["win_rate"]} for row in known]), 0.5], within=(0, 1))
    tip = marks.tips(
        name="model", heat="sampled at", figure="wins", interval="95% interval", n="comparisons", prompts="prompts"
    )
    x = marks.x_of("value", "comparisons won", domain)
    points = marks.estimates(rows, x, (MODEL,), tip)
    half = marks.lines([{"at": 0.5, "line": HALF, "told": "50.0%"}], x, (HALF,))
    said = f"How often answers win: {span([{'value': row['win_rate']} for row in known], 'kind of answer')}."
    return marks.finished(
        marks.layered(*half, points), said.replace("kind of answers", "kinds of answers"), marks.height(len(rows))
    )
