"""Pins down who said what: sides, canonical order turned back to the file's, audit labels, known answers, subsets."""

import math

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import schemas
from pipeline.commands import imports
from pipeline.importers.base import Conversation
from pipeline.importers.jsonl import JudgmentRow, LabelRow, PairRow
from pipeline.stages.labels import labels as labelled
from pipeline.statistics.raters import ABSENT, Raters, raters_of, sides_of
from tests.worlds import Frames


def imported(
    judgments: list[tuple[str, str, float | None]],
    labels: list[tuple[str, str]],
    *,
    pair: tuple[str, str] = ("x", "yy"),
    queue: str = "audit",
) -> Frames:
    """One pair "p" of a file, opinions (judge, order, preference) and labels (annotator, label) in its own terms."""
    conversation = Conversation("f:1", (("user", "q"),), tags=("hard",))
    frames, _ = imports.pairs([PairRow(conversation, "p", *pair, "m", "n")], "f")
    rows = [JudgmentRow("p", judge, order, preference, None) for judge, order, preference in judgments]
    said = [LabelRow("p", annotator, label, queue, 1.0, None, None) for annotator, label in labels]
    return {
        **frames,
        "judgments": imports.judgments(rows, frames["pairs"])[0],
        "labels": labelled(said, frames["pairs"])[0],
    }


def seen(frames: Frames) -> Raters:
    return raters_of(*(frames[name] for name in ("judgments", "labels", "pairs", "samples", "prompts")))


def test_sides_are_told_apart_to_twelve_digits() -> None:
    assert sides_of(np.array([0.9, 0.1, 0.5, (0.3 + 0.7) / 2, math.nan])).tolist() == [1, -1, 0, 0, ABSENT]


def test_a_and_b_are_the_files_own() -> None:
    opinions: list[tuple[str, str, float | None]] = [("j", "ab", 1.0), ("j", "ba", 0.0), ("k", "ab", None)]
    for pair in (("x", "yy"), ("yy", "x")):
        found = seen(imported(opinions, [("ann", "a")], pair=pair))
        judge = found.judges["j"]
        assert (judge.ab.tolist(), judge.ba.tolist(), judge.mean.tolist()) == ([1.0], [0.0], [0.5])
        assert found.judges["k"].failed.tolist() == [1]
        assert math.isnan(found.judges["k"].mean[0])
        assert found.people["ann"].tolist() == [1]
        longer = math.log(3 / 2) if pair == ("yy", "x") else math.log(2 / 3)
        assert found.length.tolist() == [longer]
        assert (found.model_a.to_list(), found.model_b.to_list()) == (["m"], ["n"])
        # one source and one tag hold every pair, so they say nothing of their own
        assert list(found.subsets) == ["all"]


def test_audit_labels_count_where_there_are_any_and_a_known_answer_never() -> None:
    frames = imported([("j", "ab", 1.0)], [("ann", "a"), ("gold", "b")], queue="gold")
    found = seen(frames)
    assert list(found.people) == ["ann"]
    assert found.human.tolist() == [1.0]
    mixed = frames["labels"].with_columns(
        queue=pl.when(pl.col("annotator") == "ann").then(pl.lit("active")).otherwise(pl.lit("audit"))
    )
    # in another queue, gold is a person's name
    found = seen({**frames, "labels": schemas.Labels.validate(schemas.frame("labels", mixed))})
    assert list(found.people) == ["gold"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=2, max_size=2))
def test_swapping_the_answers_turns_every_side(preferences: list[float | None]) -> None:
    one, other = preferences
    swapped = [None if value is None else 1 - value for value in (other, one)]
    orders = ("ab", "ba")
    straight = seen(imported([("j", order, value) for order, value in zip(orders, (one, other), strict=True)], []))
    turned = seen(
        imported([("j", order, value) for order, value in zip(orders, swapped, strict=True)], [], pair=("yy", "x"))
    )
    before, after = sides_of(straight.judges["j"].mean), sides_of(turned.judges["j"].mean)
    assert after.tolist() == [side if side == ABSENT else -side for side in before]
