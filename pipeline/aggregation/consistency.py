"""Judges weighed by how often swapping the answers leaves their verdict alone. Pure. Needs no labels.

weight = max(2 c - 1, .05)^3 with c the swap consistency: a judge that names the winner by its slot half of the time has
c = 1/2 and next to no weight. A judge that never saw both orders is taken for as consistent as the mean of the others.
The result is a weighted share of votes, not validated against people.
"""

import numpy as np

from pipeline.aggregation.base import Fitted, Unlabelled, mean_vote
from pipeline.aggregation.votes import Votes
from pipeline.arrays import Array

POWER = 3
LEAST = 0.05
"""Nobody's weight is zero, so that a panel of position-biased judges still decides."""


class ConsistencyAggregation(Unlabelled):
    """p_a = (1 + weighted mean vote) / 2."""

    def predict(self, votes: Votes) -> Fitted:
        """See Unlabelled."""
        weights = prior_weights(votes)
        share = (1 + mean_vote(votes.votes, weights)) / 2
        return Fitted(share, share, {judge: float(one) for judge, one in zip(votes.judges, weights, strict=True)})


def prior_weights(votes: Votes) -> Array:
    """(judges,) weight of each judge without labels, positive."""
    known = [votes.consistency[judge] for judge in votes.judges if judge in votes.consistency]
    usual = float(np.mean(known)) if known else 1.0
    steady = np.array([votes.consistency.get(judge, usual) for judge in votes.judges], dtype=np.float64)
    return np.maximum(2 * steady - 1, LEAST) ** POWER
