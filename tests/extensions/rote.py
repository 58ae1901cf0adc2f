"""Training method: learns the chosen answers by heart. Reads the dataset, writes the new folder."""

import json
from pathlib import Path
from typing import ClassVar

from pipeline.config import TrainConfig
from training.base import Lesson


class RoteMethod:
    """See Method."""

    class Options(TrainConfig):
        """Keys of ``train: {method: rote}``."""

        dataset: str = "lines"
        """Format that is learned."""

    reads: ClassVar[tuple[str, ...]] = ("dataset",)

    def __init__(self, options: Options) -> None:
        self.options = options

    def train(self, lesson: Lesson, target: Path) -> dict[str, str]:
        """See Method."""
        told = (lesson.dataset / self.options.dataset / "train.txt").read_text(encoding="utf-8").splitlines()
        target.mkdir(parents=True)
        (target / "known.txt").write_text("\n".join(line.split(" > ")[0] for line in told), encoding="utf-8")
        (target / "training.json").write_text(json.dumps({"method": "rote", "loss": []}), encoding="utf-8")
        lesson.advance(100)
        return {"every pair": "by_heart"}
