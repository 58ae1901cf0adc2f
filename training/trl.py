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
from typing import Any, ClassVar, Literal, cast

from pydantic import Field, model_validator

from pipeline.config import Frozen, TrainConfig
from pipeline.engines.local_models import device, end_tokens, load_model, quiet, usual_dtype, with_adapter
from pipeline.errors import ConfigError, StageError, StorageError
from pipeline.store import storage
from training import practice
from training import rows as dataset_rows
from training.base import Lesson
from training.checkpoints import require_sound
from training.reference import References, identity
from training.rows import Row, Tokens

PARTS = 100
SOON_AGAIN_S = 60.0
"""What takes no longer than this, at the end of a training, is done again rather than kept in a checkpoint."""
LOGS = 50
"""Points of the loss curve, about."""
CURVES = {
    "loss": ("loss",),
    "reward_accuracy": ("rewards/accuracies", "accuracy"),
    "reward_margin": ("rewards/margins", "margin"),
    "token_accuracy": ("mean_token_accuracy",),
    "kl": ("kl",),
}
"""What is kept of each step, and TRL's names for it."""
MEASURED = (*(name for names in CURVES.values() for name in names), "rewards/chosen", "rewards/rejected")
"""What is measured on the test split."""


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

    learning_rate: float | None = Field(default=None, gt=0)
    """Peak rate of AdamW; defaults to the method's own, higher for an adapter than for all weights."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the train split."""
    max_steps: int | None = Field(default=None, ge=1)
    """Optimiser steps, instead of `epochs`."""
    batch_size: int = Field(default=8, ge=1)
    """Rows in one forward pass."""
    gradient_accumulation: int = Field(default=4, ge=1)
    """Forward passes in one optimiser step."""
    max_length: int = Field(default=1024, ge=8)
    """Longest prompt with answer, tokens; a longer row is left out and counted."""
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps over which the rate rises; then it falls linearly to nothing."""
    save_steps: int = Field(default=200, ge=1)
    """Steps between checkpoints; a killed training goes on from the last."""
    gradient_checkpointing: bool | None = None
    """Whether activations are computed again instead of kept; by default on a GPU."""
    quantize: Literal["4bit"] | None = None
    """Hold the frozen weights in 4 bits under the adapter (QLoRA, Dettmers et al. 2023, arXiv:2305.14314); needs the \
extra `qlora`."""
    lora: LoraOptions | None = LoraOptions()
    """The adapter; `null` trains all weights."""

    @model_validator(mode="after")
    def _frozen_under_an_adapter(self) -> "TrlOptions":
        if self.quantize is not None and self.lora is None:
            raise ValueError("`quantize` freezes the weights, so it needs an adapter; leave out `lora: null`")
        return self


class TrlMethod:
    """The way from a dataset to an adapter or a whole model; a method fills in what is its own."""

    sides: ClassVar[tuple[str, ...]] = tuple(f"{side}_ids" for side in dataset_rows.SIDES)
    """Columns of tokens that are answers."""
    rates: ClassVar[tuple[float, float]] = (1e-5, 1e-6)
    """Default peak rate for an adapter, and for all weights."""
    refers: ClassVar[bool] = False
    """Whether it holds the model to a reference."""
    task: ClassVar[str] = "CAUSAL_LM"
    """PEFT's name of what the model does."""

    def __init__(self, options: Any) -> None:
        self.options = options

    @property
    def reads(self) -> tuple[str, ...]:
        """See Method: the train split, then the test split."""
        return (dataset_rows.TRAIN, dataset_rows.TEST)

    def read(self, lesson: Lesson) -> tuple[list[Row], list[Row]]:
        """(rows of the train split, of the test split), each with its ``pair_id``."""
        train, test = (dataset_rows.pairs(lesson.dataset.parent / name) for name in self.reads[:2])
        return train, test

    def tokens(self, tokenizer: Any, row: Row) -> Tokens:
        """``prompt_ids`` and the columns of ``sides``."""
        return dataset_rows.pair_tokens(tokenizer, row)

    def fault(self, row: Row, tokens: Tokens, ends: frozenset[int]) -> str | None:
        """Why a row is left out; None when it can be learned from."""
        step = dataset_rows.continued(row["prompt"])
        faults = (
            dataset_rows.row_fault(tokens["prompt_ids"], tokens[side], ends, self.options.max_length, step=step)
            for side in self.sides
        )
        return next((fault for fault in faults if fault is not None), None)

    def example(self, row: Row) -> Row:
        """What TRL is given of a row with its tokens."""
        return {name: row[name] for name in ("prompt_ids", *self.sides)}

    def arguments(self) -> dict[str, Any]:
        """The method's own arguments of TRL's config."""
        return {}

    def load(self, lesson: Lesson) -> tuple[Any, Any, bool]:
        """(model, tokenizer, whether it carries the adapter that goes on being trained)."""
        return start(lesson, self.options)

    def build(self, made: dict[str, Any]) -> Any:
        """TRL's trainer; *made* are its arguments, ``args`` still a dict, and ``references`` where ``refers``."""
        raise NotImplementedError

    @property
    def rate(self) -> float:
        """The peak rate."""
        return self.options.learning_rate or self.rates[0 if self.options.lora is not None else 1]

    def warnings(self, rows: Any) -> list[str]:
        """What is unusual about the options, for the train split *rows* as TRL has it."""
        return practice.warnings(self.options, self.rate, len(rows))

    def about(self, trainer: Any) -> dict[str, Any]:
        """What else training.json says of how *trainer* went."""
        del trainer
        return {}

    def train(self, lesson: Lesson, target: Path) -> dict[str, str]:
        """See Method."""
        started = time.monotonic()
        trainer, tests, dropped = self.trainer(lesson)
        with _explained(lesson.folder):
            trainer.train(resume_from_checkpoint=last_checkpoint(lesson.folder))
            measured = _measure(trainer, {name: len(rows) for name, rows in tests.items()})
            _save(trainer, lesson, target)
        history = cast("list[dict[str, float]]", trainer.state.log_history)
        report = {
            "method": self.options.method,
            "model": lesson.model,
            "options": self.options.model_dump(mode="json", exclude={"method", "model"}),
            "warnings": self.warnings(trainer.train_dataset),
            "seed": lesson.seed,
            "rows": {"train": len(trainer.train_dataset), "test": sum(map(len, tests.values()))},
            "dropped": dataset_rows.counts(dropped),
            "steps": int(trainer.state.global_step),
            "tokens": int(max((log.get("num_tokens", 0) for log in history), default=0)),
            "loss": [_point(log) for log in history if "loss" in log],
            "eval": measured,
            "reward_accuracy": _first(measured or {}, CURVES["reward_accuracy"]),
            "seconds": round(time.monotonic() - started, 1),
            **self.about(trainer),
        }
        with storage(target):
            (target / "training.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        return dropped

    def trainer(self, lesson: Lesson) -> tuple[Any, dict[str, list[Row]], dict[str, str]]:
        """(TRL's trainer, test rows in whole batches and the rest, rows left out: pair_id -> reason).

        Raises:
            StageError: there is no row to train on, or the model's chat template cannot be trained with.
            ConfigError: the model cannot be loaded, or TRL refuses the options.
        """
        import transformers

        quiet()
        splits = self.read(lesson)
        model, tokenizer, carried = self.load(lesson)
        (train, test), dropped = self._tokenised(splits, model, tokenizer, lesson)
        if not train:
            raise StageError(
                f"{self.reads[0]} has no row to train on; left out: {dataset_rows.counts(dropped) or 'none'}; raise "
                f"train.max_length ({self.options.max_length}), or keep more pairs (gate, select)"
            )
        batch = self.options.batch_size
        at = len(test) // batch * batch
        tests = {name: rows for name, rows in (("whole", test[:at]), ("rest", test[at:])) if rows}
        with _refusals():
            trainer = self.build(
                {
                    "model": model,
                    "args": self.all_arguments(lesson, len(train)),
                    "train_dataset": dataset_rows.dataset(map(self.example, train)),
                    "eval_dataset": dataset_rows.splits(
                        {name: map(self.example, part) for name, part in tests.items()}
                    ),
                    "processing_class": tokenizer,
                    "peft_config": None
                    if carried or self.options.lora is None
                    else _lora(self.options.lora, self.task),
                    "callbacks": [_progress(lesson)],
                    **({"references": references(lesson, model, self.options)} if self.refers else {}),
                }
            )
        trainer.remove_callback(transformers.PrinterCallback)
        return trainer, tests, dropped

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
                fault = self.fault(row, tokens, ends)
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

    def all_arguments(self, lesson: Lesson, rows: int) -> dict[str, Any]:
        """All arguments of TRL's config, for a train split of *rows*."""
        options = self.options
        gpu = device() == "cuda"
        per_step = options.batch_size * options.gradient_accumulation
        steps = options.max_steps or math.ceil(math.ceil(rows / per_step) * options.epochs)
        checkpointing = options.gradient_checkpointing
        return {
            "output_dir": str(lesson.folder),
            "learning_rate": self.rate,
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
            "gradient_checkpointing": gpu if checkpointing is None else checkpointing,
            "dataloader_pin_memory": gpu,
            "report_to": "none",
            "disable_tqdm": True,
            # One pass of the reference over all rows is worth it only where every row is used.
            **({"precompute_ref_log_probs": steps * per_step >= rows} if self.refers else {}),
            **self.arguments(),
        }


def start(lesson: Lesson, options: TrlOptions) -> tuple[Any, Any, bool]:
    """(model, tokenizer, whether it carries the adapter that goes on being trained) to begin *lesson* with."""
    before = lesson.start
    how = {} if options.quantize is None else {"quantization_config": _four_bits()}
    if before is None or not is_adapter(before):
        return *load_model(lesson.model if before is None else str(before), **how), False
    model, tokenizer = load_model(lesson.model, **how)
    model = with_adapter(model, str(before), trainable=options.lora is not None)
    if options.lora is not None:
        return model, tokenizer, True
    # Under the adapter the weights were frozen.
    return model.merge_and_unload().requires_grad_(requires_grad=True), tokenizer, False


def is_adapter(folder: Path) -> bool:
    """Whether *folder* holds an adapter, not a whole model."""
    return (folder / "adapter_config.json").is_file()


def references(lesson: Lesson, model: Any, options: TrlOptions) -> References:
    """Where what the untrained *model* thinks of answers is kept: it is the model that training starts from."""
    before = lesson.start
    name = str(before) if before is not None and not is_adapter(before) else lesson.model
    adapter = before if before is not None and is_adapter(before) else None
    return References(lesson.cache, identity(model, name, adapter, [str(model.dtype), options.quantize]))


def _four_bits() -> Any:
    from importlib.util import find_spec

    import torch
    import transformers

    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            "`quantize: 4bit` needs bitsandbytes, which is not installed; install it with "
            "pip install -c constraints.txt -e '.[qlora]', or leave out `quantize`"
        )
    library: Any = transformers
    return library.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, usual_dtype()),
    )


def _save(trainer: Any, lesson: Lesson, target: Path) -> None:
    """Write the model: one adapter on the untrained model as long as every method trained one, else a whole model."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    adapted = hasattr(model, "peft_config")
    if adapted and lesson.start is not None and not is_adapter(lesson.start):
        model, adapted = model.merge_and_unload(), False
    if adapted:
        in_order(*model.peft_config.values())
    model.save_pretrained(str(target), **({"selected_adapters": ["default"]} if adapted else {}))
    trainer.processing_class.save_pretrained(str(target))


def in_order(*configs: Any) -> None:
    """Turn sets in adapters' configs into sorted lists: a set is written as it happens to be hashed in this process."""
    for config in configs:
        held = cast("dict[str, Any]", vars(config))
        for name in held:
            if isinstance(held[name], set):
                held[name] = sorted(held[name])


def _measure(trainer: Any, tests: Mapping[str, int]) -> dict[str, float] | None:
    """The trainer's metrics on the test rows: means over rows, where the trainer's own are means over batches."""
    sums: dict[str, float] = {}
    for part, size in tests.items():
        metrics = cast("dict[str, float]", trainer.evaluate(part))
        for name in MEASURED:
            if f"eval_{name}" in metrics:
                sums[name] = sums.get(name, 0.0) + metrics[f"eval_{name}"] * size / sum(tests.values())
    return sums or None


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint in *folder*; its state file is written last, so one without it is half-written."""
    found = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json") if _is_json(path)]
    newest = max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return None if newest is None else str(require_sound(newest))


def _lora(lora: LoraOptions, task: str) -> Any:
    import peft

    targets = lora.target_modules
    return peft.LoraConfig(
        r=lora.r,
        lora_alpha=cast("int", lora.alpha),
        lora_dropout=lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type=task,
        # A classifier's head is new: it is trained whole, beside the adapter.
        modules_to_save=["score"] if task == "SEQ_CLS" else None,
    )


def _point(log: Mapping[str, float]) -> dict[str, float]:
    found = {name: _first(log, theirs) for name, theirs in CURVES.items()}
    return {"step": int(log["step"]), **{name: value for name, value in found.items() if value is not None}}


def _first(log: Mapping[str, float], names: Sequence[str]) -> float | None:
    return next((log[name] for name in names if name in log), None)


def _progress(lesson: Lesson) -> Any:
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        told = 0
        since = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            del args, state, control, kwargs
            self.since = time.monotonic()

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            del args, state, control, kwargs
            self.since = time.monotonic()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            del kwargs
            ended = state.global_step >= state.max_steps and state.global_step % args.save_steps
            if ended and time.monotonic() - self.since < SOON_AGAIN_S:
                # The model itself is written next; a checkpoint beside it would save less than it takes.
                control.should_save = False
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
def _refusals() -> Generator[None]:
    """Turn TRL's refusal of a combination of options into an error of the config."""
    try:
        yield
    except (ValueError, NotImplementedError, ImportError, AttributeError) as error:
        raise ConfigError(f"`train`: TRL refuses these options: {error}") from error


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
