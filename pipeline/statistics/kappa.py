"""Agreement corrected for chance: Cohen, Fleiss, Krippendorff, Gwet. Pure arithmetic on counts.

Every coefficient is (observed - expected) / (1 - expected); they differ in what they expect of chance. All are NaN
where that is 0 / 0: nothing was compared, or everything compared fell into one category, so that chance alone
explains it. They are functions of sums over pairs, so a bootstrap needs the sums of each prompt and nothing else.

Notation: n_ic raters put item i into category c, n_i = sum_c n_ic, q categories, pi_c the mean over rated items of
n_ic / n_i.

cohen_kappa (Cohen 1960), of two raters only. Expected: sum_c p_c. * p_.c, each rater keeping its own frequencies.

fleiss_kappa (Fleiss 1971). Observed: mean over items rated twice or more of sum_c n_ic (n_ic - 1) / (n_i (n_i - 1)).
Expected: sum_c pi_c^2. Fleiss has the same n_i everywhere; items of different n_i are counted as in Gwet (2014, ch. 2).
With two raters it is Scott's (1955) pi.

krippendorff_alpha, nominal, with missing ratings (Krippendorff 2011). Items with fewer than two ratings say nothing and
are left out. 1 - D_o / D_e with D_o = 1 - sum_i sum_c n_ic (n_ic - 1) / (n_i - 1) / n and
D_e = 1 - sum_c n_c (n_c - 1) / (n (n - 1)), n_c and n the ratings in category c and in all.

gwet_ac1 (Gwet 2008). Observed as for Fleiss. Expected: sum_c pi_c (1 - pi_c) / (q - 1); q counts the categories on
offer, used or not. It stays high when nearly everything falls into one category, where kappa falls to 0.
"""

import numpy as np

from pipeline.arrays import Array
from pipeline.statistics.intervals import ratio

MEASURES = ("same", "cohen_kappa", "fleiss_kappa", "krippendorff_alpha", "gwet_ac1")


def item_sums(counts: Array) -> Array:
    """(items, 3 + 3q - 1) terms of each item whose totals :func:`of_many` needs, from (items, q) counts.

    rated (0 or 1); rated twice or more; its share of agreeing pairs; n_ic / n_i for each c; then, of items rated
    twice or more, sum_c n_ic (n_ic - 1) / (n_i - 1), and n_ic for each c.
    """
    n = counts.sum(axis=1)
    several = n > 1
    twins = (counts * (counts - 1)).sum(axis=1)
    agreeing = np.divide(twins, n - 1, out=np.zeros(len(n)), where=several)
    share = np.divide(counts, n[:, None], out=np.zeros(counts.shape), where=n[:, None] > 0)
    agreement = np.divide(agreeing, n, out=np.zeros(len(n)), where=several)
    return np.column_stack([n > 0, several, agreement, share, agreeing, counts * several[:, None]])


def of_many(sums: Array) -> dict[str, Array]:
    """``same`` (observed agreement) and the coefficients for many raters, from (..., 3q-and-4) totals of item_sums."""
    q = (sums.shape[-1] - 4) // 2
    rated, several, agreement = sums[..., 0], sums[..., 1], sums[..., 2]
    pi = ratio(sums[..., 3 : 3 + q], rated[..., None])
    agreeing, totals = sums[..., 3 + q], sums[..., 4 + q :]
    n = totals.sum(axis=-1)
    same = ratio(agreement, several)
    disagree = 1 - ratio(agreeing, n)
    by_chance = 1 - ratio((totals * (totals - 1)).sum(axis=-1), n * (n - 1))
    return {
        "same": same,
        "fleiss_kappa": _corrected(same, (pi**2).sum(axis=-1)),
        "krippendorff_alpha": 1 - ratio(disagree, by_chance),
        "gwet_ac1": _corrected(same, (pi * (1 - pi)).sum(axis=-1) / (q - 1)),
    }


def of_two(cells: Array) -> dict[str, Array]:
    """MEASURES of two raters, from (..., q, q) counts of what the first and the second said of the same items."""
    n = cells.sum(axis=(-2, -1))
    matches = np.trace(cells, axis1=-2, axis2=-1)
    first, second = cells.sum(axis=-1), cells.sum(axis=-2)
    both = first + second
    # What item_sums adds up to when every item has two ratings.
    sums = np.concatenate([np.stack([n, n, matches], -1), both / 2, 2 * matches[..., None], both], axis=-1)
    expected = ratio((first * second).sum(axis=-1), n**2)
    found = of_many(sums)
    return {**found, "cohen_kappa": _corrected(found["same"], expected)}


def _corrected(observed: Array, expected: Array) -> Array:
    return ratio(observed - expected, 1 - expected)
