"""Runs as the pages see them: what the stages made, read when asked for, again when it changed. Reads runs' folders.

Nothing is counted here or in a page: a page shows aggregates that stages wrote, or looks up single rows.
"""

import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.config_file import mapping
from pipeline.errors import StorageError
from pipeline.progress import STATUS
from pipeline.store import RunFolder

STATUS_STALE_S = 30.0
"""A run on another machine whose status is older than this, s, is not running."""


ARTEFACTS = (
    "config.yaml",
    "manifest.json",
    "summary.json",
    "panel.json",
    "certificate.json",
    "evaluation.json",
    "model/training.json",
)
"""What changes when a page has something new to show."""


class _Written(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Judge(_Written):
    agreement: float | None
    low: float | None
    high: float | None
    weight: float | None
    in_panel: bool


class _Certificate(_Written):
    certified: bool
    reason: str | None


class _Summary(_Written):
    """What pages take from summary.json as it is."""

    rows: dict[str, dict[Literal["in", "out"], dict[str, int]]] = {}
    dropped: dict[str, dict[str, int]] = {}
    judges: dict[str, _Judge] = {}
    certificate: _Certificate | None = None
    calls: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0
    stage_seconds: dict[str, float] = {}
    warnings: list[str] = []


@dataclass(frozen=True)
class Run:
    """One run's folder, open for reading."""

    path: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def folder(self) -> RunFolder:
        """The folder as the pipeline reads it, for single rows."""
        return RunFolder(self.path)

    def frame(self, name: str) -> pl.DataFrame:
        """An aggregate: the frame *name*, read again only when one of its parts changed."""
        return _frame(self.path, name, _stamp(self.folder.parts(name)))

    def json(self, name: str) -> dict[str, Any] | None:
        """The artefact *name*, read again only when it changed; None when there is none."""
        return _json(self.path, name, _stamp([self.path / name]))

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json; empty when there is none yet.

        Raises:
            StorageError: it is not what a run writes.
        """
        made = self.json("summary.json")
        if made is None:
            return {}
        try:
            _Summary.model_validate(made)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(key) for key in first["loc"])
            raise StorageError(
                f"{self.path / 'summary.json'}: is no summary of a run ({where}: {first['msg']}); write it again with "
                "`jurybox report CONFIG`"
            ) from error
        return made

    @property
    def config(self) -> dict[str, Any]:
        """config.yaml as it was written; empty when there is none."""
        return _config(self.path, _stamp([self.path / "config.yaml"]))

    @property
    def status(self) -> dict[str, Any] | None:
        """status.json while the run is going on, else None; one that cannot be read tells of no run that goes on."""
        try:
            told = self.json(STATUS)
        except StorageError:
            return None
        return told if told is not None and told.get("state") == "running" and _alive(told) else None

    def stamp(self, *frames: str) -> "Stamp":
        """What tells one state of *frames*, or with none of the artefacts that pages show, from another."""
        if frames:
            return _stamp([part for frame in frames for part in self.folder.parts(frame)])
        return _stamp([self.path / name for name in ARTEFACTS])

    @property
    def people(self) -> str:
        """How this run's annotators are called: ``people`` or ``simulated people``."""
        made = self.json("summary.json") or {}
        return "simulated people" if made.get("simulated_people") else "people"


def found(place: Path) -> list[Run]:
    """The runs in the folder *place*, or the run that it is; the last changed first."""
    folders = [place] if _is_run(place) else [path for path in place.glob("*") if _is_run(path)]
    return [Run(path) for path in sorted(folders, key=lambda path: -_changed(path))]


def _alive(told: Mapping[str, Any]) -> bool:
    """Whether the process that wrote a status is there: on this machine it is asked, elsewhere its status is fresh."""
    if told.get("host") != socket.gethostname():
        at = told.get("updated_at")
        return isinstance(at, int | float) and time.time() - at < STATUS_STALE_S
    try:
        os.kill(int(told["pid"]), 0)
    except (ProcessLookupError, KeyError, TypeError, ValueError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _is_run(path: Path) -> bool:
    try:
        return (path / "config.yaml").is_file() or (path / "manifest.json").is_file()
    except OSError:  # a folder that we may not look into
        return False


def _changed(path: Path) -> float:
    return max((file.stat().st_mtime for file in _marks(path)), default=0.0)


def _marks(path: Path) -> Iterator[Path]:
    return (path / name for name in ("manifest.json", "config.yaml", "summary.json") if (path / name).is_file())


Stamp = tuple[tuple[str, int, int], ...]


def _stamp(files: list[Path]) -> Stamp:
    """What tells one state of *files* from another."""
    stats = [(file.name, file.stat()) for file in files if file.is_file()]
    return tuple((name, status.st_mtime_ns, status.st_size) for name, status in stats)


@lru_cache(maxsize=256)
def _frame(path: Path, name: str, stamp: Stamp) -> pl.DataFrame:
    del stamp
    return RunFolder(path).read(name)


@lru_cache(maxsize=256)
def _json(path: Path, name: str, stamp: Stamp) -> dict[str, Any] | None:
    del stamp
    return RunFolder(path).read_json(name)


@lru_cache(maxsize=64)
def _config(path: Path, stamp: Stamp) -> dict[str, Any]:
    return mapping(path / "config.yaml") if stamp else {}
