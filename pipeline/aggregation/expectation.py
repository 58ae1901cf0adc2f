"""What a judge would have said, from what the others did: a Gaussian model of a panel's calls. Pure.

A call is one judge in one order. Over pairs, the calls have a mean (their position bias) and a covariance (who errs
with whom). Given the calls that were made on a pair, the expected value of one that was not is the linear regression
    E[x_m | x_o] = mu_m + S_mo S_oo^-1 (x_o - mu_o),
so a missing verdict is neither a tie nor the mean of the others, and a judge that named the slot it always names has
said little. Exchanging the names a and b turns x_ab into -x_ba; the model has that symmetry exactly.
"""

from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from pipeline.aggregation.votes import Votes, swap_consistency
from pipeline.arrays import Array, Mask

MOST_ROWS = 20_000
"""Pairs the moments are taken from. Ids are hashes, so the first rows are a random draw."""
PRIOR_ROWS = 4.0
"""Weight of independent calls, in pairs: the covariance is shrunk towards its diagonal (Ledoit & Wolf 2004)."""
FEWEST_REFERENCES = 30
FEWEST_TOGETHER = 10
"""Pairs judged in both orders without which one order says nothing of the other."""


@dataclass(frozen=True)
class CallModel:
    """Moments of the calls; columns are the judges' calls in order ab, then the judges' in order ba."""

    mean: Array
    """(calls,)"""
    covariance: Array
    """(calls, calls) positive definite."""
    used: Mask
    """(calls,) calls that were ever made."""
    together: Mask
    """(judges,) judges whose two orders were seen on the same pairs."""

    def expected(self, calls: Array) -> Array:
        """*calls* (pairs, calls) with every NaN of a used call replaced by its expectation."""
        filled = calls.copy()
        unknown = np.isnan(calls) & self.used
        if not unknown.any():
            return filled
        patterns, of = np.unique(np.isnan(calls), axis=0, return_inverse=True)
        for number, absent in enumerate(patterns):
            rows, missing, seen = of.ravel() == number, absent & self.used, ~absent
            if missing.any():
                change = (calls[np.ix_(rows, seen)] - self.mean[seen]) @ self.regression(seen, missing)
                filled[np.ix_(rows, missing)] = self.mean[missing] + change
        return filled

    def regression(self, seen: Mask, missing: Mask) -> Array:
        """(seen, missing) slopes of the missing calls on the seen ones."""
        return cast(
            "Array", np.linalg.solve(self.covariance[np.ix_(seen, seen)], self.covariance[np.ix_(seen, missing)])
        )

    def completed(self, votes: Votes) -> Votes:
        """*votes* with the calls that were not made, or failed, as expected.

        The second order of a judge that was never seen in both orders of one pair stays missing where the first is
        there: nothing is known of how they go together.
        """
        if votes.complete:
            return votes
        calls = matrix(votes)
        if not (np.isnan(calls) & self.used).any():
            return votes
        filled = self.expected(calls)
        ab, ba = np.hsplit(filled, 2)
        alone = ~self.together & (np.isnan(votes.ab) != np.isnan(votes.ba))
        return replace(votes, ab=np.where(alone, votes.ab, ab), ba=np.where(alone, votes.ba, ba))


def matrix(votes: Votes) -> Array:
    """(pairs, calls) the votes of every judge in order ab, then in order ba."""
    return np.hstack([votes.ab, votes.ba])


def fully_judged(votes: Votes) -> Mask:
    """(pairs,) whether every call that was ever made was made, and answered, on the pair."""
    if votes.complete:
        return np.ones(len(votes.pair_ids), dtype=bool)
    missing = np.isnan(matrix(votes))
    return np.asarray(~missing[:, ~missing.all(axis=0)].any(axis=1))


def reference(votes: Votes) -> Votes:
    """The pairs that the whole panel has judged, from which one learns how calls go together.

    Where an adaptive panel stopped early, the pairs with more calls are the doubtful ones and would mislead. With fewer
    than 30 fully judged pairs it is all pairs.
    """
    full = np.flatnonzero(fully_judged(votes))[:MOST_ROWS]
    if len(full) < FEWEST_REFERENCES:
        return votes
    chosen = votes.at(full)
    return replace(chosen, consistency=swap_consistency(chosen.judges, chosen.ab, chosen.ba))


def call_model(votes: Votes) -> CallModel:
    """The moments of a panel's calls, from pairs whose calls may be missing in any pattern (see reference)."""
    calls = matrix(votes.at(np.arange(min(len(votes.pair_ids), MOST_ROWS))))
    judges = len(votes.judges)
    used: Mask = np.asarray(~np.isnan(calls).all(axis=0))
    both = (~np.isnan(votes.ab) & ~np.isnan(votes.ba)).sum(axis=0) >= FEWEST_TOGETHER
    mirrored = np.roll(-calls, judges, axis=1)
    rows = np.vstack([calls, mirrored])
    there = ~np.isnan(rows)
    count = there.sum(axis=0)
    mean = np.divide(np.nansum(rows, axis=0), count, out=np.zeros(2 * judges), where=count > 0)
    deviation = np.where(there, rows - mean, 0.0)
    pairs = there.T.astype(np.float64) @ there
    covariance = (deviation.T @ deviation) / np.maximum(pairs, 1)
    # As many rows as the pair of calls has in common speak for its covariance.
    trust = pairs / 2 / (pairs / 2 + PRIOR_ROWS)
    variance = np.diag(covariance).copy()
    shrunk = trust * covariance
    np.fill_diagonal(shrunk, variance)
    return CallModel(mean, _positive(shrunk), used, both)


def _positive(covariance: Array) -> Array:
    """The covariance with its eigenvalues raised to a thousandth of the mean variance: gaps may leave it indefinite."""
    least = 1e-3 * (np.trace(covariance) / max(len(covariance), 1) + 1e-3)
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.maximum(values, least)) @ vectors.T
