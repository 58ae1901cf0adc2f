"""Pins down the way to Label Studio and Argilla and back: blind, the right side, refused by name.

The hand-made files follow labelstud.io/guide/task_format and Argilla 2.8's ``Record.to_dict``.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.commands import imports
from pipeline.errors import ConfigError, DataError, InputError
from pipeline.importers import argilla, jsonl, label_studio
from pipeline.importers.jsonl import LabelRow
from pipeline.labels.book import FILE, LabelBook
from pipeline.labels.queues import export, prepare, queue, write
from tests.labellers import label_all
from tests.worlds import bench, judgments, longer, world

PAIR = "0" * 31
RESULTS: dict[str, list[dict[str, Any]]] = {
    "left": [{"id": "x", "from_name": "pw", "to_name": "pw", "type": "pairwise", "value": {"selected": "left"}}],
    "right": [{"id": "x", "from_name": "c", "to_name": "left", "type": "choices", "value": {"choices": ["right"]}}],
    "tie": [{"id": "x", "from_name": "tie", "to_name": "left", "type": "choices", "value": {"choices": ["tie"]}}],
    "none": [],
    "torn": [
        {"type": "pairwise", "value": {"selected": "left"}},
        {"type": "choices", "value": {"choices": ["tie"]}},
    ],
    "odd": [{"type": "choices", "value": {"choices": ["both"]}}],
    "broken": [{"type": "choices", "value": None}, {"type": "textarea", "value": {"text": ["why"]}}],
}


def annotation(result: str, by: object = 7, **more: object) -> dict[str, Any]:
    return {
        "id": 1001,
        "completed_by": by,
        "result": RESULTS[result],
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": "2026-11-21T10:00:00.000000Z",
        "updated_at": "2026-11-22T10:00:00.000000Z",
        "lead_time": 4.288,
        **more,
    }


def task(*annotations: dict[str, Any], left: object = "b", **more: object) -> dict[str, Any]:
    return {
        "id": 1,
        "data": {"pair_id": PAIR, "left_is": left, "left": "x", "right": "y"},
        "meta": {"queue": "active", "inclusion_prob": 0.25},
        "annotations": list(annotations),
        "predictions": [],
        **more,
    }


def studio(path: Path, *tasks: object) -> tuple[list[LabelRow], dict[str, str]]:
    file = path / "export.json"
    file.write_text(json.dumps(tasks))
    rows, refused = label_studio.read_labels(file)
    return rows, refused.rows


def test_label_studio_sides_people_and_times(tmp_path: Path) -> None:
    ann = {"id": 3, "email": "ann@x.example", "first_name": "", "last_name": ""}
    rows, refused = studio(
        tmp_path,
        task(annotation("left"), annotation("right", by=ann), annotation("tie", by=9, lead_time=None)),
        task(annotation("left", by=4), left="a"),
    )
    day = "2026-11-21T10:00:00.000000Z"
    # the left answer is b
    assert rows == [
        LabelRow(PAIR, "user-7", "b", "active", 0.25, 4.288, day),
        LabelRow(PAIR, "ann@x.example", "a", "active", 0.25, 4.288, day),
        LabelRow(PAIR, "user-9", "tie", "active", 0.25, None, day),
        LabelRow(PAIR, "user-4", "a", "active", 0.25, 4.288, day),
    ]
    assert refused == {}


def test_label_studio_refuses_by_name(tmp_path: Path) -> None:
    people = [
        annotation("left", by=1, was_cancelled=True),
        *(annotation(kind, by=at) for at, kind in enumerate(["none", "torn", "odd", "broken"], 2)),
        annotation("left", by=None),
    ]
    rows, refused = studio(
        tmp_path,
        task(*people, drafts=[{"user": "ann@x.example", "result": RESULTS["left"]}, {"user": 8}]),
        task(left="c"),
        task(meta={}),
        task(meta={"queue": "audit", "inclusion_prob": 2}),
        {"data": {"left_is": "a"}},
        {"id": 3},
        "x",
    )
    assert rows == []
    assert refused == {
        f"{PAIR}:user-1": "cancelled",
        f"{PAIR}:user-2": "no_choice",
        f"{PAIR}:user-3": "contradictory",
        f"{PAIR}:user-4": "choice_unknown",
        f"{PAIR}:user-5": "no_choice",
        f"{PAIR}:1001": "annotator_missing",
        f"{PAIR}:draft": "draft",
        f"{PAIR}:user-8": "draft",
        "export.json:2": "left_is_unknown",
        "export.json:3": "queue_unknown",
        "export.json:4": "inclusion_prob_unknown",
        "export.json:5": "pair_id_missing",
        "export.json:6": "not_a_task",
        "export.json:7": "not_a_task",
    }


def test_ground_truth_is_a_known_answer(tmp_path: Path) -> None:
    rows, _ = studio(tmp_path, task(annotation("left", ground_truth=True)))
    assert (rows[0].annotator, rows[0].queue, rows[0].inclusion_prob) == ("gold", "gold", 1.0)


def record(responses: object, **metadata: object) -> dict[str, Any]:
    kept = {"left_is": "b", "queue": "audit", "inclusion_prob": 0.5, **metadata}
    return {"id": PAIR, "fields": {}, "metadata": kept, "suggestions": {}, "responses": responses, "vectors": {}}


def test_argilla(tmp_path: Path) -> None:
    file = tmp_path / "records.json"
    given_ = [
        {"value": "left", "user_id": "u1"},
        {"value": "right", "user_id": "u2", "status": "submitted"},
        {"value": "tie", "user_id": "u3"},
        {"value": "left", "user_id": "u4", "status": "draft"},
        {"value": None, "user_id": "u5", "status": "discarded"},
        {"value": ["left"], "user_id": "u6"},
        {"value": "left", "user_id": None},
    ]
    records = [
        record({"preferred": given_, "other": [{"value": "left", "user_id": "u9"}]}),
        record({}, left_is="x"),
        record([], queue=None),
        record({}, inclusion_prob=True),
        {"id": "", "metadata": 3},
        7,
    ]
    file.write_text(json.dumps(records))
    rows, refused = argilla.read_labels(file)
    assert [(row.annotator, row.label, row.queue, row.inclusion_prob) for row in rows] == [
        ("u1", "b", "audit", 0.5),
        ("u2", "a", "audit", 0.5),
        ("u3", "tie", "audit", 0.5),
    ]
    assert refused.rows == {
        f"{PAIR}:u4": "draft",
        f"{PAIR}:u5": "discarded",
        f"{PAIR}:u6": "choice_unknown",
        f"{PAIR}:1": "annotator_missing",
        "records.json:2": "left_is_unknown",
        "records.json:3": "queue_unknown",
        "records.json:4": "inclusion_prob_unknown",
        "records.json:5": "pair_id_missing",
        "records.json:6": "pair_id_missing",
    }


@pytest.mark.parametrize("content", ["", "{}", "[", "3"])
@pytest.mark.parametrize("tool", [label_studio, argilla])
def test_a_broken_file_is_told(tool: Any, content: str, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text(content)
    with pytest.raises(DataError, match=r"x\.json"):
        tool.read_labels(file)


@pytest.mark.parametrize("fmt", ["label_studio", "argilla"])
def test_tasks_are_blind_and_come_back_on_the_right_side(fmt: str, tmp_path: Path) -> None:
    made = world({f"q{at}": ["x", "yy", "zzz"] for at in range(8)})
    frames = {**made, "judgments": judgments(made, {"longjudge": longer})}
    with bench(tmp_path, frames) as run:
        rows = queue(run, audit=8)
        out = tmp_path / "tasks.json"
        assert write(rows, out, fmt) == {"audit": 24}
        written = out.read_text()
        assert not any(word in written for word in ("writer", "longjudge", "sample"))
        tasks = json.loads(written)
        lefts = []
        for one in tasks:
            answers = one["data"] if fmt == "label_studio" else one["fields"]
            # people want the longer answer
            side = "left" if len(answers["left"]) > len(answers["right"]) else "right"
            lefts.append(side)
            if fmt == "label_studio":
                result = {"type": "pairwise", "value": {"selected": side}}
                one["annotations"] = [{"completed_by": 1, "result": [result], "was_cancelled": False}]
            else:
                one["responses"] = {"preferred": [{"value": side, "user_id": "u"}]}
        assert {"left", "right"} == set(lefts)
        back = tmp_path / "back.json"
        back.write_text(json.dumps(tasks))
        made, refused = imports.run(run, "labels", back, fmt)
        assert (made, refused.rows) == ({"labels": 24}, {})
        texts = dict(run.folder.read("samples").select("sample_id", "completion").iter_rows())
        joined = run.folder.read("labels").join(run.folder.read("pairs"), on="pair_id")
        for row in joined.iter_rows(named=True):
            longer_one = "a" if len(texts[row["sample_a"]]) > len(texts[row["sample_b"]]) else "b"
            assert row["label"] == longer_one
            assert row["inclusion_prob"] == 1.0


@pytest.mark.parametrize("fmt", ["jsonl", "label_studio", "argilla"])
def test_labels_of_the_page_go_out_and_come_back(fmt: str, tmp_path: Path) -> None:
    made = world({f"q{at}": ["x", "yy", "zzz"] for at in range(4)})
    with bench(tmp_path / "one", made) as run:
        book = LabelBook(run.folder.local(FILE), run.seed)
        prepare(run, book, audit=3, each=2)
        for name in ("ann", "bob"):
            label_all(book, name)
        assert export(run, tmp_path / "out", fmt) == {"audit": 18}
        wanted = book.rows()
    with bench(tmp_path / "two", made) as run:
        made, refused = imports.run(run, "labels", tmp_path / "out", fmt)
        assert (made, refused.rows) == ({"labels": 18}, {})
        found = run.folder.read("labels").sort("pair_id", "annotator")
        if fmt == "argilla":  # it keeps no names and no times
            keys = ["pair_id", "label"]
            assert found.select(keys).sort(keys).equals(wanted.select(keys).sort(keys))
        else:
            assert found.equals(wanted)


NAMES = st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda name: bool(name.strip()))


@given(
    st.lists(st.tuples(st.integers(0, 99), NAMES, st.sampled_from(["a", "b", "tie"]), st.floats(0, 1e6)), min_size=1)
)
def test_json_lines_come_back_as_they_went(
    tmp_path_factory: pytest.TempPathFactory, given_: list[tuple[int, str, str, float]]
) -> None:
    path = tmp_path_factory.mktemp("lines") / "labels.jsonl"
    rows = [
        {"pair_id": str(key), "annotator": name, "label": label, "queue": "audit", "inclusion_prob": 0.5,
         "seconds": seconds, "labelled_at": "2026-11-21T10:00:00.000Z"}
        for key, name, label, seconds in given_
    ]  # fmt: skip
    jsonl.write_queue(rows, path)
    found, refused = jsonl.read_labels(path)
    assert refused.rows == {}
    assert found == [LabelRow(row["pair_id"], *list(row.values())[1:]) for row in rows]  # type: ignore[arg-type]


def test_an_unknown_tool_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="label_studio"):
        write([], tmp_path / "x", "prodigy")
    with pytest.raises(InputError, match="mt_bench: is only read"):
        write([], tmp_path / "x", "mt_bench")


def test_the_page_of_the_docs_has_the_interface_that_is_read() -> None:
    page = Path(__file__).parents[2] / "docs" / "labelling.md"
    assert label_studio.CONFIG in page.read_text(encoding="utf-8")
