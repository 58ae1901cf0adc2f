"""Runs stages: reads frames, calls the stage's pure function, validates, writes. The CLI and flows call this.

A stage is split into shards; a shard is done when its part of ``dropped`` (written last) carries the stamp of
everything it was made from: the config keys it reads, its input rows, its input artefacts and the stage's
version. So a stage whose inputs did not change is skipped, an edited key reruns exactly what reads it, and a
killed run goes on where it stopped.
"""

import importlib
import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import polars as pl

from pipeline.arrays import at_once
from pipeline.config import Config
from pipeline.contents import file_digest
from pipeline.errors import InputError, StorageError, UnreachableError
from pipeline.ids import digest
from pipeline.schemas import FRAMES, ORDER
from pipeline.stages.base import Shard, Stage, installed_versions
from pipeline.store import RunFolder, UndeclaredError, slice_digest
from pipeline.workbench import Workbench

Shards = Mapping[str, tuple[Shard, str]]
"""Shards of a stage by name, each with its stamp."""
Do = Callable[[Shard, str], object]
"""Does one shard, given its stamp."""


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


def plan(bench: Workbench, what: Stage) -> dict[str, tuple[Shard, str]]:
    """The shards of a stage by name, each with its stamp.

    Raises:
        StorageError: an input is damaged.
    """
    run, config = bench.folder, bench.config
    run.verify(sorted(what.readable))
    frames = Inputs(run, what.inputs)
    held = bench.by_content
    common = {
        "stage": what.name,
        "version": what.version,
        "reads": held(what.reads(config)),
        "files": {path.name: file_digest(path) for path in what.files(config) if path.is_file()},
        "artefacts": {name: run.digest(name) for name in what.artefacts_in},
    }
    lent = bench.lent(what.name, what.readable, what.scratch)
    made = what.shards(frames, config, lent) if what.shards else [Shard("all", frames)]
    return {shard.name: (shard, digest({**common, "shard": held(shard.reads), "rows": _rows(shard)})) for shard in made}


def _rows(shard: Shard) -> str:
    return shard.frames.digest() if isinstance(shard.frames, Inputs) else slice_digest(shard.frames)


def is_done(run: RunFolder, what: Stage, name: str, stamp: str) -> bool:
    """Whether the shard's outputs exist, whole, and were made from exactly this."""
    return (
        all(run.notes(frame, what.name, name).get("stamp") == stamp for frame in _frames(what))
        and all(run.files(artefact) for artefact in what.artefacts_out)
        and not run.damaged(_files(run, what, [name]))
    )


def _frames(what: Stage) -> tuple[str, ...]:
    return (*what.outputs, "dropped")


def _files(run: RunFolder, what: Stage, shards: Iterable[str]) -> list[Path]:
    """What the stage wrote for *shards*: parts, then its artefacts' files."""
    parts = [run.part(frame, what.name, name) for name in shards for frame in _frames(what)]
    return parts + [file for artefact in what.artefacts_out for file in run.files(artefact)]


def run_shard(bench: Workbench, what: Stage, shard: Shard, stamp: str) -> bool:
    """Do one shard and write what it made; returns whether it is complete.

    Raises:
        JobError: the stage cannot go on; what other shards wrote stays.
    """
    started = time.monotonic()
    run = bench.folder
    # From here on the shard is not done: parts and artefacts of two makings must never pass for one.
    run.part("dropped", what.name, shard.name).unlink(missing_ok=True)
    try:
        result = what.run(shard, bench.config, bench.lent(what.name, what.readable, what.scratch))
    except pl.exceptions.PolarsError:
        # A stage that scans its frames meets a damaged part in the midst of its work; to read them says which it is.
        for name in what.inputs:
            run.read(name)
        raise
    undeclared = sorted({*result.artefacts, *result.folders} - set(what.artefacts_out))
    if undeclared:
        raise UndeclaredError(f"stage {what.name} made {', '.join(undeclared)}, which its artefacts_out do not name")
    notes = {
        "stamp": stamp if result.complete else "",
        "seconds": f"{time.monotonic() - started:.3f}",
        "versions": json.dumps(installed_versions()),
    }

    def write(frame: str) -> None:
        run.write_part(frame, what.name, shard.name, result.frames.get(frame, bench.empty(frame)), notes)

    for name, value in result.artefacts.items():
        run.write_json(name, value)
    for name, build in result.folders.items():
        run.replace_folder(name, build)
    at_once(write, what.outputs)
    write("dropped")
    if what.scratch is not None and result.complete:
        run.remove(what.scratch)
    return result.complete


def finish(bench: Workbench, what: Stage, shards: Shards, done: Collection[str]) -> StageReport:
    """Remove parts of shards that are gone, record what was written and write the stage's row of the manifest.

    Args:
        bench: the opened run.
        what: the stage.
        shards: all of them, as planned.
        done: names of those that were done just now.
    """
    run = bench.folder
    for frame in _frames(what):
        run.prune(frame, what.name, set(shards))
    run.record(_files(run, what, shards), set(_files(run, what, done)) if done else ())
    owned = {frame: _owned(run, frame, what.name, shards) for frame in _frames(what)}
    rows = {frame: _height(parts) for frame, parts in owned.items()}
    notes = {name: run.notes("dropped", what.name, name) for name in shards}
    spent = owned.get("calls", bench.empty("calls").lazy()).select(pl.col("cost_usd").sum()).collect()
    reasons = owned["dropped"].select(pl.col("reason").value_counts(sort=True, name="n")).collect(engine="streaming")
    reasons = reasons.unnest("reason")
    report = StageReport(
        stage=what.name,
        stamp=digest({name: stamp for name, (_, stamp) in shards.items()}),
        skipped=not done,
        rows_in={name: run.height(name) - rows.get(name, 0) for name in what.inputs},
        rows_out={name: rows[name] for name in what.outputs},
        dropped=dict(zip(reasons["reason"].to_list(), reasons["n"].to_list(), strict=True)),
        calls=rows.get("calls", 0),
        cost_usd=float(spent.item()),
        seconds=round(sum(float(note.get("seconds", 0)) for note in notes.values()), 3),
        incomplete=sorted(name for name, note in notes.items() if not note.get("stamp")),
        versions=cast("dict[str, str]", json.loads(next((n["versions"] for n in notes.values() if n), "{}"))),
    )
    manifest = _manifest(bench)
    row = {key: value for key, value in vars(report).items() if key not in {"stage", "skipped"}}
    if manifest["stages"].get(what.name) != row:
        manifest["stages"][what.name] = row
        run.write_json("manifest.json", manifest)
    if what.verify is not None:
        what.verify(bench.lent(what.name, {*what.readable, *_frames(what)}))
    return report


def _manifest(bench: Workbench) -> dict[str, Any]:
    try:
        found = bench.folder.read_json("manifest.json") or {}
    except StorageError as error:
        bench.progress.note(f"{error}: made again, stage by stage")
        found = {}
    return found if isinstance(found.get("stages"), dict) else {"stages": {}}


def run_stage(bench: Workbench, name: str, *, force: bool = False, do: Do | None = None) -> StageReport:
    """Run one stage of a run, skipping what is done. The one loop, whoever does the shards.

    Args:
        bench: the opened run.
        name: one of :data:`ORDER`.
        force: do it again even where nothing changed. Answers in the ledger are never paid for again.
        do: does one shard, given its stamp; by default here and now (:func:`run_shard`). The shards planned are in
            ``bench.planned`` meanwhile.

    Raises:
        JobError: the stage failed; everything finished before stays.
        InputError: its input is wrong.
    """
    what = stage(name)
    with bench.writing():
        _heal(bench, what)
        shards = bench.planned[name] = plan(bench, what)
        todo = [one for one in shards.values() if force or not is_done(bench.folder, what, one[0].name, one[1])]
        bench.progress.start(name, sum(max(shard.size, 1) for shard, _ in todo), skipped=not todo)
        try:
            if what.begin is not None:
                lent = bench.lent(what.name, what.readable, what.scratch)
                what.begin([shard for shard, _ in todo], bench.config, lent)
            in_turn(todo, do or partial(_do, bench, what))
        finally:
            bench.close_engines()
            del bench.planned[name]
        report = finish(bench, what, shards, [shard.name for shard, _ in todo])
        bench.progress.end(name, report.rows_out, skipped=report.skipped)
    return report


def _heal(bench: Workbench, what: Stage) -> None:
    """Remove damaged parts and artefacts that this stage, or one after it, makes again, and say so."""
    run = bench.folder
    owners = tuple(f"part-{name}-" for name in ORDER[ORDER.index(what.name) :])
    frames = sorted({*what.readable, *_frames(what)} & set(FRAMES))
    parts = [part for frame in frames for part in run.parts(frame) if part.name.startswith(owners)]
    for part in run.damaged(parts):
        bench.progress.note(f"{part}: is damaged (its bytes are not those that were written); made again")
        part.unlink(missing_ok=True)
    for artefact in what.artefacts_out:
        if run.damaged(run.files(artefact)):
            bench.progress.note(f"{run.local(artefact)}: is damaged; made again")


def in_turn(todo: Sequence[tuple[Shard, str]], do: Do) -> None:
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


def _owned(run: RunFolder, frame: str, owner: str, shards: Shards) -> pl.LazyFrame:
    present = [path for path in (run.part(frame, owner, name) for name in shards) if path.is_file()]
    return pl.scan_parquet(present, glob=False) if present else Workbench.empty(frame).lazy()


def _height(rows: pl.LazyFrame) -> int:
    return int(rows.select(pl.len()).collect().item())


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
