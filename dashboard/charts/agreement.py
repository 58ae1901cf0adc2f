"""Charts of who agrees with whom: with people, with each other, by subset, over time, and calibration. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl

from dashboard import marks, theme
from dashboard.charts.measured import (
    BESIDE,
    COIN,
    LINES,
    MEASURES,
    SHARES,
    Chart,
    against_people,
    beside,
    ends_of,
    estimate,
    having,
    kind_of,
    raters,
    span,
    tips,
)
from dashboard.marks import JUDGE, PANEL, Kind, Row
from pipeline import figures
from pipeline.schemas import ANY

PALE = "#eef3f7"
"""A cell that says nothing either way."""
ACROSS = 110
"""Characters of column heads that fit side by side."""
WIDE = 12
"""Columns of a matrix from which its figures are in hundredths."""
SUBTITLE: Mapping[str, Any] = {"anchor": "start", "fontWeight": "normal", "fontSize": 12, "offset": 8}
ENDS = ("low", "high")
FEW = 6
INDENT = "\u2002"
"""In place of the space before a name: a row that belongs to the one above."""
BOLD_JUDGES: Mapping[str, Any] = {
    "condition": {"test": f"substring(datum.label, 4, 5) === '{INDENT}'", "value": "normal"},
    "value": "bold",
}
ALL, PART = Kind("all prompts", theme.BLUE), Kind("a subset", theme.PURPLE, "square")
BEFORE, AFTER = Kind("before", theme.GREY, "square"), Kind("after", theme.BLUE)


def accuracy(agreement: pl.DataFrame, *, subset: str = "all", people: str = "people") -> Chart:
    """Each judge's, and the panel's, agreement with people: points with intervals, ceiling and floor as lines."""
    found = against_people(having(agreement, "accuracy", subset))
    if not found:
        return marks.nothing(f"Agreement with {people}")
    found.sort(key=lambda row: (-row["value"], row["rater_1"]))
    rows = [estimate(row, at, kind_of(row), row["rater_1"]) for at, row in enumerate(found)]
    drawn = _lines(having(agreement, "accuracy", subset))
    domain = marks.reach([*ends_of(found), *(row["at"] for row in drawn)], within=(0, 1))
    kinds = [kind for kind in (JUDGE, PANEL) if kind.name in {row["kind"] for row in rows}]
    x = marks.x_of("value", f"agreement with {people}", domain)
    points = marks.estimates(rows, x, kinds, tips("judge", "agreement"))
    said = f"How often judges side with {people}, with 95% intervals: {raters(found)}."
    said += "".join(f" The {row['line']}: {row['told']}." for row in drawn if row["line"] != COIN)
    return marks.finished(marks.layered(*marks.lines(drawn, x, LINES), points), said, marks.height(len(rows)))


def _lines(rows: Iterable[Row]) -> list[Row]:
    """Ceiling, floor and chance, as far as they are among *rows*."""
    found = [
        {
            "at": row["value"],
            "line": BESIDE[key],
            "told": f"{figures.share(row['value'])}, {figures.interval(row['low'], row['high'])}, n = {row['n']:,}",
        }
        for row in rows
        if (key := beside(row)) in BESIDE
    ]
    return [*found, {"at": 0.5, "line": COIN, "told": "50.0%"}]


def matrix(agreement: pl.DataFrame, measure: str, *, subset: str = "all", people: str = "people") -> Chart:
    """Heat map of raters against raters in *measure*: judge x judge, judge x people; figures in the cells.

    Below the judges stand the panel, one person against another (the ceiling) and the longer answer (the floor).
    """
    found = having(agreement, measure, subset)
    with_people = {(row["rater_1"], kind_of(row)): row for row in against_people(found)}
    between = [row for row in found if row["between"] == "judge_judge" and ANY not in (row["rater_1"], row["rater_2"])]
    judges = {row[side] for row in between for side in ("rater_1", "rater_2")}
    judges |= {name for name, kind in with_people if kind == JUDGE.name}
    what = MEASURES.get(measure, "agreement")
    if not judges:
        return marks.nothing(f"Raters against each other: {what}")
    # Those who agree most with people come first; the panel, of which only agreement with people is known, last.
    order = sorted(judges, key=lambda name: (-with_people.get((name, JUDGE.name), {"value": -2.0})["value"], name))
    place = {name: at for at, name in enumerate(order)}
    columns = int(bool(between)) * len(order) + 1
    rows: list[Row] = [
        _cell(row, (place[one], one), (place[other] + 1, other), measure, columns)
        for row in between
        for one, other in ((row["rater_1"], row["rater_2"]), (row["rater_2"], row["rater_1"]))
    ]
    for (name, kind), row in with_people.items():
        at = place[name] if kind == JUDGE.name else len(order)
        rows.append(_cell(row, (at, name), (0, people), measure, columns))
    for at, row in enumerate(row for row in found if beside(row) in BESIDE):
        rows.append(_cell(row, (len(order) + 1 + at, BESIDE[beside(row)]), (0, people), measure, columns))
    longest = max(len(row["column"]) for row in rows)
    across = columns * longest > ACROSS
    title = what + (", in hundredths" if columns > WIDE else "")
    head = marks.row_axis(title=title, titlePadding=10, orient="top", labelAngle=-90 if across else 0)
    base = alt.Chart(marks.values(rows)).encode(
        x=alt.X("column:N", sort="ascending", axis=head),
        y=marks.rows_on_y(),
        tooltip=marks.tips(name="rater", other="with", figure=what, interval="95% interval", n="n"),
    )
    cells = base.mark_rect(aria=False).encode(color=alt.Color("fill:N", scale=None))
    figures = base.mark_text(fontSize=10 if columns > WIDE else 12, aria=False).encode(
        text="text:N", color=alt.Color("ink:N", scale=None)
    )
    said = f"{title[0].upper()}{title[1:]}, of {len(order)} judges with {people}"
    said += f" and with each other, {span(rows, 'cell', shares=measure in SHARES)}." if between else "."
    return marks.finished(marks.layered(cells, figures), said, marks.height(len({row["row"] for row in rows}), 28))


def _cell(row: Row, one: tuple[int, str], other: tuple[int, str], measure: str, columns: int) -> Row:
    """A cell of the matrix: two raters, each with its place."""
    value = row["value"]
    shares = measure in SHARES
    fill = _shade(value, 0.5 if measure == "accuracy" else 0.0)
    return {
        "row": marks.placed(*one),
        "column": marks.placed(*other),
        "name": marks.told(one[1]),
        "other": marks.told(other[1]),
        "value": value,
        "text": _hundredths(value) if columns > WIDE else f"{value:.2f}".replace("-", "\u2212"),
        "fill": fill,
        "ink": theme.ink(fill),
        "figure": figures.share(value) if shares else figures.plain(value),
        "interval": figures.interval(row["low"], row["high"], shares=shares),
        "n": figures.count(row["n"]),
    }


def _hundredths(value: float) -> str:
    return f"{100 * value:.0f}".replace("-", "\u2212")


def _shade(value: float, middle: float) -> str:
    """From near white at *middle* to blue at 1, and to vermilion as far below."""
    strength = min(abs(value - middle) / (1 - middle), 1.0)
    return marks.blended(PALE, theme.BLUE if value >= middle else theme.VERMILION, strength)


def subsets(agreement: pl.DataFrame, *, people: str = "people") -> Chart:
    """Agreement with people by subset of the prompts: one block of rows a judge, all its prompts first."""
    found = against_people(having(agreement, "accuracy", None))
    if not any(row["subset"] != "all" for row in found):
        return marks.nothing(f"Agreement with {people} by subset")
    overall = {(kind_of(row), row["rater_1"]): row["value"] for row in found if row["subset"] == "all"}
    found.sort(
        key=lambda row: (
            -overall.get((kind_of(row), row["rater_1"]), 0.0),
            row["rater_1"],
            row["subset"] != "all",
            row["subset"],
        )
    )
    rows: list[Row] = []
    for at, row in enumerate(found):
        whole = row["subset"] == "all"
        one = estimate(row, at, ALL.name if whole else PART.name, row["rater_1"])
        if not whole:
            one["row"] = marks.placed(at, _subset(row["subset"])).replace(" ", INDENT, 1)
        rows.append({**one, "subset": marks.told(_subset(row["subset"]))})
    domain = marks.reach([*ends_of(found), 0.5], within=(0, 1))
    tip = marks.tips(name="judge", subset="prompts", figure="agreement", interval="95% interval", n="n")
    x = marks.x_of("value", f"agreement with {people}", domain)
    points = marks.estimates(rows, x, (ALL, PART), tip, labels=marks.row_axis(labelFontWeight=BOLD_JUDGES))
    coin = marks.lines([{"at": 0.5, "line": COIN, "told": "50.0%"}], x, LINES)
    names = {row["subset"] for row in found if row["subset"] != "all"}
    said = f"How often judges side with {people} on {len(names)} subsets of the prompts: {span(found, 'figure')}."
    return marks.finished(marks.layered(*coin, points), said, marks.height(len(rows), 20))


def _subset(name: str) -> str:
    """`tag:colour` as `colour`; a source keeps its word."""
    return "all prompts" if name == "all" else name.removeprefix("tag:")


def drift(trend: pl.DataFrame, measure: str) -> Chart:
    """*measure* of every judge over snapshots, with intervals; one snapshot gives points."""
    what = MEASURES.get(measure, "measure")
    found = [] if trend.is_empty() else _over_time(trend, measure)
    if not found:
        return marks.nothing(f"{what[0].upper()}{what[1:]} over time")
    shares = measure in SHARES
    times = sorted({row["measured_at"] for row in found})
    if len(times) == 1:
        return _one_snapshot(found, measure)
    judges = sorted({row["judge"] for row in found})
    low, high = marks.reach(ends_of(found))
    rows: list[Row] = []
    for row in found:
        at = judges.index(row["judge"])
        one = estimate({**row, "name": row["judge"]}, at, JUDGE.name, row["judge"], shares=shares)
        when = row["measured_at"]
        moved = figures.interval(row["difference_low"], row["difference_high"], shares=shares)
        change = "none before" if row["difference"] is None else f"{row['difference']:+.3f} ({moved})"
        rows.append(
            {
                **one,
                "at": f"{times.index(when):04d} {marks.told(when)[:16].replace('T', ' ')}",
                "change": change,
                "when": marks.told(when),
                "part": f"{at} {times.index(when)}",
            }
        )
    tip = marks.tips(
        name="judge", when="measured at", figure=what, interval="95% interval", n="n", change="since the one before"
    )
    scale = alt.Scale(domain=[low, high], nice=False, zero=False, reverse=True, padding=3)
    x = alt.X("at:N", sort="ascending", title=None, axis=_times(len(times)))
    base = alt.Chart(marks.values(rows)).encode(x=x, y=_bands(), tooltip=tip)
    ends = [
        {**row, "end": row[end]} for row in rows if row["low"] is not None and row["high"] is not None for end in ENDS
    ]
    whiskers = (
        alt.Chart(marks.values(ends))
        .mark_line(color=theme.BLUE, strokeWidth=2.5, opacity=0.75, aria=False)
        .encode(x=x, y=_bands(), yOffset=alt.YOffset("end:Q", scale=scale), detail="part:N", tooltip=tip)
    )
    value = alt.YOffset("value:Q", scale=scale)
    line = base.mark_line(color=theme.BLUE, strokeWidth=1.25, aria=False).encode(yOffset=value, detail="row:N")
    points = base.mark_point(filled=True, size=40, opacity=1, color=theme.BLUE, aria=False).encode(yOffset=value)
    told = figures.share if shares else figures.plain
    title = f"{what}; every row spans {told(low)} to {told(high)}"
    said = f"{what[0].upper()}{what[1:]}, {len(times)} snapshots of {len(judges)} judges: "
    said += f"{span(found, 'figure', shares=shares)}. Every row spans {told(low)} to {told(high)}."
    layered = marks.layered(line, whiskers, points).properties(title=alt.TitleParams(title, **SUBTITLE))
    return marks.finished(layered, said, marks.height(len(judges), 96 if len(judges) <= FEW else 64))


def _one_snapshot(found: Sequence[Row], measure: str) -> Chart:
    """Without a past there is no line: the judges' figures, one below the other."""
    what, shares = MEASURES.get(measure, "measure"), measure in SHARES
    rows = [estimate(row, at, JUDGE.name, row["judge"], shares=shares) for at, row in enumerate(found)]
    x = marks.x_of("value", f"{what}, in the only snapshot so far", marks.reach(ends_of(found)), shares=shares)
    said = f"{what[0].upper()}{what[1:]} in the only snapshot so far: {span(found, 'judge', shares=shares)}."
    return marks.finished(marks.estimates(rows, x, (JUDGE,), tips("judge", what)), said, marks.height(len(rows)))


def _over_time(trend: pl.DataFrame, measure: str) -> list[Row]:
    found = trend.filter((pl.col("measure").cast(pl.String) == measure) & pl.col("value").is_finite())
    return found.sort("measured_at", "judge").to_dicts()


def _times(count: int) -> alt.Axis:
    return marks.row_axis(labelAngle=0 if count <= 4 else -45, labelOverlap=True, labelLimit=130)  # noqa: PLR2004


def _bands() -> alt.Y:
    """Rows with air between them, each a small plot of its own."""
    return alt.Y(
        "row:N",
        sort="ascending",
        axis=marks.row_axis(grid=True, bandPosition=1, tickBand="extent"),
        scale=alt.Scale(paddingInner=0.25, paddingOuter=0.1),
    )


def reliability(calibration: pl.DataFrame) -> Chart:
    """What probabilities say against what people say, with the diagonal."""
    if calibration.is_empty():
        return marks.nothing("What probabilities say against what people say")
    found = calibration.sort("confidence").to_dicts()
    rows: list[Row] = [
        {
            "confidence": row["confidence"],
            "value": row["people"],
            "low": figures.number(row["low"]),
            "high": figures.number(row["high"]),
            "n": row["n"],
            "said": figures.share(row["confidence"]),
            "figure": figures.share(row["people"]),
            "interval": figures.interval(figures.number(row["low"]), figures.number(row["high"])),
            "pairs": figures.count(row["n"]),
        }
        for row in found
    ]
    domain = marks.reach([0.5, 1.0, *(row[key] for row in rows for key in ("value", "low", "high"))], within=(0, 1.02))
    tip = marks.tips(said="the panel says", figure="people say", interval="95% interval", pairs="pairs")
    x = marks.x_of("confidence", "what the panel's probability says", [0.49, 1.01])
    base = alt.Chart(marks.values(rows)).encode(x=x, tooltip=tip)
    points = base.mark_point(filled=True, color=theme.BLUE, opacity=1, aria=False).encode(
        y=marks.y_of("value", "how often people agree", domain),
        size=alt.Size("n:Q", scale=alt.Scale(range=[40, 260], zero=True), legend=None),
    )
    whiskers = base.mark_rule(color=theme.BLUE, strokeWidth=2.5, opacity=0.75, aria=False).encode(
        y=marks.y_of("low", "how often people agree", domain), y2="high:Q"
    )
    ideal = [{"confidence": at, "value": at, "line": "a probability that means what it says"} for at in (0.5, 1.0)]
    diagonal = (
        alt.Chart(marks.values(ideal))
        .mark_line(color=theme.GREY, strokeWidth=1.75, aria=False)
        .encode(
            x=x,
            y="value:Q",
            strokeDash=alt.StrokeDash("line:N", scale=alt.Scale(range=[[7, 4]]), legend=marks.legend()),
        )
    )
    total = sum(row["n"] for row in found)
    gap = max(found, key=lambda row: row["n"] * abs(row["people"] - row["confidence"]))
    said = (
        f"How often people agree with the panel at each level of its probability, {total:,} pairs. Most of its error: "
    )
    said += f"where it says {figures.share(gap['confidence'])}, people agree on {figures.share(gap['people'])}."
    return marks.finished(marks.layered(diagonal, whiskers, points), said, 280)


def compared(one: pl.DataFrame, other: pl.DataFrame, names: tuple[str, str], *, people: str = "people") -> Chart:
    """Frames ``agreement`` of two runs: each judge's agreement with people, before and after."""
    before, after = (
        {(kind_of(row), row["rater_1"]): row for row in against_people(having(frame, "accuracy", "all"))}
        for frame in (one, other)
    )
    both = sorted(
        before.keys() | after.keys(), key=lambda key: (-(after.get(key) or before[key])["value"], key[1], key[0])
    )
    if not both:
        return marks.nothing(f"Agreement with {people} in two runs")
    rows: list[Row] = []
    for at, key in enumerate(both):
        for kind, found, run in ((BEFORE, before, names[0]), (AFTER, after, names[1])):
            if key in found:
                rows.append({**estimate(found[key], at, kind.name, key[1]), "run": marks.told(run)})
    kinds = (BEFORE, AFTER)
    tip = marks.tips(name="judge", run="run", kind="which", figure="agreement", interval="95% interval", n="n")
    domain = marks.reach(ends_of([*before.values(), *after.values()]), within=(0, 1))
    points = marks.estimates(
        rows, marks.x_of("value", f"agreement with {people}", domain), kinds, tip, side_by_side=True
    )
    said = (
        f"How often judges side with {people} in two runs. Before: {span(list(before.values()), 'judge')}; "
        if before
        else ""
    )
    said += f"after: {span(list(after.values()), 'judge')}." if after else ""
    return marks.finished(points, said, marks.height(len(both), 36))
