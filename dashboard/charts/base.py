"""A chart that brings its own place. Pure: figures in, a chart with words and a table out.

A chart kind is one file in this folder that defines ``panel(run)``; report.html and the page that it names show it,
after their own charts, and nothing else has to know it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import polars as pl

from dashboard.charts.measured import Chart
from pipeline import discovery


@dataclass(frozen=True)
class Shown:
    """What is known of the run that is shown."""

    made: Mapping[str, Any]
    """summary.json."""
    frame: Callable[[str], pl.DataFrame]
    """Reads a frame that a stage wrote."""


@dataclass(frozen=True)
class Panel:
    """A chart, where it stands, and the figures that it draws."""

    page: str
    """Title of the page on which it stands, e.g. ``Gate``."""
    title: str
    about: str
    """What is to be seen, in a sentence."""
    chart: Chart
    heads: tuple[str, ...]
    """Of the table beside it; one that begins with ``#`` heads a column of numbers, the first column names the row."""
    rows: tuple[tuple[str, ...], ...]


def panels(run: Shown, page: str | None = None) -> Iterable[tuple[str, Panel]]:
    """Every chart kind with its panel, those with something to show on *page*, or on any."""
    for kind in discovery.kinds("dashboard.charts"):
        made = cast("Panel | None", discovery.find("dashboard.charts", kind, "panel")(run))
        if made is not None and page in {None, made.page}:
            yield kind, made
