"""What a run lends to its stages: folder, config, ledger, models, progress. Opens the run's folder and models.

One per process. Engines are loaded once, shared by everything that names the same model the same way, and
closed when the stage ends, so that a GPU never holds two stages' models.
"""

import copy
import hashlib
import os
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import polars as pl
import yaml

from pipeline import discovery, schemas
from pipeline.calls.dialect import Dialect
from pipeline.calls.handles import fitting
from pipeline.calls.ledger import Ledger
from pipeline.calls.limiter import Clock, Limiter
from pipeline.calls.records import Records, place_of
from pipeline.config import Config, EndpointConfig, ModelConfig
from pipeline.config_file import load, mapping
from pipeline.contents import by_content
from pipeline.engines.base import Engine
from pipeline.errors import ConfigError, StorageError
from pipeline.progress import Progress, Silent, StatusFile
from pipeline.secrets import register
from pipeline.store import RunFolder, UndeclaredError

REFUSED = "refused.json"
"""Which parameters were refused: model at an endpoint -> parameter -> what is done about it, in words."""
SECRET_ENV = "JURYBOX_SECRET"  # noqa: S105  the variable's name


@dataclass
class _Held:
    """What is opened once for a run and shared by all that it is lent to."""

    engines: dict[str, Engine] = field(default_factory=dict[str, Engine])
    limiters: dict[str, Limiter] = field(default_factory=dict[str, Limiter])
    dialects: dict[str, Dialect] = field(default_factory=dict[str, Dialect])
    ledger: Ledger | None = None
    # Re-entrant: an engine asks for the ledger while it is being made.
    lock: threading.RLock = field(default_factory=threading.RLock)


class Workbench:
    """An opened run; use as a context manager."""

    def __init__(self, config: Config, path: Path, base: Path, progress: Progress | None = None) -> None:
        """Open *config*'s run in the folder *path*; *base* is the config's folder."""
        self.config = config
        self.folder = RunFolder(path)
        self._whole = self.folder
        self.base = base
        self.progress = StatusFile(progress or Silent(), self.folder.write_json)
        self.source = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        self.planned: dict[str, Any] = {}
        """Shards of the stages that are running, as ``runner.plan`` made them."""
        self._held = _Held()
        self._scratch: str | None = None
        self.clock = Clock()
        """Time as limiters and retries see it."""

    @classmethod
    def open(cls, path: Path, run_dir: Path | None = None, progress: Progress | None = None) -> "Workbench":
        """The run of the config file *path*, in *run_dir* or ``runs/<name>``; config.yaml there is the file itself.

        Raises:
            ConfigError: the file is missing or wrong.
        """
        config = load(path)
        bench = cls(config, run_dir or Path("runs") / config.name, path.resolve().parent, progress)
        bench.source = path.read_text(encoding="utf-8")
        return bench

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.failed()
        self.close_engines()
        if self._held.ledger is not None:
            self._held.ledger.close()
            self._held.ledger = None

    def lent(self, stage: str, names: Iterable[str], scratch: str | None = None) -> "Workbench":
        """This bench as the stage *stage* gets it: of the run's folder it holds the frames and artefacts *names*."""
        made = copy.copy(self)
        made.folder = self.folder.only(stage, names)
        made._scratch = scratch
        return made

    @contextmanager
    def writing(self) -> Generator[None]:
        """Hold the run's folder against other writers, waiting for one that is there."""
        with self.folder.writing(self.progress.note):
            yield

    def by_content(self, value: object) -> object:
        """*value* (JSON-able) with what its paths and plug-ins hold in the place of their names."""
        return by_content(value, self.base)

    @property
    def scratch(self) -> Path:
        """Folder of the running stage for half-done work; it stays until its shards are complete."""
        if self._scratch is None:
            raise UndeclaredError("a stage that keeps half-done work names its folder (scratch of its Stage)")
        return self._whole.path / self._scratch

    def past(self, frame: str) -> list[pl.DataFrame]:
        """*frame* of the other runs of the same config name beside this one; those that cannot be read are told.

        Raises:
            UndeclaredError: the stage that asks does not declare *frame*.
        """
        self.folder.local(frame)
        found: list[pl.DataFrame] = []
        for other in sorted(self._whole.path.parent.glob(f"*/{frame}")):
            source = other.with_name("config.yaml")
            if other.parent.resolve() == self._whole.path.resolve() or not source.is_file():
                continue
            try:
                if mapping(source).get("name") == self.config.name:
                    found.append(RunFolder(other.parent).read(frame))
            except (ConfigError, StorageError) as error:
                self.progress.note(f"{other.parent}: not compared with this run ({error})")
        return found

    @staticmethod
    def empty(frame: str) -> pl.DataFrame:
        """The frame without rows."""
        return schemas.frame(frame, [])

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.config.seed

    @property
    def secret(self) -> bytes:
        """Key of the fences in judges' prompts.

        Safety rests on drawing a fence again while it occurs in a text, not on this being secret; by default it
        follows from the seed, so that a run can be repeated. ``JURYBOX_SECRET`` overrides it.
        """
        given = os.environ.get(SECRET_ENV)
        return register(given).encode() if given else hashlib.sha256(f"fence {self.config.seed}".encode()).digest()

    def cache(self, name: str) -> Path:
        """Folder of the run for what is kept by content: without it nothing is wrong, only slower."""
        return self._whole.path / name

    @property
    def workspace(self) -> Path:
        """Where judges keep what they learned from the `fit` labels."""
        return self._whole.path / "judges"

    @property
    def advance(self) -> Callable[[int], None]:
        """Progress of the stage that is running."""
        return self.progress.advance

    @property
    def budget_usd(self) -> float | None:
        """The run's hard limit, US$."""
        return None if self.config.budget is None else self.config.budget.usd

    @property
    def ledger(self) -> Ledger:
        """The run's ledger, opened at first use."""
        with self._held.lock:
            if self._held.ledger is None:
                self._held.ledger = Ledger(self._ledger_place(), budget_usd=self.budget_usd, account=self.config.name)
            return self._held.ledger

    @property
    def has_ledger(self) -> bool:
        """Whether there is a ledger already; opening one makes it."""
        return self.config.ledger is not None or (self._whole.path / "ledger.sqlite").is_file()

    def records(self) -> Records | None:
        """The run's ledger for those who only read it, to be closed by them; None where there is none yet."""
        return Records(self._ledger_place(), self.config.name) if self.has_ledger else None

    def _ledger_place(self) -> Path | str:
        return place_of(self.config.ledger, self._whole.path)

    def limiter(self, name: str) -> Limiter:
        """The limiter of the endpoint *name*; one for all who call it."""
        with self._held.lock:
            if name not in self._held.limiters:
                told = self.endpoint(name)
                self._held.limiters[name] = Limiter(
                    fitting(told.concurrency),
                    requests_per_minute=told.requests_per_minute,
                    tokens_per_minute=told.tokens_per_minute,
                    max_wait_s=told.max_wait_s,
                    clock=self.clock,
                )
            return self._held.limiters[name]

    def dialect(self, options: ModelConfig) -> Dialect:
        """How a model is spoken to at its endpoint; one for all who call it there in the same words."""
        endpoint = self.endpoint(options.endpoint or "")
        key = options.model_dump_json(include={"model", "endpoint", "body", "structured"})
        with self._held.lock:
            if key not in self._held.dialects:
                changes, how = (endpoint.body, options.body), options.structured or endpoint.structured
                named = options.endpoint or ""
                self._held.dialects[key] = Dialect(endpoint.base_url, options.model, changes, how, named)
            return self._held.dialects[key]

    def endpoint(self, name: str) -> EndpointConfig:
        """The endpoint *name* of the config."""
        return self.config.endpoints[name]

    def engine(self, options: ModelConfig) -> Engine:
        """The engine for a model, loaded at first use; of the models in this process, one is held at a time.

        Shards go judge by judge, so a GPU that holds the larger of two models is large enough.
        """
        place = {
            "model",
            "endpoint",
            "engine",
            "engine_args",
            "price",
            "batch",
            "body",
            "headers",
            "query",
            "structured",
        }
        key = options.model_dump_json(include=place)
        with self._held.lock:
            if key not in self._held.engines:
                if options.endpoint is None:
                    self.close_engines()
                kind = options.engine or ("endpoint" if options.batch is None else "batch")
                made = discovery.find("pipeline.engines", kind, "{Kind}Engine", self.base)
                self._held.engines[key] = made(options, self)
            return self._held.engines[key]

    def close_engines(self) -> None:
        """Close every loaded engine."""
        with self._held.lock:
            for engine in self._held.engines.values():
                engine.close()
            self._held.engines.clear()
            self._write_refused()

    def _write_refused(self) -> None:
        """Note in the run's folder which parameters endpoints have refused, for the summary."""
        told = {dialect.name: dict(dialect.refused) for dialect in self._held.dialects.values() if dialect.refused}
        known = self._whole.read_json(REFUSED) or {}
        if any(known.get(key) != value for key, value in told.items()):
            self._whole.write_json(REFUSED, {**known, **told})
