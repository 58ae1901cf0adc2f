"""What aggregations speak. Pure. A kind is one file in this folder that defines ``<Kind>Aggregation``."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from pipeline.aggregation.votes import Votes
from pipeline.arrays import Array, in_blocks
from pipeline.config import AggregateConfig


@dataclass(frozen=True)
class Fitted:
    """What an aggregation says of every pair."""

    p_a: Array
    """(pairs,) P(a person prefers a), people as they are."""
    p_a_lc: Array
    """(pairs,) the same with the length difference held at zero."""
    weights: dict[str, float]
    """What each judge counts, for the report; the unit is the method's."""
    parameters: dict[str, float] = field(default_factory=dict[str, float])


class Aggregation(Protocol):
    """Turns votes into probabilities."""

    needs_labels: bool

    def __init__(self, options: AggregateConfig | None = None) -> None:
        """*options* are the config's; None for the defaults."""
        ...

    def fit_predict(self, votes: Votes, labelled: Mapping[str, float]) -> Fitted:
        """Probabilities for every pair.

        Args:
            votes: votes on every pair.
            labelled: pair_id -> people's mean preference for a in [0, 1], `fit` labels only.
        """
        ...


class Unlabelled(ABC):
    """An :class:`Aggregation` that looks at no label."""

    needs_labels = False

    def __init__(self, options: AggregateConfig | None = None) -> None:
        self.options = options or AggregateConfig()

    def fit_predict(self, votes: Votes, _labelled: Mapping[str, float]) -> Fitted:
        """See Aggregation."""
        return self.predict(votes)

    @abstractmethod
    def predict(self, votes: Votes) -> Fitted:
        """Probabilities for every pair."""


def mean_vote(votes: Array, weights: Array | None = None) -> Array:
    """Weighted mean over the judges that voted; 0 where none did."""
    used = np.ones(votes.shape[1]) if weights is None else weights
    mean = np.empty(len(votes))

    def weighed(at: slice) -> None:
        told, total = np.zeros(at.stop - at.start), np.zeros(at.stop - at.start)
        # Judge by judge, so that the last digit hangs on no other row.
        for vote, weight in zip(votes[at].T, used, strict=True):
            there = ~np.isnan(vote)
            told += np.where(there, vote, 0.0) * weight
            total += there * weight
        mean[at] = np.divide(told, total, out=np.zeros(len(told)), where=total > 0)

    in_blocks(len(votes), weighed)
    return mean
