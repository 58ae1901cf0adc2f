"""The law of imports can fail, and the picture of the house shows what is there: every room, every arrow downward."""

import importlib.util
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("jurybox", "flows", "dashboard", "pipeline", "judges", "training")
NAMED = re.compile(
    rf"\b(?:{'|'.join((*PACKAGES, 'docs', 'tests', 'benchmarks', 'data'))})(?:/[\w-]+)+\.(?:py|md|txt|yaml|jsonl)\b"
)
"""A file of the house as pages and docstrings name it."""
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


@pytest.fixture(scope="module")
def house() -> ModuleType:
    spec = importlib.util.spec_from_file_location("house", ROOT / "docs" / "house.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["house"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code and of its law."""
    copy = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        skip = shutil.ignore_patterns("__pycache__", "*.md", "*.html", "*.txt")
        shutil.copytree(ROOT / package, copy / package, ignore=skip)
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


UPWARD = (
    ("pipeline/shown.py", "from pipeline.calls import limiter", "pipeline.shown", "pipeline.calls"),
    ("pipeline/ids.py", "from pipeline import store", "pipeline.ids", "pipeline.store"),
    ("pipeline/calls/limiter.py", "from pipeline.engines import base", "pipeline.calls", "pipeline.engines"),
    (
        "pipeline/aggregation/votes.py",
        "from pipeline.statistics import kappa",
        "pipeline.aggregation",
        "pipeline.statistics",
    ),
    ("pipeline/engines/vllm.py", "from judges import base", "pipeline.engines", "judges"),
    ("judges/length.py", "from pipeline.stages import pair", "judges", "pipeline.stages"),
    ("training/base.py", "from judges import base", "training", "judges"),
    ("pipeline/stages/pair.py", "from pipeline import runner", "pipeline.stages", "pipeline.runner"),
    ("pipeline/summary.py", "from dashboard import theme", "pipeline.summary", "dashboard"),
    ("pipeline/pairing/all.py", "import streamlit", "pipeline", "streamlit"),
)


def lint(tree: Path, added: dict[str, str]) -> str:
    """What `lint-imports` says of the tree with a line added to some files."""
    before = {file: (tree / file).read_text(encoding="utf-8") for file in added}
    for file, line in added.items():
        (tree / file).write_text(f"{before[file]}\n{line}\n", encoding="utf-8")
    command = [sys.executable, "-c", LINT, "--no-cache", "--no-logo"]
    try:
        done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    finally:
        for file, text in before.items():
            (tree / file).write_text(text, encoding="utf-8")
    assert done.returncode == 1, done.stderr
    return " ".join(done.stdout.split())


def test_an_import_that_runs_up_is_named(tree: Path) -> None:
    told = lint(tree, {file: line for file, line, _, _ in UPWARD})
    assert [
        f"{one} is not allowed to import {other}"
        for *_, one, other in UPWARD
        if f"{one} is not allowed to import {other}" not in told
    ] == []


def test_a_circle_in_a_room_is_named(tree: Path) -> None:
    told = lint(tree, {"pipeline/aggregation/votes.py": "from pipeline.aggregation import majority"})
    assert "No cycles are allowed in pipeline.aggregation" in told, told


def test_a_module_without_a_floor_is_named(house: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    floors = house.law()
    assert ["pipeline.calls"] in floors
    monkeypatch.setattr(house, "law", lambda: [floor for floor in floors if floor != ["pipeline.calls"]])
    with pytest.raises(house.LawError, match=r"pipeline\.calls\.\w+ has no floor"):
        house.house()


def test_what_a_longer_way_says_is_left_out(house: ModuleType) -> None:
    # a -> b -> c says a -> c; d is reached in one way alone.
    told = {"a": {"b", "c", "d"}, "b": {"c"}, "c": set[str](), "d": set[str]()}
    assert house.reduced(told) == {"a": ["b", "d"], "b": ["c"], "c": [], "d": []}


def test_every_room_is_drawn_and_every_arrow_goes_down(house: ModuleType) -> None:
    there = house.house()
    root = ET.fromstring(house.svg(there))  # noqa: S314  drawn here
    at = "{http://www.w3.org/2000/svg}"
    names = {text.text for text in root.iter(f"{at}text") if text.get("class") == "name"}
    assert names == {name.rpartition(".")[2] for floor in there.floors for name in floor} | {
        "the hall: what all rooms stand on"
    }
    ways = [path.get("d", "") for path in root.iter(f"{at}path") if path.get("class") == "way"]
    assert len(ways) > 10
    for way in ways:
        # Numbers are x y pairs, but for V, which is a y alone.
        heights = [float(y) for y in re.findall(r"(?:[\d.]+ |V)([\d.]+)", way)]
        assert heights == sorted(heights)
        assert heights[0] < heights[-1]


def test_arrows_cross_as_little_as_they_can(house: ModuleType) -> None:
    # a -> y, b -> x: with x and y the other way round nothing crosses.
    twisted = house.House([["a", "b"], ["x", "y"]], [], {"a": {"y"}, "b": {"x"}, "x": set(), "y": set()})
    rows, _ = house.spots(twisted)
    assert house.crossings(rows) == 1
    assert house.crossings(house.ordered(rows)) == 0


def test_no_two_boxes_overlap_and_none_leaves_the_house(house: ModuleType) -> None:
    rows, _ = house.spots(house.house())
    house.place(rows)
    for row in rows:
        ends = [(spot.x - spot.width / 2, spot.x + spot.width / 2) for spot in row]
        assert all(one[1] <= two[0] for one, two in pairwise(ends))
        assert ends[0][0] >= house.MARGIN
        assert ends[-1][1] <= house.WIDTH - house.MARGIN


def test_every_file_that_a_page_or_a_docstring_names_is_there() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("*.py")]
    pages += [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    # extending.md says NAME for any name.
    lost = {
        f"{page.relative_to(ROOT)}: {name}"
        for page in pages
        for name in NAMED.findall(page.read_text(encoding="utf-8"))
        if not name.endswith("/NAME.py") and not (ROOT / name).is_file()
    }
    assert lost == set()
