"""Pins down files from outside: what is read, what is refused by id with a reason, and what stops the import."""

import json
from pathlib import Path
from typing import Any

import pytest

from jurybox.api import run_pipeline
from pipeline.commands import checks, imports
from pipeline.errors import ConfigError, DataError, InputError
from pipeline.importers import mt_bench
from pipeline.importers.base import Asked
from pipeline.importers.jsonl import read_judgments, read_labels, read_pairs, read_prompts, read_samples
from pipeline.importers.reading.tables import Source, json_lines, table
from pipeline.stages import load
from tests.worlds import bench

LONE = "\ud83d"


def wrote(folder: Path, *rows: object, name: str = "f.jsonl") -> Path:
    file = folder / name
    file.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return file


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "is empty"),
        ("\n  \n", "is empty"),
        ('{"a": 1}\n{"a": \n', r":2: is not JSON .*found '\{\"a\": '; correct or delete the line"),
        ("[1]\n", ":1: expected a JSON object, found list"),
        ("3\n", ":1: expected a JSON object, found int"),
        ("[" * 100_000, ":1: is not JSON"),
        ("1" * 5000, ":1: is not JSON"),
    ],
)
def test_a_broken_file_stops_with_file_and_line(tmp_path: Path, text: str, hint: str) -> None:
    file = tmp_path / "f.jsonl"
    file.write_text(text)
    with pytest.raises(DataError, match=hint) as found:
        list(json_lines(file))
    assert str(file) in str(found.value)
    assert found.value.exit_code == 2


def test_a_missing_file_and_one_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        list(json_lines(tmp_path / "none"))
    (tmp_path / "f").write_bytes(b'{"prompt": "\xff"}')
    with pytest.raises(DataError, match="cannot be read"):
        list(json_lines(tmp_path / "f"))


def test_lines_are_numbered_as_an_editor_does(tmp_path: Path) -> None:
    # U+2028 and NEL end no line of JSON lines; blank lines count
    (tmp_path / "f").write_text('{"a": "x\u2028y\x85z"}\r\n\n{"a": 2}\n', encoding="utf-8")
    assert list(json_lines(tmp_path / "f")) == [(1, {"a": "x\u2028y\x85z"}), (3, {"a": 2})]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "prompt_missing"),
        ({"prompt": None}, "prompt_missing"),
        ({"prompt": " \n"}, "prompt_empty"),
        ({"prompt": True}, "prompt_not_text"),
        ({"prompt": LONE}, "prompt_not_unicode"),
        ({"turns": []}, "turns_not_a_list"),
        ({"turns": "Hi"}, "turns_not_a_list"),
        ({"turns": ["Hi", ""]}, "turn_empty"),
        ({"messages": []}, "messages_not_a_list"),
        ({"messages": {"role": "user"}}, "messages_not_a_list"),
        ({"messages": [{"role": "system", "content": ""}]}, "messages_not_a_list"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "unknown_role"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "unknown_role"),
        ({"messages": ["Hi"]}, "unknown_role"),
        ({"messages": [{"role": "user"}]}, "content_missing"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}, "last_turn_not_user"),
        ({"prompt": "x", "reference": LONE}, "reference_not_unicode"),
    ],
)
def test_an_unusable_prompt_is_refused_by_line(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    found, refused = read_prompts(wrote(tmp_path, {"prompt": "fine"}, row))
    assert [one.messages for one in found] == [(("user", "fine"),)]
    assert refused.rows == {"f.jsonl:2": reason}


def test_prompts_in_every_shape(tmp_path: Path) -> None:
    file = wrote(
        tmp_path,
        {"prompt": "P", "reference": "R", "tags": ["t", "s"], "subset": "u"},
        {"turns": ["one", "two", "three"]},
        {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]},
        {"prompt": "Q", "reference": {"b": 1, "a": [2]}, "tags": "no list"},
    )
    first, turns, messages, last = read_prompts(file)[0]
    assert (first.messages, first.reference, first.tags) == ((("user", "P"),), "R", ("s", "t", "u"))
    assert (turns.messages, turns.later_turns) == ((("user", "one"),), ("two", "three"))
    assert messages.messages == (("system", "S"), ("user", "U"))
    assert (last.reference, last.tags) == ('{"a": [2], "b": 1}', ())


def test_pairs_are_refused_by_their_own_id(tmp_path: Path) -> None:
    good = {"prompt": "P", "response_a": "x", "response_b": "y"}
    file = wrote(
        tmp_path,
        {**good, "pair_id": 17},
        {**good, "pair_id": "empty", "response_b": ""},
        {**good, "pair_id": "bool", "response_a": True},
        {**good},
        {**good, "pair_id": "17"},
        {**good, "pair_id": "turns", "prompt": None, "turns": ["a", "b"]},
        {**good, "pair_id": "none", "prompt": None},
    )
    found, refused = read_pairs(file)
    assert [(one.external_id, one.response_a, one.response_b, one.model_a) for one in found] == [
        ("17", "x", "y", "imported")
    ]
    assert refused.rows == {
        "empty": "response_b_empty",
        "bool": "response_a_not_text",
        "f.jsonl:4": "pair_id_missing",
        "f.jsonl:5": "pair_id_repeated",
        "turns": "turns_not_allowed",
        "none": "prompt_missing",
    }


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"pair_id": None}, "pair_id_missing"),
        ({"pair_id": ["1"]}, "pair_id_missing"),
        ({"annotator": ""}, "annotator_missing"),
        ({"label": "C"}, "label_unknown"),
        ({"label": 1}, "label_unknown"),
        ({"label": ["a"]}, "label_unknown"),
        ({"label": None}, "label_unknown"),
        ({"queue": "other"}, "queue_unknown"),
        ({"queue": {}}, "queue_unknown"),
        ({"inclusion_prob": 0}, "inclusion_prob_unknown"),
        ({"inclusion_prob": 1.1}, "inclusion_prob_unknown"),
        ({"inclusion_prob": True}, "inclusion_prob_unknown"),
    ],
)
def test_an_unusable_label_is_refused(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    good = {"pair_id": "1", "annotator": "ann", "label": "a"}
    found, refused = read_labels(wrote(tmp_path, good, {**good, **row}))
    assert len(found) == 1
    assert refused.rows == {"f.jsonl:2": reason}


def test_whole_numbers_name_pairs_and_people_too(tmp_path: Path) -> None:
    found, refused = read_labels(wrote(tmp_path, {"pair_id": 17, "annotator": 3, "label": "b", "seconds": 1e400}))
    assert refused.rows == {}
    assert (found[0].pair, found[0].annotator, found[0].seconds) == ("17", "3", None)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"judge": None}, "judge_missing"),
        ({"order": "first"}, "order_unknown"),
        ({"order": ["ab"]}, "order_unknown"),
        ({"preference": "C"}, "preference_unknown"),
        ({"preference": -1}, "preference_unknown"),
        ({"preference": True}, "preference_unknown"),
        ({"preference": 2}, "preference_unknown"),
    ],
)
def test_an_unusable_judgment_is_refused(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    good = {"pair_id": "1", "judge": "j", "mode": "m", "order": "ba", "preference": "b", "rationale": 3}
    found, refused = read_judgments(wrote(tmp_path, good, {**good, **row}))
    assert [(one.judge, one.order, one.preference, one.rationale) for one in found] == [("j/m", "ba", 0.0, None)]
    assert refused.rows == {"f.jsonl:2": reason}


def test_a_lone_surrogate_in_a_side_field_costs_nothing(tmp_path: Path) -> None:
    pair = {"pair_id": f"p{LONE}", "prompt": "P", "response_a": "x", "response_b": "y", "model_a": LONE, "tags": [LONE]}
    with bench(tmp_path) as run:
        made, reasons = imports.run(run, "pairs", wrote(tmp_path, pair))
        assert (made["pairs"], reasons.rows) == (1, {})
        assert run.folder.read("pairs")["external_id"].to_list() == ["p?"]
    said = {"pair_id": "p?", "judge": "j", "preference": "a", "rationale": LONE}
    assert read_judgments(wrote(tmp_path, said))[0][0].rationale == "?"
    sample = {"prompt": "P", "completion": "c", "id": LONE, "model": LONE}
    assert read_samples(wrote(tmp_path, sample))[0][0].external_id == "?"


def test_samples(tmp_path: Path) -> None:
    file = wrote(tmp_path, {"prompt": "P", "completion": "c", "model": "m", "id": 3}, {"prompt": "P", "id": "bad"})
    found, refused = read_samples(file)
    assert [(one.completion, one.model, one.external_id) for one in found] == [("c", "m", "3")]
    assert refused.rows == {"bad": "completion_missing"}


def test_mt_bench(tmp_path: Path) -> None:
    row = {"question_id": 81, "category": "writing", "turns": ["one", "two"], "reference": ["r1", "r2"]}
    source = Source(wrote(tmp_path, row, {"question_id": 82}))
    batch = mt_bench.read(table(source), Asked("prompts", source.name))
    (one,), refused = batch.prompts, batch.refused
    assert (one.messages, one.later_turns, one.reference, one.tags) == (
        (("user", "one"),),
        ("two",),
        "r1",
        ("writing",),
    )
    assert refused.rows == {"f.jsonl:2": "turns_not_a_list"}


def test_duplicates_and_near_duplicates_are_counted_whatever_the_row_order(tmp_path: Path) -> None:
    words = " ".join(f"word{at}" for at in range(60))
    file = wrote(tmp_path, {"prompt": "P"}, {"prompt": "P"}, {"prompt": words}, {"prompt": words + " more"})
    found, _ = read_prompts(file)
    made, repeated = load.prompts(found, "f", None)
    assert made.height == 3
    assert repeated == {"f.jsonl:2": "duplicate"}
    for rows in (found, found[::-1]):
        # 58 three-grams of 59 are shared: Jaccard 58/59 = .98
        made, repeated = load.prompts(rows, "f", 0.8)
        assert sorted(repeated.values()) == ["duplicate", "near_duplicate"]
        assert made.height == 2
    assert load.prompts(found, "f", 1.0)[0].height == 3


def test_prompts_are_alike_by_their_own_words(tmp_path: Path) -> None:
    """Short prompts share the words `role`, `user` and `content` of their rows, which nobody wrote."""
    found, _ = read_prompts(wrote(tmp_path, {"prompt": "Why?"}, {"prompt": "Who?"}, {"prompt": "why"}))
    made, repeated = load.prompts(found, "f", 0.2)
    # `Why?` and `why` have the same words and are one; of the two the smaller id stays.
    assert made.height == 2
    assert list(repeated.values()) == ["near_duplicate"]


def test_an_import_of_nothing_and_of_unknown_things_is_an_error(tmp_path: Path) -> None:
    with bench(tmp_path) as run:
        with pytest.raises(InputError, match="cannot import 'answers'; allowed: prompts"):
            imports.run(run, "answers", tmp_path)
        with pytest.raises(DataError, match="does not exist"):
            imports.run(run, "pairs", tmp_path / "none.jsonl")
        with pytest.raises(InputError, match="has no pairs"):
            imports.run(run, "labels", wrote(tmp_path, {"pair_id": "1", "annotator": "x", "label": "a"}))
        with pytest.raises(DataError, match=r"none of 1 rows .*\(prompt_missing\)"):
            imports.run(run, "prompts", wrote(tmp_path, {"x": 1}))
        same = {"pair_id": "1", "prompt": "P", "response_a": "x", "response_b": "x"}
        other = {**same, "pair_id": "2", "response_b": "y"}
        made, reasons = imports.run(run, "pairs", wrote(tmp_path, same, other))
        assert (made["pairs"], reasons.rows) == (1, {"1": "identical"})
        with pytest.raises(DataError, match=r"none of 1 rows .*\(unknown_pair\)"):
            imports.run(run, "labels", wrote(tmp_path, {"pair_id": "1", "annotator": "x", "label": "a"}, name="l"))


def test_importing_the_same_file_twice_adds_nothing(tmp_path: Path) -> None:
    pairs = wrote(tmp_path, {"pair_id": "1", "prompt": "P", "response_a": "x", "response_b": "y"})
    label = {"pair_id": "1", "annotator": "x", "label": "a"}
    labels = wrote(tmp_path, label, {**label, "label": "b"}, name="l.jsonl")
    with bench(tmp_path) as run:
        for _ in range(2):
            imports.run(run, "pairs", pairs)
            assert imports.run(run, "labels", labels)[1].rows == {"1:x": "repeated"}
        heights = {name: run.folder.read(name).height for name in ("prompts", "samples", "pairs", "labels", "dropped")}
        assert heights == {"prompts": 1, "samples": 2, "pairs": 1, "labels": 1, "dropped": 1}


def test_a_name_is_one_judge(tmp_path: Path) -> None:
    """Votes of a judge of the config and of an imported one would be counted as one judge's."""
    pair = {"pair_id": "1", "prompt": "p", "response_a": "x", "response_b": "y"}
    verdict = wrote(tmp_path, {"pair_id": "1", "judge": "gpt", "order": "ab", "preference": 1}, name="verdicts")
    taken = "holds judgments of 'gpt', and the config has a judge of that name; give the config's another name"
    asked = [{"name": "gpt", "kind": "length"}]
    with bench(tmp_path, {}, judges=asked) as run:
        imports.run(run, "pairs", wrote(tmp_path, pair))
        with pytest.raises(ConfigError, match=taken):
            imports.run(run, "judgments", verdict)
        assert run.folder.read("judgments").is_empty()
    with bench(tmp_path, {}, judges=[{"name": "other", "kind": "length"}]) as run:
        imports.run(run, "judgments", verdict)
        run_pipeline(run, "judge", "judge")
    # The config got the judge afterwards: nothing is asked, and nothing is lost.
    with bench(tmp_path, {}, judges=asked) as run:
        for refused in (lambda: run_pipeline(run, "judge", "judge"), lambda: checks.check(run)):
            with pytest.raises(ConfigError, match=f"the imported file {verdict.name} {taken}"):
                refused()
        assert set(run.folder.read("judgments")["judge"]) == {"gpt", "other"}
