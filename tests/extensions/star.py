"""Pairing: one answer against each of the others. Pure."""

from collections.abc import Sequence

from pydantic import Field

from pipeline.config import PairingConfig


class StarPairing:
    """See Pairing."""

    class Options(PairingConfig):
        """`pairing: {strategy: star, centre: 0}`."""

        centre: int = Field(default=0, ge=0)
        """Place of the answer in the middle."""

    def __init__(self, options: Options) -> None:
        self._centre = options.centre

    def pairs(self, samples: Sequence[str], seed: int) -> list[tuple[str, str]]:
        """See Pairing."""
        del seed
        order = sorted(samples)
        centre = order[self._centre % len(order)]
        return [(centre, other) for other in order if other != centre]
