"""Pins down which answers are compared: only different ones, by designs that link all of them, calls counted."""

from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline import ids, schemas
from pipeline.config import PairingConfig
from pipeline.config_file import load
from pipeline.errors import ConfigError
from pipeline.pairing.all import AllPairing
from pipeline.pairing.base import Pairing
from pipeline.pairing.rounds import RoundsPairing
from pipeline.pairing.sparse import SparsePairing, design
from pipeline.runner import run_stage
from pipeline.stages.pair import pairs
from tests.worlds import bench, samples, world

NONE = schemas.frame("pairs", [])
EVERY = AllPairing(PairingConfig())


def names(count: int) -> list[str]:
    return [f"s{at:02d}" for at in range(count)]


def linked(found: list[tuple[str, str]], answers: list[str]) -> bool:
    """Whether every answer is reached from the first."""
    reached = {answers[0]}
    for _ in answers:
        reached |= {one for edge in found if reached & set(edge) for one in edge}
    return reached == set(answers)


def sparse(degree: int) -> SparsePairing:
    return SparsePairing(SparsePairing.Options(strategy="sparse", degree=degree))


def rounds(count: int) -> RoundsPairing:
    return RoundsPairing(RoundsPairing.Options(strategy="rounds", rounds=count))


def test_four_answers_make_six_pairs_in_canonical_order() -> None:
    made, reasons = pairs(samples({"q": ["a", "b", "c", "d"]}), NONE, EVERY, 0)
    schemas.Pairs.validate(made)
    assert made.height == 6  # 4 * 3 / 2
    assert reasons == {}
    assert set(made["pair_id"]) == {
        ids.pair_id(*two) for two in combinations(samples({"q": list("abcd")})["sample_id"], 2)
    }


def test_equal_words_are_never_compared_and_no_two_texts_twice() -> None:
    found = samples({"q": ["yes", "yes", "no"]})
    made, reasons = pairs(found, NONE, EVERY, 0)
    # the answer with the smaller id speaks for both
    first, second = sorted(found.filter(pl.col("completion") == "yes")["sample_id"])
    assert made.height == 1
    assert first in made.select("sample_a", "sample_b").row(0)
    assert reasons == {second: "identical"}


def test_a_prompt_without_two_different_answers_is_dropped_once() -> None:
    alone, twins = samples({"q": ["yes"]}), samples({"r": ["no", "no"]})
    made, reasons = pairs(pl.concat([alone, twins]), NONE, EVERY, 0)
    assert made.is_empty()
    prompts = {alone["prompt_id"][0], twins["prompt_id"][0]}
    assert {key for key, why in reasons.items() if why == "single_answer"} == prompts
    assert sorted(reasons.values()) == ["identical", "single_answer", "single_answer"]


def test_answers_of_imported_pairs_are_not_paired_again() -> None:
    made = world({"q": ["a", "b", "c"], "r": ["a", "b"]})
    imported = made["pairs"].filter(pl.col("prompt_id") == made["pairs"]["prompt_id"][0]).head(1)
    new, _ = pairs(made["samples"], imported, EVERY, 0)
    assert not set(new["prompt_id"]) & set(imported["prompt_id"])


def test_answers_to_different_prompts_are_never_paired() -> None:
    made = world({"q": ["a", "b"], "r": ["c", "d"]})
    owner = dict(made["samples"].select("sample_id", "prompt_id").iter_rows())
    for prompt, a, b in made["pairs"].select("prompt_id", "sample_a", "sample_b").iter_rows():
        assert owner[a] == owner[b] == prompt


@pytest.mark.parametrize("pairing", [EVERY, sparse(2), sparse(3), sparse(5), rounds(2), rounds(3), rounds(9)])
@pytest.mark.parametrize("count", range(2, 17))
def test_every_design_links_all_answers_and_compares_no_two_twice(pairing: Pairing, count: int) -> None:
    found = pairing.pairs(names(count), 3)
    assert all(one != other for one, other in found)
    assert len({frozenset(edge) for edge in found}) == len(found)
    assert linked(found, names(count))
    # the order in which the answers come changes nothing; another seed compares others, where there is a choice
    assert set(map(frozenset, pairing.pairs(names(count)[::-1], 3))) == set(map(frozenset, found))


@pytest.mark.parametrize("degree", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("count", range(2, 17))
def test_a_sparse_design_costs_half_its_degree_an_answer(degree: int, count: int) -> None:
    met = Counter(one for edge in sparse(degree).pairs(names(count), 0) for one in edge)
    if degree >= count - 1:
        assert set(met.values()) == {count - 1}
        return
    # an odd number of odd degrees cannot be: then one answer has one comparison more
    odd = count * degree % 2
    assert sorted(met.values()) == [degree] * (count - odd) + [degree + 1] * odd
    assert sum(met.values()) // 2 == -(-count * degree // 2)


def test_the_seed_decides_who_meets_whom() -> None:
    for pairing in (sparse(2), rounds(2)):
        drawn = {frozenset(map(frozenset, pairing.pairs(names(8), seed))) for seed in range(10)}
        assert len(drawn) > 5


def variance(edges: list[tuple[int, int]], count: int) -> float:
    laplacian = np.zeros((count, count))
    for one, other in edges:
        laplacian[[one, other], [one, other]] += 1
        laplacian[[one, other], [other, one]] -= 1
    return float((1 / np.linalg.eigvalsh(laplacian)[1:]).sum())


def test_the_distances_of_a_sparse_design_are_the_best_for_the_scores() -> None:
    # degree 4: distance 1 and one other; every other choice is tried, and its variance found from the matrix
    for count in (9, 12, 16):
        found = variance(list(design(count, 4)), count)
        tried = [
            variance([(at, (at + step) % count) for step in (1, other) for at in range(count)], count)
            for other in range(2, (count + 1) // 2)
        ]
        assert found == pytest.approx(min(tried))
        assert min(tried) < max(tried)


def test_rounds_by_hand() -> None:
    # six answers: every round three disjoint pairs, five rounds are the whole round-robin
    one, two = rounds(2).pairs(names(6), 0)[:3], rounds(2).pairs(names(6), 0)[3:]
    for played in (one, two):
        assert sorted(name for pair in played for name in pair) == names(6)
    assert len(rounds(5).pairs(names(6), 0)) == len(rounds(50).pairs(names(6), 0)) == 15
    # five answers: one sits out each round
    assert [len(rounds(count).pairs(names(5), 0)) for count in (2, 3, 5)] == [4, 6, 10]


def test_a_design_is_scheduled_by_the_stage_and_its_keys_are_its_own(tmp_path: Path) -> None:
    made = {key: rows for key, rows in world({"q": list("abcdefgh")}).items() if key != "pairs"}
    with bench(tmp_path, made, pairing={"strategy": "sparse", "degree": 2}) as run:
        assert run_stage(run, "pair").rows_out == {"pairs": 8}
    with bench(tmp_path, made, pairing={"strategy": "rounds", "rounds": 3}) as run:
        assert run_stage(run, "pair").rows_out == {"pairs": 12}
    path = tmp_path / "c.yaml"
    for text, told in (
        ("{strategy: sparse, rounds: 3}", r"c.yaml:2: pairing.rounds: unknown key"),
        ("{degree: 3}", r"pairing.degree: unknown key"),
        ("{strategy: rounds, rounds: 1}", r"pairing.rounds: .*greater than or equal to 2"),
    ):
        path.write_text(f"name: x\npairing: {text}\n")
        with pytest.raises(ConfigError, match=told):
            load(path)
