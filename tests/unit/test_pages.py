"""Pins down what the pages compute for themselves: runs found, filters, comparisons, words for figures."""

import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import polars as pl
import pytest

from dashboard import lookup, runs
from dashboard.lookup import ORDERS, Filters
from dashboard.runs import Run
from dashboard.start import start
from dashboard.views import compare, gate, overview, training
from pipeline.errors import InputError
from tests import shown_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(shown_run.made(tmp_path_factory.mktemp("looked-up"), prompts=40))


def test_runs_are_found_the_last_changed_first(tmp_path: Path) -> None:
    for at, name in enumerate(("old", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("name: x\n")
        os.utime(tmp_path / name / "config.yaml", (at, at))
    (tmp_path / "no-run").mkdir()
    assert [one.name for one in runs.found(tmp_path)] == ["new", "old"]
    assert [one.name for one in runs.found(tmp_path / "old")] == ["old"]
    assert runs.found(tmp_path / "no-run") == []
    with pytest.raises(InputError, match="holds no run; make one with `jurybox demo`"):
        start(tmp_path / "no-run", "127.0.0.1", None)


def test_a_run_is_going_on_while_its_process_lives(tmp_path: Path) -> None:
    one = Run(tmp_path)
    assert one.status is None
    shown_run.status(tmp_path, "judge", 1, 2)
    assert one.status is not None
    shown_run.status(tmp_path, "judge", 1, 2, pid=2**22 + 1)
    assert one.status is None
    for age, there in ((1.0, True), (2 * runs.STATUS_STALE_S, False)):
        shown_run.status(tmp_path, "judge", 1, 2, host="elsewhere", updated_at=time.time() - age)
        assert (one.status is not None) == there
    shown_run.status(tmp_path, "judge", 2, 2, state="ended")
    assert one.status is None


def test_an_artefact_is_read_again_when_it_changed(tmp_path: Path) -> None:
    one = Run(tmp_path)
    assert (one.summary, one.config, one.stamp()) == ({}, {}, ())
    (tmp_path / "summary.json").write_text('{"name": "a"}')
    before = one.stamp()
    assert one.summary == {"name": "a"}
    (tmp_path / "summary.json").write_text('{"name": "longer"}')
    assert one.summary == {"name": "longer"}
    assert one.stamp() != before


def test_filters_and_addresses_say_the_same() -> None:
    some = Filters("select: low_margin", (0.25, 0.5), (0.0, 0.6), "j & k=1", True, True, "a b", ORDERS[2])
    assert Filters.read(urlencode(some.query())) == some
    assert Filters().query() == []
    assert Filters.read("margin=x&margin=2&agreement=1&flagged=maybe&nonsense=1") == Filters()
    assert Filters.read("margin=0.9&margin=0.1") == Filters()


def test_filters_find_what_the_frames_say(run: Run) -> None:
    verdicts, kept, dropped = run.frame("verdicts"), run.frame("kept"), run.frame("dropped")

    def ids(**asked: Any) -> set[str]:
        return set(lookup.find(run, Filters(**asked)).ids.to_list())

    assert ids() == set(verdicts["pair_id"].to_list())
    assert ids(outcome="kept") == set(kept["pair_id"].to_list())
    low = dropped.filter((pl.col("stage") == "select") & (pl.col("reason") == "low_margin"))["id"].to_list()
    assert ids(outcome="select: low_margin") == set(low)
    assert ids(outcome="undecided") == set()
    assert ids(outcome="kept") | ids(outcome="dropped") == ids()
    assert ids(margin=(0.5, 1.0)) == set(verdicts.filter(pl.col("margin") >= 0.5)["pair_id"].to_list())
    assert ids(labelled=True) == set(run.frame("labels")["pair_id"].to_list())
    failed = run.frame("judgments").filter(pl.col("error").is_not_null(), pl.col("judge") == shown_run.JUDGES[1])
    assert ids(failed=shown_run.JUDGES[1]) == set(failed["pair_id"].to_list())
    flagged = run.frame("flags")["sample_id"][0]
    ends = run.frame("pairs").filter((pl.col("sample_a") == flagged) | (pl.col("sample_b") == flagged))
    assert ids(flagged=True) == set(ends["pair_id"].to_list())


def test_a_search_takes_words_as_they_are_and_says_how_far_it_looked(run: Run) -> None:
    found = lookup.find(run, Filters(text="<SCRIPT>window.harmed = 1; alert(1)"))
    # the text is one answer's, in three pairs of its prompt, and the question of that prompt: all its six pairs
    assert len(found.ids) == 6
    assert found.searched == "looked through 40 prompts and 160 answers"
    assert lookup.find(run, Filters(text=".*")).ids.is_empty()
    assert lookup.find(run, Filters(text="\\d+")).ids.is_empty()


def test_pages_follow_the_order(run: Run) -> None:
    found = lookup.find(run, Filters(order=ORDERS[2]))
    rows = [row for number in range(1, found.pages + 1) for row in lookup.page(run, found, number)]
    assert len(rows) == len(found.ids) == 240
    margins = [row["margin"] for row in rows]
    assert margins == sorted(margins, reverse=True)
    assert found.place(rows[30]["pair_id"]) == 30
    assert found.place("nowhere") is None
    assert all(len(row["one"]) <= lookup.EXCERPT + 1 for row in rows)


def test_configs_are_compared_key_by_key() -> None:
    before = {
        "gate": {"target": 0.8},
        "judges": [{"name": "a", "kind": "pairwise"}],
        "export": ["x", "y"],
        "push": None,
    }
    after = {"gate": {"target": 0.9}, "judges": [{"name": "a", "kind": "length"}, {"name": "b"}], "export": ["x", "y"]}
    assert compare.differences(before, after) == [
        ["gate.target", "0.8", "0.9"],
        ["judges.a.kind", "pairwise", "length"],
        ["judges.b.name", None, "b"],
        ["push", "none", None],
    ]
    assert compare.differences({"ledger": {"url": "secret"}}, {}) == [["ledger.url", "not shown", "not shown"]]
    assert compare.differences({}, {}) == []


def test_figures_of_runs_stand_beside_each_other(run: Run) -> None:
    rows = {str(row[0]): row[1:] for row in compare.figures({}, run.summary)}
    assert rows["verdicts"] == [None, "240"]
    assert rows["calls"] == [None, "2"]
    assert compare.figures({}, {}) == []


def test_a_target_is_told_in_words() -> None:
    known = {
        "target": 0.9,
        "certified": True,
        "coverage": 0.5,
        "agreement": 0.95,
        "lower_bound": 0.91,
        "threshold": 0.4,
    }
    missed = {"target": 0.95, "certified": False, "labels_needed": 1200}
    assert gate.at([known, missed], 0.94) is missed
    assert gate.would(known) == (
        "A target of 90% would have kept 50.0% of the pairs: agreement 95.0%, at least 91.0%, threshold 0.400."
    )
    assert "about 1,200 more labels could" in gate.would(missed)
    assert "no number of labels" in gate.would({**missed, "labels_needed": None})


def test_imported_pairs_are_pairs() -> None:
    """No stage put them out: `pair` made none, and those that read them know how many there are."""
    rows = {
        "pair": {"in": {"samples": 40, "pairs": 20}, "out": {"pairs": 0}},
        "judge": {"in": {"pairs": 20, "labels": 0}, "out": {"judgments": 80}},
        "aggregate": {"in": {"pairs": 20, "judgments": 80}, "out": {"verdicts": 19}},
        "select": {"in": {"pairs": 20, "verdicts": 19}, "out": {"kept": 12}},
    }
    made = {"rows": rows, "certificate": None, "calls": 80, "cost_usd": 0.0, "seconds": 1.0, "judges": {}}
    assert overview.figures(made, "people")[0] == ("Pairs in the dataset", "12", "of 20 pairs")
    assert {str(name): after for name, _, after in compare.figures({}, made)}["pairs"] == "20"
    for given, told in (
        ({"pair": rows["pair"]}, "of 20 pairs"),
        ({"load": {"in": {}, "out": {"prompts": 9}}}, "no pairs yet"),
    ):
        assert overview.figures({**made, "rows": given}, "people")[0] == ("Pairs in the dataset", "\N{EN DASH}", told)


def test_a_missing_certificate_is_no_figure() -> None:
    assert overview.certified(None, "people")[1:] == ("\N{EN DASH}", "the gate has not run")
    refused = {"certified": False, "reason": "too few"}
    assert overview.certified(refused, "people") == ("Agreement with people", "Not certified", "too few")


def test_long_tables_are_thinned_and_keep_their_end() -> None:
    rows = [[str(at)] for at in range(1001)]
    thin = training.thinned(rows)
    assert len(thin) <= training.MOST + 1
    assert (thin[0], thin[-1]) == (["0"], ["1000"])
    assert training.thinned(rows[:3]) == rows[:3]
    assert training.thinned([]) == []
