"""Intervals: when whole prompts are drawn, and of a rate. Pure.

A statistic here is a function of sums: one row of numbers a prompt, added up. Drawing prompts with replacement is then
a product of multinomial counts with those rows, whatever the number of judgments behind them.
"""

import math
from functools import lru_cache

import numpy as np

from pipeline import ids
from pipeline.arrays import Array, Integers

RESAMPLES = 2000
LEVEL = 0.95
Z = 1.959963984540054
"""97.5 % quantile of the normal distribution: intervals are 95 %."""
MOST_BLOCKS = 500
"""More prompts than this are dealt out to so many blocks, and blocks are drawn. Blocks are as independent as the
prompts in them, so the interval holds; its width is known from 500 blocks to within about 3 %."""


def blocks_of(prompt: Integers) -> Integers:
    """(rows,) number of each row's block: its prompt, or one of MOST_BLOCKS where there are more prompts.

    Args:
        prompt: (rows,) number of each row's prompt, at least 0. Numbers follow the sorted prompt ids, which are hashes,
            so that dealing them out in turn is a random deal that no row order changes.
    """
    # Numbered anew without gaps, in order.
    number = np.cumsum(np.bincount(prompt) > 0) - 1
    return number[prompt] % MOST_BLOCKS


def distinct(prompt: Integers) -> int:
    """How many different prompts there are among (rows,) numbers."""
    return int(np.count_nonzero(np.bincount(prompt)))


def prompt_sums(prompt: Integers, columns: Array) -> Array:
    """(blocks, d) sums of (rows, d) *columns*, prompts as in :func:`blocks_of`."""
    block = blocks_of(prompt)
    return np.stack([np.bincount(block, column).astype(np.float64) for column in columns.T], axis=1)


def resampled(sums: Array, seed: int) -> Array:
    """(RESAMPLES, d) totals of (blocks, d) *sums*, blocks drawn with replacement; the same draws for the same seed."""
    return _counts(len(sums), seed) @ sums


def interval(draws: Array) -> tuple[float, float]:
    """Percentile interval (Efron 1979; whole clusters: Field & Welsh 2007) of (RESAMPLES,) *draws* at LEVEL.

    Draws in which the statistic is undefined (NaN) are left out; (NaN, NaN) when that is more than half of them.
    """
    defined = draws[~np.isnan(draws)]
    if 2 * len(defined) < len(draws):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def ratio(over: Array, under: Array) -> Array:
    """The quotient over / under; NaN where *under* is 0 (to rounding)."""
    safe = np.abs(under) > 1e-12  # noqa: PLR2004  sums of at most 1e6 terms of order 1
    return np.divide(over, under, out=np.full(np.broadcast(over, under).shape, np.nan), where=safe)


def wilson(rate: float, n: float) -> tuple[float, float]:
    """Wilson's (1927) 95 % interval of a rate; where all *n* draws agree a bootstrap would have no width.

    Args:
        rate: in [0, 1].
        n: draws, or as many as they are worth: more than 0, not always whole.
    """
    centre = (rate + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(rate * (1 - rate) / n + Z * Z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def difference_interval(
    first: tuple[float, float, float], second: tuple[float, float, float]
) -> tuple[float, float, float]:
    """The difference first - second with an interval made from theirs: the method of variance estimates recovery.

    low = d - sqrt((v1 - l1)^2 + (u2 - v2)^2), high = d + sqrt((u1 - v1)^2 + (v2 - l2)^2) (Zou & Donner 2008; for two
    Wilson intervals it is Newcombe's 1998). Meant for independent samples; wider than it need be where they overlap.

    Args:
        first: (value, low, high).
        second: the same.
    """
    (v1, l1, u1), (v2, l2, u2) = first, second
    d = v1 - v2
    return d, d - float(np.hypot(v1 - l1, u2 - v2)), d + float(np.hypot(u1 - v1, v2 - l2))


@lru_cache(maxsize=8)
def _counts(blocks: int, seed: int) -> Array:
    """(RESAMPLES, blocks) how often each block is drawn."""
    rng = np.random.default_rng(ids.seed_from(seed, "bootstrap", blocks))
    return rng.multinomial(blocks, np.full(blocks, 1 / blocks), RESAMPLES).astype(np.float64)
