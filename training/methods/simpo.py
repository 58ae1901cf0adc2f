"""Simple preference optimisation (Meng et al. 2024, arXiv:2405.14734): mean log-probabilities and a margin, by TRL.

-log s(beta (mean log p(chosen) - mean log p(rejected)) - gamma), no reference model. TRL has it as a loss of its CPO
trainer, in its experimental part, and may drop it.
"""

from typing import Any, ClassVar

from pydantic import Field

from training.methods.orpo import ExperimentalMethod
from training.trl import TrlOptions


class SimpoMethod(ExperimentalMethod):
    """SimPO on ``dataset/trl_dpo``."""

    class Options(TrlOptions):
        """Keys of ``method: simpo``."""

        method: str = "simpo"
        """`simpo`."""
        beta: float = Field(default=2.5, gt=0)
        """Scale of the rewards; the paper's for instruction-tuned Llama 3."""
        gamma: float = Field(default=1.4, ge=0)
        """Margin by which the chosen answer's reward is to be the larger one; likewise."""

    options: Options
    library: ClassVar[str] = "CPO"

    def arguments(self) -> dict[str, Any]:
        """See TrlMethod."""
        return {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": self.options.beta, "simpo_gamma": self.options.gamma}
