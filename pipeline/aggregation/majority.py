"""One judge, one vote. Pure. Not calibrated: the share of judges is no probability of a person's choice."""

import numpy as np

from pipeline.aggregation.base import Fitted, Unlabelled, mean_vote
from pipeline.aggregation.votes import Votes


class MajorityAggregation(Unlabelled):
    """p_a = (1 + mean of the signs of the votes) / 2."""

    def predict(self, votes: Votes) -> Fitted:
        """See Unlabelled."""
        share = (1 + mean_vote(np.sign(votes.votes))) / 2
        return Fitted(share, share, dict.fromkeys(votes.judges, 1.0))
