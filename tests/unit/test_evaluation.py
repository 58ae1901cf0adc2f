"""Win rate, who decides it and the panel's mean: values derived by hand, coverage by simulation."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest

from training.evaluation.duels import Duel, decide, weighted, win_rate

TURNS = (("user", "What is good?"),)


def test_binary_outcomes_get_wilsons_interval() -> None:
    # Wilson (1927), 8 of 10 at 95 %: z^2 = 3.8415; centre (.8 + .19207) / 1.38415 = .71674;
    # half 1.96 / 1.38415 * sqrt(.8 * .2 / 10 + 3.8415 / 400) = 1.41601 * .16003 = .22660.
    found = win_rate([1.0] * 8 + [0.0] * 2)
    assert found.rate == pytest.approx(0.8)
    assert found.low == pytest.approx(0.49016, abs=2e-4)
    assert found.high == pytest.approx(0.94333, abs=2e-4)


def test_winning_every_prompt_is_no_certainty() -> None:
    # p = 1: the lower end is 1 / (1 + z^2 / n) = 10 / 13.8415.
    found = win_rate([1.0] * 10)
    assert (found.rate, found.high) == (1.0, pytest.approx(1.0))
    assert found.low == pytest.approx(10 / 13.8415, abs=1e-4)


def test_ties_narrow_the_interval_and_all_ties_still_have_one() -> None:
    # 4 wins, 4 losses, 8 ties: s2 = .125 where a coin has .25, so n = 16 counts as 32, as 16 wins of 32 do.
    with_ties, twice = win_rate([1.0] * 4 + [0.0] * 4 + [0.5] * 8), win_rate([1.0] * 16 + [0.0] * 16)
    assert (with_ties.low, with_ties.high) == (pytest.approx(twice.low), pytest.approx(twice.high))
    # All ties: 100 prompts count as 100^2 coins, z / 2 / sqrt(10000) = .0098 about.
    ties = win_rate([0.5] * 100)
    assert ties.low == pytest.approx(0.4902, abs=1e-4)
    assert ties.high == pytest.approx(0.5098, abs=1e-4)


def test_swapping_the_models_mirrors_the_interval() -> None:
    wins = [1.0, 0.5, 0.0, 1.0, 1 / 6, 5 / 6, 1.0]
    one, other = win_rate(wins), win_rate([1 - win for win in wins])
    assert one.low == pytest.approx(1 - other.high)
    assert one.rate == pytest.approx(1 - other.rate)


@pytest.mark.parametrize("wins", [[], [1.2], [math.nan]])
def test_win_rate_refuses_what_is_no_outcome(wins: list[float]) -> None:
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        win_rate(wins)


@pytest.mark.parametrize("spread", ["coins", "three people", "mostly ties"])
def test_the_interval_covers_the_truth(spread: str) -> None:
    # 95 % nominal; 600 runs of 60 prompts: three standard errors below .95 are .923.
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(600):
        skill = rng.beta(4, 2, 60)
        if spread == "coins":
            wins, truth = (rng.random(60) < skill).astype(float), 4 / 6
        elif spread == "three people":
            wins, truth = rng.binomial(3, skill) / 3, 4 / 6
        else:
            wins, truth = rng.choice([0.0, 0.5, 1.0], 60, p=[0.1, 0.6, 0.3]), 0.6
        found = win_rate([float(win) for win in wins])
        covered += found.low <= truth <= found.high
    assert covered / 600 >= 0.923


class Longest:
    """Two people: one likes the longer answer, the other calls everything a tie."""

    names = ("long", "shrug")

    def __init__(self) -> None:
        self.shown: list[tuple[str, str]] = []

    def label(
        self,
        *,
        annotator: str,
        messages: Sequence[tuple[str, str]],
        reference: str | None,
        answer_a: str,
        answer_b: str,
        seed: int,
    ) -> Literal["a", "b", "tie"]:
        self.shown.append((answer_a, answer_b))
        if annotator == "shrug":
            return "tie"
        return "a" if len(answer_a) > len(answer_b) else "b"


def test_people_decide_by_content_whatever_the_order() -> None:
    people = Longest()
    duels = [Duel(f"{at:032x}", TURNS, None, "short", "a longer one") for at in range(40)]
    # The longer answer wins for one and is a tie for the other: 3/4, shown first or second.
    assert [decide(people, duel, 3) for duel in duels] == [0.75] * 40
    firsts = [a for a, _ in people.shown]
    assert 20 <= firsts.count("short") <= 60
    swapped = Duel("0" * 32, TURNS, None, "a longer one", "short")
    assert decide(Longest(), swapped, 3) == 0.25


def test_the_same_words_are_a_tie_and_nobody_is_asked() -> None:
    people = Longest()
    assert decide(people, Duel("0" * 32, TURNS, None, "same", "same"), 3) == 0.5
    assert people.shown == []


def test_a_comparison_is_in_canonical_order_and_knows_the_trained_side() -> None:
    for at in range(20):
        item, is_a = Duel(f"{at:032x}", TURNS, "ref", "old", "new").comparison(5)
        assert item.sample_a < item.sample_b
        assert (item.completion_a, item.completion_b) == (("new", "old") if is_a else ("old", "new"))


def test_the_panels_mean_is_by_weight() -> None:
    # (2 * .9 + 1 * .3) / 3; a negative weight counts as none; no weight at all is no opinion.
    assert weighted({"x": 0.9, "y": 0.3, "z": 0.0}, {"x": 2, "y": 1, "z": -1}) == pytest.approx(0.7)
    assert weighted({"x": 0.9}, {"x": 0.0}) is None
    assert weighted({}, {"x": 1.0}) is None
