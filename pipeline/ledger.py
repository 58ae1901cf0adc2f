"""The record of every call that may cost money, and the only cache. Touches one database.

A call is *claimed* (its worst-case cost reserved), then *answered* (the raw reply committed before anything is
read from it) or *released* (no reply came; free to be tried again). After a crash an answered call is never made
again. A claim whose owner died is taken over; it may have been paid, so it is listed and stays charged.

All writes go through one thread that commits whatever is waiting in one transaction.
"""

import json
import os
import queue
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from pipeline.errors import BudgetError, StorageError

BEAT_S = 5.0
DEAD_AFTER_S = 60.0
T = TypeVar("T")

REAL: Any = sa.Float
METADATA = sa.MetaData()
CALLS = sa.Table(
    "calls",
    METADATA,
    sa.Column("call_key", sa.String(64), primary_key=True),
    sa.Column("status", sa.String(10), nullable=False),
    sa.Column("owner", sa.String(32), nullable=False),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("response", sa.Text),
    sa.Column("reserved_usd", REAL, nullable=False),
    sa.Column("cost_usd", REAL, nullable=False, default=0.0),
    sa.Column("lost_usd", REAL, nullable=False, default=0.0),
    sa.Column("lost_claims", sa.Integer, nullable=False, default=0),
    sa.Column("latency_s", REAL),
    sa.Column("error", sa.Text),
)
OWNERS = sa.Table(
    "owners",
    METADATA,
    sa.Column("owner", sa.String(32), primary_key=True),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("beat", REAL, nullable=False),
)
ACCOUNT = sa.Table(
    "account",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("charged_usd", REAL, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Recorded:
    """An answered call, as it was committed."""

    response: dict[str, Any]
    cost_usd: float
    latency_s: float | None


@dataclass(frozen=True, slots=True)
class Claimed:
    """The call is ours to make."""


@dataclass(frozen=True, slots=True)
class Busy:
    """Somebody alive is making this call; ask again soon."""


class Ledger:
    """Claims, answers and releases calls; safe for threads and for several processes on one database."""

    def __init__(self, path: Path, *, budget_usd: float | None = None) -> None:
        self.path, self.budget_usd = path, budget_usd
        self.owner = uuid.uuid4().hex
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 60})
            event.listen(self.engine, "connect", _configure_sqlite)
            event.listen(self.engine, "begin", _begin_immediate)
            METADATA.create_all(self.engine)
            with self.engine.begin() as db:
                db.execute(OWNERS.insert().values(self._beat()))
                if db.execute(sa.select(ACCOUNT.c.id)).first() is None:
                    db.execute(ACCOUNT.insert().values(id=1, charged_usd=0.0))
        except (OSError, SQLAlchemyError) as error:
            raise StorageError(f"{path}: the ledger cannot be opened ({error}); free space or mend it") from error
        self._work: queue.Queue[tuple[Callable[[sa.Connection], Any], Future[Any]] | None] = queue.Queue()
        self._writer = threading.Thread(target=self._write, name="ledger", daemon=True)
        self._writer.start()

    def claim(self, key: str, request: Mapping[str, Any], reserve_usd: float) -> "Future[Recorded | Claimed | Busy]":
        """Ask to make a call.

        Args:
            key: what identifies the call (see ``pipeline.engines.endpoint.call_key``).
            request: the body that will be sent; it holds no secret.
            reserve_usd: the most it can cost.

        The future raises BudgetError when the reservation does not fit the budget.
        """
        return self._do(lambda db: self._claim(db, key, request, reserve_usd))

    def answer(self, key: str, response: Mapping[str, Any], cost_usd: float, latency_s: float | None) -> "Future[None]":
        """Commit the raw reply to a claimed call; when the future is done it is on disk."""
        return self._do(lambda db: self._answer(db, key, response, cost_usd, latency_s))

    def release(self, key: str, error: str) -> "Future[None]":
        """Give a claim back: no reply came, nothing was paid."""
        return self._do(lambda db: self._release(db, key, error))

    def abandon(self, key: str) -> "Future[None]":
        """Give up a call in flight: it may have been paid, so it is listed and stays charged, and may be made again."""
        return self._do(lambda db: self._abandon(db, key))

    def lookup(self, key: str) -> dict[str, Any] | None:
        """Everything recorded of one call: request, response, status, cost."""
        with self.engine.begin() as db:
            row = db.execute(sa.select(CALLS).where(CALLS.c.call_key == key)).mappings().first()
        if row is None:
            return None
        found = dict(row)
        return {**found, "request": json.loads(found["request"]), "response": json.loads(found["response"] or "null")}

    def charged_usd(self) -> float:
        """What counts against the budget: answered, reserved and possibly paid."""
        with self.engine.begin() as db:
            return float(db.execute(sa.select(ACCOUNT.c.charged_usd)).scalar_one())

    def possibly_paid(self) -> list[str]:
        """Keys of calls that were in flight when their owner died."""
        with self.engine.begin() as db:
            found = db.execute(sa.select(CALLS.c.call_key).where(CALLS.c.lost_claims > 0)).scalars()
            return sorted(found)

    def close(self) -> None:
        """Finish what is waiting and close the database."""
        self._work.put(None)
        self._writer.join()
        self.engine.dispose()

    # What happens inside a transaction.

    def _claim(
        self, db: sa.Connection, key: str, request: Mapping[str, Any], reserve_usd: float
    ) -> Recorded | Claimed | Busy:
        row = db.execute(sa.select(CALLS).where(CALLS.c.call_key == key)).mappings().first()
        if row is not None and row["status"] == "answered":
            return Recorded(json.loads(row["response"]), row["cost_usd"], row["latency_s"])
        taken_over = row is not None and row["status"] == "claimed"
        if row is not None and taken_over and (row["owner"] == self.owner or self._alive(db, row["owner"])):
            return Busy()
        if self.budget_usd is not None:
            charged = float(db.execute(sa.select(ACCOUNT.c.charged_usd)).scalar_one())
            if charged + reserve_usd > self.budget_usd:
                raise BudgetError(
                    f"the next call may cost US$ {reserve_usd:.4f} and US$ {charged:.4f} of the budget of "
                    f"US$ {self.budget_usd:.2f} are charged; raise budget.usd and run the same command again"
                )
        values = {"status": "claimed", "owner": self.owner, "reserved_usd": reserve_usd, "error": None}
        if row is None:
            text = json.dumps(request)
            db.execute(CALLS.insert().values(call_key=key, request=text, **values))
        else:
            lost = {"lost_usd": row["lost_usd"] + row["reserved_usd"], "lost_claims": row["lost_claims"] + 1}
            changed = {**values, **(lost if taken_over else {})}
            db.execute(CALLS.update().where(CALLS.c.call_key == key).values(**changed))
        self._charge(db, reserve_usd)
        return Claimed()

    def _answer(
        self, db: sa.Connection, key: str, response: Mapping[str, Any], cost_usd: float, latency_s: float | None
    ) -> None:
        reserved = self._reserved(db, key)
        db.execute(
            CALLS.update()
            .where(CALLS.c.call_key == key)
            .values(
                status="answered",
                response=json.dumps(response),
                cost_usd=cost_usd,
                latency_s=latency_s,
                reserved_usd=0.0,
            )
        )
        self._charge(db, cost_usd - reserved)

    def _release(self, db: sa.Connection, key: str, error: str) -> None:
        reserved = self._reserved(db, key)
        changed = {"status": "unanswered", "error": error, "reserved_usd": 0.0}
        db.execute(CALLS.update().where(CALLS.c.call_key == key).values(**changed))
        self._charge(db, -reserved)

    def _abandon(self, db: sa.Connection, key: str) -> None:
        lost = {"lost_usd": CALLS.c.lost_usd + CALLS.c.reserved_usd, "lost_claims": CALLS.c.lost_claims + 1}
        changed = {"status": "unanswered", "error": "stopped in flight", "reserved_usd": 0.0, **lost}
        db.execute(CALLS.update().where(CALLS.c.call_key == key).values(**changed))

    def _reserved(self, db: sa.Connection, key: str) -> float:
        return float(db.execute(sa.select(CALLS.c.reserved_usd).where(CALLS.c.call_key == key)).scalar_one())

    def _charge(self, db: sa.Connection, usd: float) -> None:
        db.execute(ACCOUNT.update().values(charged_usd=ACCOUNT.c.charged_usd + usd))

    def _alive(self, db: sa.Connection, owner: str) -> bool:
        row = db.execute(sa.select(OWNERS).where(OWNERS.c.owner == owner)).mappings().first()
        if row is None or time.time() - row["beat"] > DEAD_AFTER_S:
            return False
        return row["host"] != socket.gethostname() or _process_lives(row["pid"])

    def _beat(self) -> dict[str, Any]:
        return {"owner": self.owner, "host": socket.gethostname(), "pid": os.getpid(), "beat": time.time()}

    # The writer.

    def _do(self, operation: Callable[[sa.Connection], T]) -> "Future[T]":
        future: Future[T] = Future()
        # From now on it cannot be cancelled: what is queued will be done, whoever still waits for it.
        future.set_running_or_notify_cancel()
        self._work.put((operation, future))
        return future

    def _write(self) -> None:
        closing = False
        while not (closing and self._work.empty()):
            batch = self._next_batch()
            self._commit([item for item in batch if item is not None])
            closing = closing or None in batch

    def _next_batch(self) -> list[tuple[Callable[[sa.Connection], Any], Future[Any]] | None]:
        try:
            batch = [self._work.get(timeout=BEAT_S)]
        except queue.Empty:
            return []
        while True:
            try:
                batch.append(self._work.get_nowait())
            except queue.Empty:
                return batch

    def _still_alive(self, db: sa.Connection) -> None:
        db.execute(OWNERS.update().where(OWNERS.c.owner == self.owner).values(beat=time.time()))

    def _commit(self, batch: list[tuple[Callable[[sa.Connection], Any], Future[Any]]]) -> None:
        results: list[tuple[Future[Any], Any, BaseException | None]] = []
        try:
            with self.engine.begin() as db:
                self._still_alive(db)
                for operation, future in batch:
                    try:
                        results.append((future, operation(db), None))
                    except SQLAlchemyError:
                        raise
                    except Exception as refused:  # noqa: BLE001  one call's trouble must not end the writer
                        results.append((future, None, refused))
        except SQLAlchemyError as error:
            broken = StorageError(
                f"{self.path}: the ledger cannot be written ({error.__cause__ or error}); free space, then run "
                "the same command again"
            )
            results = [(future, None, broken) for _, future in batch]
        for future, value, problem in results:
            if problem is None:
                future.set_result(value)
            else:
                future.set_exception(problem)


def _process_lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    for setting in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=60000"):
        connection.execute(f"PRAGMA {setting}")


def _begin_immediate(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
