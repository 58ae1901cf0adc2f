"""Every chart of the pages and of report.html, drawn once. Pure: frames and figures in, Altair charts out.

A chart says in ``description`` what it shows, for those who cannot see it, and carries its intervals in tooltips. Text
has no colour of its own: it takes the page's. Nothing is counted here; every figure was made by a stage. Words from
models, people and files are data, never parts of an expression, a field's name or a title.

All charts are single or layered views without a width, so that a page can make them as wide as their place.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl

from dashboard import marks, theme
from dashboard.marks import JUDGE, PANEL, Kind, Row
from pipeline.agreement import ANY, LONGER, PEOPLE

Chart = alt.Chart | alt.LayerChart | alt.FacetChart | alt.HConcatChart | alt.VConcatChart

CEILING, FLOOR, COIN = "ceiling: one person, another", "floor: the longer answer", "a coin"
LINES = (CEILING, FLOOR, COIN)
BESIDE = {("person_person", ANY, ANY): CEILING, ("length_people", LONGER, PEOPLE): FLOOR}
"""What agreement is to be read beside."""
MOST_REASONS = 24
"""Reasons that the chart of drops names; the others are one row."""
MOST_STEPS = 600
"""Steps of a training history that are drawn."""
PALE = "#eef3f7"
"""A cell that says nothing either way."""
ACROSS = 110
"""Characters of column heads that fit side by side."""
WIDE = 12
"""Columns of a matrix from which its figures are in hundredths."""
STEPS = (
    ("prompts", "prompts", ("load", "import")),
    ("answers", "samples", ("generate",)),
    ("pairs", "pairs", ("pair",)),
    ("verdicts", "verdicts", ("judge", "aggregate")),
    ("kept pairs", "kept", ("select",)),
)
"""Bar, its frame, and the stages that drop on the way to it."""
MEASURES = {
    "accuracy": "agreement with people",
    "same": "same answer",
    "cohen_kappa": "Cohen's kappa",
    "fleiss_kappa": "Fleiss' kappa",
    "krippendorff_alpha": "Krippendorff's alpha",
    "gwet_ac1": "Gwet's AC1",
    "first_slot_rate": "the answer shown first wins",
    "swap_consistency": "same side in both orders",
    "tie_rate": "ties",
    "failure_rate": "failed judgments",
    "longer_rate": "the longer answer wins",
    "length_bias": "longer answer wins, judge minus people",
    "length_slope": "slope of the vote on log length",
    "length_slope_given_people": "slope on log length, people held fixed",
    "own_win_rate": "its own model's answer wins",
    "self_preference": "own model wins, judge minus people",
    "loss": "loss",
    "reward_accuracy": "reward accuracy",
    "reward_margin": "reward margin",
}
"""What measures are called on axes."""
SHARES = frozenset(
    {"accuracy", "same", "first_slot_rate", "swap_consistency", "tie_rate", "failure_rate", "longer_rate"}
    | {"length_bias", "own_win_rate", "self_preference", "reward_accuracy"}
)
"""Measures whose unit is a share."""
RATES = SHARES - {"length_bias", "self_preference"}
"""Shares that lie between 0 and 1."""
PEOPLE_BESIDE = frozenset({"tie_rate", "longer_rate", "length_slope", "own_win_rate"})
"""Measures of ``bias`` whose reference is what people do on the same pairs; that of the others is no bias."""


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
        # What later stages read holds imported rows too; what a stage made does not.
        read = [row["in"][frame] for row in rows.values() if frame in row["in"]]
        made = [row["out"][frame] for row in rows.values() if frame in row["out"]]
        if read or made:
            kept = max(read + made)
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
    calls, cost = (sum(marks.number(row.get(key)) or 0 for row in found.values()) for key in ("calls", "cost_usd"))
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
        figures = {
            "name": marks.told(name),
            "calls": marks.count(one.get("calls")),
            "cost": f"{one.get('cost_usd') or 0:.4f}",
            "read": marks.count(one.get("prompt_tokens")),
            "cached": marks.count(one.get("cached_tokens")),
            "written": marks.count(one.get("completion_tokens")),
            "seconds": marks.plain(marks.number(one.get("latency_s"))),
        }
        rows += [
            {"row": marks.placed(at, name), "kind": kind, "share": value, **figures}
            for kind, value in spent_here.items()
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


def accuracy(agreement: pl.DataFrame, *, subset: str = "all", people: str = "people") -> Chart:
    """Each judge's, and the panel's, agreement with people: points with intervals, ceiling and floor as lines."""
    found = _with_people(_measured(agreement, "accuracy", subset))
    if not found:
        return marks.nothing(f"Agreement with {people}")
    found.sort(key=lambda row: (-row["value"], row["rater_1"]))
    rows = [_estimate(row, at, _who(row), row["rater_1"]) for at, row in enumerate(found)]
    drawn = _lines(_measured(agreement, "accuracy", subset))
    domain = marks.reach([*_ends(found), *(row["at"] for row in drawn)], within=(0, 1))
    kinds = [kind for kind in (JUDGE, PANEL) if kind.name in {row["kind"] for row in rows}]
    x = marks.x_of("value", f"agreement with {people}", domain)
    points = marks.estimates(rows, x, kinds, _tips("judge", "agreement"))
    said = f"How often judges side with {people}, with 95% intervals: {_raters(found)}."
    said += "".join(f" The {row['line']}: {row['told']}." for row in drawn if row["line"] != COIN)
    return marks.finished(marks.layered(*marks.lines(drawn, x, LINES), points), said, marks.height(len(rows)))


def _measured(agreement: pl.DataFrame, measure: str, subset: str | None) -> list[Row]:
    """Rows of the frame ``agreement`` that have a value."""
    if agreement.is_empty():
        return []
    found = agreement.with_columns(pl.col("between", "measure").cast(pl.String)).filter(
        (pl.col("measure") == measure) & pl.col("value").is_finite()
    )
    return (found if subset is None else found.filter(pl.col("subset") == subset)).to_dicts()


def _with_people(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row["between"] in {"judge_people", "panel_people"} and row["rater_2"] == PEOPLE]


def _lines(rows: Iterable[Row]) -> list[Row]:
    """Ceiling, floor and chance, as far as they are among *rows*."""
    found = [
        {
            "at": row["value"],
            "line": BESIDE[key],
            "told": f"{marks.share(row['value'])}, {marks.interval(row['low'], row['high'])}, n = {row['n']:,}",
        }
        for row in rows
        if (key := _beside(row)) in BESIDE
    ]
    return [*found, {"at": 0.5, "line": COIN, "told": "50.0%"}]


def _beside(row: Row) -> tuple[str, str, str]:
    """Which of BESIDE a row of ``agreement`` is, if any."""
    return row["between"], row["rater_1"], row["rater_2"]


def _who(row: Row) -> str:
    """The kind of a row of ``agreement``: `panel` or `judge`."""
    return PANEL.name if row["between"] == "panel_people" else JUDGE.name


def _estimate(row: Row, place: int, kind: str, name: str, *, shares: bool = True) -> Row:
    """A row of ``marks.estimates`` with what its tooltip says."""
    low, high = marks.number(row["low"]), marks.number(row["high"])
    return {
        "row": marks.placed(place, name),
        "kind": kind,
        "value": row["value"],
        "low": low,
        "high": high,
        "name": marks.told(name),
        "figure": marks.share(row["value"]) if shares else marks.plain(row["value"]),
        "interval": marks.interval(low, high, shares=shares),
        "n": marks.count(row.get("n")),
    }


def _tips(who: str, what: str) -> list[alt.Tooltip]:
    return marks.tips(name=who, figure=what, interval="95% interval", n="n")


def _raters(rows: Sequence[Row]) -> str:
    """The judges' range and the panel's figure, from rows of ``agreement``."""
    judges, panel = ([row for row in rows if _who(row) == kind.name] for kind in (JUDGE, PANEL))
    told = [_range(judges, "judge")] if judges else []
    return "; ".join([*told, *(f"the panel {marks.share(row['value'])}" for row in panel)])


def _ends(rows: Iterable[Mapping[str, Any]]) -> list[float | None]:
    return [marks.number(row.get(key)) for row in rows for key in ("value", "low", "high")]


def _range(rows: Sequence[Mapping[str, Any]], what: str, *, shares: bool = True) -> str:
    """How many there are, from the lowest to the highest value."""
    told = marks.share if shares else marks.plain
    values = [row["value"] for row in rows]
    if len(rows) == 1:
        return f"one {what}, {told(values[0])}"
    return f"{len(rows)} {what}s, from {told(min(values))} to {told(max(values))}"


def matrix(agreement: pl.DataFrame, measure: str, *, subset: str = "all", people: str = "people") -> Chart:
    """Heat map of raters against raters in *measure*: judge x judge, judge x people; figures in the cells.

    Below the judges stand the panel, one person against another (the ceiling) and the longer answer (the floor).
    """
    found = _measured(agreement, measure, subset)
    with_people = {(row["rater_1"], _who(row)): row for row in _with_people(found)}
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
    for at, row in enumerate(row for row in found if _beside(row) in BESIDE):
        rows.append(_cell(row, (len(order) + 1 + at, BESIDE[_beside(row)]), (0, people), measure, columns))
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
    said += f" and with each other, {_range(rows, 'cell', shares=measure in SHARES)}." if between else "."
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
        "figure": marks.share(value) if shares else marks.plain(value),
        "interval": marks.interval(row["low"], row["high"], shares=shares),
        "n": marks.count(row["n"]),
    }


def _hundredths(value: float) -> str:
    return f"{100 * value:.0f}".replace("-", "\u2212")


def _shade(value: float, middle: float) -> str:
    """From near white at *middle* to blue at 1, and to vermilion as far below."""
    strength = min(abs(value - middle) / (1 - middle), 1.0)
    return marks.blended(PALE, theme.BLUE if value >= middle else theme.VERMILION, strength)


def subsets(agreement: pl.DataFrame, *, people: str = "people") -> Chart:
    """Agreement with people by subset of the prompts: one block of rows a judge, all its prompts first."""
    found = _with_people(_measured(agreement, "accuracy", None))
    if not any(row["subset"] != "all" for row in found):
        return marks.nothing(f"Agreement with {people} by subset")
    overall = {(_who(row), row["rater_1"]): row["value"] for row in found if row["subset"] == "all"}
    found.sort(
        key=lambda row: (
            -overall.get((_who(row), row["rater_1"]), 0.0),
            row["rater_1"],
            row["subset"] != "all",
            row["subset"],
        )
    )
    rows: list[Row] = []
    for at, row in enumerate(found):
        whole = row["subset"] == "all"
        one = _estimate(row, at, ALL.name if whole else PART.name, row["rater_1"])
        if not whole:
            one["row"] = marks.placed(at, _subset(row["subset"])).replace(" ", INDENT, 1)
        rows.append({**one, "subset": marks.told(_subset(row["subset"]))})
    domain = marks.reach([*_ends(found), 0.5], within=(0, 1))
    tip = marks.tips(name="judge", subset="prompts", figure="agreement", interval="95% interval", n="n")
    x = marks.x_of("value", f"agreement with {people}", domain)
    points = marks.estimates(rows, x, (ALL, PART), tip, labels=marks.row_axis(labelFontWeight=BOLD_JUDGES))
    coin = marks.lines([{"at": 0.5, "line": COIN, "told": "50.0%"}], x, LINES)
    names = {row["subset"] for row in found if row["subset"] != "all"}
    said = f"How often judges side with {people} on {len(names)} subsets of the prompts: {_range(found, 'figure')}."
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
    low, high = marks.reach(_ends(found))
    rows: list[Row] = []
    for row in found:
        at = judges.index(row["judge"])
        one = _estimate({**row, "name": row["judge"]}, at, JUDGE.name, row["judge"], shares=shares)
        when = row["measured_at"]
        moved = marks.interval(row["difference_low"], row["difference_high"], shares=shares)
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
    told = marks.share if shares else marks.plain
    title = f"{what}; every row spans {told(low)} to {told(high)}"
    said = f"{what[0].upper()}{what[1:]}, {len(times)} snapshots of {len(judges)} judges: "
    said += f"{_range(found, 'figure', shares=shares)}. Every row spans {told(low)} to {told(high)}."
    layered = marks.layered(line, whiskers, points).properties(title=alt.TitleParams(title, **SUBTITLE))
    return marks.finished(layered, said, marks.height(len(judges), 96 if len(judges) <= FEW else 64))


def _one_snapshot(found: Sequence[Row], measure: str) -> Chart:
    """Without a past there is no line: the judges' figures, one below the other."""
    what, shares = MEASURES.get(measure, "measure"), measure in SHARES
    rows = [_estimate(row, at, JUDGE.name, row["judge"], shares=shares) for at, row in enumerate(found)]
    x = marks.x_of("value", f"{what}, in the only snapshot so far", marks.reach(_ends(found)), shares=shares)
    said = f"{what[0].upper()}{what[1:]} in the only snapshot so far: {_range(found, 'judge', shares=shares)}."
    return marks.finished(marks.estimates(rows, x, (JUDGE,), _tips("judge", what)), said, marks.height(len(rows)))


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


def biases(bias: pl.DataFrame, measure: str, *, subset: str = "all") -> Chart:
    """*measure* of ``bias`` for every judge with its interval, and beside it what no bias or what people would show."""
    what = MEASURES.get(measure, "measure")
    mine = (pl.col("measure").cast(pl.String) == measure) & (pl.col("subset") == subset) & pl.col("value").is_finite()
    found = [] if bias.is_empty() else bias.filter(mine).sort("judge").to_dicts()
    if not found:
        return marks.nothing(f"{what[0].upper()}{what[1:]}")
    shares = measure in SHARES
    words = {"swap_consistency": COIN, **dict.fromkeys(PEOPLE_BESIDE, "people, on the same pairs")}
    beside = Kind(words.get(measure, "no bias"), theme.VERMILION, marks.UPRIGHT)
    # The furthest from what it is to be stands first.
    ideal = 1.0 if measure == "swap_consistency" else None
    found.sort(key=lambda row: (-abs(row["value"] - (ideal or _reference(row, measure) or 0.0)), row["judge"]))
    rows: list[Row] = []
    for at, row in enumerate(found):
        reference = _reference(row, measure)
        told = marks.share(reference) if shares else marks.plain(reference)
        one = {**_estimate(row, at, JUDGE.name, row["judge"], shares=shares), "reference": told}
        rows.append(one)
        if reference is not None:
            rows.append({**one, "kind": beside.name, "value": reference, "low": None, "high": None})
    kinds = (JUDGE, beside) if len(rows) > len(found) else (JUDGE,)
    domain = marks.reach(
        [*_ends(found), *(_reference(row, measure) for row in found), ideal],
        within=(0, 1) if measure in RATES else None,
    )
    tip = marks.tips(name="judge", figure=what, interval="95% interval", reference=beside.name, n="n")
    points = marks.estimates(rows, marks.x_of("value", what, domain, shares=shares), kinds, tip)
    said = f"{what[0].upper()}{what[1:]}, with 95% intervals: {_range(found, 'judge', shares=shares)}."
    if len(kinds) > 1:
        said += f" Beside each stands what {beside.name.removesuffix(', on the same pairs')} would show."
    return marks.finished(points, said, marks.height(len(found)))


def _reference(row: Row, measure: str) -> float | None:
    """What no bias or what people show; a coin that is thrown for each order says the same half the time."""
    return marks.number(row["reference"]) if measure != "swap_consistency" else 0.5


def controls(controls: Mapping[str, Mapping[str, Any]]) -> Chart:
    """What constant answers won from each judge; ``controls`` of summary.json."""
    found = {name: won for name, won in controls.items() if marks.number(won.get("win_rate")) is not None}
    if not found:
        return marks.nothing("What constant answers won")
    whole, single = Kind("all constant answers", theme.BLUE), Kind("one of them", theme.GREY, "triangle")
    rows: list[Row] = []
    order = sorted(found, key=lambda name: (-found[name]["win_rate"], name))
    for at, name in enumerate(order):
        won = found[name]
        singles: Mapping[str, Row] = won.get("by_control") or {}
        for answer, one in singles.items():
            told = {**one, "value": one["win_rate"], "low": None, "high": None}
            rows.append({**_estimate(told, at, single.name, name), "answer": marks.told(answer)})
        rows.append({**_estimate({**won, "value": won["win_rate"]}, at, whole.name, name), "answer": "all"})
    tip = marks.tips(name="judge", answer="constant answer", figure="wins", interval="95% interval", n="comparisons")
    x = marks.x_of("value", "comparisons that the constant answer won", [-0.02, 1.02])
    said = "How often constant answers, which deserve to win nothing, won: "
    said += f"{_range([{'value': won['win_rate']} for won in found.values()], 'judge')}."
    return marks.finished(marks.estimates(rows, x, (whole, single), tip), said, marks.height(len(order), 30))


def gate(certificate: Mapping[str, Any]) -> Chart:
    """Agreement against coverage with its lower bound, the target, and the threshold that was chosen."""
    curve = marks.listed(certificate, "curve", "coverage", "threshold", "agreement")
    if not curve:
        return marks.nothing("Agreement against coverage")
    seen, bound = Kind("agreement seen", theme.BLUE), Kind("its lower bound", theme.VERMILION, "triangle")
    rows: list[Row] = []
    for step in curve:
        figures = {
            "coverage": step["coverage"],
            "kept": marks.share(step["coverage"]),
            "threshold": f"{step['threshold']:.3f}",
            "seen": marks.share(step["agreement"]),
            "bound": marks.share(step["lower_bound"]),
            "units": marks.count(step["n_units"]),
            "tested": "yes" if step.get("tested") else "no",
        }
        rows.append({**figures, "kind": seen.name, "value": step["agreement"]})
        rows.append({**figures, "kind": bound.name, "value": step["lower_bound"]})
    target = marks.number(certificate.get("target_agreement"))
    chosen = marks.number(certificate.get("coverage"))
    level = [{"at": target, "line": TARGET, "told": marks.share(target)}] if target is not None else []
    upright = [{"at": chosen, "line": CHOSEN, "told": marks.share(chosen)}] if chosen is not None else []
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
    said = f"Agreement with people where the {marks.share(curve[0]['coverage'])} of the pairs with the largest margins "
    said += f"are kept: {marks.share(curve[0]['agreement'])}, where {marks.share(last['coverage'])} are: "
    said += f"{marks.share(last['agreement'])}, at least {marks.share(last['lower_bound'])}. The target is "
    said += f"{marks.share(target)}; " + (f"{marks.share(chosen)} are kept." if chosen is not None else "none passes.")
    return marks.finished(marks.with_own_dashes(layered), said, 280)


TARGET, CHOSEN, WANTED = "target", "chosen threshold", "the config's target"
RULES = (TARGET, CHOSEN, WANTED)


def targets(certificate: Mapping[str, Any], chosen: float | None = None) -> Chart:
    """Coverage that each target would leave certified; the config's target and *chosen* are marked."""
    found = marks.listed(certificate, "targets", "target")
    if not found:
        return marks.nothing("Coverage by target")
    rows: list[Row] = [
        {
            "target": one["target"],
            "coverage": (marks.number(one.get("coverage")) or 0.0) if one.get("certified") else 0.0,
            "kind": PASSED.name if one.get("certified") else FAILED.name,
            "wanted": marks.share(one["target"]),
            "kept": marks.share(marks.number(one.get("coverage"))) if one.get("certified") else "nothing",
            "threshold": "\u2013" if one.get("threshold") is None else f"{one['threshold']:.3f}",
            "seen": marks.share(marks.number(one.get("agreement"))),
            "bound": marks.share(marks.number(one.get("lower_bound"))),
            "needed": marks.count(marks.number(one.get("labels_needed"))),
        }
        for one in found
    ]
    wanted = {WANTED: marks.number(certificate.get("target_agreement")), CHOSEN_TARGET: chosen}
    upright = [{"at": at, "line": line, "told": marks.share(at)} for line, at in wanted.items() if at is not None]
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
    said += f"something up to {marks.share(max(good))}." if good else "nothing at any of them."
    return marks.finished(layered, said, 240)


PASSED, FAILED = Kind("certified", theme.BLUE), Kind("nothing certified", theme.VERMILION, "cross")
CHOSEN_TARGET = "the target looked at"


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
            "coverage": marks.number(one.get("coverage")) or 0.0,
            "kind": FAILED.name if one.get("coverage") is None else PASSED.name,
            "more": marks.count(one["labels"]),
            "kept": "nothing" if one.get("coverage") is None else marks.share(one["coverage"]),
            "threshold": "\u2013" if one.get("threshold") is None else f"{one['threshold']:.3f}",
        }
        for one in found
    ]
    tip = marks.tips(more="units added", kept="kept", threshold="margin threshold")
    x = marks.x_of("labels", "audited units added", shares=False)
    said = f"Coverage to be expected with {rows[0]['more']} more audited units: {rows[0]['kept']}; "
    said += f"with {rows[-1]['more']}: {rows[-1]['kept']}."
    return marks.finished(_coverage(rows, x, tip, "linear"), said, 220)


def reliability(calibration: pl.DataFrame) -> Chart:
    """What probabilities say against what people say, with the diagonal."""
    if calibration.is_empty():
        return marks.nothing("What probabilities say against what people say")
    found = calibration.sort("confidence").to_dicts()
    rows: list[Row] = [
        {
            "confidence": row["confidence"],
            "value": row["people"],
            "low": marks.number(row["low"]),
            "high": marks.number(row["high"]),
            "n": row["n"],
            "said": marks.share(row["confidence"]),
            "figure": marks.share(row["people"]),
            "interval": marks.interval(marks.number(row["low"]), marks.number(row["high"])),
            "pairs": marks.count(row["n"]),
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
    said += f"where it says {marks.share(gap['confidence'])}, people agree on {marks.share(gap['people'])}."
    return marks.finished(marks.layered(diagonal, whiskers, points), said, 280)


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


def training(history: Sequence[Mapping[str, Any]], measure: str) -> Chart:
    """*measure* (``loss``, ``reward_accuracy``, ``reward_margin``) by optimiser step; ``loss`` of training.json."""
    what = MEASURES.get(measure, "measure")
    found = [row for row in history if marks.number(row.get(measure)) is not None and row.get("step") is not None]
    if not found:
        return marks.nothing(f"{what[0].upper()}{what[1:]} by step")
    every = -(-len(found) // MOST_STEPS)
    shares = measure in SHARES
    rows: list[Row] = [
        {
            "step": row["step"],
            "value": row[measure],
            "at": f"{row['step']:,}",
            "figure": marks.share(row[measure]) if shares else f"{row[measure]:.4f}",
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


MOST_POINTS = 60
"""Points of a line that are drawn large."""


def frontier(points: Sequence[Mapping[str, Any]]) -> Chart:
    """Win rate against KL from the untrained model: ``name``, ``kl``, ``win_rate``, ``low``, ``high`` of each run."""
    found = [row for row in points if None not in (marks.number(row.get("kl")), marks.number(row.get("win_rate")))]
    if not found:
        return marks.nothing("Win rate against KL")
    found.sort(key=lambda row: (row["kl"], str(row["name"])))
    rows: list[Row] = []
    for at, row in enumerate(found):
        low, high = marks.number(row.get("low")), marks.number(row.get("high"))
        rows.append(
            {
                "run": marks.placed(at, str(row["name"])),
                "kl": row["kl"],
                "value": row["win_rate"],
                "low": low,
                "high": high,
                "name": marks.told(str(row["name"])),
                "distance": f"{row['kl']:.3f}",
                "figure": marks.share(row["win_rate"]),
                "interval": marks.interval(low, high),
            }
        )
    # Colour and shape together keep five times as many runs apart as colours alone; entries are in the order of KL.
    colours = [theme.SERIES[at % len(theme.SERIES)] for at in range(len(rows))]
    turns = [SHAPES[(at + at // len(SHAPES)) % len(SHAPES)] for at in range(len(rows))]
    for row, colour in zip(rows, colours, strict=True):
        row["colour"] = colour
    coloured = alt.Color("run:N", sort="ascending", scale=alt.Scale(range=colours), legend=_runs_legend())
    shaped = alt.Shape("run:N", sort="ascending", scale=alt.Scale(range=turns), legend=_runs_legend())
    tip = marks.tips(name="run", figure="win rate", interval="95% interval", distance="KL, nats an answer")
    domain = marks.reach([*(row[end] for row in rows for end in ("value", "low", "high")), 0.5], within=(0, 1))
    y = marks.y_of("value", "win rate over the untrained model", domain)
    base = alt.Chart(marks.values(rows)).encode(
        x=marks.x_of("kl", "KL from the untrained model, nats an answer", shares=False), tooltip=tip
    )
    # The intervals have their colours as data: on the scale of the points they would split its legend in two.
    whiskers = base.mark_rule(strokeWidth=2.5, opacity=0.75, aria=False).encode(
        y=marks.on(y, "low"), y2="high:Q", color=alt.Color("colour:N", scale=None)
    )
    dots = base.mark_point(filled=True, size=90, opacity=1, aria=False).encode(y=y, color=coloured, shape=shaped)
    coin = marks.lines([{"at": 0.5, "line": NO_BETTER, "told": "50.0%"}], y, (NO_BETTER,))
    said = f"Win rate against KL from the untrained model: {_range([{'value': r['value']} for r in rows], 'run')}, "
    said += f"at {rows[0]['distance']} to {rows[-1]['distance']} nats an answer."
    return marks.finished(marks.layered(*coin, whiskers, dots), said, 300)


NO_BETTER = "no better than the untrained model"
SHAPES = ("circle", "square", "diamond", "triangle-up", "cross")


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
        one = _estimate({**row, "value": row["win_rate"]}, at, MODEL.name, row["model"])
        label = f"{one['row'][5:]}, {heat.removeprefix('temperature ')}" if several else heat
        rows.append({**one, "row": f"{at:04d} {label}", "heat": heat, "prompts": marks.count(row["prompts"])})
    domain = marks.reach([*_ends([{**row, "value": row["win_rate"]} for row in known]), 0.5], within=(0, 1))
    tip = marks.tips(
        name="model", heat="sampled at", figure="wins", interval="95% interval", n="comparisons", prompts="prompts"
    )
    x = marks.x_of("value", "comparisons won", domain)
    points = marks.estimates(rows, x, (MODEL,), tip)
    half = marks.lines([{"at": 0.5, "line": HALF, "told": "50.0%"}], x, (HALF,))
    said = f"How often answers win: {_range([{'value': row['win_rate']} for row in known], 'kind of answer')}."
    return marks.finished(
        marks.layered(*half, points), said.replace("kind of answers", "kinds of answers"), marks.height(len(rows))
    )


MODEL, HALF = Kind("model", theme.BLUE), "as often as not"


def compared(one: pl.DataFrame, other: pl.DataFrame, names: tuple[str, str], *, people: str = "people") -> Chart:
    """Frames ``agreement`` of two runs: each judge's agreement with people, before and after."""
    before, after = (
        {(_who(row), row["rater_1"]): row for row in _with_people(_measured(frame, "accuracy", "all"))}
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
                rows.append({**_estimate(found[key], at, kind.name, key[1]), "run": marks.told(run)})
    kinds = (BEFORE, AFTER)
    tip = marks.tips(name="judge", run="run", kind="which", figure="agreement", interval="95% interval", n="n")
    domain = marks.reach(_ends([*before.values(), *after.values()]), within=(0, 1))
    points = marks.estimates(
        rows, marks.x_of("value", f"agreement with {people}", domain), kinds, tip, side_by_side=True
    )
    said = (
        f"How often judges side with {people} in two runs. Before: {_range(list(before.values()), 'judge')}; "
        if before
        else ""
    )
    said += f"after: {_range(list(after.values()), 'judge')}." if after else ""
    return marks.finished(points, said, marks.height(len(both), 36))


BEFORE, AFTER = Kind("before", theme.GREY, "square"), Kind("after", theme.BLUE)
