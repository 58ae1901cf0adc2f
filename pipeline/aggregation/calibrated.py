"""A logistic model of what people prefer given the votes, fitted on the `fit` labels. Pure.

    logit P(a) = 3 c m + 3 t s + sum_f g_f m_f + sum_j w_j v_j + l z,          no intercept

v_j is judge j's mean vote over its two orders, m the mean of the v_j weighted as without labels (consistency.py), s
what the prompt's other pairs make of m (transitivity.py), m_f the mean of the judges that share a model (its prompt
modes are correlated members), z the log length ratio in units of its root mean square, cut at 3. Calls that are missing
count as expected from those that are there (expectation.py). Every term changes sign when a and b are swapped, so the
model is antisymmetric. p_a_lc is the same model with z = 0.

The fit minimises log loss on people's mean preference (ties and split votes are soft labels) plus sum(ridge w^2) / 2:
.05 on c, .3 on t, .1 on l, and one ridge of 1.5, 3, 6 or 12 on every g_f and w_j, so that judges are shrunk towards the
weights they have without labels. The coefficients are averaged over that choice by its Laplace evidence (MacKay 1992).
Labels of one prompt are not independent: a prompt's n labels weigh n / (1 + .4 (n - 1)) (Kish's design effect).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import polars as pl
import scipy.optimize
import scipy.special

from pipeline.aggregation.base import Fitted, mean_vote
from pipeline.aggregation.consistency import prior_weights
from pipeline.aggregation.expectation import call_model, reference
from pipeline.aggregation.transitivity import smoothed
from pipeline.aggregation.votes import Votes
from pipeline.arrays import Array, Integers, in_blocks, numbered
from pipeline.config import AggregateConfig
from pipeline.frames import LONGEST_RATIO

COMMON_SCALE = 3.0
RIDGE_COMMON, RIDGE_TRANSITIVE, RIDGE_LENGTH = 0.05, 0.3, 0.1
RIDGES_JUDGE = (1.5, 3.0, 6.0, 12.0)
INTRACLASS = 0.4
"""Correlation of the labels of one prompt that the design effect assumes."""
OPTIMIZE: Any = scipy.optimize
SPECIAL: Any = scipy.special


@dataclass(frozen=True)
class Common:
    """What the judges say together."""

    mean: Array
    """(pairs,) m."""
    indirect: Array
    """(pairs,) s."""

    @classmethod
    def of(cls, vote: Array, answers: Integers, prior: Array) -> "Common":
        """From (pairs, judges) mean votes, (pairs, 2) numbers of the answers and (judges,) weights."""
        mean = mean_vote(vote, prior)
        return cls(mean, smoothed(mean, answers))


@dataclass(frozen=True)
class Preference:
    """The fitted model; everything linear, so that every verdict can be explained by hand."""

    prior: Array
    """(judges,) weights of the mean m; they add up to 1."""
    common: float
    """c."""
    transitive: float
    """t."""
    own: Array
    """(judges,) w_j, the share of g_f included."""
    length: float
    """l; 0 when length is not learned."""
    length_scale: float
    """Root mean square of the log length ratio."""

    @property
    def direct(self) -> Array:
        """(judges,) change of the logit per unit of a judge's vote on the pair itself."""
        return COMMON_SCALE * self.common * self.prior + self.own

    def neutral_logit(self, vote: Array, answers: Integers, common: Common | None = None) -> Array:
        """(pairs,) logit of P(a) with z = 0.

        Args:
            vote: (pairs, judges) mean votes, missing calls filled as expected.
            answers: (pairs, 2) numbers of the answers.
            common: of these votes under ``prior``, where it is known already.
        """
        said = common or Common.of(vote, answers, self.prior)
        logit = np.empty(len(vote))

        def weighed(at: slice) -> None:
            logit[at] = COMMON_SCALE * (self.common * said.mean[at] + self.transitive * said.indirect[at])
            # Judge by judge, so that the last digit hangs on no other row.
            for one, weight in zip(vote[at].T, self.own, strict=True):
                logit[at] += weight * np.nan_to_num(one)

        in_blocks(len(vote), weighed)
        return logit

    def length_logit(self, length: Array) -> Array:
        """(pairs,) what the length adds to the logit."""
        return self.length * standard_length(length, self.length_scale)


class CalibratedAggregation:
    """Learned weights, transitivity and length."""

    needs_labels = True

    def __init__(self, options: AggregateConfig | None = None) -> None:
        self.learn_length = options is None or options.learn_length

    def fit_predict(self, votes: Votes, labelled: Mapping[str, float]) -> Fitted:
        """See Aggregation.

        Raises:
            ValueError: no pair is labelled.
        """
        seen = reference(votes)
        whole = call_model(seen).completed(votes)
        prior = prior_weights(seen)
        common = Common.of(whole.votes, votes.answers, prior)
        found = fit(whole, labelled, prior, learn_length=self.learn_length, common=common)
        neutral = found.neutral_logit(whole.votes, votes.answers, common)
        p_a, p_a_lc = np.empty_like(neutral), np.empty_like(neutral)

        def predicted(at: slice) -> None:
            p_a[at] = SPECIAL.expit(neutral[at] + found.length_logit(votes.length[at]))
            p_a_lc[at] = SPECIAL.expit(neutral[at])

        in_blocks(len(neutral), predicted)
        return Fitted(
            p_a=p_a,
            p_a_lc=p_a_lc,
            weights={judge: float(weight) for judge, weight in zip(votes.judges, found.direct, strict=True)},
            parameters={"length": found.length, "common": found.common, "transitivity": found.transitive},
        )


def fit(
    votes: Votes,
    labelled: Mapping[str, float],
    prior: Array,
    *,
    learn_length: bool = True,
    common: Common | None = None,
) -> Preference:
    """The model of people's preference.

    Args:
        votes: votes on every pair, missing calls filled as expected.
        labelled: pair_id -> people's mean preference for a in [0, 1].
        prior: (judges,) what each judge weighs without labels, positive.
        learn_length: whether people's preference for longer or shorter answers is learned.
        common: of these votes under *prior*, where it is known already.

    Raises:
        ValueError: no pair is labelled.
    """
    rows = votes.rows(list(labelled))
    told = np.array(list(labelled.values()), dtype=np.float64)[rows >= 0]
    rows = rows[rows >= 0]
    if not len(rows):
        raise ValueError("the calibrated aggregation needs labelled pairs")
    # The order of the labels must not show in the last digit.
    told, rows = told[np.argsort(rows)], np.sort(rows)
    said = common or Common.of(votes.votes, votes.answers, prior)
    kinship = _kinship(votes)
    own = np.nan_to_num(votes.votes[rows])
    scale = float(np.sqrt(np.mean(votes.length**2))) or 1.0
    z = standard_length(votes.length[rows], scale)[:, None] if learn_length else np.empty((len(rows), 0))
    features = np.hstack(
        [COMMON_SCALE * np.column_stack([said.mean[rows], said.indirect[rows]]), own @ kinship, own, z]
    )
    of_judges = kinship.shape[1] + own.shape[1]
    fixed = [RIDGE_LENGTH] * z.shape[1]
    ridges = [np.array([RIDGE_COMMON, RIDGE_TRANSITIVE, *[each] * of_judges, *fixed]) for each in RIDGES_JUDGE]
    weight = _design_weights(votes.prompt_ids.gather(rows))
    fits = [fit_logistic(features, told, ridge, weight) for ridge in ridges]
    evidence = np.array([one.log_evidence for one in fits])
    share = np.exp(evidence - evidence.max())
    averaged = (share / share.sum()) @ np.array([one.coefficients for one in fits])
    groups = averaged[2 : 2 + kinship.shape[1]]
    return Preference(
        prior=prior / prior.sum(),
        common=float(averaged[0]),
        transitive=float(averaged[1]),
        own=averaged[2 + kinship.shape[1] : 2 + of_judges] + kinship @ groups,
        length=float(averaged[-1]) if learn_length else 0.0,
        length_scale=scale,
    )


def standard_length(length: Array, scale: float) -> Array:
    """z: the log length ratio in units of *scale*, cut at LONGEST_RATIO."""
    return np.clip(length / scale, -LONGEST_RATIO, LONGEST_RATIO)


@dataclass(frozen=True)
class LogisticFit:
    """Coefficients and how well their ridge explains the labels."""

    coefficients: Array
    """(features,)"""
    log_evidence: float
    """Laplace's approximation of log P(labels | ridge), up to a constant."""


def fit_logistic(features: Array, target: Array, ridge: Array, weight: Array | None = None) -> LogisticFit:
    """Coefficients that minimise weighted log loss on soft targets plus sum(ridge * w^2) / 2, no intercept.

    Args:
        features: (n, d).
        target: (n,) in [0, 1].
        ridge: (d,) positive.
        weight: (n,) of each row; 1 when None.
    """
    row = np.ones(len(target)) if weight is None else weight

    def loss(w: Array) -> float:
        logit = features @ w
        return float(row @ (np.logaddexp(0, logit) - target * logit) + ridge @ w**2 / 2)

    def gradient(w: Array) -> Array:
        return features.T @ (row * (SPECIAL.expit(features @ w) - target)) + ridge * w

    def hessian(w: Array) -> Array:
        p = SPECIAL.expit(features @ w)
        return (features.T * (row * p * (1 - p))) @ features + np.diag(ridge)

    start = np.zeros(features.shape[1])
    found = OPTIMIZE.minimize(
        loss, start, jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-7, "maxiter": 500}
    )
    w = cast("Array", found.x)
    log_determinant = float(np.linalg.slogdet(hessian(w))[1])
    return LogisticFit(w, -loss(w) + (np.log(ridge).sum() - log_determinant) / 2)


def _design_weights(prompts: pl.Series) -> Array:
    """(n,) weight of each label: its prompt's labels together count as many as are independent of each other."""
    _, prompt, count = np.unique(numbered(prompts), return_inverse=True, return_counts=True)
    return 1 / (1 + INTRACLASS * (count[prompt] - 1))


def _kinship(votes: Votes) -> Array:
    """(judges, families) averaging matrix of judges that share a model; no column where none do, or all do."""
    models = [votes.models.get(judge, judge.partition("/")[0]) for judge in votes.judges]
    shared = sorted({model for model in models if 1 < models.count(model) < len(models)})
    kin = np.array([[float(model == one) for one in shared] for model in models]).reshape(len(models), len(shared))
    return kin / np.maximum(kin.sum(axis=0), 1)
