"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306) on single answers, good or bad, by TRL.

The answers are those of the pairs, each taken alone, and thumbs of users. TRL reads rows in order and pairs each prompt
with its neighbour's answer to estimate the divergence, so good and bad are spread evenly over the order, which a hash
decides.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast

from pydantic import AfterValidator, Field

from pipeline import ids
from pipeline.config import ConfigPath
from pipeline.errors import DataError
from training import losses
from training import rows as dataset_rows
from training.base import Lesson
from training.rows import SIDES, Row, Tokens
from training.trl import TrlMethod, TrlOptions

RATIO = (1.0, 4 / 3)
"""Range of (desirable weight x good rows) / (undesirable weight x bad rows) that the paper recommends (eq. 8)."""


RATIO_SOURCE = "Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8"


class KtoMethod(TrlMethod):
    """KTO on the answers of ``dataset/trl_dpo`` and on thumbs."""

    class Options(TrlOptions):
        """Keys of ``method: kto``."""

        method: str = "kto"
        """`kto`."""
        loss: Annotated[str, AfterValidator(lambda name: losses.weights(name, "kto") and name)] = "kto"
        """A loss of TRL's KTO: `kto`, `apo_zero_unpaired`."""
        beta: float = Field(default=0.1, gt=0)
        """How strongly the model is held to its reference."""
        batch_size: int = Field(default=8, ge=2)
        """Answers in one forward pass; the divergence is estimated within it, so at least 2."""
        desirable_weight: float = Field(default=1.0, gt=0)
        """Weight of good answers."""
        undesirable_weight: float = Field(default=1.0, gt=0)
        """Weight of bad answers."""
        pairs: bool = True
        """Whether the answers of the pairs are learned from."""
        thumbs: ConfigPath | None = None
        """JSON lines of `{"prompt", "completion", "label"}` to learn from as well; label `true` is good, prompt and \
completion are text or messages."""

    options: Options
    sides: ClassVar[tuple[str, ...]] = ("completion_ids",)
    refers: ClassVar[bool] = True

    @property
    def reads(self) -> tuple[str, ...]:
        """See Method."""
        thumbs = self.options.thumbs
        return (*(super().reads if self.options.pairs else ()), *([] if thumbs is None else [str(thumbs.resolve())]))

    def read(self, lesson: Lesson) -> tuple[list[Row], list[Row]]:
        """See TrlMethod."""
        train, test = super().read(lesson) if self.options.pairs else ([], [])
        thumbs = [] if self.options.thumbs is None else list(read_thumbs(self.options.thumbs))
        return spread([*unpaired(train), *thumbs], lesson.seed), spread(unpaired(test), lesson.seed)

    def tokens(self, tokenizer: Any, row: Row) -> Tokens:
        """See TrlMethod."""
        prompt, (answer,) = dataset_rows.cut(tokenizer, row["prompt"], [row["completion"]])
        return {"prompt_ids": prompt, "completion_ids": answer}

    def example(self, row: Row) -> Row:
        """See TrlMethod."""
        return {**super().example(row), "label": row["label"]}

    def arguments(self) -> dict[str, Any]:
        """See TrlMethod."""
        options = self.options
        return {
            "loss_type": options.loss,
            "beta": options.beta,
            "desirable_weight": options.desirable_weight,
            "undesirable_weight": options.undesirable_weight,
            "train_sampling_strategy": "sequential",
        }

    def warnings(self, rows: Any) -> list[str]:
        """See TrlMethod."""
        return [*super().warnings(rows), *unbalanced(self.options, cast("Sequence[bool]", rows["label"]))]

    def build(self, made: dict[str, Any]) -> Any:
        """See TrlMethod."""
        from training.trainers import AnswerTrainer, trl

        return AnswerTrainer(**{**made, "args": trl.KTOConfig(**made["args"])})


def unpaired(pairs: Sequence[Row]) -> list[Row]:
    """Each answer of *pairs* alone: ``pair_id``, ``prompt``, ``completion``, ``label`` (true: chosen)."""
    return [
        {"pair_id": row["pair_id"], "prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in pairs
        for side in SIDES
    ]


def spread(rows: Sequence[Row], seed: int) -> list[Row]:
    """*rows* in an order that a hash of their content decides, good and bad as evenly mixed as their numbers allow."""
    places: list[tuple[float, str, Row]] = []
    for good in (True, False):
        drawn = sorted(
            (ids.content_hash("kto", str(seed), json.dumps([row["prompt"], row["completion"]])), at)
            for at, row in enumerate(rows)
            if row["label"] is good
        )
        places += [((place + 1 / 2) / len(drawn), key, rows[at]) for place, (key, at) in enumerate(drawn)]
    return [row for _, _, row in sorted(places, key=lambda each: each[:2])]


def unbalanced(options: Any, labels: Sequence[bool]) -> Iterator[str]:
    """A warning where good and bad rows weigh differently than the paper recommends."""
    good = sum(labels)
    bad = len(labels) - good
    if not good or not bad:
        yield f"all {len(labels)} answers are {'good' if good else 'bad'}; KTO learns from both kinds ({RATIO_SOURCE})"
        return
    ratio = options.desirable_weight * good / (options.undesirable_weight * bad)
    if not RATIO[0] - 1e-9 <= ratio <= RATIO[1] + 1e-9:
        low, high = (bound * options.undesirable_weight * bad / good for bound in RATIO)
        yield (
            f"{good} good and {bad} bad answers weigh {ratio:.2f} to 1; the paper recommends 1 to 1.33 "
            f"({RATIO_SOURCE}): set train.desirable_weight between {low:.2f} and {high:.2f}"
        )


def read_thumbs(path: Path) -> Iterator[Row]:
    """Rows of a file of thumbs: ``pair_id`` (a hash of the content), ``prompt``, ``completion``, ``label``.

    Raises:
        DataError: a line has no prompt, completion and true or false.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); give a file of JSON lines") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            told = cast("dict[str, Any]", json.loads(line))
            prompt, completion = _turns(told["prompt"], "user"), _turns(told["completion"], "assistant")
            label = told["label"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}:{number}: is no thumb ({type(error).__name__}: {error}); each line is "
                '{"prompt": ..., "completion": ..., "label": true or false}'
            ) from error
        if not isinstance(label, bool) or [turn["role"] for turn in completion] != ["assistant"]:
            raise DataError(
                f"{path}:{number}: label is {label!r} and the completion has roles "
                f"{[turn['role'] for turn in completion]}; allowed: true or false, and one assistant message"
            )
        key = ids.content_hash("thumb", json.dumps([prompt, completion]))
        yield {"pair_id": key, "prompt": prompt, "completion": completion, "label": label}


def _turns(told: Any, role: str) -> list[dict[str, str]]:
    if isinstance(told, str):
        return [{"role": role, "content": told}]
    return [{"role": str(turn["role"]), "content": str(turn["content"])} for turn in told]
