"""What every method that TRL trains shares: options, the way from dataset to adapter, resuming, what is reported.

A method says which rows it reads, how a row becomes tokens, and which of TRL's trainers it takes with which arguments.
The loop, the checkpoints and the losses are TRL's. Touches the model, the dataset and the lesson's folder.
"""

import json
import math
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, cast

from pydantic import Field

from pipeline.config import Frozen, ModelName, TrainConfig
from pipeline.engines.local_models import device, end_tokens, load_model, quiet
from pipeline.errors import StageError, StorageError
from pipeline.store import storage
from training import rows as dataset_rows
from training.methods.base import Lesson
from training.rows import Row, Tokens

PARTS = 100
LOGS = 50
"""Points of the loss curve, about."""
CURVES = {"loss": "loss", "reward_accuracy": "rewards/accuracies", "reward_margin": "rewards/margins"}
"""What is kept of each step, and TRL's name for it."""


class LoraOptions(Frozen):
    """Low-rank adapter (Hu et al. 2021, arXiv:2106.09685)."""

    r: int = Field(default=64, ge=1)
    """Rank."""
    alpha: float = Field(default=128, gt=0)
    """The adapter's output is scaled by alpha / r."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input; TRL switches it off during DPO, as the reference has none."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """`all-linear`, a regular expression, or names of modules."""


class TrlOptions(TrainConfig):
    """Keys that all methods trained by TRL have."""

    model: ModelName | None = None
    """The model to train, a folder or a Hub name; defaults to the first generator's."""
    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak rate of AdamW; ten times TRL's default for full fine-tuning, as is usual for LoRA."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the train split."""
    max_steps: int | None = Field(default=None, ge=1)
    """Optimiser steps, instead of `epochs`."""
    batch_size: int = Field(default=8, ge=1)
    """Rows in one forward pass."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """Forward passes in one optimiser step."""
    max_length: int = Field(default=1024, ge=8)
    """Longest prompt with answer, tokens; a longer row is left out and counted."""
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps over which the rate rises; then it falls linearly to nothing."""
    save_steps: int = Field(default=200, ge=1)
    """Steps between checkpoints; a killed training goes on from the last."""
    lora: LoraOptions = LoraOptions()
    """The adapter."""


class TrlMethod:
    """The way from a dataset to an adapter; a method fills in what is its own."""

    reads: ClassVar[tuple[str, ...]] = (dataset_rows.TRAIN, dataset_rows.TEST)
    sides: ClassVar[tuple[str, ...]] = tuple(f"{side}_ids" for side in dataset_rows.SIDES)
    """Columns of tokens that are answers."""
    Options: ClassVar[type[TrlOptions]]

    def __init__(self, options: Any) -> None:
        self.options = options

    def read(self, path: Path) -> list[Row]:
        """Rows of one of the files of ``reads``, each with its ``pair_id``."""
        return dataset_rows.pairs(path)

    def tokens(self, tokenizer: Any, row: Row) -> Tokens:
        """``prompt_ids`` and the columns of ``sides``."""
        return dataset_rows.pair_tokens(tokenizer, row)

    def arguments(self, *, whole: bool) -> dict[str, Any]:
        """The method's own arguments of TRL's config; *whole*: every row is used at least once."""
        del whole
        return {}

    def build(self, **made: Any) -> Any:
        """TRL's trainer; *made* are its arguments, ``args`` still a dict."""
        raise NotImplementedError

    def train(self, lesson: Lesson, target: Path) -> dict[str, str]:
        """See Method."""
        started = time.monotonic()
        trainer, tests, dropped = self.trainer(lesson)
        with _explained(lesson.folder):
            trainer.train(resume_from_checkpoint=last_checkpoint(lesson.folder))
            measured = self.measure(trainer, tests)
            trainer.model.save_pretrained(str(target))
            trainer.processing_class.save_pretrained(str(target))
        history = cast("list[dict[str, float]]", trainer.state.log_history)
        report = {
            "method": self.options.method,
            "model": lesson.model,
            "options": self.options.model_dump(mode="json", exclude={"method", "model"}),
            "seed": lesson.seed,
            "rows": {"train": len(trainer.train_dataset), "test": len(tests)},
            "dropped": dataset_rows.counts(dropped),
            "steps": int(trainer.state.global_step),
            "tokens": int(max((log.get("num_tokens", 0) for log in history), default=0)),
            "loss": [_point(log) for log in history if "loss" in log],
            "eval": measured,
            "reward_accuracy": None if measured is None else measured.get("rewards/accuracies"),
            "seconds": round(time.monotonic() - started, 1),
        }
        with storage(target):
            (target / "training.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        return dropped

    def trainer(self, lesson: Lesson) -> tuple[Any, list[Row], dict[str, str]]:
        """(TRL's trainer on the train split, rows of the test split, rows left out: pair_id -> reason).

        Raises:
            StageError: there is no row to train on, or the model's chat template cannot be trained with.
            ConfigError: the model cannot be loaded.
        """
        import transformers

        quiet()
        splits = [self.read(lesson.dataset.parent / name) for name in self.reads]
        model, tokenizer = load_model(lesson.model)
        (train, test), dropped = self._tokenised(splits, model, tokenizer, lesson)
        if not train:
            raise StageError(
                f"{self.reads[0]} has no row to train on; left out: {dataset_rows.counts(dropped) or 'none'}; raise "
                f"train.max_length ({self.options.max_length}), or keep more pairs (gate, select)"
            )
        made = self.build(
            model=model,
            args=self._arguments(lesson, len(train)),
            train_dataset=dataset_rows.dataset(train),
            processing_class=tokenizer,
            peft_config=_lora(self.options.lora),
            callbacks=[_progress(lesson)],
        )
        made.remove_callback(transformers.PrinterCallback)
        return made, test, dropped

    def measure(self, trainer: Any, rows: Sequence[Row]) -> dict[str, float] | None:
        """The trainer's metrics on *rows*: means over rows, where the trainer's own are means over batches."""
        batch = self.options.batch_size
        whole = len(rows) // batch * batch
        sums: dict[str, float] = {}
        for part in (rows[:whole], rows[whole:]):
            if part:
                metrics = cast("dict[str, float]", trainer.evaluate(dataset_rows.dataset(part)))
                for name in ("loss", "rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected"):
                    if f"eval_{name}" in metrics:
                        sums[name] = sums.get(name, 0.0) + metrics[f"eval_{name}"] * len(part) / len(rows)
        return sums or None

    def _tokenised(
        self, splits: Sequence[list[Row]], model: Any, tokenizer: Any, lesson: Lesson
    ) -> tuple[list[list[Row]], dict[str, str]]:
        """(each split's rows that can be learned from, with their tokens; rows left out: pair_id -> reason)."""
        ends = end_tokens(model, tokenizer)
        dropped: dict[str, str] = {}
        kept: list[list[Row]] = []
        for rows in splits:
            fitting: list[Row] = []
            for row in rows:
                tokens = self.tokens(tokenizer, row)
                fault = self.fault(tokens, ends)
                if fault == "no_end":
                    raise StageError(
                        f"the chat template of {lesson.model!r} ends no answer with an end token ({sorted(ends)}), so "
                        "the model would learn never to stop; train a chat model, or mend chat_template or eos_token"
                    )
                if fault is None:
                    fitting.append({**row, **tokens})
                else:
                    dropped[row["pair_id"]] = fault
            kept.append(fitting)
        return kept, dropped

    def fault(self, tokens: Tokens, ends: frozenset[int]) -> str | None:
        """Why a row is left out; None when it can be learned from."""
        faults = (
            dataset_rows.row_fault(tokens["prompt_ids"], tokens[side], ends, self.options.max_length)
            for side in self.sides
        )
        return next((fault for fault in faults if fault is not None), None)

    def _arguments(self, lesson: Lesson, rows: int) -> dict[str, Any]:
        options = self.options
        gpu = device() == "cuda"
        per_step = options.batch_size * options.gradient_accumulation
        steps = options.max_steps or math.ceil(math.ceil(rows / per_step) * options.epochs)
        return {
            "output_dir": str(lesson.folder),
            "learning_rate": options.learning_rate,
            "num_train_epochs": options.epochs,
            "max_steps": options.max_steps or -1,
            "per_device_train_batch_size": options.batch_size,
            "per_device_eval_batch_size": options.batch_size,
            "gradient_accumulation_steps": options.gradient_accumulation,
            "max_length": options.max_length,
            # Below 1 it is a ratio; 1 and more would be steps.
            "warmup_steps": options.warmup_ratio,
            "save_steps": options.save_steps,
            "save_total_limit": 2,
            "logging_steps": max(1, steps // LOGS),
            "seed": lesson.seed,
            "data_seed": lesson.seed,
            "bf16": gpu,
            "use_cpu": not gpu,
            "gradient_checkpointing": gpu,
            "dataloader_pin_memory": gpu,
            "report_to": "none",
            "disable_tqdm": True,
            **self.arguments(whole=steps * per_step >= rows),
        }


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint in *folder*; its state file is written last, so one without it is half-written."""
    found = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json") if _is_json(path)]
    newest = max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return None if newest is None else str(newest)


def _lora(lora: LoraOptions) -> Any:
    import peft

    targets = lora.target_modules
    return peft.LoraConfig(
        r=lora.r,
        lora_alpha=cast("int", lora.alpha),
        lora_dropout=lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )


def _point(log: Mapping[str, float]) -> dict[str, float]:
    return {"step": int(log["step"]), **{name: log[theirs] for name, theirs in CURVES.items() if theirs in log}}


def _progress(lesson: Lesson) -> Any:
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        told = 0

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            del args, control, kwargs
            done = PARTS * state.global_step // state.max_steps
            lesson.advance(done - self.told)
            self.told = done

    return Progress()


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


@contextmanager
def _explained(folder: Path) -> Generator[None]:
    """Turn what a full disk or a full GPU makes torch say into errors with a remedy."""
    import torch

    try:
        with storage(folder):
            yield
    except torch.OutOfMemoryError as error:
        raise StageError(
            f"the GPU's memory is too small ({str(error).splitlines()[0]}); lower train.batch_size and raise "
            "train.gradient_accumulation by the same factor, or lower train.max_length"
        ) from error
    except RuntimeError as error:
        if "PytorchStreamWriter" not in str(error):
            raise
        raise StorageError(
            f"{folder}: a checkpoint cannot be written ({str(error).splitlines()[0]}); free space, then run the same "
            "command again"
        ) from error
