"""What training methods speak. Pure: types and the choice of the model; a method touches what its own file says.

A method is one file in ``methods`` that defines ``<Kind>Method`` with a class attribute ``Options`` (a
``TrainConfig``) and what :class:`Method` asks for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.config import Config
from pipeline.errors import StageError


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a method is given."""

    dataset: Path
    """The run's folder ``dataset``."""
    model: str
    """The untrained model: a folder or a Hub name."""
    seed: int
    """Seed of everything random in the training."""
    folder: Path
    """Where checkpoints lie until the result is in place; the same folder after a kill."""
    cache: Path
    """Where a training keeps, by content, what a later one would compute again."""
    advance: Callable[[int], None]
    """Told how many more of 100 parts are done."""
    start: Path | None = None
    """What the method before this one made, to go on from: an adapter on *model*, or a whole model."""


class Method(Protocol):
    """Turns a dataset into an adapter, or a whole model."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Files that it is made from, below the run's folder or absolute: a change of them trains again."""
        ...

    def __init__(self, options: Any) -> None:
        """*options* is an instance of the method's ``Options``."""
        ...

    def train(self, lesson: Lesson, target: Path) -> dict[str, str]:
        """Train, and write adapter, tokenizer and training.json into the new folder *target*.

        Returns:
            Rows that were left out: pair_id -> reason.

        Raises:
            JobError: it cannot be trained; what is in ``lesson.folder`` lets the next run go on.
        """
        ...


def base_model(config: Config) -> str:
    """The model that is trained: ``train.model``, or the first generator's.

    Raises:
        StageError: there is neither.
    """
    if config.train and config.train[0].model is not None:
        return config.train[0].model
    if config.generators:
        return config.generators[0].model
    raise StageError("there is no model to train: the config has no generators; set train.model")
