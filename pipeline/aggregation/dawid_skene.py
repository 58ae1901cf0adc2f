"""Dawid & Skene 1979: every judge has a confusion matrix, every pair a true label, by EM. Pure. Needs no labels.

Through crowd-kit (pipeline/aggregation/crowd.py). Judges that share a bias look alike and EM converges on what they
share, so this is for comparison: the result is not validated against people.
"""

from collections.abc import Mapping

from pipeline.aggregation.base import Fitted
from pipeline.aggregation.crowd import crowd_kit, fitted
from pipeline.aggregation.votes import Votes
from pipeline.config import AggregateConfig


class DawidSkeneAggregation:
    """p_a = posterior of the label a."""

    needs_labels = False

    def __init__(self, options: AggregateConfig | None = None) -> None:
        del options

    def fit_predict(self, votes: Votes, labelled: Mapping[str, float]) -> Fitted:
        """See Aggregation; labels are not looked at."""
        del labelled
        return fitted(crowd_kit().DawidSkene(n_iter=100), votes, "skills_")
