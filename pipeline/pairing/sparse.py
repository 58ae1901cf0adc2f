"""A sparse connected design: each of n answers is compared with `degree` others, n * degree / 2 comparisons. Pure.

The answers stand on a circle in a seeded order and each is compared with those at fixed distances from it (a circulant
graph). Distance 1 is always among them, so that every answer is linked to every other through answers it was compared
with. The others are added one by one so as to make the sum of 1 / eigenvalue of the graph's Laplacian least: to first
order that sum is the total variance of Bradley-Terry scores (the A-criterion; Bailey & Cameron 2009, Combinatorics of
optimal designs). The eigenvalues of a circulant graph are known in closed form.
"""

import random
from collections.abc import Sequence
from functools import cache
from itertools import combinations

import numpy as np
from pydantic import Field

from pipeline.config import PairingConfig


class SparsePairing:
    """See Pairing."""

    class Options(PairingConfig):
        """`pairing: {strategy: sparse, degree: 3}`."""

        degree: int = Field(default=3, ge=2)
        """Comparisons of each answer; where both it and the number of answers are odd, one answer has one more."""

    def __init__(self, options: Options) -> None:
        self._degree = options.degree

    def pairs(self, samples: Sequence[str], seed: int) -> list[tuple[str, str]]:
        """See Pairing."""
        order = sorted(samples)
        random.Random(seed).shuffle(order)  # noqa: S311  a design, not a secret
        return [(order[one], order[other]) for one, other in design(len(order), self._degree)]


@cache
def design(n: int, degree: int) -> tuple[tuple[int, int], ...]:
    """Which of *n* places on a circle are compared, each with at least *degree* others, or all."""
    if degree >= n - 1:
        return tuple(combinations(range(n), 2))
    distances = _distances(n, degree)
    edges = [(at, (at + distance) % n) for distance in distances for at in range(n)]
    if degree % 2:
        # Half of the way round; with an odd number of places one of them is met twice.
        half = n // 2
        edges += [(at, at + half) for at in range((n + 1) // 2)]
    return tuple(edges)


def _distances(n: int, degree: int) -> list[int]:
    """Distances of the full turns: 1, then what leaves the least variance."""
    turn = 2 * np.pi * np.arange(1, n) / n
    half = n // 2
    left = [distance for distance in range(2, (n + 1) // 2) if not (degree % 2 and distance == half)]
    taken = [1]
    eigenvalues = 2 - 2 * np.cos(turn) + (1 - np.cos(turn * half) if degree % 2 else 0)
    while len(taken) < degree // 2:
        best = min(left, key=lambda distance: float((1 / (eigenvalues + 2 - 2 * np.cos(distance * turn))).sum()))
        left.remove(best)
        taken.append(best)
        eigenvalues = eigenvalues + 2 - 2 * np.cos(best * turn)
    return taken
