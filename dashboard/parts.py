"""Pieces that pages are put together from: figures, tables, charts, notes. Draws with Streamlit; reads nothing.

Tables are HTML with headers that say what they head, for a screen reader; Streamlit's own are drawn on a canvas. Every
word that may come from a model, a file or a person goes through ``dashboard.text``: into HTML by ``shown``, into
Streamlit's labels, which read Markdown, by ``markdown``.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from urllib.parse import urlencode

import polars as pl
import streamlit as st

from dashboard.charts import Chart
from dashboard.charts.base import Panel
from dashboard.tables import Table
from dashboard.text import markdown, shown
from pipeline.figures import NOTHING, count, interval, precise, share

NAME = 200
"""Characters of a name."""
CHOICE = 420
"""Width of a choice, pixels."""
CELL = 2_000
"""Characters of a text in a table's cell."""
LONG = ' class="long"'
NUMBER = ' class="n"'
STYLE = """<style>
.stMainBlockContainer { padding: 2.75rem clamp(1rem, 4vw, 3.5rem) 5rem; max-width: 84rem; }
@media (max-width: 48rem) { .stMainBlockContainer { padding-top: 4.5rem; } }
.jb { line-height: 1.5; --faint: color-mix(in srgb, currentColor 82%, transparent);
  --line: color-mix(in srgb, currentColor 18%, transparent); }
.jb h1 { font-size: 1.9rem; padding: 0; margin: 0; }
.jb h1 .of { font-weight: 400; color: var(--faint); }
.jb h2 { font-size: 1.3rem; padding: 0; margin: 1.1rem 0 .25rem; }
.jb h2:last-child { margin-bottom: -.4rem; }
.jb a { color: inherit; text-decoration: underline; }
.jb h3 { font-size: 1rem; padding: 0; margin: .25rem 0; }
.jb .in > div { display: inline; white-space: normal !important; }
.jb p { margin: 0; }
.jb .note { color: var(--faint); max-width: 76ch; margin: 0; }
.jb dl.jb-figures { display: grid; gap: .75rem; margin: .25rem 0 0; padding: 0;
  grid-template-columns: repeat(auto-fit, minmax(min(11.5rem, 100%), 1fr)); }
.jb-figures > div { border: 1px solid var(--line); border-radius: .5rem; padding: .7rem .9rem; }
.jb-figures dt, .jb-figures .about { font-size: .875rem; font-weight: 400; color: var(--faint); }
.jb-figures dd { margin: 0; }
.jb-figures .value { font-size: 1.55rem; font-weight: 600; line-height: 1.3; font-variant-numeric: tabular-nums; }
.jb-scroll { overflow-x: auto; }
.jb [tabindex]:focus-visible, .jb a:focus-visible { outline: 2px solid currentColor; outline-offset: 2px; }
.jb table { border-collapse: collapse; width: 100%; font-size: .925rem; margin: 0; }
.jb caption { text-align: left; font-size: .875rem; padding: 0 0 .35rem; color: var(--faint); }
.jb th, .jb td { text-align: left; vertical-align: top; padding: .4rem .85rem .4rem 0; font-weight: 400; border: 0;
  border-bottom: 1px solid var(--line); }
.jb thead th { font-weight: 600; border-bottom-width: 2px; vertical-align: bottom; }
.jb tbody th { font-weight: 600; min-width: 5.5rem; }
.jb thead th > div, .jb tbody th > a > div { overflow-wrap: normal !important; }
.jb td > div { min-width: 5rem; }
.jb td.long > div { min-width: 9rem; }
.jb tbody th > div { min-width: 7rem; }
.jb .jb-cell { max-height: 11rem; overflow: auto; }
.jb .n { text-align: right; font-variant-numeric: tabular-nums; padding-right: 1.5rem; }
.jb tbody .n, .jb tbody .n > div { white-space: nowrap !important; min-width: 0; }
.jb .jb-list { margin: .25rem 0 0; padding: 0; list-style: none; }
.jb-list li { border-left: 4px solid #d55e00; padding: .3rem .75rem; margin: 0 0 .35rem;
  background: color-mix(in srgb, #d55e00 8%, transparent); }
.jb-text { overflow-wrap: anywhere; max-height: 32rem; overflow: auto; border: 1px solid var(--line);
  border-radius: .5rem; padding: .7rem .9rem; }
.jb-sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); gap: 1rem; }
.jb-sides > section { min-width: 0; }
.jb .mark { font-weight: 600; border: 1px solid currentColor; border-radius: 1rem; padding: 0 .55rem;
  font-size: .85rem; margin-left: .5rem; }
.jb del { text-decoration: line-through; background: color-mix(in srgb, #d55e00 22%, transparent); }
.jb ins { text-decoration: underline; background: color-mix(in srgb, #0072b2 22%, transparent); }
.jb-way { display: flex; flex-wrap: wrap; gap: .35rem 1.25rem; }
.jb-live { display: block; font-weight: 600; }
.stVegaLiteChart svg :is(.role-axis-label, .role-axis-title, .role-legend-label, .role-legend-title, .role-title-text,
  .role-title-subtitle) text { fill: currentColor; }
.jb progress { display: block; width: 100%; height: .6rem; }
</style>"""


def style() -> None:
    """The pages' style; once a page, before everything else."""
    st.html(STYLE)


def title(words: str, of: str) -> None:
    """A page's title and the run it is about."""
    html(f'<h1>{escape(words)} <span class="of">{_inline(of)}</span></h1>')


def heading(words: str, about: str = "") -> None:
    """A heading of a part of a page, and what is explained beneath it, both plain text."""
    html(f"<h2>{escape(words)}</h2>{_note(about)}")


def small_heading(words: str, about: str = "") -> None:
    """A heading within a part."""
    html(f"<h3>{escape(words)}</h3>{_note(about)}")


def _note(words: str) -> str:
    return f'<div class="note">{shown(words)}</div>' if words else ""


def _inline(words: str) -> str:
    """*words* as text in the line they stand in."""
    return f'<span class="in">{shown(words, NAME)}</span>'


def html(content: str) -> None:
    """Show *content*, which is safe HTML, in the pages' style."""
    st.html(f'<div class="jb">{content}</div>')


def note(words: str) -> None:
    """A sentence or two of explanation, plain text."""
    html(_note(words))


def missing(what: str, command: str) -> None:
    """Say that something is not there yet and which command makes it."""
    html(f'<p class="note">{escape(what)} <code>{escape(command)}</code> makes it.</p>')


def figures(items: Iterable[tuple[str, str, str]]) -> None:
    """A row of figures: what it is, the figure, what stands beside it."""
    boxes = "".join(
        f'<div><dt>{shown(name)}</dt><dd class="value">{shown(value)}</dd><dd class="about">{shown(about)}</dd></div>'
        for name, value, about in items
    )
    html(f'<dl class="jb-figures">{boxes}</dl>')


def warnings(words: Sequence[str]) -> None:
    """What a reader must not overlook."""
    html(f'<ul class="jb-list">{"".join(f"<li>{shown(word)}</li>" for word in words)}</ul>')


Cell = str | tuple[str, str] | None
"""Text; or the query of a link and its text; or nothing."""


def table(
    caption: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    numbers: Sequence[int] = (),
    texts: Sequence[int] = (),
) -> None:
    """A table whose rows are headed by their first cell; columns *numbers* are flush right, *texts* have more room."""
    kinds = [NUMBER if at in numbers else LONG if at in texts else "" for at in range(len(heads))]
    body: list[str] = []
    for first, *others in rows:
        cells = "".join(f"<td{kind}>{_cell(cell)}</td>" for cell, kind in zip(others, kinds[1:], strict=True))
        body.append(f'<tr><th scope="row"{kinds[0]}>{_cell(first)}</th>{cells}</tr>')
    raw_table(caption, heads, "".join(body), numbers=numbers)


def figures_table(told: Table) -> None:
    """A table that report.html has too; its columns of numbers are flush right."""
    numbers = [at for at, head in enumerate(told.heads) if head.startswith("#")]
    table(told.caption, [head.removeprefix("#") for head in told.heads], told.rows, numbers=numbers)


def raw_table(caption: str, heads: Sequence[str], body: str, *, numbers: Sequence[int] = ()) -> None:
    """A table whose rows, *body*, are safe HTML."""
    head = "".join(
        f'<th scope="col"{NUMBER if at in numbers else ""}>{shown(name)}</th>' for at, name in enumerate(heads)
    )
    html(
        f'<div class="jb-scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{shown(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(cell: Cell) -> str:
    if cell is None:
        return NOTHING
    if isinstance(cell, tuple):
        return f'<a href="{escape(cell[0])}">{shown(cell[1], CELL)}</a>'
    return shown(cell, CELL)


def query(**values: object) -> str:
    """A link to this page with these query parameters, those that are None left out."""
    return "?" + urlencode({name: str(value) for name, value in values.items() if value is not None})


def choice(label: str, options: Sequence[str], key: str, names: Mapping[str, str] | None = None) -> str:
    """A choice that stands in the address under *key*; the first of *options* is the default."""

    def named(option: str) -> str:
        return option if names is None else names[option]

    return st.selectbox(label, list(options), key=key, bind="query-params", width=CHOICE, format_func=named)


def chart(drawn: Chart) -> None:
    """*drawn* as wide as the page, with its description for those who cannot see it."""
    st.altair_chart(drawn, width="stretch")


def panel(one: Panel) -> None:
    """A chart of its own file under its heading, its figures folded away beneath it."""
    heading(one.title, one.about)
    chart(one.chart)
    heads = [head.removeprefix("#") for head in one.heads]
    numbers = [at for at, head in enumerate(one.heads) if head.startswith("#")]
    with st.expander("In figures"):
        table(one.title, heads, one.rows, numbers=numbers)


def measured(
    caption: str,
    rows: pl.DataFrame,
    names: Sequence[tuple[str, str]],
    *,
    unit: str = "share",
) -> None:
    """Rows with ``value``, ``low``, ``high`` and ``n`` as a table, folded away beneath their chart.

    Args:
        caption: what the table holds.
        rows: the figures.
        names: columns that say what a row is about, each with its heading; ``reference`` among them is a figure.
        unit: ``share`` (shown in per cent) or ``number``.
    """
    shares = unit == "share"
    form = share if shares else precise
    heads = [*(head for _, head in names), "value", "95% interval", "n"]
    made = [
        [
            *(form(row[name]) if name == "reference" else str(row[name]) for name, _ in names),
            form(row["value"]),
            interval(row["low"], row["high"], shares=shares),
            count(row["n"]),
        ]
        for row in rows.iter_rows(named=True)
    ]
    with st.expander(markdown(f"In figures: {caption[:1].lower()}{caption[1:]}")):
        table(caption, heads, made, numbers=range(len(names), len(heads)))
