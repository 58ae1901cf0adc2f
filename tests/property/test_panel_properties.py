"""What must hold of any panel's votes: names, rows and columns mean nothing, and a vote never works against itself."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.aggregation.base import Aggregation
from pipeline.aggregation.calibrated import CalibratedAggregation, Preference, fit
from pipeline.aggregation.consistency import ConsistencyAggregation, prior_weights
from pipeline.aggregation.expectation import call_model
from pipeline.aggregation.majority import MajorityAggregation
from pipeline.aggregation.votes import Votes, swap_consistency
from pipeline.arrays import Array

KINDS: list[type[Aggregation]] = [MajorityAggregation, ConsistencyAggregation, CalibratedAggregation]


def panel(seed: int, gaps: float) -> tuple[Votes, dict[str, float]]:
    """Forty pairs on ten prompts of four answers, three judges in two orders, and soft labels on a part."""
    random = np.random.default_rng(seed)
    pairs = 40
    answers = np.sort(np.array([random.choice(4, 2, replace=False) + 4 * (at // 4) for at in range(pairs)]), axis=1)
    ab, ba = random.choice([-1.0, -0.5, 0.0, 0.5, 1.0], (2, pairs, 3))
    ab[random.random((pairs, 3)) < gaps] = np.nan
    ba[random.random((pairs, 3)) < gaps] = np.nan
    made = Votes.level([f"{at:032x}" for at in range(pairs)], ["x", "y", "z"], ab, random.normal(size=pairs))
    made = replace(made, ab=ab, ba=ba, prompt_ids=pl.Series(np.arange(pairs) // 4).cast(pl.String), answers=answers)
    made = replace(made, consistency=swap_consistency(made.judges, ab, ba))
    told = random.permutation(pairs)[:20]
    return made, {made.pair_ids[int(at)]: float(random.choice([0, 0.5, 1])) for at in told}


worlds = st.tuples(st.integers(0, 10_000), st.sampled_from([0.0, 0.2, 0.5]))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(drawn=worlds)
def test_exchanging_the_names_turns_every_probability(kind: type[Aggregation], drawn: tuple[int, float]) -> None:
    votes, labels = panel(*drawn)
    here = kind().fit_predict(votes, labels)
    there = kind().fit_predict(votes.swapped(), {key: 1 - value for key, value in labels.items()})
    assert there.p_a == pytest.approx(1 - here.p_a, abs=1e-6)
    assert there.p_a_lc == pytest.approx(1 - here.p_a_lc, abs=1e-6)
    assert there.weights == pytest.approx(here.weights, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(drawn=worlds, shuffle=st.integers(0, 1000))
def test_the_order_of_pairs_judges_and_labels_means_nothing(
    kind: type[Aggregation], drawn: tuple[int, float], shuffle: int
) -> None:
    votes, labels = panel(*drawn)
    random = np.random.default_rng(shuffle)
    rows, names = random.permutation(len(votes.pair_ids)), list(random.permutation(votes.judges))
    here = kind().fit_predict(votes, labels)
    there = kind().fit_predict(votes.at(rows).of(names), dict(reversed(labels.items())))
    assert there.p_a == pytest.approx(here.p_a[rows], abs=1e-6)
    assert there.weights == pytest.approx(here.weights, abs=1e-5)


def logit(found: Preference, votes: Votes) -> Array:
    return found.neutral_logit(votes.votes, votes.answers) + found.length_logit(votes.length)


@settings(max_examples=40, deadline=None)
@given(drawn=st.integers(0, 10_000), pair=st.integers(0, 39), judge=st.integers(0, 2), to=st.floats(-1, 1))
def test_a_judge_that_is_trusted_moves_the_verdict_its_own_way(drawn: int, pair: int, judge: int, to: float) -> None:
    votes, labels = panel(drawn, 0.0)
    found = fit(votes, labels, prior_weights(votes))
    raised = votes.ab.copy()
    raised[pair, judge] = max(to, raised[pair, judge])
    moved = replace(votes, ab=raised)
    change = (logit(found, moved) - logit(found, votes))[pair]
    # The pair's own vote and, through its prompt's scores, the same vote again: each with the sign of what was learned.
    if found.direct[judge] >= 0 and found.transitive >= 0:
        assert change >= -1e-9
    if found.direct[judge] <= 0 and found.transitive <= 0:
        assert change <= 1e-9


@settings(max_examples=25, deadline=None)
@given(drawn=worlds)
def test_what_was_said_stays_as_it_was_said(drawn: tuple[int, float]) -> None:
    votes, _ = panel(*drawn)
    whole = call_model(votes).completed(votes)
    for here, there in ((votes.ab, whole.ab), (votes.ba, whole.ba)):
        assert np.array_equal(here[~np.isnan(here)], there[~np.isnan(here)])
    # an order may stay missing where nothing links it to the other; a judge's mean vote never does
    assert not np.isnan(whole.votes).any()
    assert len(whole.pair_ids) == len(votes.pair_ids)
