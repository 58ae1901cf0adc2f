"""Aggregation: the sign of the mean vote, said with confidence. Pure."""

from collections.abc import Mapping

import numpy as np

from pipeline.aggregation.base import Fitted, mean_vote
from pipeline.aggregation.votes import Votes
from pipeline.config import AggregateConfig


class BoldestAggregation:
    """p_a is 0.99, 0.5 or 0.01."""

    needs_labels = False

    def __init__(self, options: AggregateConfig | None = None) -> None:
        del options

    def fit_predict(self, votes: Votes, labelled: Mapping[str, float]) -> Fitted:
        """See Aggregation; labels are not looked at."""
        del labelled
        p_a = 0.5 + 0.49 * np.sign(mean_vote(votes.votes))
        return Fitted(p_a, p_a, dict.fromkeys(votes.judges, 1.0))
