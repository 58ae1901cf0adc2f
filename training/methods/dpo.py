"""Direct preference optimisation of a LoRA adapter, by TRL. Touches the model, the dataset and the lesson's folder.

The loss is the sigmoid one of Rafailov et al. 2023 (arXiv:2305.18290); the reference is the model without the
adapter. Rows that the trainer would cut or misread are left out by name: ``too_long`` (the answer's end would be
cut off, so the model would learn not to stop) and ``end_inside`` (an answer spells the end token).
"""

import json
import math
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import polars as pl
from pydantic import Field

from pipeline.config import Frozen, ModelName, TrainConfig
from pipeline.errors import ConfigError, StageError, StorageError
from pipeline.store import storage
from training.checkpoints import require_sound
from training.methods.base import Lesson, quiet

TRAIN, TEST = "dataset/trl_dpo/train.parquet", "dataset/trl_dpo/test.parquet"
SIDES = ("chosen", "rejected")
PARTS = 100
LOGS = 50
"""Points of the loss curve, about."""
Row = dict[str, Any]


class LoraConfigModel(Frozen):
    """Low-rank adapter (Hu et al. 2021, arXiv:2106.09685)."""

    r: int = Field(default=64, ge=1)
    """Rank."""
    alpha: float = Field(default=128, gt=0)
    """The adapter's output is scaled by alpha / r."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input; TRL switches it off during DPO, as the reference has none."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """`all-linear`, a regular expression, or names of modules."""


class DpoMethod:
    """DPO on ``dataset/trl_dpo``."""

    reads: ClassVar[tuple[str, ...]] = (TRAIN, TEST)

    class Options(TrainConfig):
        """Keys of ``method: dpo``."""

        method: str = "dpo"
        """`dpo`."""
        model: ModelName | None = None
        """The model to train, a folder or a Hub name; defaults to the first generator's."""
        loss: Literal["sigmoid"] = "sigmoid"
        """The loss of the DPO paper."""
        beta: float = Field(default=0.1, gt=0)
        """How strongly the adapter is held to the untrained model."""
        learning_rate: float = Field(default=1e-5, gt=0)
        """Peak rate of AdamW; ten times TRL's default for full fine-tuning, as is usual for LoRA."""
        epochs: float = Field(default=1.0, gt=0)
        """Passes over the train split."""
        max_steps: int | None = Field(default=None, ge=1)
        """Optimiser steps, instead of `epochs`."""
        batch_size: int = Field(default=8, ge=1)
        """Pairs in one forward pass."""
        gradient_accumulation: int = Field(default=1, ge=1)
        """Forward passes in one optimiser step."""
        max_length: int = Field(default=1024, ge=8)
        """Longest prompt with answer, tokens; a longer pair is left out and counted."""
        warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
        """Share of the steps over which the rate rises; then it falls linearly to nothing."""
        save_steps: int = Field(default=200, ge=1)
        """Steps between checkpoints; a killed training goes on from the last."""
        lora: LoraConfigModel = LoraConfigModel()
        """The adapter."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def train(self, lesson: Lesson, target: Path) -> dict[str, str]:
        """See Method."""
        started = time.monotonic()
        trainer, tests, dropped = self.trainer(lesson)
        with _explained(lesson.folder):
            trainer.train(resume_from_checkpoint=last_checkpoint(lesson.folder))
            measured = _measure(trainer, tests, self.options.batch_size)
            trainer.model.save_pretrained(str(target))
            trainer.processing_class.save_pretrained(str(target))
        history = cast("list[dict[str, float]]", trainer.state.log_history)
        report = {
            "method": "dpo",
            "model": lesson.model,
            "options": self.options.model_dump(mode="json", exclude={"method", "model"}),
            "seed": lesson.seed,
            "rows": {"train": len(trainer.train_dataset), "test": len(tests)},
            "dropped": _counts(dropped),
            "steps": int(trainer.state.global_step),
            "tokens": int(max((log.get("num_tokens", 0) for log in history), default=0)),
            "loss": [
                {
                    "step": int(log["step"]),
                    "loss": log["loss"],
                    "reward_accuracy": log["rewards/accuracies"],
                    "reward_margin": log["rewards/margins"],
                }
                for log in history
                if "loss" in log
            ],
            "eval": measured,
            "reward_accuracy": None if measured is None else measured["rewards/accuracies"],
            "seconds": round(time.monotonic() - started, 1),
        }
        with storage(target):
            (target / "training.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
            (target / "README.md").write_text(model_card(report, lesson), encoding="utf-8")
        return dropped

    def trainer(self, lesson: Lesson) -> tuple[Any, list[Row], dict[str, str]]:
        """(TRL's trainer on the train split, rows of the test split, rows left out: pair_id -> reason).

        Raises:
            StageError: there is no row to train on, or the model's chat template cannot be trained with.
            ConfigError: the model cannot be loaded.
        """
        import peft
        import torch
        import transformers
        import trl

        quiet()
        library: Any = trl
        gpu = torch.cuda.is_available()
        train, test = (_rows(lesson.dataset.parent / name) for name in self.reads)
        model, tokenizer = load_model(lesson.model, "bfloat16" if gpu else "float32")
        ends = end_tokens(model, tokenizer)
        faults = {row["pair_id"]: self._fault(row, tokenizer, ends) for row in (*train, *test)}
        if "no_end" in faults.values():
            raise StageError(
                f"the chat template of {lesson.model!r} ends no answer with an end token ({sorted(ends)}), so the "
                "model would learn never to stop; train a chat model, or mend chat_template or eos_token"
            )
        dropped = {key: fault for key, fault in faults.items() if fault is not None}
        train, test = ([row for row in rows if row["pair_id"] not in dropped] for rows in (train, test))
        if not train:
            raise StageError(
                f"dataset/trl_dpo has no pair to train on; left out: {_counts(dropped) or 'none'}; raise "
                f"train.max_length ({self.options.max_length}), or keep more pairs (gate, select)"
            )
        lora = self.options.lora
        targets = lora.target_modules
        made = library.DPOTrainer(
            model=model,
            args=library.DPOConfig(**self._arguments(lesson, len(train), gpu=gpu)),
            train_dataset=_dataset(train),
            processing_class=tokenizer,
            peft_config=peft.LoraConfig(
                r=lora.r,
                lora_alpha=cast("int", lora.alpha),
                lora_dropout=lora.dropout,
                target_modules=targets if isinstance(targets, str) else list(targets),
                task_type="CAUSAL_LM",
            ),
            callbacks=[_progress(lesson)],
        )
        made.remove_callback(transformers.PrinterCallback)
        return made, test, dropped

    def _arguments(self, lesson: Lesson, rows: int, *, gpu: bool) -> dict[str, Any]:
        options = self.options
        per_step = options.batch_size * options.gradient_accumulation
        steps = options.max_steps or math.ceil(math.ceil(rows / per_step) * options.epochs)
        return {
            "output_dir": str(lesson.folder),
            "loss_type": [options.loss],
            "beta": options.beta,
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
            # One pass of the reference over all rows: worth it only where every row is used at least once.
            "precompute_ref_log_probs": steps * per_step >= rows,
            "seed": lesson.seed,
            "data_seed": lesson.seed,
            "bf16": gpu,
            "use_cpu": not gpu,
            "gradient_checkpointing": gpu,
            "dataloader_pin_memory": gpu,
            "report_to": "none",
            "disable_tqdm": True,
        }

    def _fault(self, row: Row, tokenizer: Any, ends: frozenset[int]) -> str | None:
        prompt = _tokens(tokenizer, row["prompt"], add_generation_prompt=True)
        for side in SIDES:
            whole = _tokens(tokenizer, [*row["prompt"], *row[side]])
            if fault := row_fault(prompt, whole, ends, self.options.max_length):
                return fault
        return None


def row_fault(prompt: Sequence[int], whole: Sequence[int], ends: frozenset[int], max_length: int) -> str | None:
    """Why an answer cannot be learned from: ``no_end``, ``end_inside``, ``too_long``; None when it can.

    Args:
        prompt: tokens of the prompt, up to where the answer begins.
        whole: tokens of prompt and answer.
        ends: tokens that end an answer; there must be exactly one after the prompt (TRL #4481, #1541).
        max_length: tokens that the trainer keeps.
    """
    shared = next((at for at, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(prompt))
    count = sum(token in ends for token in whole[shared:])
    if count != 1:
        return "end_inside" if count else "no_end"
    return "too_long" if len(whole) > max_length else None


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint in *folder*; its state file is written last, so one without it is half-written."""
    found = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json") if _is_json(path)]
    newest = max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return None if newest is None else str(require_sound(newest))


def load_model(name: str, dtype: str) -> tuple[Any, Any]:
    """(causal language model, tokenizer) of a folder or Hub name.

    Raises:
        ConfigError: it cannot be loaded, or has no chat template.
    """
    import transformers

    library: Any = transformers
    try:
        tokenizer = library.AutoTokenizer.from_pretrained(name)
        model = library.AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model {name!r} cannot be loaded ({str(error).splitlines()[0]}); set train.model to a folder beside the "
            "config, or to a Hub name this machine can download"
        ) from error
    if tokenizer.chat_template is None:
        raise ConfigError(f"model {name!r} has no chat template; train a chat model")
    return model, tokenizer


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer: the tokenizer's, and those at which the model stops."""
    stops = model.generation_config.eos_token_id
    found = cast("list[int]", stops) if isinstance(stops, list) else [stops]
    return frozenset(int(token) for token in (*found, tokenizer.eos_token_id) if token is not None)


def model_card(report: Mapping[str, Any], lesson: Lesson) -> str:
    """README.md of an adapter, with the header that the Hub reads."""
    local = Path(lesson.model).is_dir()
    name = Path(lesson.model).name if local else lesson.model
    header = ["library_name: peft", "tags: [dpo, lora, trl, jurybox]"]
    header += [] if local else [f"base_model: {json.dumps(lesson.model)}"]
    accuracy = report["reward_accuracy"]
    shown = "not measured: the test split is empty" if accuracy is None else f"{accuracy:.3f}"
    rows, options = report["rows"], cast("dict[str, Any]", report["options"])
    table = [f"| {key} | `{json.dumps(value)}` |" for key, value in options.items()]
    made = (
        f"Trained with DPO (sigmoid loss, TRL) on {rows['train']} preference pairs, {report['steps']} steps. "
        "How the pairs were made, and how far people agree with them, is on the card of the dataset."
    )
    measured = (
        f"Reward accuracy on the {rows['test']} pairs of the test split: {shown} (share of pairs on which the implicit "
        "reward of the chosen answer is the larger one). The loss by step is in `training.json`."
    )
    return "\n".join(
        [
            "---",
            *header,
            "---",
            "",
            f"# LoRA adapter for {name}",
            "",
            made,
            "",
            measured,
            "",
            "| option | value |",
            "|---|---|",
            *table,
            f"| seed | `{report['seed']}` |",
            "",
        ]
    )


def _rows(path: Path) -> list[Row]:
    if not path.is_file():
        if path.name == Path(TEST).name:
            return []
        raise StageError(
            f"{path} does not exist; DPO trains on the export `trl_dpo`: add trl_dpo to `export`, then run "
            "`jurybox export`"
        )
    rows = pl.read_parquet(path).select("pair_id", "prompt", *SIDES).to_dicts()
    for row in rows:
        for side in SIDES:
            if [message["role"] for message in row[side]] != ["assistant"]:
                raise StageError(
                    f"{path}: {side} of pair {row['pair_id']} is not exactly one assistant message; "
                    "run `jurybox export` again"
                )
    return rows


def _dataset(rows: list[Row]) -> Any:
    import datasets

    untyped: Any = datasets
    return untyped.Dataset.from_list([{key: row[key] for key in ("prompt", *SIDES)} for row in rows])


def _tokens(tokenizer: Any, messages: list[Row], *, add_generation_prompt: bool = False) -> list[int]:
    made = tokenizer.apply_chat_template(messages, add_generation_prompt=add_generation_prompt, return_dict=True)
    return cast("list[int]", made["input_ids"])


def _measure(trainer: Any, rows: list[Row], batch: int) -> dict[str, float] | None:
    """The trainer's metrics on *rows*: means over rows, where the trainer's own are means over batches."""
    whole = len(rows) // batch * batch
    sums: dict[str, float] = {}
    for part in (rows[:whole], rows[whole:]):
        if part:
            metrics = cast("dict[str, float]", trainer.evaluate(_dataset(part)))
            for name in ("loss", "rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected"):
                sums[name] = sums.get(name, 0.0) + metrics[f"eval_{name}"] * len(part) / len(rows)
    return sums or None


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


def _counts(dropped: Mapping[str, str]) -> dict[str, int]:
    reasons = sorted(dropped.values())
    return {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}


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
