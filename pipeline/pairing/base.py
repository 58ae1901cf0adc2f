"""What pairings speak. Pure. A kind is one file in this folder that defines ``<Kind>Pairing``."""

from collections.abc import Sequence
from typing import Protocol


class Pairing(Protocol):
    """Decides which answers to one prompt are compared; made with the config's ``pairing``."""

    def pairs(self, samples: Sequence[str], seed: int) -> list[tuple[str, str]]:
        """Which answers are compared, each two at most once, in any order.

        Args:
            samples: ids of the prompt's answers, no two with the same words.
            seed: of this prompt.
        """
        ...
