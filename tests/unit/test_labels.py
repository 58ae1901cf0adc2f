"""Pins down labels: in canonical order, one a person and pair, refused by name, drawn by prompt when simulated."""

import json
from pathlib import Path

import polars as pl
import pytest

from pipeline import schemas
from pipeline.commands import imports
from pipeline.config import SimulatedConfig
from pipeline.errors import DataError
from pipeline.frames import with_texts
from pipeline.importers.base import Conversation
from pipeline.importers.jsonl import LabelRow, PairRow
from pipeline.runner import run_stage
from pipeline.stages.labels import labels, simulated
from tests.worlds import bench, longer_label, world

DAY = "2026-11-21T00:00:00Z"


def row(pair: str, label: str, annotator: str = "ann") -> LabelRow:
    return LabelRow(pair, annotator, label, "audit", 0.5, 3.0, DAY)


def imported(first: str, second: str) -> pl.DataFrame:
    conversation = Conversation("f:1", (("user", "q"),))
    return imports.pairs([PairRow(conversation, "ext", first, second, "m", "m")], "f")[0]["pairs"]


def test_a_label_turns_with_its_pair() -> None:
    flips = []
    for first, second in (("x", "y"), ("y", "x")):
        pairs = imported(first, second)
        flips.append(pairs["external_flipped"][0])
        for given, other in (("a", "b"), ("b", "a"), ("tie", "tie")):
            made, reasons = labels([row("ext", given)], pairs)
            assert reasons.rows == {}
            assert made["label"].to_list() == [other if flips[-1] else given]
            # by the run's own id it is in canonical order already
            own, _ = labels([row(pairs["pair_id"][0], given)], pairs)
            assert own["label"].to_list() == [given]
    assert sorted(flips) == [False, True]


def test_unknown_and_repeated_labels_are_dropped_with_a_reason() -> None:
    pairs = imported("x", "y")
    rows = [row("ext", "a"), row("ext", "b"), row(pairs["pair_id"][0], "b"), row("nope", "a"), row("ext", "tie", "bob")]
    made, reasons = labels(rows, pairs)
    schemas.Labels.validate(made)
    assert made.height == 2
    assert reasons.rows == {
        "ext:ann": "repeated",
        f"{pairs['pair_id'][0]}:ann": "repeated",
        "nope:ann": "unknown_pair",
    }
    assert made.filter(pl.col("annotator") == "ann").to_dicts()[0]["inclusion_prob"] == 0.5


class People:
    names = ("one", "two")

    def label(self, *, answer_a: str, answer_b: str, **_: object) -> str:
        return longer_label(answer_a, answer_b)


def test_simulated_people_label_whole_prompts_drawn_by_content() -> None:
    made = world({f"q{at}": ["x", "yy", "zzz"] for at in range(10)})
    texts = with_texts(made["pairs"], made["samples"], made["prompts"])
    config = SimulatedConfig(kind="./p.py:People", prompts=4)
    found = schemas.Labels.validate(simulated(texts, config, People(), 3))
    assert found.height == 4 * 3 * 2  # prompts, pairs, people
    assert set(found["inclusion_prob"]) == {0.4}
    shuffled = simulated(texts.sample(fraction=1, shuffle=True, seed=1), config, People(), 3)
    assert shuffled.equals(found)
    owner = dict(made["pairs"].select("pair_id", "prompt_id").iter_rows())
    assert len({owner[key] for key in found["pair_id"]}) == 4


def test_a_labels_file_of_another_run_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "l.jsonl").write_text(json.dumps({"pair_id": "x", "annotator": "a", "label": "a"}) + "\n")
    run = bench(tmp_path, world({"q": ["x", "yy"]}), labels={"path": "l.jsonl"})
    with run, pytest.raises(DataError, match=r"none of its 1 labels is for a pair of this run"):
        run_stage(run, "labels")
