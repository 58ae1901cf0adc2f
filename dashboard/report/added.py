"""The sections of report.html that charts of their own file bring. Pure."""

from collections.abc import Iterator

from dashboard.charts.base import Shown, panels
from dashboard.report.base import SHORT, Section
from dashboard.tables import Table


def added(run: Shown) -> Iterator[Section]:
    """A section for every chart kind that has something to show, its figures beside it."""
    for kind, panel in panels(run):
        table = Table(panel.title, panel.heads, list(panel.rows), len(panel.rows) <= SHORT)
        yield Section(f"panel-{kind}", panel.title, (panel.about,), [panel.chart, table])
