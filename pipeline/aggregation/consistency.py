"""Judges weighed by how often swapping the answers leaves their verdict alone. Pure. Needs no labels.

weight = (swap consistency)^3. A judge that never saw both orders gets the mean of the others' weights. The result
is a weighted share of votes, not validated against people.
"""

import numpy as np

from pipeline.aggregation.base import Fitted, Votes, mean_vote

POWER = 3


class ConsistencyAggregation:
    """p_a = (1 + weighted mean vote) / 2."""

    needs_labels = False

    def fit_predict(self, votes: Votes, labelled: dict[str, float]) -> Fitted:
        """See Aggregation; labels are not looked at."""
        del labelled
        known = {judge: votes.consistency[judge] ** POWER for judge in votes.judges if judge in votes.consistency}
        usual = float(np.mean(list(known.values()))) if known else 1.0
        weights = {judge: known.get(judge, usual) for judge in votes.judges}
        if not any(weights.values()):
            weights = dict.fromkeys(votes.judges, 1.0)
        share = (1 + mean_vote(votes.votes, np.array([weights[judge] for judge in votes.judges]))) / 2
        return Fitted(share, share, weights)
