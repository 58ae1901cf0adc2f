"""load: a file of prompts -> prompts. Reads that file; answers first turns with the first generator.

Later turns of a conversation are prompts of their own: the turn before is answered once, greedily, and frozen
into the messages. Drop reasons: what the importer says of a row (``prompt_empty``, ...), ``duplicate``,
``near_duplicate``, ``turn_unanswered``, ``turn_cut_off``.
"""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from pipeline import ids, schemas
from pipeline.config import Config, GeneratorConfig, PromptsConfig
from pipeline.engines.base import Answer, Request
from pipeline.errors import ConfigError, DataError
from pipeline.filters.similarity import near_duplicate_ids
from pipeline.importers.base import Conversation, Refused
from pipeline.importers.reading.seat import read, why_nothing
from pipeline.importers.reading.tables import Source
from pipeline.sampling.turns import Respond, frozen_turns, with_system
from pipeline.stages.base import Frames, Result, Shard, Stage, calls_frame, dropped_frame
from pipeline.workbench import Workbench


def read_file(config: PromptsConfig, base: Path) -> tuple[list[Conversation], Refused]:
    """The conversations of a prompts file, and the rows that cannot be used.

    Raises:
        DataError: the file is missing, empty or broken, or no row is usable.
    """
    batch = read(source_of(config), config.format, "prompts", None, base)
    conversations = batch.conversations()
    if not conversations:
        raise DataError(f"{config.path}: {why_nothing(batch.refused, batch.needs, batch.columns)}")
    return conversations, batch.refused


def source_of(config: PromptsConfig) -> Source:
    """Where the config says that prompts are."""
    return Source(config.path, config.split, config.subset, config.columns)


def prompts(
    conversations: Sequence[Conversation], source: str, near_duplicates: float | None = None
) -> tuple[pl.DataFrame, dict[str, str]]:
    """The frame ``prompts``, and which rows repeat another (id -> reason). Row order changes nothing."""
    rows: dict[str, dict[str, object]] = {}
    texts: dict[str, str] = {}
    repeated: dict[str, str] = {}
    for item in sorted(conversations, key=lambda item: item.where):
        key = ids.prompt_id(item.messages, item.reference)
        if key in rows:
            repeated[item.where] = "duplicate"
            continue
        texts[key] = "\n".join(content for _, content in item.messages)
        rows[key] = {
            "prompt_id": key,
            "messages": [{"role": role, "content": content} for role, content in item.messages],
            "reference": item.reference,
            "whole": item.whole,
            "source": source,
            "tags": list(item.tags),
        }
    if near_duplicates is not None:
        for key in near_duplicate_ids(texts, near_duplicates):
            del rows[key]
            repeated[key] = "near_duplicate"
    return schemas.frame("prompts", list(rows.values())), repeated


def _responder(bench: Workbench, generator: GeneratorConfig) -> Respond:
    def respond(items: list[Conversation]) -> list[Answer]:
        requests = [
            Request(with_system(item.messages, generator.system), generator.max_tokens, temperature=0.0)
            for item in items
        ]
        return bench.engine(generator).complete(requests, bench.advance)

    return respond


def _shards(frames: Frames, config: Config, bench: Workbench) -> list[Shard]:
    if config.prompts is None:
        return []
    conversations, _ = read_file(config.prompts, bench.base)
    waiting = sum(len(item.later_turns) for item in conversations)
    if not waiting:
        return [Shard("all", frames)]
    if not config.generators:
        raise ConfigError(f"{config.prompts.path} has second turns; a generator is needed to answer the first ones")
    first = config.generators[0]
    keys = {"model", "engine", "engine_args", "endpoint", "max_tokens", "system", "body", "query", "structured"}
    answering = {**first.model_dump(mode="json", include=keys), "base_url": config.base_url(first)}
    return [Shard("all", frames, answering, waiting)]


def _run(shard: Shard, config: Config, bench: Workbench) -> Result:
    del shard
    if config.prompts is None:
        return Result({})
    conversations, refused = read_file(config.prompts, bench.base)
    unanswered, answers, said = Refused(), list[Answer](), dict[str, str]()
    if any(item.later_turns for item in conversations):
        respond = _responder(bench, config.generators[0])
        conversations, unanswered, answers, said = frozen_turns(conversations, respond)
    made, repeated = prompts(conversations, config.prompts.path.name, config.prompts.near_duplicates)
    reasons = refused.rows | unanswered.rows | repeated
    who = f"generate:{config.generators[0].label}" if config.generators else "generate"
    return Result(
        {
            "prompts": made,
            "calls": calls_frame([answer.call for answer in answers], who),
            "dropped": dropped_frame("load", reasons, said),
        },
        complete=not any(answer.unanswered for answer in answers),
    )


def _reads(config: Config) -> object:
    """The settings, and of what is read the content: a file's name is no part of it."""
    if config.prompts is None:
        return None
    return [config.prompts.model_dump(mode="json", exclude={"path"}), source_of(config.prompts).digest()]


STAGE = Stage(
    name="load",
    inputs=(),
    outputs=("prompts", "calls"),
    run=_run,
    reads=_reads,
    shards=_shards,
    version=2,
)
