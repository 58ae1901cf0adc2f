"""Pins down the tests of agreement: against sums written out here, brute force, and their promise by simulation."""

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.arrays import Array
from pipeline.statistics import bounds
from pipeline.statistics.bounds import Kind, Outcomes

DELTA = 0.1


def tail(successes: int, n: int, p: float) -> float:
    """P(X >= successes) for a binomial, summed term by term."""
    return math.fsum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(max(successes, 0), n + 1))


def said(right: int, ties: int, wrong: int) -> Array:
    return np.array([1.0] * right + [0.5] * ties + [0.0] * wrong)


def p_value(value: Array, target: float, kind: Kind = "exact", weight: Array | None = None) -> float:
    return outcomes(value, kind, weight).p_value(target)


def outcomes(value: Array, kind: Kind = "exact", weight: Array | None = None) -> Outcomes:
    return Outcomes(value, np.floor(value), np.ones(len(value)) if weight is None else weight, kind)


@pytest.mark.parametrize(
    ("successes", "n", "target"), [(22, 22, 0.9), (21, 22, 0.9), (47, 50, 0.85), (1, 1, 0.6), (18, 20, 0.8)]
)
def test_without_ties_it_is_the_binomial_test(successes: int, n: int, target: float) -> None:
    assert p_value(said(successes, 0, n - successes), target) == pytest.approx(tail(successes, n, target))


def test_the_p_value_of_all_right_by_hand() -> None:
    # 0.9^21 = .1094 > .1 and 0.9^22 = .0985 <= .1: 22 is the smallest sample that can certify 90 % at delta .1
    assert p_value(said(21, 0, 0), 0.9) == pytest.approx(0.1094, abs=5e-5)
    assert p_value(said(22, 0, 0), 0.9) == pytest.approx(0.0985, abs=5e-5)
    assert bounds.fewest(0.9, DELTA) == 22


def brute_force(halves: int, n: int, target: float) -> float:
    """The largest P(twice the sum >= halves) over tie shares, from the full table of n draws."""
    worst = 0.0
    for share in np.linspace(0, 2 * min(target, 1 - target), 801):
        win, lose = target - share / 2, 1 - target - share / 2
        chance = {0: lose, 1: share, 2: win}
        total = math.fsum(
            math.prod(chance[draw] for draw in draws) for draws in product((0, 1, 2), repeat=n) if sum(draws) >= halves
        )
        worst = max(worst, total)
    return worst


@pytest.mark.parametrize("halves", range(6, 11))
@pytest.mark.parametrize("target", [0.6, 0.8])
def test_ties_count_half_and_their_share_is_taken_at_its_worst(halves: int, target: float) -> None:
    found = bounds.exact_p_value(halves, 5, target)
    assert found == pytest.approx(brute_force(halves, 5, target), rel=5e-3)


def test_one_tie_among_22_lies_between_right_and_wrong() -> None:
    with_tie = p_value(said(21, 1, 0), 0.9)
    assert p_value(said(22, 0, 0), 0.9) < with_tie < p_value(said(21, 0, 1), 0.9)


@pytest.mark.parametrize(("successes", "n"), [(22, 22), (20, 22), (95, 100)])
def test_the_lower_bound_is_where_the_tail_is_delta(successes: int, n: int) -> None:
    # Clopper & Pearson: the bound is the p at which so many successes or more have probability delta
    bound = outcomes(said(successes, 0, n - successes)).lower_bound(DELTA)
    assert tail(successes, n, bound) == pytest.approx(DELTA, rel=1e-6)


def test_the_lower_bound_at_the_ends() -> None:
    assert outcomes(said(0, 0, 10)).lower_bound(DELTA) == 0.0
    # all right: p^n = delta, so p = .1^(1/22) = .9006
    assert outcomes(said(22, 0, 0)).lower_bound(DELTA) == pytest.approx(0.1 ** (1 / 22))


@pytest.mark.parametrize("kind", ["exact", "drawn", "betting"])
def test_the_lower_bound_is_where_the_p_value_is_delta(kind: Kind) -> None:
    found = outcomes(said(40, 3, 2), kind)
    bound = found.lower_bound(DELTA)
    assert found.p_value(bound - 1e-5) <= DELTA < found.p_value(bound + 1e-5)


def test_one_label_drawn_of_two_by_hand() -> None:
    # Units whose labels agree have nothing to draw: twice the exact p. One unit with a label on either side is right in
    # half of the draws: twice the mean of the p of 20 and of 19 right of 20.
    assert p_value(said(20, 0, 0), 0.8, "drawn") == pytest.approx(2 * tail(20, 20, 0.8))
    split = Outcomes(np.array([1.0] * 19 + [0.5]), np.array([1.0] * 19 + [0.5]), np.ones(20), "drawn")
    assert split.p_value(0.8) == pytest.approx(tail(20, 20, 0.8) + tail(19, 20, 0.8), rel=0.3)


def test_a_bet_by_hand() -> None:
    # Two draws, both 1, target .5: a bet for agreement m multiplies the stake by m / .5 each time. Over m evenly spread
    # in (.5, 1) the mean of (2 m)^2 is the integral of 4 m^2 / .5 = 8/3 (1 - 1/8) = 7/3, so p = 3/7.
    assert p_value(said(2, 0, 0), 0.5, "betting") == pytest.approx(3 / 7, rel=5e-3)


def test_a_unit_of_no_weight_changes_nothing() -> None:
    more, light = said(30, 0, 1), np.append(np.ones(30), 1e-12)
    assert p_value(more, 0.8, "betting", light) == pytest.approx(p_value(said(30, 0, 0), 0.8, "betting"))


def right_or_wrong(random: np.random.Generator) -> tuple[Array, Array]:
    value = (random.random(40) < 0.8).astype(float)
    return value, value


def with_ties(random: np.random.Generator) -> tuple[Array, Array]:
    value = random.choice([0.0, 0.5, 1.0], 40, p=[0.1, 0.2, 0.7])  # .7 + .2 / 2 = .8
    return value, np.floor(value)


def three_people(random: np.random.Generator) -> tuple[Array, Array]:
    value = random.binomial(3, random.beta(8, 2, 40)) / 3
    return value, value


def prompt_means(random: np.random.Generator) -> tuple[Array, Array]:
    value = random.beta(1.6, 0.4, 40)
    return value, value


PROMISES: list[tuple[Kind, Callable[[np.random.Generator], tuple[Array, Array]]]] = [
    ("exact", right_or_wrong),
    ("exact", with_ties),
    ("drawn", three_people),
    ("betting", right_or_wrong),
    ("betting", prompt_means),
]


@pytest.mark.parametrize(("kind", "draw"), PROMISES)
def test_a_false_claim_is_made_at_most_delta_of_the_time(
    kind: Kind, draw: Callable[[np.random.Generator], tuple[Array, Array]]
) -> None:
    random = np.random.default_rng(3)
    runs = 2000
    false = sum(Outcomes(*draw(random), np.ones(40), kind).p_value(0.8) <= DELTA for _ in range(runs)) / runs
    # Monte-Carlo: sqrt(.1 * .9 / 2000) = .0067; three of them
    assert false <= DELTA + 3 * math.sqrt(DELTA * (1 - DELTA) / runs)
    # and a target well below the truth is shown more often than not
    shown = sum(Outcomes(*draw(random), np.ones(40), kind).p_value(0.6) <= DELTA for _ in range(200)) / 200
    assert shown > 0.6


def test_units_drawn_with_other_probabilities_are_weighed_back() -> None:
    # Half of the units agree at .95 and are drawn nine times as often as the others, which agree at .55: the true mean
    # is .75, the drawn one .91. Unweighted, .75 is claimed nearly always.
    random = np.random.default_rng(5)
    naive = weighed = 0
    for _ in range(200):
        frequent = random.random(80) < 0.9
        said_here = (random.random(80) < np.where(frequent, 0.95, 0.55)).astype(float)
        weights = np.where(frequent, 1 / 0.9, 1 / 0.1)
        naive += p_value(said_here, 0.75, "betting") <= DELTA
        weighed += p_value(said_here, 0.75, "betting", weights) <= DELTA
    assert naive / 200 > 0.8
    assert weighed / 200 <= DELTA + 3 * math.sqrt(DELTA * (1 - DELTA) / 200)


@settings(max_examples=60, deadline=None)
@given(
    right=st.integers(0, 30), ties=st.integers(0, 8), wrong=st.integers(0, 8), target=st.sampled_from([0.6, 0.8, 0.9])
)
@pytest.mark.parametrize("kind", ["exact", "drawn", "betting"])
def test_more_agreement_is_never_less_sure(kind: Kind, right: int, ties: int, wrong: int, target: float) -> None:
    here = p_value(said(right, ties, wrong + 1), target, kind)
    assert p_value(said(right + 1, ties, wrong), target, kind) <= here * (1 + 1e-9)
    assert p_value(said(right, ties + 1, wrong), target, kind) <= here * (1 + 1e-9)
    assert p_value(said(right, ties, wrong + 1)[::-1], target, kind) == pytest.approx(here)


@pytest.mark.parametrize(("agreement", "target"), [(0.95, 0.9), (0.97, 0.9), (0.9, 0.8), (0.99, 0.95), (0.75, 0.6)])
def test_labels_needed_against_brute_force(agreement: float, target: float) -> None:
    def enough(n: int) -> bool:
        critical = next(k for k in range(n + 2) if tail(k, n, target) <= DELTA)
        return tail(critical, n, agreement) >= 0.8

    assert bounds.needed(agreement, target, DELTA) == next(n for n in range(1, 1000) if enough(n))


def test_labels_needed_for_known_cases() -> None:
    # Certifying 90 % (delta .1, power .8) takes about 390 labels when the truth is 93 %, 128 when it is 95 %
    assert bounds.needed(0.93, 0.9, DELTA) == 390
    assert bounds.needed(0.95, 0.9, DELTA) == 128


def test_power_by_hand() -> None:
    # 22 units show .9 only if all are right: power .95^22 at a truth of .95, and delta or less at the target itself
    assert bounds.power(22, 0.95, 0.9, DELTA) == pytest.approx(0.95**22)
    assert bounds.power(22, 0.9, 0.9, DELTA) == pytest.approx(0.9**22)
    assert bounds.power(0, 0.99, 0.9, DELTA) == 0.0


@pytest.mark.parametrize("agreement", [0.5, 0.9, 0.9001])
def test_no_number_of_labels_shows_what_is_not_so(agreement: float) -> None:
    assert bounds.needed(agreement, 0.9, DELTA) is None
