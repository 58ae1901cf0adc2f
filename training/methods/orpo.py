"""Odds-ratio preference optimisation (Hong et al. 2024, arXiv:2403.07691): SFT and preference in one, by TRL.

No reference model. TRL keeps ORPO in its experimental part and may drop it.
"""

from typing import Any, ClassVar

from pydantic import Field

from training.rows import SIDES, Row
from training.trl import TrlMethod, TrlOptions


class ExperimentalMethod(TrlMethod):
    """A method on pairs that TRL keeps in its experimental part, where trainers tokenise texts themselves."""

    library: ClassVar[str]
    """TRL's name of it."""

    def example(self, row: Row) -> Row:
        """See TrlMethod. The texts are not read: tokens are (``training.trainers.experimental``)."""
        return {**super().example(row), **dict.fromkeys(("prompt", *SIDES), "")}

    def build(self, made: dict[str, Any]) -> Any:
        """See TrlMethod."""
        from training.trainers import experimental

        trainer, config = experimental(self.library)
        return trainer(**{**made, "args": config(**{**made["args"], "remove_unused_columns": False})})


class OrpoMethod(ExperimentalMethod):
    """ORPO on ``dataset/trl_dpo``."""

    class Options(TrlOptions):
        """Keys of ``method: orpo``."""

        method: str = "orpo"
        """`orpo`."""
        beta: float = Field(default=0.1, gt=0)
        """Weight of the odds ratio beside the likelihood of the chosen answer; lambda in the paper."""

    options: Options
    library: ClassVar[str] = "ORPO"
    rates: ClassVar[tuple[float, float]] = (2e-5, 8e-6)

    def arguments(self) -> dict[str, Any]:
        """See TrlMethod."""
        return {"beta": self.options.beta}
