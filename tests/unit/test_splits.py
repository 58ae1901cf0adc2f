"""Pins down the unit of every split: a conversation, whatever the reference beside it."""

import polars as pl

from pipeline import ids
from pipeline.exports import card
from pipeline.frames import unit_of, units
from pipeline.labels.splits import audited, is_fit, is_test, split_labels

REFERENCES = ("one", "two", None)
QUESTIONS = tuple(f"Question {at}?" for at in range(60))


def pairs() -> pl.DataFrame:
    """Three prompts a question, which differ in the reference alone, each with one pair."""
    rows = [
        {"prompt_id": ids.prompt_id((("user", question),), reference), "question": question}
        for question in QUESTIONS
        for reference in REFERENCES
    ]
    return pl.DataFrame(rows).with_columns(pair_id=pl.format("pair {}", pl.int_range(pl.len())))


def test_no_conversation_crosses_a_split() -> None:
    table = pairs()
    for split in (is_test, is_fit):
        sides = table.with_columns(side=pl.Series([split(key, 3, 0.4) for key in table["prompt_id"]]))
        assert sides.group_by("question").agg(pl.col("side").n_unique())["side"].to_list() == [1] * len(QUESTIONS)
        # 60 conversations at .4: 24 are expected, and 10 or 40 are four sigma away
        assert 10 < sides.filter("side")["question"].n_unique() < 40


def test_an_audit_draws_conversations_whole() -> None:
    table = pairs()
    drawn = audited(table, 1, "prompt", 20).join(table, on="pair_id")
    assert drawn["question"].n_unique() == 20
    assert drawn.height == 20 * len(REFERENCES)
    assert set(drawn["inclusion_prob"]) == {20 / 60}
    one = audited(table, 1, "prompt", 20, one_pair=True).join(table, on="pair_id")
    assert one["question"].n_unique() == one.height == 20
    # one conversation of three, and one of its three pairs
    assert set(one["inclusion_prob"].round(9)) == {round(1 / 9, 9)}
    assert (units(table, "prompt"), units(table, "pair")) == (60, 180)


def test_the_labels_of_one_conversation_fit_or_certify_together() -> None:
    table = pairs()
    made = table.select(
        "pair_id", annotator=pl.lit("ann"), label=pl.lit("a"), queue=pl.lit("audit"), inclusion_prob=pl.lit(1.0)
    )
    fit, certify = (part.join(table, on="pair_id")["question"] for part in split_labels(made, table, 5, 0.4))
    assert not set(fit) & set(certify)
    assert set(fit) | set(certify) == set(QUESTIONS)


def test_the_card_says_of_the_splits_what_was_counted() -> None:
    rows = pairs().with_columns(split=pl.Series(["train", "test", "train"] * len(QUESTIONS)))
    assert card.apart(rows, ("train", "test")) == " 60 prompts are in both splits."
    test, train = pl.lit("test"), pl.lit("train")
    apart = rows.with_columns(split=pl.when(pl.col("question") < "Question 3").then(test).otherwise(train))
    assert card.apart(apart, ("train", "test")) == " No prompt is in both splits."
    assert card.apart(rows, ("train",)) == ""
    assert rows.select(unit_of("prompt").n_unique()).item() == 60
