"""One judge, one vote. Pure. Not calibrated: the share of judges is no probability of a person's choice."""

from collections.abc import Mapping

import numpy as np

from pipeline.aggregation.base import Fitted, mean_vote
from pipeline.aggregation.votes import Votes
from pipeline.config import AggregateConfig


class MajorityAggregation:
    """p_a = (1 + mean of the signs of the votes) / 2."""

    needs_labels = False

    def __init__(self, options: AggregateConfig | None = None) -> None:
        del options

    def fit_predict(self, votes: Votes, labelled: Mapping[str, float]) -> Fitted:
        """See Aggregation; labels are not looked at."""
        del labelled
        share = (1 + mean_vote(np.sign(votes.votes))) / 2
        return Fitted(share, share, dict.fromkeys(votes.judges, 1.0))
