"""load: a file of prompts -> prompts. Reads that file; answers first turns with the first generator.

Later turns of a conversation are prompts of their own: the turn before is answered once, greedily, and frozen
into the messages. Drop reasons: what the importer says of a row (``prompt_empty``, ...), ``duplicate``,
``near_duplicate``, ``turn_unanswered``.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from pipeline import ids, schemas
from pipeline.config import Config, GeneratorConfig, PromptsConfig
from pipeline.engines.base import Answer, Call, Request
from pipeline.errors import ConfigError, DataError
from pipeline.importers.base import Conversation, Refused
from pipeline.importers.reading.seat import read, why_nothing
from pipeline.importers.reading.tables import Source
from pipeline.runner import Frames, Result, Shard, Stage
from pipeline.workbench import Workbench

PERMUTATIONS = 128
STRICTEST_INDEX = 0.9
"""The index cannot be built for 1; it only proposes, and what it proposes is compared."""
Respond = Callable[[list[Conversation]], list[Answer]]


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


def frozen_turns(
    conversations: Sequence[Conversation], respond: Respond
) -> tuple[list[Conversation], Refused, list[Call]]:
    """Every turn as a conversation of its own, the answers before it frozen in."""
    done = list(conversations)
    refused, calls = Refused(), list[Call]()
    open_ = [item for item in conversations if item.later_turns]
    turn = 1
    while open_:
        turn += 1
        following: list[Conversation] = []
        for item, answer in zip(open_, respond(open_), strict=True):
            calls.append(answer.call)
            if answer.text is None:
                refused.add(f"{item.where}#turn{turn}", "turn_unanswered")
                continue
            messages = (*item.messages, ("assistant", answer.text), ("user", item.later_turns[0]))
            following.append(replace(item, messages=messages, later_turns=item.later_turns[1:]))
        numbered = [replace(item, where=f"{item.where.split('#')[0]}#turn{turn}") for item in following]
        done.extend(numbered)
        open_ = [item for item in numbered if item.later_turns]
    return done, refused, calls


def prompts(
    conversations: Sequence[Conversation], source: str, near_duplicates: float | None = None
) -> tuple[pl.DataFrame, dict[str, str]]:
    """The frame ``prompts``, and which rows repeat another (id -> reason). Row order changes nothing."""
    rows: dict[str, dict[str, object]] = {}
    repeated: dict[str, str] = {}
    for item in sorted(conversations, key=lambda item: item.where):
        key = ids.prompt_id(item.messages, item.reference)
        if key in rows:
            repeated[item.where] = "duplicate"
            continue
        rows[key] = {
            "prompt_id": key,
            "messages": [{"role": role, "content": content} for role, content in item.messages],
            "reference": item.reference,
            "whole": item.whole,
            "source": source,
            "tags": list(item.tags),
        }
    if near_duplicates is not None:
        for key in _near_duplicates(rows, near_duplicates):
            del rows[key]
            repeated[key] = "near_duplicate"
    return schemas.frame("prompts", list(rows.values())), repeated


def _near_duplicates(rows: dict[str, dict[str, object]], threshold: float) -> list[str]:
    """Ids similar to one with a smaller id that is kept: MinHash LSH over word 3-grams (Broder 1997)."""
    from datasketch import MinHash, MinHashLSH

    index: Any = MinHashLSH(threshold=min(threshold, STRICTEST_INDEX), num_perm=PERMUTATIONS)
    signatures: dict[str, Any] = {}
    dropped: list[str] = []
    for key in sorted(rows):
        words = re.findall(r"\w+", str(rows[key]["messages"]).lower())
        signature: Any = MinHash(num_perm=PERMUTATIONS)
        signature.update_batch([" ".join(words[at : at + 3]).encode() for at in range(max(len(words) - 2, 1))])
        if any(signature.jaccard(signatures[other]) >= threshold for other in index.query(signature)):
            dropped.append(key)
        else:
            index.insert(key, signature)
            signatures[key] = signature
    return dropped


def _responder(bench: Workbench, generator: GeneratorConfig) -> Respond:
    def respond(items: list[Conversation]) -> list[Answer]:
        requests = [
            Request(with_system(item.messages, generator.system), generator.max_tokens, temperature=0.0)
            for item in items
        ]
        return bench.engine(generator).complete(requests, bench.advance)

    return respond


def with_system(messages: tuple[tuple[str, str], ...], system: str | None) -> tuple[tuple[str, str], ...]:
    """*messages* with the generator's system message, unless they have one of their own."""
    return messages if system is None or messages[0][0] in {"system", "developer"} else (("system", system), *messages)


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
    keys = {"model", "engine", "engine_args", "endpoint", "max_tokens", "system"}
    answering = {**first.model_dump(mode="json", include=keys), "base_url": config.base_url(first)}
    return [Shard("all", frames, answering, waiting)]


def _run(shard: Shard, config: Config, bench: Workbench) -> Result:
    del shard
    if config.prompts is None:
        return Result({})
    conversations, refused = read_file(config.prompts, bench.base)
    unanswered, calls = Refused(), list[Call]()
    if any(item.later_turns for item in conversations):
        respond = _responder(bench, config.generators[0])
        conversations, unanswered, calls = frozen_turns(conversations, respond)
    made, repeated = prompts(conversations, config.prompts.path.name, config.prompts.near_duplicates)
    reasons = refused.rows | unanswered.rows | repeated
    who = f"generate:{config.generators[0].label}" if config.generators else "generate"
    return Result(
        {
            "prompts": made,
            "calls": calls_frame(calls, who),
            "dropped": dropped_frame("load", reasons),
        },
        complete=not any(call.status == "unanswered" for call in calls),
    )


def calls_frame(calls: Sequence[Call], who: str) -> pl.DataFrame:
    """The frame ``calls`` for the calls of one judge or generator; a call shared by two rows counts once."""
    unique = {call.call_key: call for call in calls}
    rows: list[dict[str, object]] = [
        {
            "call_key": call.call_key,
            "judge": who,
            "status": call.status,
            "prompt_tokens": call.prompt_tokens,
            "cached_tokens": call.cached_tokens,
            "completion_tokens": call.completion_tokens,
            "cost_usd": call.cost_usd,
            "latency_s": call.latency_s,
        }
        for call in unique.values()
    ]
    return schemas.frame("calls", rows)


def dropped_frame(stage: str, reasons: dict[str, str]) -> pl.DataFrame:
    """The frame ``dropped`` for one stage, from id -> reason."""
    return schemas.frame("dropped", [{"stage": stage, "id": key, "reason": why} for key, why in reasons.items()])


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
)
