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
from typing import Any, cast

import polars as pl
import yaml

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
        """summary.json; empty when there is none yet."""
        return self.json("summary.json") or {}

    @property
    def config(self) -> dict[str, Any]:
        """config.yaml as it was written; empty when there is none."""
        return _config(self.path, _stamp([self.path / "config.yaml"]))

    @property
    def status(self) -> dict[str, Any] | None:
        """status.json while the run is going on, else None."""
        told = self.json(STATUS)
        return told if told is not None and told.get("state") == "running" and _alive(told) else None

    def stamp(self, *frames: str) -> "Stamp":
        """What tells one state of *frames*, or with none of the artefacts that pages show, from another."""
        if frames:
            return _stamp([part for frame in frames for part in self.folder.parts(frame)])
        return _stamp([self.path / name for name in ARTEFACTS])

    @property
    def people(self) -> str:
        """How this run's annotators are called: ``people`` or ``simulated people``."""
        return "simulated people" if self.summary.get("simulated_people") else "people"


def found(place: Path) -> list[Run]:
    """The runs in the folder *place*, or the run that it is; the last changed first."""
    folders = [place] if _is_run(place) else [path for path in place.glob("*") if _is_run(path)]
    return [Run(path) for path in sorted(folders, key=lambda path: -_changed(path))]


def _alive(told: Mapping[str, Any]) -> bool:
    """Whether the process that wrote a status is there: on this machine it is asked, elsewhere its status is fresh."""
    if told.get("host") != socket.gethostname():
        return time.time() - float(told.get("updated_at") or 0) < STATUS_STALE_S
    try:
        os.kill(int(told["pid"]), 0)
    except (ProcessLookupError, KeyError, ValueError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _is_run(path: Path) -> bool:
    return (path / "config.yaml").is_file() or (path / "manifest.json").is_file()


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
    if not stamp:
        return {}
    written: object = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    return cast("dict[str, Any]", written) if isinstance(written, dict) else {}
