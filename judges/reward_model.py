"""A reward model: a sequence classifier that scores one answer at a time. Touches its model and its folder of the run.

With ``fit`` it learns from the `fit` labels first, cross-fitted by prompt (Chernozhukov et al. 2018): prompts fall
into folds by a seeded coin, the model of a fold learns from the labelled comparisons of the other folds, and scores
the prompts of its own, labelled or not. So no prompt is scored by a model that saw its labels, and scores of labelled
and of unlabelled prompts have one distribution, which is what weights fitted on the former are applied to.
"""

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field, model_validator

from judges.asking import Heard, ask, words
from judges.base import Judgment, Labelled, Opinions, Rating
from pipeline import control_tokens, ids
from pipeline.comparison import Comparison
from pipeline.config import Frozen, JudgeConfig, ModelConfig, ModelName
from pipeline.engines.base import Call, Request, Toolbox
from pipeline.engines.local_models import chat_tokens, for_inference, load_classifier, quiet
from pipeline.errors import StageError
from pipeline.ids import digest
from pipeline.progress import Silent
from pipeline.store import storage

BATCH_TOKENS = 16_384
CENTRE = 0.01
"""Weight of the squared mean reward in the loss (Eisenstein et al. 2023, arXiv:2312.09244): it pins the level of the
scores, which comparisons leave open, so that folds do not drift apart."""
Turns = tuple[tuple[str, str], ...]


class FitConfig(Frozen):
    """How the reward model learns from the `fit` labels."""

    epochs: float = Field(default=1.0, gt=0)
    """Passes over the labelled comparisons."""
    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak rate of AdamW, all weights."""
    batch_size: int = Field(default=8, ge=1)
    """Comparisons in one step."""
    folds: int = Field(default=2, ge=2)
    """Models trained; each learns from all folds but its own."""


class RewardModelJudge:
    """P(a) = 1 / (1 + exp(score(b) - score(a))): Bradley-Terry on the scores."""

    class Options(JudgeConfig):
        """Keys of ``kind: reward_model``."""

        model: ModelName
        """A sequence classifier with one output, or with `fit` any chat model: a folder or a Hub name."""
        engine: Literal["transformers", "vllm"] = "transformers"
        """What runs the model in this process; `vllm` scores with a model as it is."""
        engine_args: dict[str, Any] = Field(default_factory=dict)
        """Passed to vLLM as they are, e.g. `{gpu_memory_utilization: 0.5}`."""
        endpoint: str | None = None
        """Name of an entry of `endpoints`: a vLLM server of a reward model (`--runner pooling`) instead of `engine`."""
        max_length: int = Field(default=1024, ge=8)
        """Longest prompt with answer, tokens; a longer one is a failed judgment."""
        fit: FitConfig | None = None
        """Learn from the `fit` labels before judging; without it the model judges as it is."""

        @property
        def wants_labels(self) -> bool:
            """Whether it learns: with `fit`."""
            return self.fit is not None

        @model_validator(mode="before")
        @classmethod
        def _at_once(cls, value: object) -> object:
            if isinstance(value, Mapping) and "batch" in value:
                raise ValueError(
                    "a reward model takes no `batch`: batch APIs answer chats, and it is scored; leave it out, or "
                    "judge with `kind: pairwise`"
                )
            return cast("object", value)

        @model_validator(mode="after")
        def _fitted_here(self) -> "RewardModelJudge.Options":
            if self.fit is not None and (self.engine != "transformers" or self.endpoint is not None):
                raise ValueError("`fit` trains and scores with `engine: transformers`; leave out `fit`, or the engine")
            if self.endpoint is not None and "engine" in self.model_fields_set and self.engine != "transformers":
                raise ValueError("takes `engine` or `endpoint`, not both")
            return self

    def __init__(self, options: Options, toolbox: Toolbox) -> None:
        self.options, self.toolbox = options, toolbox
        self.models: dict[int, Path] = {}
        """Fold -> folder of its model."""

    def fit(self, labelled: Sequence[Labelled]) -> None:
        """Train the model of every fold, or find those trained on the same labels before. Ties teach nothing.

        Raises:
            StageError: there are no labels, or some fold has none to learn from.
        """
        settings = self.options.fit
        if settings is None:
            return
        if not labelled:
            raise StageError(
                f"reward model {self.options.name!r} has `fit` but there are no fit labels; import labels "
                "(`jurybox import labels`), or remove `fit`"
            )
        clear = sorted((one for one in labelled if one.preference != 1 / 2), key=lambda one: one.comparison.pair_id)
        for fold in range(settings.folds):
            rows = [_row(one) for one in clear if self.fold(one.comparison.prompt_id) != fold]
            if not rows:
                raise StageError(
                    f"reward model {self.options.name!r}: none of {len(labelled)} fit labels outside fold {fold} "
                    "prefers an answer, so there is nothing to learn from; label more prompts, or remove `fit`"
                )
            self.models[fold] = self._trained(fold, rows)

    def requests(self, comparisons: Sequence[Comparison]) -> tuple[Request, ...]:
        """See Judge. It makes no calls."""
        del comparisons
        return ()

    def judge(self, comparisons: Sequence[Comparison]) -> Opinions:
        """See Judge. One judgment a pair: what is scored alone has no order."""
        folds: dict[int, dict[str, tuple[Turns, str]]] = {}
        for item in comparisons:
            answers = folds.setdefault(self.fold(item.prompt_id), {})
            answers[item.sample_a] = item.messages, item.completion_a
            answers[item.sample_b] = item.messages, item.completion_b
        marks: dict[str, Heard[float]] = {}
        calls: list[Call] = []
        for fold in sorted(folds):
            if self.options.endpoint is None and self.options.engine == "transformers":
                marks |= self._scores(fold, folds[fold])
            else:
                asked, made = self._asked(folds[fold])
                marks |= asked
                calls += made
        judgments: list[Judgment] = []
        for item in comparisons:
            a, b = marks[item.sample_a], marks[item.sample_b]
            keys = (*a.call_keys, *b.call_keys)
            if a.value is None or b.value is None:
                bad = a if a.value is None else b
                judgments.append(Judgment(item.pair_id, "ab", None, None, bad.error, keys, bad.reason))
            else:
                judgments.append(Judgment(item.pair_id, "ab", _logistic(a.value - b.value), call_keys=keys))
        self.toolbox.advance(len(comparisons))
        ratings = [
            Rating(sample, mark.value, call_keys=mark.call_keys)
            for sample, mark in sorted(marks.items())
            if mark.value is not None
        ]
        return Opinions(judgments, ratings, calls)

    def fold(self, prompt_id: str) -> int:
        """The fold a prompt falls into; 0 when nothing is learned."""
        if self.options.fit is None:
            return 0
        return int(
            ids.uniform_from(self.toolbox.seed, "reward-fold", ids.conversation_id(prompt_id)) * self.options.fit.folds
        )

    def _trained(self, fold: int, rows: list[dict[str, Any]]) -> Path:
        """Folder of the model of *fold*, trained now unless one that learned the same lies there."""
        from filelock import FileLock

        settings = self.options.model_dump(mode="json", exclude={"name", "kind"})
        stamp = digest([settings, _identity(self.options.model), self.toolbox.seed, fold, rows])[:16]
        home = self.toolbox.workspace / self.options.name
        target, fresh = home / f"fold-{fold}-{stamp}", home / f".fold-{fold}-{stamp}.new"
        with storage(home):
            home.mkdir(parents=True, exist_ok=True)
        # Two processes may judge shards at once; the second waits and finds the model.
        with FileLock(home / f".fold-{fold}.lock"):
            if not target.is_dir():
                shutil.rmtree(fresh, ignore_errors=True)
                train(self.options, rows, fresh, ids.seed_from(self.toolbox.seed, "reward-model", fold))
                with storage(target):
                    fresh.rename(target)
                for old in home.glob(f"fold-{fold}-*"):
                    if old != target:
                        shutil.rmtree(old, ignore_errors=True)
        return target

    def _asked(self, answers: Mapping[str, tuple[Turns, str]]) -> tuple[dict[str, Heard[float]], list[Call]]:
        """(sample_id -> score or error, calls) by vLLM, in this process or behind an endpoint."""
        options = self.options
        if options.endpoint is None:
            kind, arguments = "vllm_pooling", {"max_model_len": options.max_length, **options.engine_args}
        else:
            kind, arguments = "vllm_pooling_server", {"endpoint": options.endpoint}
        engine = self.toolbox.engine(ModelConfig(model=options.model, engine=kind, engine_args=arguments))
        requests = [Request((*messages, ("assistant", completion)), 1) for messages, completion in answers.values()]
        heard, calls = ask(engine, requests, lambda _at, answer: float(words(answer)), 1, Silent().advance)
        return dict(zip(answers, heard, strict=True)), calls

    def _scores(self, fold: int, answers: Mapping[str, tuple[Turns, str]]) -> dict[str, Heard[float]]:
        """sample_id -> score, or the error that it is too long, by transformers."""
        import torch

        if self.options.fit is not None and fold not in self.models:
            raise StageError(f"reward model {self.options.name!r} has `fit` and was not given labels")
        source = str(self.models.get(fold, self.options.model))
        model, tokenizer = load_classifier(source, new_head=False)
        model = for_inference(model)
        tokens = {key: _tokens(tokenizer, *answer) for key, answer in answers.items()}
        order = sorted(tokens, key=lambda key: (len(tokens[key]), key))
        why = f"prompt and answer exceed max_length {self.options.max_length}"
        unscored: Heard[float] = Heard(None, why, None, (), "too_long")
        marks = dict.fromkeys(order, unscored)
        for batch in _batches([key for key in order if len(tokens[key]) <= self.options.max_length], tokens):
            rows = [tokens[key] for key in batch]
            inputs = tokenizer.pad({"input_ids": rows}, padding_side="right", return_tensors="pt").to(model.device)
            with torch.inference_mode():
                logits = cast("list[float]", model(**inputs).logits[:, 0].float().tolist())
            marks |= {key: Heard(score, None, None, ()) for key, score in zip(batch, logits, strict=True)}
        return marks


def train(options: RewardModelJudge.Options, rows: list[dict[str, Any]], target: Path, seed: int) -> None:
    """Fine-tune the model on *rows* ({chosen, rejected}: whole conversations) with TRL and write it to *target*.

    Raises:
        StageError: every row is longer than ``max_length``.
    """
    import datasets
    import torch
    import transformers
    import trl

    quiet()
    settings = options.fit or FitConfig()
    gpu = torch.cuda.is_available()
    # The head is new: its weights are drawn when the model is loaded.
    transformers.set_seed(seed)
    model, tokenizer = load_classifier(options.model, "float32", new_head=True)
    # Tokenized here, so that the trainer leaves out no row unseen.
    tokens: list[dict[str, list[int]]] = [
        {f"{side}_ids": _template(tokenizer, row[side]) for side in ("chosen", "rejected")} for row in rows
    ]
    fitting = [row for row in tokens if max(map(len, row.values())) <= options.max_length]
    if not fitting:
        raise StageError(
            f"reward model {options.name!r}: all {len(rows)} labelled pairs exceed max_length {options.max_length}; "
            "raise it"
        )
    library: Any = trl
    untyped: Any = datasets
    arguments = library.RewardConfig(
        output_dir=str(target),
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        per_device_train_batch_size=settings.batch_size,
        max_length=options.max_length,
        warmup_steps=0.1,
        center_rewards_coefficient=CENTRE,
        save_strategy="no",
        logging_steps=10,
        seed=seed,
        data_seed=seed,
        bf16=gpu,
        use_cpu=not gpu,
        gradient_checkpointing=gpu,
        dataloader_pin_memory=gpu,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = library.RewardTrainer(
        model=model, args=arguments, train_dataset=untyped.Dataset.from_list(fitting), processing_class=tokenizer
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    report = {
        "labelled": len(rows),
        "too_long": len(rows) - len(fitting),
        "steps": int(trainer.state.global_step),
        "log": trainer.state.log_history,
    }
    with storage(target):
        trainer.model.save_pretrained(str(target))
        tokenizer.save_pretrained(str(target))
        (target / "fit.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _row(one: Labelled) -> dict[str, Any]:
    item = one.comparison
    answers = (item.completion_a, item.completion_b)
    chosen, rejected = answers if one.preference > 1 / 2 else answers[::-1]
    return {"chosen": _messages(item.messages, chosen), "rejected": _messages(item.messages, rejected)}


def _messages(messages: Turns, completion: str) -> list[dict[str, str]]:
    turns = (*messages, ("assistant", completion))
    return [{"role": role, "content": content} for role, content in turns]


def _tokens(tokenizer: Any, messages: Turns, completion: str) -> list[int]:
    return _template(tokenizer, _messages(messages, completion))


def _template(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    control = control_tokens.of(tokenizer)
    shown = [{**turn, "content": control_tokens.defused(turn["content"], control)} for turn in messages]
    return chat_tokens(tokenizer, shown)


def _batches(order: Sequence[str], tokens: Mapping[str, list[int]]) -> list[list[str]]:
    """Cut *order*, shortest first, into batches of at most BATCH_TOKENS padded tokens."""
    batches: list[list[str]] = []
    for key in order:
        if batches and (len(batches[-1]) + 1) * len(tokens[key]) <= BATCH_TOKENS:
            batches[-1].append(key)
        else:
            batches.append([key])
    return batches


def _identity(model: str) -> object:
    """Name, and for a folder the size and time of each file: another model under the same name is another model."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    files = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
    return [model, [(name, (folder / name).stat().st_size, (folder / name).stat().st_mtime_ns) for name in files]]


def _logistic(logit: float) -> float:
    return 1 / (1 + math.exp(-max(-500.0, min(500.0, logit))))
