"""Pins down what is behind a pair and a call: the CLI and the dashboard look it up with one function."""

from pathlib import Path

import pytest

from pipeline.commands.explain import behind, explain, raw_call
from pipeline.errors import InputError
from pipeline.store import RunFolder
from tests import shown_run
from tests.worlds import bench, judgments, longer, world


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return RunFolder(shown_run.made(tmp_path_factory.mktemp("explained"), prompts=20))


def test_a_pair_comes_with_everything_behind_it(run: RunFolder) -> None:
    row = run.read("pairs").row(3, named=True)
    found = behind(run, row["pair_id"])
    assert (found["a"]["sample_id"], found["b"]["sample_id"]) == (row["sample_a"], row["sample_b"])
    assert found["prompt"]["prompt_id"] == row["prompt_id"]
    # three judges in both orders; the first one's calls are recorded
    assert [vote["order"] for vote in found["votes"]] == ["ab", "ba"] * 3
    assert {call["call_key"] for vote in found["votes"] for call in vote["calls"]} == {shown_run.CALL}
    assert found["verdict"]["pair_id"] == row["pair_id"]
    assert found["outcome"] == "kept" or found["outcome"].startswith("dropped by select: ")


def test_the_start_of_an_id_is_enough_and_the_cli_says_the_same(tmp_path: Path) -> None:
    made = world({"q": ["x", "yy", "zzz"]})
    opened = bench(tmp_path, {**made, "judgments": judgments(made, {"j": longer})})
    key = made["pairs"]["pair_id"][0]
    assert behind(opened.folder, key[:12]) == explain(opened, key)


def test_unknown_and_ambiguous_ids_are_told_with_an_example(run: RunFolder) -> None:
    with pytest.raises(
        InputError, match=r"^0 pairs of 120 match 'zzz'; give one pair's id; an example is [0-9a-f]{32}"
    ):
        behind(run, "zzz")
    with pytest.raises(InputError, match="120 pairs of 120 match ''"):
        behind(run, "")


def test_a_call_is_read_as_it_was_recorded(run: RunFolder) -> None:
    found = raw_call(run, shown_run.CALL)
    assert found["request"]["messages"][0]["content"] == shown_run.TEXTS[0]
    assert found["response"]["choices"][0]["message"]["content"] == shown_run.TEXTS[1]
    assert found["status"] == "answered"
    with pytest.raises(InputError, match="no such call"):
        raw_call(run, "x")


def test_a_ledger_elsewhere_is_named_without_its_address(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(InputError, match="has no ledger"):
        raw_call(run, "k")
    run.write_text("config.yaml", "ledger: {url: 'postgresql+psycopg://me:secret@host/db'}\n")
    with pytest.raises(InputError, match="PostgreSQL") as caught:
        raw_call(run, "k")
    assert "secret" not in str(caught.value)
