"""Pins down selection: chosen by the verdict and never by position, every verdict kept or dropped exactly once."""

import math
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import SelectConfig
from pipeline.errors import ConfigError, StageError
from pipeline.filters.refusals import refuses
from pipeline.filters.similarity import jaccard
from pipeline.runner import run_stage
from pipeline.stages.select import Compared, Ranked, decide
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


@pytest.mark.parametrize("strategy", ["best_vs_worst", "best_vs_random", "best_vs_mu_minus_2sigma"])
def test_of_many_prompts_each_keeps_one_pair_of_its_own(strategy: Any) -> None:
    made = world({f"q{at}": ["a", "bb", "ccc"] for at in range(30)})
    verdicts = decided(made, lambda a, b: 0.5 + 0.15 * (len(a) - len(b)))
    table = decide(verdicts, made["pairs"], made["samples"], SelectConfig(strategy=strategy), "p_a", None)
    kept = table.filter(pl.col("reason").is_null())
    assert sorted(kept["prompt_id"]) == sorted(made["prompts"]["prompt_id"])
    owner = dict(made["pairs"].select("pair_id", "prompt_id").iter_rows())
    assert table["prompt_id"].to_list() == [owner[key] for key in table["pair_id"]]
    if strategy == "best_vs_worst":
        assert texts(table, made) == [("ccc", "a")] * 30


def test_scores_are_of_the_answers_that_were_compared() -> None:
    made = world({f"q{at}": ["a", "bb", "ccc"] for at in range(8)})
    left = made["samples"].filter(pl.col("completion") == "bb")["sample_id"].implode()
    pairs = made["pairs"].filter(~pl.col("sample_a").is_in(left) & ~pl.col("sample_b").is_in(left))
    verdicts = decided({**made, "pairs": pairs}, lambda a, _b: 0.9 if a == "ccc" else 0.1)
    compared = Compared.of(verdicts, made["pairs"], made["samples"], "p_a")
    found = Ranked.of(compared).frame(compared).join(made["samples"], on="sample_id", how="left")
    assert sorted(found["completion"]) == ["a"] * 8 + ["ccc"] * 8
    assert (found["prompt_id"] == found["prompt_id_right"]).all()
    assert ((found["score"] > 0) == (found["completion"] == "ccc")).all()


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
        assert run_stage(run, "select").rows_out == {"kept": 1, "scores": 2}


# Strategies


def strengths(count: int) -> tuple[Frames, pl.DataFrame]:
    """One prompt, answers of 1 to *count* letters, the longer the better: logit P(a preferred) = .4 * difference."""
    made = world({"q": ["x" * size for size in range(1, count + 1)]})
    return made, decided(made, lambda a, b: 1 / (1 + math.exp(-0.4 * (len(a) - len(b)))))


def lengths_of(table: pl.DataFrame, made: Frames) -> list[tuple[int, int]]:
    return [(len(chosen), len(rejected)) for chosen, rejected in texts(table, made)]


def test_the_rejected_answer_nearest_to_two_deviations_below_the_mean() -> None:
    # 1 to 9 letters: the scores are evenly spaced, so mean 5 and deviation sqrt(60 / 9) = 2.58 in letters: 5 - 5.16 < 1
    made, verdicts = strengths(9)
    rule = SelectConfig(strategy="best_vs_mu_minus_2sigma")
    assert lengths_of(decide(verdicts, made["pairs"], made["samples"], rule, "p_a", None), made) == [(9, 1)]
    # one answer far below the others: 1 letter, then 21 to 40: mean 30.0, deviation 8.3, mean - 2 deviations 13.3, and
    # the nearest to it is 21, not the worst answer
    made = world({"q": ["x" * size for size in (1, *range(21, 41))]})
    verdicts = decided(made, lambda a, b: 1 / (1 + math.exp(-0.05 * (len(a) - len(b)))))
    assert lengths_of(decide(verdicts, made["pairs"], made["samples"], rule, "p_a", None), made) == [(40, 21)]
    worst = SelectConfig(strategy="best_vs_worst")
    assert lengths_of(decide(verdicts, made["pairs"], made["samples"], worst, "p_a", None), made) == [(40, 1)]


def test_a_random_rejected_answer_hangs_on_the_seed_and_the_pair_alone() -> None:
    made, verdicts = strengths(6)
    rule = SelectConfig(strategy="best_vs_random")

    def kept(seed: int, rows: pl.DataFrame = verdicts) -> tuple[int, int]:
        (pair,) = lengths_of(decide(rows, made["pairs"], made["samples"], rule, "p_a", None, seed=seed), made)
        return pair

    drawn = [kept(seed) for seed in range(200)]
    assert {chosen for chosen, _ in drawn} == {6}
    # five others, 40 draws of each expected; a fair draw stays within 5 deviations of 5.7
    counts = [sum(rejected == size for _, rejected in drawn) for size in range(1, 6)]
    assert all(40 - 29 < count < 40 + 29 for count in counts)
    assert kept(3, verdicts.sample(fraction=1, shuffle=True, seed=1)) == kept(3)
    # a prompt more changes nothing for this one
    both = world({"q": ["x" * size for size in range(1, 7)], "r": ["yy", "zzz"]})
    more = decided(both, lambda a, b: 1 / (1 + math.exp(-0.4 * (len(a) - len(b)))))
    table = decide(more, both["pairs"], both["samples"], rule, "p_a", None, seed=3)
    assert kept(3) in lengths_of(table, both)


@pytest.mark.parametrize("strategy", ["best_vs_worst", "best_vs_random", "best_vs_mu_minus_2sigma"])
def test_pairs_that_were_not_compared_are_never_taken(strategy: Any) -> None:
    # a ring of six answers: best (6) and worst (1) are not compared, 6 with 5 and 4 are
    made, verdicts = strengths(6)
    size = {key: len(text) for key, text in made["samples"].select("sample_id", "completion").iter_rows()}
    ring = [(6, 5), (5, 3), (3, 1), (1, 2), (2, 4), (4, 6)]
    sizes = [(size[a], size[b]) for a, b in made["pairs"].select("sample_a", "sample_b").iter_rows()]
    there = [two in ring or two[::-1] in ring for two in sizes]
    compared = verdicts.join(made["pairs"].filter(pl.Series(there)), on="pair_id", how="semi")
    assert compared.height == 6
    table = decide(compared, made["pairs"], made["samples"], SelectConfig(strategy=strategy), "p_a", None)
    (kept,) = lengths_of(table, made)
    # scores 6 > 5 > ... > 1 are evenly spaced: gaps of 2 are the largest compared, (6, 4), (5, 3), (3, 1) and (4, 2)
    assert kept[0] - kept[1] == 2 or (strategy != "best_vs_worst" and kept in {(6, 5), (6, 4)})
    assert table.filter(pl.col("reason").is_null()).height == 1


def test_the_top_share_of_the_whole_run() -> None:
    made = world({f"q{at}": ["a", "b" * (at + 2)] for at in range(10)})
    verdicts = decided(made, lambda a, b: 0.5 + 0.04 * (len(a) - len(b)))  # margins .08, .16, ..., .80
    rule = SelectConfig(strategy="all", top_fraction=0.25, min_margin=0.2)
    table = decide(verdicts, made["pairs"], made["samples"], rule, "p_a", 0.7)
    # .08 and .16 are low; of the other eight the upper quarter is .80 and .72; the gate asks for .7
    assert sorted(table.filter(pl.col("reason").is_null())["margin"]) == pytest.approx([0.72, 0.8])
    assert reasons(table) == ["below_top"] * 6 + ["low_margin"] * 2
    table = decide(verdicts, made["pairs"], made["samples"], rule, "p_a", 0.75)
    assert reasons(table) == ["below_gate"] + ["below_top"] * 6 + ["low_margin"] * 2


# Filters on words

LONG = "The tide is the rise and fall of the sea that the moon and the sun cause together"


@pytest.mark.parametrize(
    ("rule", "answers", "reason"),
    [
        ({"max_similarity": 0.5}, [LONG, LONG + " twice"], "near_identical"),
        ({"max_similarity": 0.5}, [LONG, "Nobody knows why the sea goes up and down"], None),
        # 1 shared gram of 3: "a b c" in {"a b c", "b c d"} and {"a b c", "b c e"}
        ({"max_similarity": 0.33}, ["a b c d", "a b c e"], "near_identical"),
        ({"max_similarity": 0.34}, ["a b c d", "a b c e"], None),
        ({"refusals": "drop_any"}, [LONG, "I'm sorry, but I can't help with that."], "refusal"),
        ({"refusals": "keep"}, [LONG, "I'm sorry, but I can't help with that."], None),
        ({"languages": ("en",)}, [LONG, "Das weiß ich leider nicht, frag lieber jemand anderen danach."], "language"),
        ({"languages": ("en", "de")}, [LONG, "Das weiß ich leider nicht, frag lieber jemand anderen danach."], None),
        ({"languages": ("de",)}, ["42", "x = 1"], None),  # not recognised, so not foreign
        ({"languages": "prompt"}, [LONG, "Das weiß ich leider nicht, frag lieber jemand anderen danach."], "language"),
        ({"languages": "prompt"}, [LONG, "Nobody knows why the sea goes up and down"], None),
        # the first reason in the documented order
        ({"refusals": "drop_any", "max_length_ratio": 1.1}, [LONG, "I'm sorry, I can't do that."], "length_ratio"),
        ({"refusals": "drop_any", "min_margin": 0.9}, [LONG, "I'm sorry, I can't do that."], "refusal"),
    ],
)
def test_filters_on_words(rule: dict[str, Any], answers: list[str], reason: str | None) -> None:
    made = world({"Why does the sea rise and fall twice a day?": answers})
    table = decide(
        decided(made, lambda _a, _b: 0.8),
        made["pairs"],
        made["samples"].lazy(),
        SelectConfig(strategy="all", **rule),
        "p_a",
        None,
        prompts=made["prompts"],
    )
    assert table["reason"].to_list() == [reason]


@pytest.mark.parametrize(("refusal_wins", "reason"), [(True, "refusal"), (False, None)])
def test_a_refusal_may_be_rejected_but_not_chosen(refusal_wins: bool, reason: str | None) -> None:
    made = world({"q": ["I cannot help with that request.", LONG]})
    verdicts = decided(made, lambda a, _b: 0.9 if a.startswith("I cannot") == refusal_wins else 0.1)
    rule = SelectConfig(strategy="all", refusals="drop_chosen")
    assert decide(verdicts, made["pairs"], made["samples"], rule, "p_a", None)["reason"].to_list() == [reason]


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("I'm sorry, but I can't assist with that.", True),
        ("I\u2019m really sorry, but I cannot help you with this.", True),
        ("As an AI language model, I don't have personal opinions and cannot choose.", True),
        ("Unfortunately, I am unable to comply.", True),
        ("I must decline to provide that information.", True),
        ("My guidelines prevent me from answering.", True),
        ("Sorry for the wait! Here is the recipe.", False),
        ("I cannot stress enough how useful this is.", False),
        ("To apologise, say: I'm sorry, I can't come.", False),
        ("You can't divide by zero.", False),
        ("It's illegal to park there, so use the garage. Here is how.", True),  # what a pattern cannot tell apart
    ],
)
def test_what_opens_like_a_refusal(text: str, refusal: bool) -> None:
    assert refuses(pl.Series([text])).to_list() == [refusal]


def test_languages_that_cannot_be_recognised_are_told() -> None:
    made = world({"q": [LONG, "Nobody knows why the sea goes up and down"]})
    verdicts = decided(made, lambda _a, _b: 0.8)
    with pytest.raises(ConfigError, match=r"select.languages: xx cannot be recognised; allowed: .*\bde\b"):
        decide(verdicts, made["pairs"], made["samples"], SelectConfig(languages=("xx",)), "p_a", None)
    with pytest.raises(StageError, match="needs the prompts"):
        decide(verdicts, made["pairs"], made["samples"], SelectConfig(languages="prompt"), "p_a", None)


@given(st.lists(st.text(st.sampled_from("ab \n.X"), max_size=14), min_size=1, max_size=6), st.data())
@settings(max_examples=60, deadline=None)
def test_similarity_is_that_of_sets_of_three_words(ones: list[str], data: st.DataObject) -> None:
    others = data.draw(st.permutations(ones))

    def grams(text: str) -> set[str]:
        words = re.findall(r"\w+", text.lower())
        return {" ".join(words[at : at + 3]) for at in range(max(len(words) - 2, 1))}

    wanted = [
        len(grams(one) & grams(other)) / len(grams(one) | grams(other)) for one, other in zip(ones, others, strict=True)
    ]
    assert jaccard(pl.Series(ones), pl.Series(others)).to_list() == pytest.approx(wanted)


def test_verdicts_without_their_answers_are_told() -> None:
    made = world({"q": ["a", "bb"]})
    with pytest.raises(StageError, match="1 verdicts have a pair or an answer that is not there"):
        decide(decided(made, lambda _a, _b: 0.8), made["pairs"], made["samples"].head(1), ALL, "p_a", None)


def test_best_and_worst_that_tie_make_way_for_the_next_best() -> None:
    # ccc beats bb and bb beats a by .9; ccc against a, the largest difference of scores, is a tie
    made = world({"q": ["a", "bb", "ccc"]})
    verdicts = decided(made, lambda a, b: 0.5 if {len(a), len(b)} == {1, 3} else 0.9 if len(a) > len(b) else 0.1)
    table = decide(verdicts, made["pairs"], made["samples"], SelectConfig(), "p_a", None)
    assert reasons(table) == ["not_selected", "tie"]
    assert texts(table, made) in ([("bb", "a")], [("ccc", "bb")])
