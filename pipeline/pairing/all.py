"""Every two different answers to a prompt: n (n - 1) / 2 comparisons of n answers. Pure."""

from collections.abc import Sequence
from itertools import combinations

from pipeline.config import PairingConfig


class AllPairing:
    """See Pairing."""

    def __init__(self, options: PairingConfig) -> None:
        del options

    def pairs(self, samples: Sequence[str], seed: int) -> list[tuple[str, str]]:
        """See Pairing."""
        del seed
        return list(combinations(sorted(samples), 2))
