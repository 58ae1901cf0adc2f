"""What a section of report.html is made of. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from dashboard.charts import Chart
from dashboard.marks import NOTHING, described
from dashboard.tables import Table

Row = dict[str, Any]
FRAMES = ("agreement", "bias", "trend", "calibration", "win_rates", "annotators")
SHORT = 12
"""Rows up to which a table beside a chart is shown without being asked for."""


@dataclass(frozen=True)
class Found:
    """What is known of a run."""

    made: Mapping[str, Any]
    """summary.json."""
    frames: Mapping[str, pl.DataFrame]
    """Those named in FRAMES."""
    history: Sequence[Mapping[str, Any]] = ()
    """``loss`` of training.json."""

    @property
    def people(self) -> str:
        """How its annotators are called."""
        return "simulated people" if self.made["simulated_people"] else "people"


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    key: str
    """Its anchor."""
    title: str
    words: tuple[str, ...] = ()
    parts: list[Chart | Table] = field(default_factory=list["Chart | Table"])


def drawn(*charts: Chart) -> list[Chart | Table]:
    """The charts that have figures."""
    return [chart for chart in charts if NOTHING not in described(chart)]


def tabled(
    caption: str, heads: tuple[str, ...], rows: Iterable[tuple[str, ...]], *, beside: bool = True
) -> list[Table]:
    """The table, if it has rows; *beside* a chart a long one is folded."""
    found = list(rows)
    return [Table(caption, heads, found, not beside or len(found) <= SHORT)] if found else []


def folded(table: Table) -> list[Table]:
    """*table* beside a chart, if it has rows: folded where it is long."""
    return tabled(table.caption, table.heads, table.rows)


def unfolded(table: Table) -> list[Table]:
    """*table*, if it has rows."""
    return tabled(table.caption, table.heads, table.rows, beside=False)
