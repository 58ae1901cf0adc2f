"""Which call to make next, and when to stop asking about a pair: a panel that spends where it pays. Pure.

What is known of a pair's full-panel logit z after some calls is Gaussian (expectation.py): its mean is the logit with
the missing calls as expected, its variance what the missing calls of this pair, and of the other pairs of its prompt,
may still change. Two rules follow.

*Next call*: the one that removes most of that variance per dollar. In a Gaussian model this does not depend on what
was said, so the calls have one order, learned from the `fit` prompts, which the whole panel judges. A judge's reversed
order is a call of its own, and comes late where the judge answers alike in both.

*Stop* when the probability that the full panel would turn the verdict is below the tolerance. One call is looked ahead
with the residuals that were seen (a judge that flips on one pair in thirty is no Gaussian), the rest are Gaussian.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import scipy.special

from pipeline.aggregation.calibrated import COMMON_SCALE, Preference, fit
from pipeline.aggregation.consistency import prior_weights
from pipeline.aggregation.expectation import FEWEST_REFERENCES, CallModel, call_model, fully_judged, matrix, reference
from pipeline.aggregation.transitivity import leverage
from pipeline.aggregation.votes import Votes
from pipeline.arrays import Array, Integers, Mask

MOST_RESIDUALS = 200
CHUNK = 20_000
ERRORS_TOGETHER = 2.0
"""Judges err alike on pairs that share an answer, so what other pairs may still change varies more than if each erred
alone. The true factor lies between 1 and the number of a prompt's answers."""
SPECIAL: Any = scipy.special
Ask = Callable[[int, Integers], Array]
"""(column of a call, rows of pairs) -> their votes, NaN where the call failed."""


@dataclass(frozen=True)
class Spread:
    """What the calls that are still missing may change, after the first 0, 1, ... calls of the sequence."""

    direct: Array
    """(calls + 1,) variance of the pair's own logit, without what its vote does through its prompt's scores."""
    mixed: Array
    """(calls + 1,) covariance of that and of the pair's mean vote, in logits."""
    shared: Array
    """(calls + 1,) variance of the pair's mean vote, in logits."""


@dataclass(frozen=True)
class Policy:
    """The order of calls and the rule to stop."""

    calls: CallModel
    preference: Preference
    sequence: list[int]
    """Columns of the calls (pipeline.expectation.matrix), first to last."""
    spread: Spread
    slopes: Array
    """(calls, 2) change of the own logit, and of the mean vote in logits, per unit of surprise in each next call."""
    residuals: list[Array]
    """Per call of the sequence: how it surprised, given those before it, on the fully judged pairs."""

    def flip_probability(self, votes: Votes, made: Integers) -> Array:
        """(pairs,) probability that the full panel names the other answer.

        Args:
            votes: calls made so far; NaN where none was made or it failed.
            made: (pairs,) how many calls of the sequence each pair has had.
        """
        whole = self.calls.completed(votes)
        z = self.preference.neutral_logit(whole.votes, votes.answers) + self.preference.length_logit(votes.length)
        links = leverage(votes.answers)
        own = cast("Array", links.diagonal())
        links = links.copy()
        links.setdiag(0)
        others = ERRORS_TOGETHER * cast("Array", links.power(2) @ self.spread.shared[made])
        found = np.empty(len(z))
        for step in np.unique(made):
            for rows in _chunks(np.flatnonzero(made == step)):
                found[rows] = self._flips(int(step), z[rows], own[rows], others[rows])
        return found

    def _flips(self, step: int, z: Array, own: Array, others: Array) -> Array:
        if step == len(self.sequence):
            return _tail(np.abs(z), self._deviation(step, own, others))
        slope = self.slopes[step, 0] + own * self.slopes[step, 1]
        after = z[:, None] + slope[:, None] * self.residuals[step][None, :]
        deviation = self._deviation(step + 1, own, others)
        return _tail(np.sign(z)[:, None] * after, deviation[:, None]).mean(axis=1)

    def _deviation(self, step: int, own: Array, others: Array) -> Array:
        at = self.spread
        variance = at.direct[step] + 2 * own * at.mixed[step] + own**2 * at.shared[step] + others
        return np.sqrt(np.maximum(variance, 1e-12))


def judged(votes: Votes, policy: Policy, given: Integers, tolerance: float, ask: Ask) -> Votes:
    """*votes* with the calls that the policy makes: one a pair at least.

    Args:
        votes: calls made so far; NaN elsewhere.
        policy: order of calls and rule to stop.
        given: (pairs,) how many calls of the sequence each pair has had; all of them where it is to be left alone.
        tolerance: a pair is done when the full panel would name the other answer with less than this probability.
        ask: makes a call on some pairs.
    """
    known, made = matrix(votes), given.copy()
    for step in range(int(given.min()) if len(given) else 0, len(policy.sequence)):
        now = _with(votes, known)
        open_ = np.flatnonzero(made == step)
        # Length alone may leave no doubt, but a pair that nobody judged has no verdict.
        unheard = np.isnan(known[open_]).all(axis=1)
        doubtful = open_[unheard | (policy.flip_probability(now, made)[open_] >= tolerance)]
        if len(doubtful):
            known[doubtful, policy.sequence[step]] = ask(policy.sequence[step], doubtful)
            made[doubtful] = step + 1
    return _with(votes, known)


def _with(votes: Votes, calls: Array) -> Votes:
    ab, ba = np.hsplit(calls, 2)
    return replace(votes, ab=ab, ba=ba)


def learn(
    votes: Votes, labelled: Mapping[str, float], price: Array, given: Mask | None = None, *, learn_length: bool = True
) -> Policy | None:
    """The policy for a panel, or None when fewer than 30 pairs were fully judged.

    Args:
        votes: every pair of the run; the pairs that the whole panel has judged tell how calls go together.
        labelled: pair_id -> people's mean preference for a in [0, 1].
        price: (judges,) US$ of one call of each judge; equal prices only count calls.
        given: (calls,) calls that every pair has already, whatever they say; they stand first in the sequence.
        learn_length: as the aggregation will.
    """
    if fully_judged(votes).sum() < FEWEST_REFERENCES:
        return None
    seen = reference(votes)
    calls = call_model(seen)
    preference = fit(calls.completed(votes), labelled, prior_weights(seen), learn_length=learn_length)
    orders = calls.used.reshape(2, -1).sum(axis=0)
    per_call = np.tile(1 / np.maximum(orders, 1), 2) * calls.used
    direct = np.tile(preference.direct, 2) * per_call
    shared = np.tile(COMMON_SCALE * preference.transitive * preference.prior, 2) * per_call
    typical = float(np.median(cast("Array", leverage(votes.answers).diagonal())))
    first = np.zeros(len(direct), dtype=bool) if given is None else given & calls.used
    sequence, left = _sequence(calls, direct + typical * shared, np.tile(price, 2), first)
    spread = Spread(
        np.array([direct @ s @ direct for s in left]),
        np.array([direct @ s @ shared for s in left]),
        np.array([shared @ s @ shared for s in left]),
    )
    slopes = np.array([_slopes(s, call, direct, shared) for s, call in zip(left, sequence, strict=False)])
    return Policy(calls, preference, sequence, spread, slopes, _residuals(calls, matrix(seen), sequence))


def _slopes(left: Array, call: int, direct: Array, shared: Array) -> tuple[float, float]:
    return float(left[call] @ direct / left[call, call]), float(left[call] @ shared / left[call, call])


def _sequence(calls: CallModel, weight: Array, price: Array, first: Mask) -> tuple[list[int], list[Array]]:
    """(order of the calls, covariance that is left before each and after the last)."""
    cost = np.maximum(price, max(float(price.max()), 1e-12) / 100)
    todo = [int(call) for call in np.flatnonzero(calls.used)]
    left = [calls.covariance]
    sequence: list[int] = []
    while todo:
        now = left[-1]
        removed = {call: (now[call] @ weight) ** 2 / now[call, call] / cost[call] for call in todo}
        best = max(todo, key=lambda call: (first[call], removed[call], -call))
        todo.remove(best)
        sequence.append(best)
        rest: Array = now - np.multiply.outer(now[:, best], now[best]) / now[best, best]
        # What is known has no variance; rounding must not make it negative.
        np.fill_diagonal(rest, np.maximum(np.diag(rest), 1e-9))
        left.append(rest)
    return sequence, left


def _residuals(calls: CallModel, seen: Array, sequence: list[int]) -> list[Array]:
    found: list[Array] = []
    for step, call in enumerate(sequence):
        before = np.full_like(seen, np.nan)
        before[:, sequence[:step]] = seen[:, sequence[:step]]
        surprise = (seen - calls.expected(before))[:, call]
        surprise = np.sort(surprise[~np.isnan(surprise)])
        thinned = surprise[:: max(1, -(-len(surprise) // MOST_RESIDUALS))]
        found.append(thinned if len(thinned) else np.zeros(1))
    return found


def _tail(distance: Array, deviation: Array) -> Array:
    return cast("Array", SPECIAL.ndtr(-distance / deviation))


def _chunks(rows: Integers) -> list[Integers]:
    return [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
