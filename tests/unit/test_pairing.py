"""Pins down which answers are compared: every two different ones, no two texts paid for twice, drops counted."""

from itertools import combinations

import polars as pl

from pipeline import ids, schemas
from pipeline.pairing.all import pairs as every
from pipeline.stages.pair import pairs
from tests.worlds import samples, world

NONE = schemas.frame("pairs", [])


def test_four_answers_make_six_pairs_in_canonical_order() -> None:
    made, reasons = pairs(samples({"q": ["a", "b", "c", "d"]}), NONE, every, 0)
    schemas.Pairs.validate(made)
    assert made.height == 6  # 4 * 3 / 2
    assert reasons == {}
    assert set(made["pair_id"]) == {
        ids.pair_id(*two) for two in combinations(samples({"q": list("abcd")})["sample_id"], 2)
    }


def test_equal_words_are_never_compared_and_no_two_texts_twice() -> None:
    found = samples({"q": ["yes", "yes", "no"]})
    made, reasons = pairs(found, NONE, every, 0)
    # yes-yes is identical; yes-no stands once; its twin is a duplicate
    assert made.height == 1
    assert sorted(reasons.values()) == ["duplicate", "identical"]
    assert made.height + len(reasons) == 3
    assert not set(made["pair_id"]) & set(reasons)


def test_a_prompt_without_two_different_answers_is_dropped_once() -> None:
    alone, twins = samples({"q": ["yes"]}), samples({"r": ["no", "no"]})
    made, reasons = pairs(pl.concat([alone, twins]), NONE, every, 0)
    assert made.is_empty()
    prompts = {alone["prompt_id"][0], twins["prompt_id"][0]}
    assert {key for key, why in reasons.items() if why == "single_answer"} == prompts
    assert sorted(reasons.values()) == ["identical", "single_answer", "single_answer"]


def test_answers_of_imported_pairs_are_not_paired_again() -> None:
    made = world({"q": ["a", "b", "c"], "r": ["a", "b"]})
    imported = made["pairs"].filter(pl.col("prompt_id") == made["pairs"]["prompt_id"][0]).head(1)
    new, _ = pairs(made["samples"], imported, every, 0)
    assert not set(new["prompt_id"]) & set(imported["prompt_id"])


def test_answers_to_different_prompts_are_never_paired() -> None:
    made = world({"q": ["a", "b"], "r": ["c", "d"]})
    owner = dict(made["samples"].select("sample_id", "prompt_id").iter_rows())
    for prompt, a, b in made["pairs"].select("prompt_id", "sample_a", "sample_b").iter_rows():
        assert owner[a] == owner[b] == prompt
