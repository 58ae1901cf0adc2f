"""What a run lends to its stages: folder, config, ledger, models, progress. Opens the run's folder and models.

One per process. Engines are loaded once, shared by everything that names the same model the same way, and
closed when the stage ends, so that a GPU never holds two stages' models.
"""

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

import polars as pl
import yaml

from pipeline import discovery, schemas
from pipeline.calls.ledger import Ledger
from pipeline.calls.limiter import Clock, Limiter
from pipeline.config import Config, EndpointConfig, ModelConfig, load
from pipeline.engines.base import Engine
from pipeline.errors import ConfigError
from pipeline.progress import Progress, Silent, StatusFile
from pipeline.store import RunFolder

SECRET_ENV = "JURYBOX_SECRET"  # noqa: S105  the variable's name


class Workbench:
    """An opened run; use as a context manager."""

    def __init__(self, config: Config, path: Path, base: Path, progress: Progress | None = None) -> None:
        """Open *config*'s run in the folder *path*; *base* is the config's folder."""
        self.config = config
        self.folder = RunFolder(path)
        self.base = base
        self.progress = StatusFile(progress or Silent(), self.folder.write_json)
        self.source = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        self._engines: dict[str, Engine] = {}
        self._ledger: Ledger | None = None
        self._limiters: dict[str, Limiter] = {}
        self.clock = Clock()
        """Time as limiters and retries see it."""
        # Re-entrant: an engine asks for the ledger while it is being made.
        self._lock = threading.RLock()

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
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None

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
        return given.encode() if given else hashlib.sha256(f"fence {self.config.seed}".encode()).digest()

    @property
    def workspace(self) -> Path:
        """Where judges keep what they learned from the `fit` labels."""
        return self.folder.path / "judges"

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
        with self._lock:
            if self._ledger is None:
                self._ledger = Ledger(self._ledger_place(), budget_usd=self.budget_usd, account=self.config.name)
            return self._ledger

    @property
    def has_ledger(self) -> bool:
        """Whether there is a ledger already; opening one makes it."""
        return self.config.ledger is not None or (self.folder.path / "ledger.sqlite").is_file()

    def _ledger_place(self) -> Path | str:
        wanted = self.config.ledger
        if wanted is None:
            return self.folder.path / "ledger.sqlite"
        if wanted.url_env is None:
            return wanted.url or ""
        url = os.environ.get(wanted.url_env)
        if not url:
            raise ConfigError(
                f"`ledger` takes its URL from {wanted.url_env}, which is not set; export it, or leave `ledger` out "
                "for SQLite in the run's folder"
            )
        return url

    def limiter(self, name: str) -> Limiter:
        """The limiter of the endpoint *name*; one for all who call it."""
        with self._lock:
            if name not in self._limiters:
                told = self.endpoint(name)
                self._limiters[name] = Limiter(
                    told.concurrency,
                    requests_per_minute=told.requests_per_minute,
                    tokens_per_minute=told.tokens_per_minute,
                    max_wait_s=told.max_wait_s,
                    clock=self.clock,
                )
            return self._limiters[name]

    def endpoint(self, name: str) -> EndpointConfig:
        """The endpoint *name* of the config."""
        return self.config.endpoints[name]

    def engine(self, options: ModelConfig) -> Engine:
        """The engine for a model, loaded at first use; of the models in this process, one is held at a time.

        Shards go judge by judge, so a GPU that holds the larger of two models is large enough.
        """
        place = {"model", "endpoint", "engine", "engine_args", "price", "batch"}
        key = options.model_dump_json(include=place)
        with self._lock:
            if key not in self._engines:
                if options.endpoint is None:
                    self.close_engines()
                kind = options.engine or ("endpoint" if options.batch is None else "batch")
                made = discovery.find("pipeline.engines", kind, "{Kind}Engine", self.base)
                self._engines[key] = made(options, self)
            return self._engines[key]

    def close_engines(self) -> None:
        """Close every loaded engine."""
        with self._lock:
            for engine in self._engines.values():
                engine.close()
            self._engines.clear()
