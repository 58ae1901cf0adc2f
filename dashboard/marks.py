"""What the charts are put together from: rows, their axis, intervals, lines, words for figures. Pure.

A chart's rows are labelled by untrusted names. Each is one data value ``0007 name``: the number keeps equal names apart
and in order, and the axis leaves it out by an expression that holds no name.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import altair as alt

from dashboard import theme
from pipeline import shown
from pipeline.figures import number

Row = dict[str, Any]
Channel = TypeVar("Channel", bound=alt.X | alt.Y)
NOTHING = "nothing measured yet"
LABEL, TOLD = 28, 300
"""Characters of a name on an axis and in a tooltip."""
ROW_PX = 26
LABEL_PX = 230
WITHOUT_PLACE = "slice(datum.label, 5)"
FIT = alt.AutoSizeParams(type="fit-x", contains="padding")
"""The width is the whole chart's, the height that of the plot alone."""


@dataclass(frozen=True)
class Kind:
    """A sort of mark: what the legend calls it, its colour, and the shape that says the same."""

    name: str
    colour: str
    shape: str = "circle"


UPRIGHT = "M-0.14,-1.3h0.28v2.6h-0.28Z"
"""A shape: an upright stroke."""
JUDGE, PANEL = Kind("judge", theme.BLUE), Kind("panel", theme.VERMILION, "diamond")


def placed(place: int, name: str) -> str:
    """The data value of the row (or column, or entry of a legend) number *place*."""
    return f"{place:04d} {shown.line(name, LABEL)}"


def told(name: str) -> str:
    """*name* as a tooltip shows it."""
    return shown.line(name, TOLD)


def listed(found: Mapping[str, Any], key: str, *needed: str) -> list[Row]:
    """The rows under *key* of an artefact in which all of *needed* are numbers; none when it has no such key."""
    rows = cast("Sequence[Row]", found.get(key) or [])
    return [row for row in rows if all(number(row.get(name)) is not None for name in needed)]


def reach(values: Iterable[float | None], *, within: tuple[float, float] | None = None) -> list[float]:
    """A scale's domain: all of *values* with a little air around them, no further than *within*."""
    known = [value for value in values if value is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    air = 0.05 * (high - low) or 0.05
    low, high = low - air, high + air
    return [low, high] if within is None else [max(low, within[0]), min(high, within[1])]


def values(rows: Sequence[Mapping[str, Any]]) -> alt.InlineData:
    """*rows* as data."""
    return alt.InlineData(values=[dict(row) for row in rows])


def blended(one: str, other: str, strength: float) -> str:
    """The colour ``#rrggbb`` between two, *strength* of the way from *one* to *other*."""
    ends = [[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in (one, other)]
    return "#" + "".join(f"{round(a + (b - a) * strength):02x}" for a, b in zip(*ends, strict=True))


def height(rows: int, px: int = ROW_PX) -> int:
    """Of a plot of *rows* rows, px."""
    return max(rows, 1) * px


def row_axis(**more: Any) -> alt.Axis:
    """The axis of the field ``row``: names without their place."""
    settled: dict[str, Any] = {
        "title": None,
        "labelExpr": WITHOUT_PLACE,
        "labelLimit": LABEL_PX,
        "labelOverlap": False,
        "labelPadding": 8,
        "ticks": False,
        "domain": False,
        "grid": False,
    }
    return alt.Axis(**settled | more)


def rows_on_y(labels: alt.Axis | None = None) -> alt.Y:
    """The field ``row`` downwards, in its order."""
    return alt.Y("row:N", sort="ascending", axis=labels or row_axis())


def x_of(field: str, title: str, domain: Sequence[float] | None = None, *, shares: bool = True) -> alt.X:
    """A quantity to the right."""
    scale = alt.Scale(zero=False, nice=True) if domain is None else alt.Scale(domain=list(domain), nice=False)
    return alt.X(f"{field}:Q", title=title, scale=scale, axis=quantity_axis(shares=shares))


def y_of(field: str, title: str, domain: Sequence[float] | None = None, *, shares: bool = True) -> alt.Y:
    """A quantity upwards."""
    scale = alt.Scale(zero=False, nice=True) if domain is None else alt.Scale(domain=list(domain), nice=False)
    return alt.Y(f"{field}:Q", title=title, scale=scale, axis=quantity_axis(shares=shares))


def quantity_axis(*, shares: bool) -> alt.Axis:
    """A quantity's axis: few ticks, no line but the grid's."""
    settled: dict[str, Any] = {"format": ".0%"} if shares else {}
    return alt.Axis(tickCount=6, domain=False, ticks=False, grid=True, labelPadding=6, titlePadding=8, **settled)


def legend(columns: int = 1) -> alt.Legend:
    """A legend above the plot, one entry below the other so that it fits a narrow page."""
    return alt.Legend(title=None, orient="top", columns=columns, labelLimit=320, symbolStrokeWidth=2, symbolOpacity=1)


def colours(kinds: Sequence[Kind], field: str = "kind", *, shown_legend: bool = True) -> alt.Color:
    """Colour by the field *field* whose values are the names of *kinds*."""
    scale = alt.Scale(domain=[kind.name for kind in kinds], range=[kind.colour for kind in kinds])
    return alt.Color(f"{field}:N", scale=scale, legend=legend() if shown_legend else None)


def shapes(kinds: Sequence[Kind], field: str = "kind", *, shown_legend: bool = True) -> alt.Shape:
    """Shape by the same field."""
    scale = alt.Scale(domain=[kind.name for kind in kinds], range=[kind.shape for kind in kinds])
    return alt.Shape(f"{field}:N", scale=scale, legend=legend() if shown_legend else None)


def tips(**fields: str) -> list[alt.Tooltip]:
    """Tooltip lines: field -> what it is called. All fields hold text."""
    return [alt.Tooltip(f"{field}:N", title=title) for field, title in fields.items()]


def estimates(
    rows: Sequence[Row],
    x: alt.X,
    kinds: Sequence[Kind],
    tip: list[alt.Tooltip],
    *,
    side_by_side: bool = False,
    labels: alt.Axis | None = None,
) -> alt.LayerChart:
    """Points with their intervals, one row each.

    Args:
        rows: ``row``, ``kind`` (a name of *kinds*), ``value``, ``low`` and ``high`` (null where there is none).
        x: the axis of ``value``.
        kinds: more than one gives a legend.
        tip: of points and intervals.
        side_by_side: kinds stand below each other within their row.
        labels: the axis of the rows, when it is not :func:`row_axis`.
    """
    several = len(kinds) > 1
    base = alt.Chart(values(rows)).encode(y=rows_on_y(labels), color=colours(kinds, shown_legend=several), tooltip=tip)
    if side_by_side:
        base = base.encode(yOffset=alt.YOffset("kind:N", sort=[kind.name for kind in kinds]))
    return layered(
        base.mark_rule(strokeWidth=2.5, opacity=0.75, aria=False).encode(x=on(x, "low"), x2="high:Q"),
        base.mark_point(filled=True, size=75, opacity=1, aria=False).encode(
            x=x, shape=shapes(kinds, shown_legend=several)
        ),
    )


def on(axis: Channel, field: str) -> Channel:
    """The same axis and scale for another field."""
    other = axis.copy()
    other.shorthand = f"{field}:Q"
    return other


def layered(*charts: alt.Chart | alt.LayerChart) -> alt.LayerChart:
    """*charts* over each other, the first at the bottom."""
    return cast("alt.LayerChart", alt.layer(*charts))  # a facet comes only of facets


def with_own_dashes(chart: alt.LayerChart) -> alt.LayerChart:
    """*chart*, each of whose layers has dashes of its own."""
    untyped: Any = chart
    return untyped.resolve_scale(strokeDash="independent")


def lines(rows: Sequence[Row], at: alt.X | alt.Y, order: Sequence[str]) -> list[alt.Chart]:
    """Grey lines right through the plot, told apart by their dashes: one layer, or none where there is no line.

    A layer without a line would have a legend without an entry, of which Vega cannot tell the height.

    Args:
        rows: ``at``, ``line`` (what the legend calls it) and ``told`` (its figures in words).
        at: the axis that they stand on: an x for upright lines, a y for level ones.
        order: what lines there may be, so that each has its dash; the legend shows those in *rows*.
    """
    if not rows:
        return []
    present = [name for name in order if name in {row["line"] for row in rows}]
    scale = alt.Scale(domain=present, range=[DASHES[order.index(name)] for name in present])
    chart = alt.Chart(values(rows)).mark_rule(color=theme.GREY, strokeWidth=1.75, aria=False)
    where: dict[str, Any] = {"x" if isinstance(at, alt.X) else "y": on(at, "at")}
    dash = alt.StrokeDash("line:N", scale=scale, legend=legend())
    return [chart.encode(**where, strokeDash=dash, tooltip=tips(line="line", told="figures"))]


DASHES = [[7, 4], [2, 3], [1, 0], [10, 3, 2, 3]]


def finished(chart: alt.Chart | alt.LayerChart, description: str, px: int) -> alt.Chart | alt.LayerChart:
    """*chart* with its words for those who do not see it, as wide as its place and *px* high."""
    return chart.properties(description=description, height=px, autosize=FIT)


def described(chart: Any) -> str:
    """What *chart* says of itself."""
    return str(chart.description)


def nothing(what: str) -> alt.Chart:
    """In place of a chart without figures; *what* it would have shown."""
    empty = alt.Chart(values([])).mark_point().properties(description=f"{what}: {NOTHING}.", height=20, autosize=FIT)
    return empty.properties(title=alt.TitleParams(NOTHING, anchor="start", fontWeight="normal", fontSize=13))
