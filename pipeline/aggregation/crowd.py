"""The classical label models for crowds, by crowd-kit, on the votes of a panel. Pure.

Each judge is a worker and each pair a task, labelled with the side of the judge's mean vote; a tied vote is no label.
Every pair is given twice, the second time with a and b exchanged and every vote turned, and the two answers are
averaged: so the names a and b mean nothing, which these models do not know by themselves. Judges that share a bias look
alike and EM converges on what they share, so these are for comparison: the result is not validated against people.
"""

import warnings
from typing import Any, ClassVar

import numpy as np

from pipeline.aggregation.base import Fitted, Unlabelled
from pipeline.aggregation.votes import Votes
from pipeline.arrays import Array
from pipeline.errors import ConfigError

ITERATIONS = 100


class CrowdKit(Unlabelled):
    """An aggregation by one of crowd-kit's models."""

    model: ClassVar[str]
    """Its class in ``crowdkit.aggregation``."""
    skill: ClassVar[str]
    """What it calls the number that it has for each judge."""
    settings: ClassVar[dict[str, Any]] = {}
    """Arguments of the class beside the number of iterations."""

    def predict(self, votes: Votes) -> Fitted:
        """See Unlabelled."""
        model = getattr(crowd_kit(), self.model)(n_iter=ITERATIONS, **self.settings)
        return fitted(model, votes, self.skill)


def crowd_kit() -> Any:
    """The module ``crowdkit.aggregation``.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import crowdkit.aggregation  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise ConfigError(
            "this aggregation needs the package crowd-kit, which is not installed; run pip install 'jurybox[crowd]', "
            "or set aggregate.method to calibrated, consistency or majority"
        ) from error
    return crowdkit.aggregation


def probabilities(model: Any, votes: Votes) -> Array:
    """(pairs,) P(a is the true label) by a crowd-kit *model*; one half where no judge took a side."""
    import pandas as pd

    side = np.nan_to_num(np.sign(votes.votes))
    task, worker = np.nonzero(side)
    label = side[task, worker] > 0
    if not len(task):
        return np.full(len(votes.pair_ids), 1 / 2)
    data = pd.DataFrame(
        {
            "task": np.concatenate([task, len(side) + task]),
            "worker": np.concatenate([worker, worker]),
            "label": np.where(np.concatenate([label, ~label]), "a", "b"),
        }
    )
    with warnings.catch_warnings():
        # crowd-kit calls pandas in ways that pandas will end; its version is bounded.
        warnings.simplefilter("ignore", DeprecationWarning)
        found = model.fit_predict_proba(data)
    p = found["a"].reindex(range(2 * len(side))).fillna(1 / 2).to_numpy(dtype=np.float64)
    return (p[: len(side)] + 1 - p[len(side) :]) / 2


def fitted(model: Any, votes: Votes, skill: str) -> Fitted:
    """What *model* says; a judge's weight is what the model calls its *skill*, where it has one number for it."""
    p = probabilities(model, votes)
    known: dict[int, float] = dict(getattr(model, skill)) if hasattr(model, skill) else {}
    return Fitted(p, p, {judge: float(known.get(at, 1.0)) for at, judge in enumerate(votes.judges)})
