"""Charts of what the gate certified, at other targets too and with more labels. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from dashboard import marks, theme
from dashboard.charts.measured import Chart
from dashboard.marks import Kind, Row
from pipeline import figures

TARGET, CHOSEN, WANTED = "target", "chosen threshold", "the config's target"
RULES = (TARGET, CHOSEN, WANTED)
PASSED, FAILED = Kind("certified", theme.BLUE), Kind("nothing certified", theme.VERMILION, "cross")
CHOSEN_TARGET = "the target looked at"


def gate(certificate: Mapping[str, Any]) -> Chart:
    """Agreement against coverage with its lower bound, the target, and the threshold that was chosen."""
    curve = marks.listed(certificate, "curve", "coverage", "threshold", "agreement")
    if not curve:
        return marks.nothing("Agreement against coverage")
    seen, bound = Kind("agreement seen", theme.BLUE), Kind("its lower bound", theme.VERMILION, "triangle")
    rows: list[Row] = []
    for step in curve:
        shown = {
            "coverage": step["coverage"],
            "kept": figures.share(step["coverage"]),
            "threshold": f"{step['threshold']:.3f}",
            "seen": figures.share(step["agreement"]),
            "bound": figures.share(step["lower_bound"]),
            "units": figures.count(step["n_units"]),
            "tested": "yes" if step.get("tested") else "no",
        }
        rows.append({**shown, "kind": seen.name, "value": step["agreement"]})
        rows.append({**shown, "kind": bound.name, "value": step["lower_bound"]})
    target = figures.number(certificate.get("target_agreement"))
    chosen = figures.number(certificate.get("coverage"))
    level = [{"at": target, "line": TARGET, "told": figures.share(target)}] if target is not None else []
    upright = [{"at": chosen, "line": CHOSEN, "told": figures.share(chosen)}] if chosen is not None else []
    kinds = (seen, bound)
    domain = marks.reach([*(row["value"] for row in rows), target], within=(0, 1.02))
    tip = marks.tips(
        kept="kept", threshold="margin threshold", seen=seen.name, bound=bound.name, units="audited", tested="tested"
    )
    x = marks.x_of("coverage", "coverage: share of the pairs that are kept", [0, 1.02])
    y = marks.y_of("value", "agreement with people", domain)
    base = alt.Chart(marks.values(rows)).encode(x=x, y=y, color=marks.colours(kinds), tooltip=tip)
    dash = alt.StrokeDash(
        "kind:N", legend=None, scale=alt.Scale(domain=[k.name for k in kinds], range=[[1, 0], [5, 3]])
    )
    curves = base.mark_line(strokeWidth=2, aria=False).encode(strokeDash=dash)
    points = base.mark_point(filled=True, size=50, opacity=1, aria=False).encode(shape=marks.shapes(kinds))
    rules = [*marks.lines(level, y, RULES), *marks.lines(upright, x, RULES)]
    layered = marks.layered(*rules, marks.layered(curves, points))
    last = curve[-1]
    said = (
        f"Agreement with people where the {figures.share(curve[0]['coverage'])} of the pairs with the largest margins "
    )
    said += f"are kept: {figures.share(curve[0]['agreement'])}, where {figures.share(last['coverage'])} are: "
    said += f"{figures.share(last['agreement'])}, at least {figures.share(last['lower_bound'])}. The target is "
    said += f"{figures.share(target)}; " + (
        f"{figures.share(chosen)} are kept." if chosen is not None else "none passes."
    )
    return marks.finished(marks.with_own_dashes(layered), said, 280)


def targets(certificate: Mapping[str, Any], chosen: float | None = None) -> Chart:
    """Coverage that each target would leave certified; the config's target and *chosen* are marked."""
    found = marks.listed(certificate, "targets", "target")
    if not found:
        return marks.nothing("Coverage by target")
    rows: list[Row] = [
        {
            "target": one["target"],
            "coverage": (figures.number(one.get("coverage")) or 0.0) if one.get("certified") else 0.0,
            "kind": PASSED.name if one.get("certified") else FAILED.name,
            "wanted": figures.share(one["target"]),
            "kept": figures.share(figures.number(one.get("coverage"))) if one.get("certified") else "nothing",
            "threshold": "\u2013" if one.get("threshold") is None else f"{one['threshold']:.3f}",
            "seen": figures.share(figures.number(one.get("agreement"))),
            "bound": figures.share(figures.number(one.get("lower_bound"))),
            "needed": figures.count(figures.number(one.get("labels_needed"))),
        }
        for one in found
    ]
    wanted = {WANTED: figures.number(certificate.get("target_agreement")), CHOSEN_TARGET: chosen}
    upright = [{"at": at, "line": line, "told": figures.share(at)} for line, at in wanted.items() if at is not None]
    tip = marks.tips(
        wanted="target",
        kept="kept",
        threshold="margin threshold",
        seen="agreement seen",
        bound="lower bound",
        needed="more audited units needed",
    )
    domain = marks.reach([*(row["target"] for row in rows), *wanted.values()], within=(0.5, 1))
    x = marks.x_of("target", "target: agreement with people", domain)
    rules = marks.lines(upright, x, (WANTED, CHOSEN_TARGET))
    layered = marks.layered(*rules, _coverage(rows, x, tip, "step-before"))
    good = [row["target"] for row in rows if row["kind"] == PASSED.name]
    said = f"Share of the pairs that stays certified at targets from {rows[0]['wanted']} to {rows[-1]['wanted']}: "
    said += f"something up to {figures.share(max(good))}." if good else "nothing at any of them."
    return marks.finished(layered, said, 240)


def _coverage(rows: Sequence[Row], x: alt.X, tip: list[alt.Tooltip], steps: str) -> alt.LayerChart:
    """Coverage upwards: a line through what is certified, crosses where nothing is."""
    kinds = [kind for kind in (PASSED, FAILED) if kind.name in {row["kind"] for row in rows}]
    base = alt.Chart(marks.values(rows)).encode(
        x=x, y=marks.y_of("coverage", "coverage: share of the pairs", [-0.02, 1.02]), tooltip=tip
    )
    line = base.mark_line(color=theme.BLUE, strokeWidth=1.5, interpolate=steps, aria=False)  # type: ignore[arg-type]
    points = base.mark_point(filled=True, size=45, opacity=1, aria=False).encode(
        color=marks.colours(kinds, shown_legend=len(kinds) > 1), shape=marks.shapes(kinds, shown_legend=len(kinds) > 1)
    )
    return marks.layered(line, points)


def more_labels(certificate: Mapping[str, Any]) -> Chart:
    """Coverage to be expected with more audited units."""
    found = marks.listed(certificate, "more_labels", "labels")
    if not found:
        return marks.nothing("Coverage with more labels")
    rows: list[Row] = [
        {
            "labels": one["labels"],
            "coverage": figures.number(one.get("coverage")) or 0.0,
            "kind": FAILED.name if one.get("coverage") is None else PASSED.name,
            "more": figures.count(one["labels"]),
            "kept": "nothing" if one.get("coverage") is None else figures.share(one["coverage"]),
            "threshold": "\u2013" if one.get("threshold") is None else f"{one['threshold']:.3f}",
        }
        for one in found
    ]
    tip = marks.tips(more="units added", kept="kept", threshold="margin threshold")
    x = marks.x_of("labels", "audited units added", shares=False)
    said = f"Coverage to be expected with {rows[0]['more']} more audited units: {rows[0]['kept']}; "
    said += f"with {rows[-1]['more']}: {rows[-1]['kept']}."
    return marks.finished(_coverage(rows, x, tip, "linear"), said, 220)
