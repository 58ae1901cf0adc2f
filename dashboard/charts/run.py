"""Charts of what a run did: what was left step by step, why the rest was dropped, what it cost. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt

from dashboard import marks, theme
from dashboard.charts.measured import (
    Chart,
)
from dashboard.marks import Kind, Row
from pipeline import figures
from pipeline.summary import rows_there

MOST_REASONS = 24
"""Reasons that the chart of drops names; the others are one row."""
STEPS = (
    ("prompts", "prompts", ("load", "import")),
    ("answers", "samples", ("generate",)),
    ("pairs", "pairs", ("pair",)),
    ("verdicts", "verdicts", ("judge", "aggregate")),
    ("kept pairs", "kept", ("select",)),
)
"""Bar, its frame, and the stages that drop on the way to it."""


def funnel(summary: Mapping[str, Any]) -> Chart:
    """Bars of what each step of the way left, prompts to dataset rows; ``rows`` and ``dropped`` of summary.json."""
    rows: list[Row] = []
    for name, found, lost in _steps(summary):
        row = marks.placed(len(rows), f"{name} {found:,}")
        for kind, n in (("left", found), ("dropped", lost)):
            rows.append(
                {"row": row, "name": name, "kind": kind, "n": n, "figure": f"{n:,}", "order": int(kind == "dropped")}
            )
    if not rows:
        return marks.nothing("What each step left")
    kinds = (Kind("left", theme.BLUE), Kind("dropped", theme.GREY))
    bars = (
        alt.Chart(marks.values(rows))
        .mark_bar(aria=False)
        .encode(
            x=alt.X("n:Q", title="rows", axis=marks.quantity_axis(shares=False)),
            y=marks.rows_on_y(),
            color=marks.colours(kinds),
            order=alt.Order("order:Q"),
            tooltip=marks.tips(name="step", kind="went", figure="rows"),
        )
    )
    way = ", ".join(f"{row['figure']} {row['name']}" for row in rows if row["kind"] == "left")
    return marks.finished(bars, f"From prompts to dataset: {way}.", marks.height(len(rows) // 2, 30))


def _steps(summary: Mapping[str, Any]) -> Iterable[tuple[str, int, int]]:
    """Bar, rows that are there after it, rows dropped on the way to it."""
    rows: Mapping[str, Any] = summary.get("rows") or {}
    dropped: Mapping[str, Mapping[str, int]] = summary.get("dropped") or {}
    lost = {stage: sum(reasons.values()) for stage, reasons in dropped.items()}
    kept = 0
    for name, frame, stages in STEPS:
        found = rows_there({"rows": rows}, frame)
        if found is not None:
            kept = found
            yield name, kept, sum(lost.get(stage, 0) for stage in stages)
    if "export" in rows:
        yield "dataset rows", kept - lost.get("export", 0), lost.get("export", 0)


def drops(summary: Mapping[str, Any]) -> Chart:
    """Bars of drops by stage and reason."""
    dropped: Mapping[str, Mapping[str, int]] = summary.get("dropped") or {}
    found = [(stage, reason, n) for stage, reasons in dropped.items() for reason, n in reasons.items()]
    if not found:
        return marks.nothing("What was dropped")
    found.sort(key=lambda one: -one[2])
    rest = found[MOST_REASONS:]
    shown = [*found[:MOST_REASONS], *([("", f"{len(rest)} other reasons", sum(n for *_, n in rest))] if rest else [])]
    rows: list[Row] = [
        {
            "row": marks.placed(at, f"{stage} {reason}"),
            "stage": marks.told(stage),
            "reason": marks.told(reason),
            "n": n,
            "figure": f"{n:,}",
        }
        for at, (stage, reason, n) in enumerate(shown)
    ]
    bars = (
        alt.Chart(marks.values(rows))
        .mark_bar(color=theme.GREY, aria=False)
        .encode(
            x=alt.X("n:Q", title="rows dropped", axis=marks.quantity_axis(shares=False)),
            y=marks.rows_on_y(),
            tooltip=marks.tips(stage="stage", reason="reason", figure="rows"),
        )
    )
    total = sum(n for *_, n in found)
    said = f"{total:,} rows dropped, for {len(found)} reasons; the commonest accounts for {found[0][2]:,}."
    return marks.finished(bars, said, marks.height(len(rows)))


def spent(summary: Mapping[str, Any]) -> Chart:
    """Calls and US$ by judge and generator; ``spent`` of summary.json."""
    found: Mapping[str, Mapping[str, Any]] = summary.get("spent") or {}
    calls, cost = (sum(figures.number(row.get(key)) or 0 for row in found.values()) for key in ("calls", "cost_usd"))
    if not calls:
        return marks.nothing("Calls and US$")
    kinds = [Kind("calls", theme.BLUE), *([Kind("US$", theme.VERMILION)] if cost else [])]
    order = sorted(
        found, key=lambda name: (-(found[name].get("cost_usd") or 0), -(found[name].get("calls") or 0), name)
    )
    rows: list[Row] = []
    for at, name in enumerate(order):
        one = found[name]
        spent_here = {"calls": (one.get("calls") or 0) / calls}
        if cost:
            spent_here["US$"] = (one.get("cost_usd") or 0) / cost
        shown = {
            "name": marks.told(name),
            "calls": figures.count(one.get("calls")),
            "cost": f"{one.get('cost_usd') or 0:.4f}",
            "read": figures.count(one.get("prompt_tokens")),
            "cached": figures.count(one.get("cached_tokens")),
            "written": figures.count(one.get("completion_tokens")),
            "seconds": figures.plain(figures.number(one.get("latency_s"))),
        }
        rows += [
            {"row": marks.placed(at, name), "kind": kind, "share": value, **shown} for kind, value in spent_here.items()
        ]
    bars = (
        alt.Chart(marks.values(rows))
        .mark_bar(aria=False)
        .encode(
            x=marks.x_of("share", "share of all", [0, 1]),
            y=marks.rows_on_y(),
            yOffset=alt.YOffset("kind:N", sort=[kind.name for kind in kinds]),
            color=marks.colours(kinds, shown_legend=len(kinds) > 1),
            tooltip=marks.tips(
                name="by",
                calls="calls",
                cost="US$",
                read="tokens read",
                cached="of those from a cache",
                written="tokens written",
                seconds="seconds a call (median)",
            ),
        )
    )
    said = f"Who made the {calls:,.0f} calls and the US$ {cost:.4f} that they cost: {len(found)} judges and generators."
    return marks.finished(bars, said, marks.height(len(found), 34 if cost else marks.ROW_PX))


def margins(summary: Mapping[str, Any]) -> Chart:
    """Verdicts by margin, kept and dropped; ``margins`` of summary.json."""
    found: Mapping[str, Any] = summary.get("margins") or {}
    edges: Sequence[float] = found.get("edges") or ()
    counts: dict[str, Sequence[int]] = {kind: found.get(kind) or () for kind in ("kept", "dropped")}
    totals = {kind: sum(numbers) for kind, numbers in counts.items()}
    if not sum(totals.values()):
        return marks.nothing("Verdicts by margin")
    rows: list[Row] = [
        {
            "from": low,
            "to": high,
            "kind": kind,
            "n": n,
            "margin": f"{low:.2f} to {high:.2f}",
            "figure": f"{n:,}",
            "order": int(kind == "dropped"),
        }
        for kind, numbers in counts.items()
        for low, high, n in zip(edges[:-1], edges[1:], numbers, strict=False)
    ]
    kinds = (Kind("kept", theme.BLUE), Kind("dropped", theme.GREY))
    bars = (
        alt.Chart(marks.values(rows))
        .mark_bar(aria=False, binSpacing=1)
        .encode(
            x=alt.X(
                "from:Q",
                bin="binned",
                title="margin: how sure the panel is",
                scale=alt.Scale(domain=[0, 1]),
                axis=marks.quantity_axis(shares=False),
            ),
            x2="to:Q",
            y=alt.Y("n:Q", title="verdicts", axis=marks.quantity_axis(shares=False)),
            color=marks.colours(kinds),
            order=alt.Order("order:Q"),
            tooltip=marks.tips(margin="margin", kind="verdicts", figure="how many"),
        )
    )
    said = f"Verdicts by margin: {totals['kept']:,} kept, {totals['dropped']:,} dropped."
    return marks.finished(bars, said, 220)
