"""Step-DPO (Lai et al. 2024, arXiv:2406.18629): DPO on single steps of a solution, by TRL.

A pair is a right and a wrong next step after the same beginning: its prompt ends in the assistant's turn that the step
goes on with. No end token follows a step, or the model would learn to stop after it.
"""

from pydantic import Field

from training import rows as dataset_rows
from training.methods.dpo import DpoMethod
from training.rows import Row, Tokens


class StepDpoMethod(DpoMethod):
    """DPO on the pairs of ``dataset/trl_dpo`` whose prompt is a turn to be continued."""

    class Options(DpoMethod.Options):
        """Keys of ``method: step_dpo``, those of `dpo`."""

        method: str = "step_dpo"
        """`step_dpo`."""
        beta: float = Field(default=0.5, gt=0)
        """How strongly the model is held to its reference."""

    def fault(self, row: Row, tokens: Tokens, ends: frozenset[int]) -> str | None:
        """See TrlMethod; ``not_a_step``: the prompt's last turn is not the assistant's."""
        return super().fault(row, tokens, ends) if dataset_rows.continued(row["prompt"]) else "not_a_step"
