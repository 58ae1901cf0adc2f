"""A chart of its own file stands on the page that it names, after the page's own charts, with its figures beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl
import pytest

from dashboard import marks
from dashboard.charts.base import Panel, Shown, panels
from dashboard.report.added import added
from dashboard.report.base import SHORT
from dashboard.tables import Table
from pipeline import discovery


def panel_of(rows: int) -> Panel:
    bars = alt.Chart(marks.values([{"n": 1}])).mark_bar(aria=False).encode(x="n:Q")
    table = tuple((f"row {at}", str(at)) for at in range(rows))
    return Panel("Gate", "Mine", "What it shows.", marks.finished(bars, "One bar.", 40), ("what", "#n"), table)


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
    """Two chart kinds, one of which has nothing to show."""
    kinds = {"mine": lambda run: panel_of(run.made["rows"]), "silent": lambda _run: None}
    monkeypatch.setattr(discovery, "kinds", lambda package: list(kinds) if package == "dashboard.charts" else [])
    monkeypatch.setattr(discovery, "find", lambda _package, kind, _attribute: kinds[kind])
    return kinds


def shown(rows: int) -> Shown:
    return Shown({"rows": rows}, lambda _name: pl.DataFrame())


@pytest.mark.usefixtures("mine")
def test_it_stands_on_its_page_alone_and_says_nothing_when_there_is_nothing() -> None:
    assert [kind for kind, _ in panels(shown(1))] == ["mine"]
    assert [kind for kind, _ in panels(shown(1), "Gate")] == ["mine"]
    assert list(panels(shown(1), "Overview")) == []


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(("rows", "unfolded"), [(SHORT, True), (SHORT + 1, False)])
def test_the_report_shows_it_with_its_figures_a_long_table_folded(rows: int, *, unfolded: bool) -> None:
    (section,) = added(shown(rows))
    assert (section.key, section.title, section.words) == ("panel-mine", "Mine", ("What it shows.",))
    _, table = section.parts
    assert isinstance(table, Table)
    assert (table.heads, len(table.rows), table.open) == (("what", "#n"), rows, unfolded)


def test_the_page_draws_it_with_its_figures_flush_right(tmp_path: Path) -> None:
    from streamlit.testing.v1 import AppTest

    script = tmp_path / "page.py"
    script.write_text(
        "from dashboard import parts\nfrom tests.unit.test_panels import panel_of\nparts.panel(panel_of(2))\n",
        encoding="utf-8",
    )
    page = AppTest.from_file(str(script)).run(timeout=120)
    assert not page.exception
    drawn = [element.proto.body for element in page.get("html")]
    assert any("<h2>Mine</h2>" in body and "What it shows." in body for body in drawn)
    table = next(body for body in drawn if "<table>" in body)
    assert table.index('<th scope="col">') < table.index('<th scope="col" class="n">')
    assert "row 1" in table
