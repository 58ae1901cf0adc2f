"""A logistic model of what people prefer given the votes, fitted on the `fit` labels. Pure.

    logit P(a) = c * 3 * mean vote + sum_j w_j * vote_j + l * length,     no intercept

Every term changes sign when a and b are swapped, so the model is antisymmetric exactly. Ridge penalties shrink it
towards equal weights: .05 on the common slope c, 3 on each judge's own w_j, 1 on the length l. Ties and split
votes of people are soft labels. A missing vote leaves the mean to the others and adds nothing of its own.
p_a_lc is the same model with length = 0.
"""

from typing import Any, cast

import numpy as np
from sklearn.linear_model import LogisticRegression

from pipeline.aggregation.base import Array, Fitted, Votes, mean_vote

COMMON_SCALE = 3.0
RIDGE_COMMON, RIDGE_JUDGE, RIDGE_LENGTH = 0.05, 3.0, 1.0
LONGEST_RATIO = 3.0
"""abs(log length ratio) is cut here, so that an empty-looking answer cannot decide alone."""


class CalibratedAggregation:
    """The ridge stack, with length."""

    needs_labels = True

    def fit_predict(self, votes: Votes, labelled: dict[str, float]) -> Fitted:
        """See Aggregation.

        Raises:
            ValueError: no pair is labelled.
        """
        at = [row for row, key in enumerate(votes.pair_ids) if key in labelled]
        if not at:
            raise ValueError("the calibrated aggregation needs labelled pairs")
        features = self._features(votes)
        ridge = np.array([RIDGE_COMMON, *[RIDGE_JUDGE] * len(votes.judges), RIDGE_LENGTH])
        weights = fit_logistic(features[at], np.array([labelled[votes.pair_ids[row]] for row in at]), ridge)
        neutral = features.copy()
        neutral[:, -1] = 0
        common, own = weights[0] * COMMON_SCALE / max(len(votes.judges), 1), weights[1:-1]
        return Fitted(
            p_a=_logistic(features @ weights),
            p_a_lc=_logistic(neutral @ weights),
            weights={judge: float(common + own[column]) for column, judge in enumerate(votes.judges)},
            parameters={"length": float(weights[-1]), "common": float(weights[0])},
        )

    def _features(self, votes: Votes) -> Array:
        return np.column_stack(
            [
                COMMON_SCALE * mean_vote(votes.votes),
                np.nan_to_num(votes.votes),
                np.clip(votes.length, -LONGEST_RATIO, LONGEST_RATIO),
            ]
        )


def fit_logistic(features: Array, target: Array, ridge: Array) -> Array:
    """Weights that minimise log loss on soft targets plus sum(ridge * w^2) / 2, no intercept.

    Args:
        features: (n, d).
        target: (n,) in [0, 1].
        ridge: (d,) positive.
    """
    scale = 1 / np.sqrt(ridge)
    doubled = np.vstack([features * scale, features * scale])
    outcome = np.repeat([1, 0], len(target))
    share = np.concatenate([target, 1 - target])
    present = share > 0
    # Both classes must be there; mirrored rows of no weight in doubt change nothing, for the model is odd.
    mirrored = np.vstack([doubled[present], -doubled[present]])
    outcomes = np.concatenate([outcome[present], 1 - outcome[present]])
    model: Any = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-8, max_iter=1000)
    model.fit(mirrored, outcomes, sample_weight=np.concatenate([share[present], share[present]]) / 2)
    return cast("Array", model.coef_[0]) * scale


def _logistic(logit: Array) -> Array:
    return 1 / (1 + np.exp(-np.clip(logit, -700, 700)))
