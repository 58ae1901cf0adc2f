"""Pins down agreement with people: ties left out, undecided verdicts one half, whole prompts resampled."""

import math

import numpy as np
import pytest

from pipeline.statistics.agreement import Agreement, agreement, cluster_interval

NAN = math.nan


def test_a_rate_by_hand() -> None:
    vote = np.array([0.9, -0.1, 0.0, NAN, 1.0, -1.0])
    human = np.array([1.0, 1.0, 1.0, 1.0, 0.5, 0.2])
    found = agreement(vote, human, list("abcdef"), 0)
    # right, wrong, undecided (one half), no vote, people tied, right: (1 + 0 + .5 + 1) / 4
    assert (found.rate, found.n) == (0.625, 4)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 0.625 <= found.high


def test_nothing_to_count_is_no_rate() -> None:
    assert agreement(np.array([NAN, 1.0]), np.array([1.0, 0.5]), ["a", "b"], 0) == Agreement(None, None, None, 0)


def test_the_prompt_is_the_unit_of_the_interval() -> None:
    # 40 prompts, half all right and half all wrong, 10 pairs each: the pairs say 400 draws, the prompts 40.
    hits = np.array([10.0, 0.0] * 20)
    low, high = cluster_interval(hits, np.full(40, 10.0), 0)
    # the mean of 40 fair coins: 1.96 * sqrt(.25 / 40) = .155; Monte-Carlo and discreteness .02
    assert low == pytest.approx(0.5 - 0.155, abs=0.025)
    assert high == pytest.approx(0.5 + 0.155, abs=0.025)
    one_by_one, _ = cluster_interval(np.repeat([1.0, 0.0], 200), np.ones(400), 0)
    assert one_by_one == pytest.approx(0.5 - 0.049, abs=0.01)


def test_the_interval_is_the_same_each_time() -> None:
    assert cluster_interval(np.ones(5), np.ones(5), 1) == (1.0, 1.0)
    hits = np.array([1.0, 0.0, 1.0])
    assert cluster_interval(hits, np.ones(3), 1) == cluster_interval(hits, np.ones(3), 1)
