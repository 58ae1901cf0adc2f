"""Pins down that docs/security.md promises nothing without a test: every test that it names exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_every_test_that_the_page_names_is_there() -> None:
    named = NAMED.findall(PAGE)
    assert len(named) > 20
    sources = {file: (ROOT / file).read_text(encoding="utf-8") for file, _ in named}
    assert [f"{file}::{test}" for file, test in named if f"def {test}(" not in sources[file]] == []


def test_every_line_of_a_table_names_one() -> None:
    rows = [line for line in PAGE.split("\n") if line.startswith("| ") and not line.startswith("| what |")]
    assert len(rows) > 20
    assert [
        row for row in rows if not NAMED.search(row) and "the same test" not in row and "first of these" not in row
    ] == []
