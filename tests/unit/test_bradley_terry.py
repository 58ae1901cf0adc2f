"""Pins down Bradley-Terry scores: by hand, against another solver, antisymmetric, near the truth of a simulation."""

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from pipeline.aggregation.bradley_terry import RIDGE, Array, Integers, scores
from pipeline.config import PairingConfig
from pipeline.pairing.all import AllPairing
from pipeline.pairing.base import Pairing
from pipeline.pairing.sparse import SparsePairing


def alone(a: list[int], b: list[int], p: list[float], answers: int) -> tuple[Integers, Integers, Array, Integers]:
    return np.array(a, np.int64), np.array(b, np.int64), np.array(p), np.zeros(answers, np.int64)


def test_two_answers_by_hand() -> None:
    # s_b = -s_a and p - 1 / (1 + exp(-2 s)) = ridge * s: with s = 1 and ridge = .05, p = .8807970780 + .05
    p = 1 / (1 + math.exp(-2)) + 0.05
    found = scores(*alone([0], [1], [p], 2), ridge=0.05)
    assert found.score.tolist() == pytest.approx([1.0, -1.0])
    # A comparison informs of the difference by w = q (1 - q): the Hessian is ((w + r, -w), (-w, w + r));
    # along (1, -1) its eigenvalue is 2 w + r, so var(s_a) = 1 / (2 (2 w + r)).
    w = (1 / (1 + math.exp(-2))) * (1 / (1 + math.exp(2)))
    assert found.se.tolist() == pytest.approx([math.sqrt(1 / (2 * (2 * w + 0.05)))] * 2)
    assert found.n.tolist() == [1, 1]


def test_an_answer_that_was_never_compared_has_the_priors_error() -> None:
    found = scores(*alone([0], [1], [0.9], 3))
    assert found.score[2] == pytest.approx(0)
    assert found.n.tolist() == [1, 1, 0]
    # N(0, 1 / r) alone; its distance from the mean of three has variance (1 - 1/3) / r
    assert found.se[2] == pytest.approx(math.sqrt(2 / 3 / RIDGE))
    assert found.se[0] < found.se[2]


def by_regression(a: Integers, b: Integers, p: Array, answers: int, ridge: float) -> tuple[Array, Array]:
    """The same estimate as a logistic regression on one row for each side of each pair, and its errors by inversion."""
    design = np.zeros((len(a), answers))
    design[np.arange(len(a)), a], design[np.arange(len(a)), b] = 1, -1
    outcome = np.repeat([1, 0], len(a))
    model: Any = LogisticRegression(C=1 / ridge, fit_intercept=False, tol=1e-12, max_iter=10_000)
    model.fit(np.vstack([design, design]), outcome, sample_weight=np.concatenate([p, 1 - p]))
    found = model.coef_[0]
    q = 1 / (1 + np.exp(-design @ found))
    covariance = np.linalg.inv(design.T @ np.diag(q * (1 - q)) @ design + ridge * np.eye(answers))
    centre = np.eye(answers) - 1 / answers
    return found, np.sqrt(np.diag(centre @ covariance @ centre))


@pytest.mark.parametrize("degree", [2, 3, 6])
def test_scores_are_those_of_a_logistic_regression(degree: int) -> None:
    random = np.random.default_rng(degree)
    edges = SparsePairing(SparsePairing.Options(degree=degree)).pairs([f"{at}" for at in range(7)], 5)
    a, b = (np.array([int(edge[side]) for edge in edges]) for side in (0, 1))
    p = random.uniform(0.05, 0.95, len(edges))
    found = scores(a, b, p, np.zeros(7, np.int64), ridge=0.3)
    wanted, errors = by_regression(a, b, p, 7, 0.3)
    assert found.score == pytest.approx(wanted, abs=1e-5)
    assert found.se == pytest.approx(errors, abs=1e-5)


WORLD = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.floats(0, 1)).filter(lambda row: row[0] != row[1]),
    min_size=1,
    max_size=15,
)


@given(WORLD)
@settings(max_examples=60, deadline=None)
def test_exchanging_a_and_b_changes_nothing_and_scores_sum_to_zero(rows: list[tuple[int, int, float]]) -> None:
    a, b, p = (list(column) for column in zip(*rows, strict=True))
    found = scores(*alone(a, b, p, 5))  # type: ignore[arg-type]
    turned = scores(*alone(b, a, [1 - one for one in p], 5))  # type: ignore[arg-type]
    assert turned.score == pytest.approx(found.score, abs=1e-8)
    assert turned.se == pytest.approx(found.se, abs=1e-8)
    assert found.score.sum() == pytest.approx(0, abs=1e-8)
    # and turning every verdict over negates every score
    lost = scores(*alone(a, b, [1 - one for one in p], 5))  # type: ignore[arg-type]
    assert lost.score == pytest.approx(-found.score, abs=1e-8)
    # the penalised likelihood is at its top: its gradient, computed one pair at a time, is nil
    gradient = -RIDGE * found.score
    for one, other, chance in rows:
        off = chance - 1 / (1 + math.exp(found.score[other] - found.score[one]))
        gradient[one] += off
        gradient[other] -= off
    assert gradient == pytest.approx(np.zeros(5), abs=1e-8)


@given(st.lists(st.floats(0, 1), min_size=6, max_size=6))
@settings(max_examples=60, deadline=None)
def test_where_all_were_compared_the_order_is_that_of_the_mean_win(p: list[float]) -> None:
    edges = list(combinations(range(4), 2))
    found = scores(*alone([a for a, _ in edges], [b for _, b in edges], p, 4)).score
    wins = [
        sum(chance if at == a else 1 - chance for (a, b), chance in zip(edges, p, strict=True) if at in {a, b})
        for at in range(4)
    ]
    for one, other in combinations(range(4), 2):
        if wins[one] - wins[other] > 1e-6:
            assert found[one] > found[other]


def test_other_prompts_and_their_sizes_change_nothing() -> None:
    random = np.random.default_rng(0)
    a, b, p, prompt = list[int](), list[int](), list[float](), list[int]()
    singles: list[Array] = []
    for number, size in enumerate([3, 5, 2, 5, 3, 7]):
        start = len(prompt)
        prompt += [100 - number] * size
        edges = list(combinations(range(size), 2))
        chances = random.uniform(0, 1, len(edges)).tolist()
        a += [start + one for one, _ in edges]
        b += [start + other for _, other in edges]
        p += chances
        singles.append(scores(*alone([x for x, _ in edges], [y for _, y in edges], chances, size)).score)
    order = random.permutation(len(a))
    found = scores(np.array(a)[order], np.array(b)[order], np.array(p)[order], np.array(prompt))
    assert found.score == pytest.approx(np.concatenate(singles), abs=1e-9)


@pytest.mark.parametrize(
    ("pairing", "least"),
    [(AllPairing(PairingConfig()), 0.85), (SparsePairing(SparsePairing.Options(degree=4)), 0.75)],
)
def test_the_order_of_a_known_truth_is_found(pairing: Pairing, least: float) -> None:
    # 300 prompts of 8 answers with scores drawn from N(0, 1.5^2); verdicts are the true chances with noise of 1 nat.
    random = np.random.default_rng(1)
    truth = random.normal(0, 1.5, (300, 8))
    edges = [pairing.pairs([f"{at}" for at in range(8)], seed) for seed in range(300)]
    a, b = (np.array([8 * at + int(edge[side]) for at, some in enumerate(edges) for edge in some]) for side in (0, 1))
    logit = truth.ravel()[a] - truth.ravel()[b] + random.normal(0, 1, len(a))
    found = scores(a, b, 1 / (1 + np.exp(-logit)), np.repeat(np.arange(300), 8)).score.reshape(300, 8)
    kendall = np.mean(
        [
            np.sign(found[:, one] - found[:, other]) * np.sign(truth[:, one] - truth[:, other])
            for one, other in combinations(range(8), 2)
        ]
    )
    assert kendall > least - 0.1
    assert np.corrcoef(found.ravel(), (truth - truth.mean(axis=1, keepdims=True)).ravel())[0, 1] > least


def test_a_chance_that_is_none_is_told() -> None:
    with pytest.raises(ValueError, match="did not settle"):
        scores(*alone([0], [1], [math.nan], 2))
