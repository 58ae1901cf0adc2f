"""Pins down that a run whose files are broken is told in words on its own page, and hides no other run."""

import json
import random
from pathlib import Path
from typing import Any, cast

import pytest

from dashboard import runs
from dashboard.runs import Run
from dashboard.views import compare, overview
from pipeline.errors import JuryboxError, StorageError
from tests import shown_run

BROKEN: dict[str, str | bytes] = {
    "a list": "[]",
    "a number": "3",
    "null": "null",
    "no JSON": "{",
    "nothing": "",
    "no text": b"\xff\xfe",
    "too deep": "[" * 100_000,
    "too long a number": '{"calls": ' + "9" * 5000 + "}",
    "rows in a list": '{"rows": []}',
    "a certificate in words": '{"certificate": "certified"}',
    "a judge in words": '{"judges": {"j": "good"}}',
    "warnings of numbers": '{"warnings": [1]}',
    "cost in words": '{"cost_usd": "<script>"}',
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(shown_run.made(tmp_path_factory.mktemp("whole"), prompts=40))


def broken(folder: Path, text: str | bytes) -> Run:
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text("name: broken\n")
    (folder / "summary.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    return Run(folder)


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_broken_summary_is_told_and_hides_no_other_run(text: str | bytes, whole: Run, tmp_path: Path) -> None:
    bad = broken(tmp_path / "bad", text)
    with pytest.raises(StorageError, match=r"summary\.json: "):
        assert bad.summary
    assert overview.row(bad)[2] == "its summary cannot be read"
    assert overview.row(whole)[2] in {"certified", "not certified"}
    assert compare.figures(whole.summary, {})


@pytest.mark.parametrize("text", ["- 1\n", "name: [\n", "a: &a [*a]\n", "seed: " + "9" * 5000])
def test_a_broken_config_is_told_or_empty(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    assert [one.name for one in runs.found(tmp_path)] == [tmp_path.name]
    try:
        assert Run(tmp_path).config == {}
    except JuryboxError as error:
        told = str(error)
        assert "config.yaml" in told


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"state": "running", "pid": []}', '{"state": "running", "host": 3, "updated_at": "now"}']
)
def test_a_broken_status_is_of_no_run_that_goes_on(text: str, tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(text)
    assert Run(tmp_path).status is None


def test_whatever_a_value_is_replaced_by_is_a_row_of_the_table(whole: Run, tmp_path: Path) -> None:
    draw = random.Random(0)
    wrong: tuple[Any, ...] = (None, True, -1, 1e308, "", "x", [], {}, [[]], {"a": None})
    for _ in range(200):
        made = json.loads(json.dumps(whole.summary))
        inner: Any = made
        while True:
            keys = list(cast("dict[str, Any]", inner)) if isinstance(inner, dict) else list(range(len(inner)))
            key: Any = draw.choice(keys)
            if not isinstance(inner[key], dict | list) or not inner[key] or draw.random() < 0.3:
                inner[key] = draw.choice(wrong)
                break
            inner = cast("Any", inner[key])
        assert len(overview.row(broken(tmp_path / "run", json.dumps(made)))) == 5
