"""Rounds of a tournament: in each round every answer meets one other, `rounds` * n / 2 comparisons of n answers. Pure.

The first rounds of the round-robin by the circle method (Kirkman 1847) over a seeded order: no two answers meet twice,
and any two rounds in a row already link all answers. With an odd number of answers one sits out each round. The rounds
are drawn before any verdict is there; a Swiss tournament, which pairs by what earlier rounds said, would have to judge
between rounds.
"""

import random
from collections.abc import Sequence

from pydantic import Field

from pipeline.config import PairingConfig


class RoundsPairing:
    """See Pairing."""

    class Options(PairingConfig):
        """`pairing: {strategy: rounds, rounds: 3}`."""

        rounds: int = Field(default=3, ge=2)
        """Rounds; after as many as there are others, every answer has met every other and it ends."""

    def __init__(self, options: Options) -> None:
        self._rounds = options.rounds

    def pairs(self, samples: Sequence[str], seed: int) -> list[tuple[str, str]]:
        """See Pairing."""
        order: list[str | None] = [*sorted(samples)]
        random.Random(seed).shuffle(order)  # noqa: S311  a design, not a secret
        if len(order) % 2:
            order.append(None)  # who meets nobody sits out
        made: list[tuple[str, str]] = []
        for _ in range(min(self._rounds, len(order) - 1)):
            for one, other in zip(order[: len(order) // 2], reversed(order[len(order) // 2 :]), strict=True):
                if one is not None and other is not None:
                    made.append((one, other))
            order = [order[0], order[-1], *order[1:-1]]
        return made
