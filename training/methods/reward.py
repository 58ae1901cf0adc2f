"""A reward model: a classifier whose score of the chosen answer is to be the larger one (Bradley-Terry), by TRL.

What it makes is a judge (`kind: reward_model`), not a model that answers.
"""

from typing import Any, ClassVar

from pydantic import Field

from pipeline.engines.local_models import load_classifier
from pipeline.errors import StageError
from training.base import Lesson
from training.rows import Row
from training.trl import TrlMethod, TrlOptions


class RewardMethod(TrlMethod):
    """A reward model on ``dataset/trl_dpo``."""

    class Options(TrlOptions):
        """Keys of ``method: reward``."""

        method: str = "reward"
        """`reward`."""
        center: float = Field(default=0.01, ge=0)
        """Weight of the squared mean reward (Eisenstein et al. 2023, arXiv:2312.09244), which pins the level that \
comparisons leave open."""

    options: Options
    rates: ClassVar[tuple[float, float]] = (5e-5, 1e-5)
    task: ClassVar[str] = "SEQ_CLS"

    def load(self, lesson: Lesson) -> tuple[Any, Any, bool]:
        """See TrlMethod."""
        import transformers

        if lesson.start is not None:
            raise StageError(
                "a reward model cannot go on from another method; make `reward` the only method of `train`"
            )
        # The head is new: its weights are drawn when the model is loaded.
        transformers.set_seed(lesson.seed)
        return *load_classifier(lesson.model, new_head=True), False

    def example(self, row: Row) -> Row:
        """See TrlMethod. The classifier reads prompt and answer."""
        return {side: [*row["prompt_ids"], *row[side]] for side in self.sides}

    def arguments(self) -> dict[str, Any]:
        """See TrlMethod."""
        return {"center_rewards_coefficient": self.options.center}

    def build(self, made: dict[str, Any]) -> Any:
        """See TrlMethod."""
        from training.trainers import trl

        return trl.RewardTrainer(**{**made, "args": trl.RewardConfig(**made["args"])})
