"""Direct preference optimisation of a LoRA adapter, by TRL.

The loss is the sigmoid one of Rafailov et al. 2023 (arXiv:2305.18290); the reference is the model without the adapter.
"""

from typing import Any, Literal

from pydantic import Field

from training.trl import TrlMethod, TrlOptions


class DpoMethod(TrlMethod):
    """DPO on ``dataset/trl_dpo``."""

    class Options(TrlOptions):
        """Keys of ``method: dpo``."""

        method: str = "dpo"
        """`dpo`."""
        loss: Literal["sigmoid"] = "sigmoid"
        """The loss of the DPO paper."""
        beta: float = Field(default=0.1, gt=0)
        """How strongly the adapter is held to the untrained model."""

    options: Options

    def arguments(self, *, whole: bool) -> dict[str, Any]:
        """See TrlMethod. One pass of the reference over all rows is worth it only where every row is used."""
        options = self.options
        return {"loss_type": [options.loss], "beta": options.beta, "precompute_ref_log_probs": whole}

    def build(self, **made: Any) -> Any:
        """See TrlMethod."""
        from training.trainers import PairTrainer, trl

        return PairTrainer(**{**made, "args": trl.DPOConfig(**made["args"])})
