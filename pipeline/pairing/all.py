"""Every two different answers to a prompt. Pure."""

from collections.abc import Sequence
from itertools import combinations


def pairs(samples: Sequence[str], seed: int) -> list[tuple[str, str]]:
    """All pairs of the sample ids of one prompt."""
    del seed
    return list(combinations(sorted(samples), 2))
