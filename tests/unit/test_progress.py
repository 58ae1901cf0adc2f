"""Pins down status.json: what the dashboard is told while a run goes on, ends or fails."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Config
from pipeline.errors import DataError
from pipeline.progress import STATUS, Silent, StatusFile
from pipeline.runner import run_stage
from pipeline.workbench import Workbench


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("pipeline.progress.time.time", made.time)
    return made


def test_a_stage_is_recorded_when_it_starts_once_a_second_and_when_it_ends(clock: Clock) -> None:
    written: list[dict[str, Any]] = []
    status = StatusFile(Silent(), lambda name, value: written.append({"name": name, **value}))
    status.start("judge", 10, skipped=False)
    status.advance(2)
    clock.now += 1
    status.advance(3)
    clock.now += 1
    status.end("judge", {"judgments": 10}, skipped=False)
    assert {one["name"] for one in written} == {STATUS}
    assert [(one["state"], one["done"], one["updated_at"]) for one in written] == [
        ("running", 0, 1_000.0),
        ("running", 5, 1_001.0),
        ("ended", 10, 1_002.0),
    ]
    assert {one["started_at"] for one in written} == {1_000.0}


def test_a_failed_stage_says_so_and_an_ended_one_stays_ended(clock: Clock) -> None:
    written: list[str] = []
    status = StatusFile(Silent(), lambda _name, value: written.append(str(value["state"])))
    status.failed()
    status.start("pair", 1, skipped=False)
    status.failed()
    status.start("pair", 1, skipped=False)
    status.end("pair", {}, skipped=False)
    status.failed()
    assert written == ["running", "failed", "running", "ended"]


def test_a_run_leaves_its_status_in_its_folder(tmp_path: Path) -> None:
    config = Config.model_validate({"name": "x"})
    with Workbench(config, tmp_path, tmp_path) as bench:
        run_stage(bench, "pair")
    found = bench.folder.read_json(STATUS)
    assert found is not None
    assert (found["stage"], found["state"]) == ("pair", "ended")
    labels = tmp_path / "labels.jsonl"
    labels.write_text('{"pair_id": "unknown", "annotator": "ann", "label": "a"}\n')
    config = Config.model_validate({"name": "x", "labels": {"path": str(labels)}})
    with pytest.raises(DataError), Workbench(config, tmp_path, tmp_path) as bench:
        run_stage(bench, "labels")
    found = bench.folder.read_json(STATUS)
    assert found is not None
    assert (found["stage"], found["state"]) == ("labels", "failed")
