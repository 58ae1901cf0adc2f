"""Pins down selection: chosen by the verdict and never by position, every verdict kept or dropped exactly once."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.config import SelectConfig
from pipeline.errors import StageError
from pipeline.runner import run_stage
from pipeline.stages.select import decide
from tests.worlds import Frames, bench, decided, world

ALL = SelectConfig(strategy="all")


def texts(table: pl.DataFrame, made: Frames) -> list[tuple[str, str]]:
    """(chosen, rejected) as words, of what was kept."""
    text = dict(made["samples"].select("sample_id", "completion").iter_rows())
    rows = table.filter(pl.col("reason").is_null()).select("chosen_id", "rejected_id").iter_rows()
    return sorted((text[chosen], text[rejected]) for chosen, rejected in rows)


def reasons(table: pl.DataFrame) -> list[str]:
    return sorted(table["reason"].drop_nulls())


def test_chosen_is_the_answer_that_the_verdict_prefers() -> None:
    made = world({f"q{at}": ["bad", "good"] for at in range(12)})
    # p_a says "good", whichever of a and b it is
    verdicts = decided(made, lambda a, _b: 0.8 if a == "good" else 0.2)
    assert 0 < (verdicts["p_a"] > 1 / 2).sum() < 12
    table = decide(verdicts, made["pairs"], made["samples"], ALL, "p_a", None)
    assert texts(table, made) == [("good", "bad")] * 12


def test_a_tie_is_dropped_and_makes_nobody_chosen() -> None:
    made = world({"q": ["x", "y"]})
    table = decide(decided(made, lambda _a, _b: 0.5), made["pairs"], made["samples"], ALL, "p_a", None)
    assert reasons(table) == ["tie"]


def test_decide_by_names_the_side() -> None:
    made = world({"q": ["x", "y"]})
    verdicts = decided(made, lambda _a, _b: 0.8).with_columns(pl.lit(0.3).alias("p_a_lc"))
    for side, chosen in (("p_a", "sample_a"), ("p_a_lc", "sample_b")):
        table = decide(verdicts, made["pairs"], made["samples"], ALL, side, None)
        assert table["chosen_id"].to_list() == made["pairs"][chosen].to_list()


@pytest.mark.parametrize(
    ("rule", "threshold", "reason"),
    [
        ({"min_margin": 0.61}, None, "low_margin"),
        ({"min_margin": 0.6}, None, None),
        ({"max_length_ratio": 2.9}, None, "length_ratio"),
        ({"max_length_ratio": 3}, None, None),
        ({}, 0.61, "below_gate"),
        ({}, 0.6, None),
        ({"max_length_ratio": 2, "min_margin": 0.9}, 0.9, "length_ratio"),
        ({"min_margin": 0.9}, 0.9, "low_margin"),
    ],
)
def test_each_filter_and_which_comes_first(rule: dict[str, Any], threshold: float | None, reason: str | None) -> None:
    # lengths 6 and 2: ratio 3; margin |2 * .8 - 1| = .6, which is .6000000000000001 in floating point
    made = world({"q": ["123456", "12"]})
    table = decide(
        decided(made, lambda _a, _b: 0.8),
        made["pairs"],
        made["samples"],
        SelectConfig(strategy="all", **rule),
        "p_a",
        threshold,
    )
    assert table["reason"].to_list() == [reason]


def test_best_against_worst_by_hand() -> None:
    # strength 3 > 2 > 1; p = .5 + .15 * difference. Mean wins: "ccc" (.65 + .8) / 2, "bb" .5, "a" (.35 + .2) / 2
    made = world({"q": ["a", "bb", "ccc"], "r": ["bb", "ccc"]})
    verdicts = decided(made, lambda a, b: 0.5 + 0.15 * (len(a) - len(b)))
    table = decide(verdicts, made["pairs"], made["samples"], SelectConfig(), "p_a", None)
    assert texts(table, made) == [("ccc", "a"), ("ccc", "bb")]
    assert reasons(table) == ["not_selected", "not_selected"]


def test_a_prompt_of_ties_keeps_nothing() -> None:
    made = world({"q": ["a", "bb", "ccc"]})
    table = decide(decided(made, lambda _a, _b: 0.5), made["pairs"], made["samples"], SelectConfig(), "p_a", None)
    assert reasons(table) == ["tie"] * 3


def test_a_cycle_is_never_kept_against_its_own_verdict() -> None:
    # a beats bb beats ccc beats a: every mean is equal, and whatever is taken follows its own verdict
    beats = {("a", "bb"), ("bb", "ccc"), ("ccc", "a")}
    made = world({"q": ["a", "bb", "ccc"]})
    verdicts = decided(made, lambda a, b: 0.9 if (a, b) in beats else 0.1)
    kept = texts(decide(verdicts, made["pairs"], made["samples"], SelectConfig(), "p_a", None), made)
    assert len(kept) == 1
    assert kept[0] in beats


def test_the_stage_needs_a_certificate_and_obeys_required(tmp_path: Path) -> None:
    made = world({"q": ["a", "bb"]})
    frames = {**made, "verdicts": decided(made, lambda _a, _b: 0.8)}
    with bench(tmp_path, frames) as run, pytest.raises(StageError, match="run `jurybox gate CONFIG` first"):
        run_stage(run, "select")
    with bench(tmp_path, frames, gate={"required": True}) as run:
        run_stage(run, "gate")
        with pytest.raises(StageError, match=r"gate.required.*no audit labels"):
            run_stage(run, "select")
    with bench(tmp_path, frames) as run:
        run_stage(run, "gate")
        assert run_stage(run, "select").rows_out == {"kept": 1}
