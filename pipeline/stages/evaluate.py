"""evaluate: trained against untrained model on held-out prompts -> duels, evaluation.json. Touches models.

Both models answer every prompt once, under the same seed. People decide the win rate; the panel's opinion and the
verifiers' pass rates stand beside it and decide nothing. An empty answer is an answer, or a model that falls silent
would lose nothing by it. Drop reasons: what the importer says of a row, ``in_training_data``, and ``too_long``,
``refused``, ``rejected``, ``malformed``, ``unanswered`` for prompts that a model did not answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl

from judges.base import Labelled
from pipeline import discovery, ids, schemas
from pipeline.comparison import Comparison, People, comparisons
from pipeline.config import Config, GeneratorConfig, JudgeConfig, ModelConfig
from pipeline.contents import file_digest
from pipeline.engines.base import Answer, Call, Request
from pipeline.errors import StageError
from pipeline.frames import conversation, people, with_texts
from pipeline.labels.splits import is_test, split_labels
from pipeline.sampling.turns import frozen_turns, with_system
from pipeline.stages.base import Frames, Result, Shard, Stage, calls_frame, dropped_frame
from pipeline.stages.judge import make
from pipeline.stages.load import prompts, read_file, source_of
from pipeline.workbench import Workbench
from training.base import base_model
from training.evaluation.divergence import KL_ESTIMATOR, divergence
from training.evaluation.duels import INTERVAL, Duel, Turns, decide, duel_rows, mean, weighted, win_rate

ANSWERS = 3
"""Answers a prompt: two for the duel, one for the divergence."""


@dataclass
class Heard:
    """What a step cost, and whether every question in it was answered."""

    calls: list[pl.DataFrame] = field(default_factory=list[pl.DataFrame])
    complete: bool = True


def untrained(config: Config) -> ModelConfig:
    """The untrained model: by the generator's own engine where that runs in this process, else by transformers."""
    first = config.generators[0] if config.generators else None
    model = base_model(config)
    if first is None or first.engine is None:
        tokens = config.evaluate.max_tokens or (
            first.max_tokens if first else ModelConfig.model_fields["max_tokens"].default
        )
        return ModelConfig(model=model, engine="transformers", max_tokens=tokens)
    tokens = config.evaluate.max_tokens or first.max_tokens
    return first.model_copy(update={"model": model, "max_tokens": tokens})


def trained(start: ModelConfig, folder: Path) -> ModelConfig:
    """The model in *folder*, run as *start* is: an adapter on it, or a whole model."""
    if not (folder / "adapter_config.json").is_file():
        return start.model_copy(update={"model": str(folder)})
    return start.model_copy(update={"engine_args": {"adapter": str(folder), **start.engine_args}})


def held_out(
    frames: Frames, config: Config, bench: Workbench, model: ModelConfig, heard: Heard
) -> tuple[pl.DataFrame, dict[str, str]]:
    """(the frame ``prompts`` of what both models are asked, drops: id -> reason).

    Raises:
        StageError: nothing is left to ask.
        DataError: the file of held-out prompts is wrong.
    """
    known = frames["prompts"].with_columns(
        pl.Series("test", [in_test(key, config) for key in frames["prompts"]["prompt_id"]], dtype=pl.Boolean)
    )
    settings = config.evaluate.prompts
    if settings is None:
        found = known.filter("test").drop("test")
        if found.is_empty():
            raise StageError(
                f"no prompt is held out: none of {known.height} is in the test split (test_fraction "
                f"{config.test_fraction}); set evaluate.prompts, or raise test_fraction"
            )
        return found, {}
    conversations, refused = read_file(settings, bench.base)
    reasons = dict(refused.rows)
    if any(item.later_turns for item in conversations):

        def respond(items: Sequence[Any]) -> list[Answer]:
            requests = [_request(item.messages, config, model, 0.0, 0) for item in items]
            return bench.engine(model).complete(requests, _unseen)

        conversations, silent, answers, _ = frozen_turns(conversations, respond)
        reasons |= silent.rows
        heard.calls.append(calls_frame([answer.call for answer in answers], f"generate:{model.label}"))
        heard.complete &= not any(answer.unanswered for answer in answers)
    made, repeated = prompts(conversations, settings.path.name, settings.near_duplicates)
    trained_on = {ids.prompt_id(conversation(row)) for row in known.filter(~pl.col("test"))["messages"]}
    seen = [
        row["prompt_id"]
        for row in made.iter_rows(named=True)
        if ids.prompt_id(conversation(row["messages"])) in trained_on
    ]
    reasons |= repeated | dict.fromkeys(seen, "in_training_data")
    left = made.filter(~pl.col("prompt_id").is_in(seen))
    if left.is_empty():
        raise StageError(
            f"{settings.path}: all {made.height} prompts are among those the model was trained on; give others"
        )
    return left, reasons


def in_test(prompt_id: str, config: Config) -> bool:
    """Whether the prompt is in the dataset's test split."""
    return is_test(prompt_id, config.seed, config.test_fraction)


def panel_preference(bench: Workbench, frames: Frames, duels: Sequence[Duel], heard: Heard) -> list[float | None]:
    """Per duel the panel's P(trained preferred): mean of its judges' preferences, by their weights in panel.json.

    A judge that left the panel is not asked; one that fails on a duel is left out of it; None where none answered.
    The same words twice are a tie and nobody is asked. *heard* takes note of the calls.
    """
    panel = (bench.folder.read_json("panel.json") or {}).get("judges", {})
    asked = [options for options in bench.config.judges if panel.get(options.name, {}).get("in_panel")]
    weights = {options.name: float(panel[options.name]["weight"]) for options in asked}
    shown = {duel.prompt_id: duel.comparison(bench.seed) for duel in duels if not duel.tie}
    found: dict[str, dict[str, list[float]]] = {key: {} for key in shown}
    owner = {item.pair_id: key for key, (item, _) in shown.items()}
    for options in asked:
        judge = make(options, bench)
        if options.wants_labels:
            judge.fit(_labelled(frames, bench))
        opinions = judge.judge([item for item, _ in shown.values()])
        heard.calls.append(calls_frame(opinions.calls, options.name))
        for one in opinions.judgments:
            heard.complete &= not one.unanswered
            if one.preference is not None:
                _, is_a = shown[owner[one.pair_id]]
                share = one.preference if is_a else 1 - one.preference
                found[owner[one.pair_id]].setdefault(options.name, []).append(share)
    return [
        1 / 2 if duel.tie else weighted({name: fmean(said) for name, said in found[duel.prompt_id].items()}, weights)
        for duel in duels
    ]


def pass_rates(bench: Workbench, duels: Sequence[Duel]) -> dict[str, Any] | None:
    """Mean score by the config's verifiers before and after training; None without a verifier.

    Returns:
        ``before``, ``after``, ``n`` (prompts that could be checked), and ``judges`` with the same for each verifier.
    """
    table: dict[str, dict[str, float]] = {}
    for options in bench.config.judges:
        if options.kind != "verifier":
            continue
        shown = [duel.comparison(bench.seed) for duel in duels]
        opinions = make(options, bench).judge([item for item, _ in shown])
        scores = {one.sample_id: one.score for one in opinions.ratings}
        both = [
            (scores[item.sample_b], scores[item.sample_a]) if is_a else (scores[item.sample_a], scores[item.sample_b])
            for item, is_a in shown
            if item.sample_a in scores and item.sample_b in scores
        ]
        if both:
            before, after = (fmean(side) for side in zip(*both, strict=True))
            table[options.name] = {"before": before, "after": after, "n": len(both)}
    if not table:
        return None
    means = {key: fmean(row[key] for row in table.values()) for key in ("before", "after")}
    return {**means, "n": max(int(row["n"]) for row in table.values()), "judges": table}


def _shards(frames: Frames, config: Config, bench: Workbench) -> list[Shard]:
    settings = config.evaluate.prompts
    if settings is None:
        asked = sum(in_test(key, config) for key in frames["prompts"]["prompt_id"])
    else:
        asked = len(read_file(settings, bench.base)[0])
    learns = any(options.wants_labels for options in config.judges)
    slices = dict(frames) if learns else {"prompts": frames["prompts"]}
    simulated = config.labels.simulated
    programs = [file for options in config.judges for file in options.files(bench.base)]
    programs += [bench.base / simulated.kind.rpartition(":")[0]] if simulated else []
    reads = {
        "model": base_model(config),
        "files": {str(file): file_digest(file) for file in programs if file.is_file()},
    }
    return [Shard("all", slices, reads, asked * (ANSWERS + len(config.judges)))]


def _run(shard: Shard, config: Config, bench: Workbench) -> Result:
    folder = bench.folder.local("model")
    training = bench.folder.read_json("model/training.json")
    if training is None:
        raise StageError(f"{folder} holds no trained model; run `jurybox train` first")
    if training.get("method") == "reward":
        return _unanswered(training, config)
    start = untrained(config)
    heard = Heard()
    asked, reasons = held_out(shard.frames, config, bench, start, heard)
    duels, free, faults = _duels(asked, config, bench, (start, trained(start, folder)), heard)
    reasons |= faults
    if not duels:
        raise StageError(
            f"neither model answered any of {asked.height} held-out prompts ({sorted(set(reasons.values()))})"
        )
    panel = panel_preference(bench, shard.frames, duels, heard)
    shares = _people(config, bench, duels)
    result = {
        **_headline(shares),
        "n": len(duels),
        "identical": sum(duel.tie for duel in duels),
        "panel_win_rate": mean([share for share in panel if share is not None]),
        "panel_n": sum(share is not None for share in panel),
        "verifier": pass_rates(bench, duels),
        "kl": mean(distances := divergence(start.model, folder, free)),
        "kl_n": len(distances),
        "kl_estimator": KL_ESTIMATOR,
        "reward_accuracy": training.get("reward_accuracy"),
        "temperature": config.evaluate.temperature,
        "simulated": config.labels.simulated is not None,
    }
    frame = schemas.frame("duels", duel_rows(duels, shares, panel))
    calls = pl.concat([bench.empty("calls"), *heard.calls]).unique("call_key", keep="first", maintain_order=True)
    return Result(
        {"duels": frame, "calls": calls, "dropped": dropped_frame("evaluate", reasons)},
        complete=heard.complete,
        artefacts={"evaluation.json": result},
    )


def _unanswered(training: Mapping[str, Any], config: Config) -> Result:
    """A reward model answers nothing: what is known of it is how it ranks the test split."""
    nothing = dict.fromkeys(("panel_win_rate", "verifier", "kl", "kl_estimator"))
    result = {
        **_headline(None),
        "reason": "a reward model answers no prompt; its reward_accuracy is on the pairs of the test split",
        **dict.fromkeys(("n", "identical", "panel_n", "kl_n"), 0),
        **nothing,
        "reward_accuracy": training.get("reward_accuracy"),
        "temperature": config.evaluate.temperature,
        "simulated": config.labels.simulated is not None,
    }
    return Result({}, artefacts={"evaluation.json": result})


def _duels(
    asked: pl.DataFrame, config: Config, bench: Workbench, models: tuple[ModelConfig, ModelConfig], heard: Heard
) -> tuple[list[Duel], list[tuple[Turns, str, bool]], dict[str, str]]:
    """(duels of untrained and trained *models*, the trained one's answers for the divergence, drops: id -> reason)."""
    rows = list(asked.sort("prompt_id").iter_rows(named=True))
    temperature = config.evaluate.temperature
    before = _answers(rows, config, bench, models[0], [temperature], heard)[0]
    # One model at a time: on a GPU each engine takes most of the memory.
    bench.close_engines()
    after, free = _answers(rows, config, bench, models[1], [temperature, 1.0], heard)
    bench.close_engines()
    turns = [with_system(conversation(row["messages"]), _system(config)) for row in rows]
    duels: list[Duel] = []
    reasons: dict[str, str] = {}
    for row, shown, old, new in zip(rows, turns, before, after, strict=True):
        fault = next((why for answer in (old, new) if (why := _fault(answer)) is not None), None)
        if fault is not None:
            reasons[row["prompt_id"]] = fault
        else:
            duels.append(Duel(row["prompt_id"], shown, row["reference"], old.text or "", new.text or ""))
    spoken = [
        (shown, answer.text or "", answer.finish_reason != "length")
        for shown, answer in zip(turns, free, strict=True)
        if _fault(answer) is None
    ]
    return duels, spoken, reasons


def _people(config: Config, bench: Workbench, duels: Sequence[Duel]) -> list[float] | None:
    """The trained model's share of the simulated people in each duel; None where there are none."""
    simulated = config.labels.simulated
    if simulated is None:
        return None
    everyone: People = discovery.find("judges", simulated.kind, "", bench.base)()
    return [decide(everyone, duel, bench.seed) for duel in duels]


def _headline(shares: Sequence[float] | None) -> dict[str, Any]:
    if shares is None:
        reason = (
            "nobody decides: labels.simulated is not set and duels have no labels yet; the panel's win rate is the "
            "opinion of judges that made the training data"
        )
        unknown = dict.fromkeys(("win_rate", "win_rate_low", "win_rate_high", "decided_by", "interval"))
        return {**unknown, "reason": reason}
    found = win_rate(shares)
    return {
        "win_rate": found.rate,
        "win_rate_low": found.low,
        "win_rate_high": found.high,
        "decided_by": "simulated people",
        "interval": INTERVAL,
        "reason": None,
    }


def _answers(
    rows: Sequence[dict[str, Any]],
    config: Config,
    bench: Workbench,
    model: ModelConfig,
    temperatures: Sequence[float],
    heard: Heard,
) -> list[list[Answer]]:
    """Per temperature one answer a row. A row's first draw has the same seed whichever model makes it."""
    requests: list[Request] = []
    for at, temperature in enumerate(temperatures):
        for row in rows:
            seed = ids.seed_from(config.seed, "evaluate", row["prompt_id"], *([at] if at else []))
            request = _request(conversation(row["messages"]), config, model, temperature, seed)
            # The divergence is one of whole distributions, so its draws are cut nowhere.
            requests.append(request if at == 0 else _whole(request))
    answers = bench.engine(model).complete(requests, bench.advance)
    calls: list[Call] = [answer.call for answer in answers]
    side = "trained" if "adapter" in model.engine_args else "untrained"
    heard.calls.append(calls_frame(calls, f"evaluate:{side}"))
    heard.complete &= not any(answer.unanswered for answer in answers)
    return [answers[at * len(rows) : (at + 1) * len(rows)] for at in range(len(temperatures))]


def _request(messages: Turns, config: Config, model: ModelConfig, temperature: float, seed: int) -> Request:
    top_p = model.top_p if isinstance(model, GeneratorConfig) else 1.0
    return Request(with_system(messages, _system(config)), model.max_tokens, temperature, top_p, seed)


def _whole(request: Request) -> Request:
    return Request(request.messages, request.max_tokens, request.temperature, 1.0, request.seed)


def _system(config: Config) -> str | None:
    return config.generators[0].system if config.generators else None


def _fault(answer: Answer) -> str | None:
    return None if answer.reason == "empty_answer" else answer.reason


def _labelled(frames: Frames, bench: Workbench) -> list[Labelled]:
    """The `fit` labels with their texts, as the stage `judge` gives them to a judge that learns."""
    config = bench.config
    fit, _ = split_labels(frames["labels"], frames["pairs"], config.seed, config.labels.fit_fraction)
    human = dict(people(fit).select("pair_id", "human").iter_rows())
    pairs = frames["pairs"].filter(pl.col("pair_id").is_in(list(human)))
    items: list[Comparison] = comparisons(with_texts(pairs, frames["samples"], frames["prompts"]))
    return [Labelled(item, human[item.pair_id]) for item in items]


def _unseen(done: int) -> None:
    """Answers to first turns are not counted: how many there are is not known beforehand."""


def _judges(options: JudgeConfig) -> dict[str, Any]:
    return options.model_dump(mode="json", exclude={"price"})


STAGE = Stage(
    name="evaluate",
    inputs=("prompts", "pairs", "samples", "labels"),
    outputs=("duels", "calls"),
    artefacts_in=("model", "panel.json"),
    artefacts_out=("evaluation.json",),
    run=_run,
    reads=lambda config: [
        config.evaluate.model_dump(mode="json", exclude={"prompts": {"path"}}),
        source_of(config.evaluate.prompts).digest() if config.evaluate.prompts else None,
        config.generators[0].model_dump(mode="json", exclude={"price", "temperatures", "samples"})
        if config.generators
        else None,
        [_judges(options) for options in config.judges],
        config.labels.model_dump(mode="json", include={"simulated", "fit_fraction"}),
        config.test_fraction,
        config.seed,
    ],
    shards=_shards,
)
