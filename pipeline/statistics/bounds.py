"""Is an agreement above a target? Tests and bounds that hold in finite samples, at any agreement. Pure.

Outcomes are in [0, 1], one per unit drawn at random: the share of people on the verdict's side, a tie one half.

*exact*, for one label a unit (outcomes 0, 1/2, 1): P(sum of n draws >= what was seen) when the mean is the target t, at
its largest over the unknown share q of ties: draws are 1 with probability t - q/2, 1/2 with q, else 0. Without half
outcomes the worst q is 0, and this is the binomial test and its bound Clopper & Pearson's (1934).

*drawn*, for a few labels a unit: one label of each unit is drawn and the exact test applied, a hundred times; twice the
mean of such p-values is one, whatever their dependence (Ruschendorf 1982). No single draw's luck decides.

*betting*, for many labels a unit, and for weights: the mean of prod(1 + b w (x - t)) over a grid of bets b is at least
1/p with probability at most p, by Ville's inequality (Waudby-Smith & Ramdas 2024). The bets are those that are best
when the agreement is m, for m spread evenly between target and 1; no bet can lose more than is staked.

*power* is the probability with which the exact test passes at a given truth, *needed* its inverse.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal, cast

import numpy as np
import scipy.stats

from pipeline.arrays import Array

Kind = Literal["exact", "drawn", "betting"]
STATISTICS: Any = scipy.stats
TIE_SHARES, DRAWS, BETS = 61, 100, 200
BISECTIONS = 20
LIKELY = 0.5
"""Above this agreement the bound at a small delta lies far enough below the mean for ties not to matter."""
PRICE: dict[Kind, float] = {"exact": 1.0, "drawn": 2.0, "betting": 4.0}
"""The exact test at delta over this asks for about as much; `betting` by trial at 20 to 100 units."""
POWER = 0.8
MOST_LABELS, BLOCK = 20_000, 500


@dataclass(frozen=True)
class Outcomes:
    """What people said of the audited units."""

    value: Array
    """(units,) share of people on the verdict's side, a tie one half."""
    strict: Array
    """(units,) the same, a tie counting nothing."""
    weight: Array
    """(units,) one over the probability with which the unit was drawn, up to a factor; unequal only for `betting`."""
    kind: Kind
    """The test; it must follow from how the labels were drawn, never from what they say."""

    def p_value(self, target: float) -> float:
        """Probability, at most, of outcomes as high as these when the mean agreement is *target* or less."""
        if not len(self.value):
            return 1.0
        if self.kind == "betting":
            return self._betting(target)
        if self.kind == "drawn":
            wins, share = self._wins
            tails: Array = STATISTICS.binom.sf(wins - 1, len(self.value), target)
            return float(min(1.0, 2 * float(share @ tails)))
        return exact_p_value(round(2 * float(self.value.sum())), len(self.value), target)

    def power(self, agreement: float, target: float, delta: float) -> float:
        """Probability, about, with which *target* is shown if the truth is *agreement*; what was said plays no part."""
        return power(len(self.value), agreement, target, delta / PRICE[self.kind])

    def lower_bound(self, delta: float) -> float:
        """The largest target that is shown at confidence 1 - *delta*; 0 when none is."""
        total = float(self.value.sum())
        if not total:
            return 0.0
        if self.kind == "exact" and total.is_integer() and total / len(self.value) > LIKELY:
            return float(STATISTICS.beta.ppf(delta, total, len(self.value) - total + 1))
        low, high = 0.0, 1.0
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            if self.p_value(middle) <= delta:
                low = middle
            else:
                high = middle
        return low

    @cached_property
    def _wins(self) -> tuple[Array, Array]:
        """(sums of one label a unit, share of the draws that have each); the draws are the same every time.

        An odd half is left out, which can only raise the p-value and spares the search for the worst share of ties.
        """
        tie = 2 * (self.value - self.strict)
        uniform = np.random.default_rng(0).random((DRAWS, len(self.value)))
        halves = (uniform < self.strict).astype(np.int64) + (uniform < self.strict + tie)
        wins, count = np.unique(halves.sum(axis=1) // 2, return_counts=True)
        return wins.astype(np.float64), count / DRAWS

    def _betting(self, target: float) -> float:
        scaled = self.weight / self.weight.max()
        agreement = np.linspace(target, 1, BETS + 2)[1:-1]
        bets = (agreement - target) / (target * (1 - target))
        wealth = np.log1p(np.multiply.outer(scaled * (self.value - target), bets)).sum(axis=0)
        top = wealth.max()
        return float(min(1.0, math.exp(-top) / np.exp(wealth - top).mean()))


@lru_cache(maxsize=4096)
def exact_p_value(halves: int, n: int, target: float) -> float:
    """P(twice the sum of n outcomes in {0, 1/2, 1} with mean *target* >= *halves*), at its largest over ties."""
    share = np.linspace(0, 2 * min(target, 1 - target), TIE_SHARES)[:-1]
    if halves % 2 == 0 and halves / 2 > n * target + 1:
        # Beyond the mean, and without a half, two-point draws are the worst; the tests try this by brute force.
        share = share[:1]
    ties = np.arange(n + 1)[:, None]
    wins = np.ceil((halves - ties) / 2)
    win = np.clip((target - share / 2) / (1 - share), 0, 1)[None, :]
    chance = STATISTICS.binom.pmf(ties, n, share[None, :]) * STATISTICS.binom.sf(wins - 1, n - ties, win)
    return float(min(chance.sum(axis=0).max(), 1.0))


def power(n: int, agreement: float, target: float, delta: float) -> float:
    """Probability that the exact test of *n* units shows *target* if the truth is *agreement*."""
    return 0.0 if n == 0 else float(STATISTICS.binom.sf(STATISTICS.binom.isf(delta, n, target), n, agreement))


def needed(agreement: float, target: float, delta: float) -> int | None:
    """Audited units among the kept with which the exact test passes with probability .8 if the truth is *agreement*.

    None when the agreement does not exceed the target, or more than 20,000 would be needed.
    """
    if agreement <= target:
        return None
    # The power is a saw in n, so n is looked for one by one, in blocks, and not by halving.
    for start in range(1, MOST_LABELS + 1, BLOCK):
        n = np.arange(start, start + BLOCK)
        # The test passes with more successes than this.
        critical = STATISTICS.binom.isf(delta, n, target)
        enough = np.flatnonzero(STATISTICS.binom.sf(critical, n, agreement) >= POWER)
        if enough.size:
            return int(cast("Any", n[enough[0]]))
    return None


def fewest(target: float, delta: float) -> int:
    """Units that certify *target* if people agree on every one."""
    return math.ceil(math.log(delta) / math.log(target))
