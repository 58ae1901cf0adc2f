"""The record of every call that may cost money, and the only cache. Touches one database: SQLite or PostgreSQL.

A call is *claimed* (its worst-case cost reserved), then *answered* (the raw reply committed before anything is
read from it), *released* (surely not made; free to be tried again) or *abandoned* (it may have been made: its
reservation stays charged, and it may be tried again under a new one). After a crash an answered call is never made
again. A claim whose owner died is taken over; it may have been paid, so it is listed and stays charged. One file on
purpose: the steps of a call and the transaction that makes them are read together or not understood.

All writes of a process go through one thread that commits whatever is waiting in one transaction, on disk when it
returns. Within it every step is one statement over the whole batch, its rows a JSON array or a VALUES list: a statement
a call would take Python's global lock once a call, away from the thread that talks to the endpoint. Every transaction
begins by locking the ledger (SQLite: ``BEGIN IMMEDIATE``; PostgreSQL: the row of ``ledger_version``), so processes on
several machines see each other's claims and one budget. The clock of heartbeats is the database's.
"""

import asyncio
import contextlib
import os
import queue
import threading
import time
import uuid
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from pipeline.calls.owners import BATCH_HOST, BEAT_S, ENDED, lives, started, this_host
from pipeline.calls.records import Records, json_object
from pipeline.calls.statements import Statements
from pipeline.calls.tables import ACCOUNT, OWNERS, VERSION, array, database_url, make_tables, named, reason, writing
from pipeline.errors import BudgetError, StorageError
from pipeline.secrets import struck

MOST_AT_ONCE = 1000
"""Operations in one transaction: the others' wait is bounded."""
MOST_TOGETHER = 100
"""Operations that a loop hands over at once."""
GATHER_S = 0.01
MANY = 8
"""Operations in a transaction from which on the next one waits GATHER_S for company."""
T = TypeVar("T")


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

    batch: str | None = None
    """The batch the call is in, when it is in one."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Ask to make a call.

    Its outcome is Recorded, Claimed, Busy, a BudgetError, or the StorageError of a damaged row.
    """

    key: str
    request: str
    """JSON of the body that will be sent; it holds no secret."""
    reserve_usd: float


@dataclass(frozen=True, slots=True)
class Reply:
    """The raw reply to a claimed call; when its outcome is there, it is on disk.

    The outcome is False when the claim was no longer ours: this process passed for dead, and somebody took the call
    over. Nothing is written then; ask for the call again.
    """

    key: str
    response: str
    """JSON, as it came."""
    cost_usd: float
    """What is charged for it."""
    latency_s: float | None
    reported_usd: float | None = None
    """What it costs by the endpoint's own count; None where that cannot be used."""
    fault: str | None = None
    """Why it cannot be used."""


@dataclass(frozen=True, slots=True)
class Release:
    """The call was surely not made. Its outcome is whether the claim was still ours."""

    key: str
    error: str


@dataclass(frozen=True, slots=True)
class Abandon:
    """No reply came, and it may have been paid: stays charged. Its outcome is whether the claim was still ours."""

    key: str
    error: str = "stopped in flight"
    cost_usd: float | None = None
    """What it cost, where that is known: a reply came and is no answer. None: its reservation."""


Operation = Claim | Reply | Release | Abandon
Outcome = Recorded | Claimed | Busy | bool | BudgetError | StorageError


class Ledger:
    """Claims, answers and releases calls; safe for threads, several processes and several machines on one database."""

    def __init__(self, place: Path | str, *, budget_usd: float | None = None, account: str = "run") -> None:
        """Open the ledger and make it where there is none.

        Args:
            place: a SQLite file, or the URL of a PostgreSQL database (``postgresql+psycopg://…``).
            budget_usd: what the account's calls may cost in all; None for no limit.
            account: whose budget it is: runs of one name share it, wherever they run.

        Raises:
            StorageError: it cannot be opened, is an empty file, or another version of jurybox wrote it.
            ConfigError: the URL is of no database that a ledger can be on.
        """
        self.budget_usd, self.account = budget_usd, account
        self.owner = uuid.uuid4().hex
        url = database_url(place)
        self.place = named(url)
        self._where = place
        try:
            self.engine = writing(url)
            self._said = Statements(self.engine.dialect.name)
            with self.engine.begin() as db:
                self._make(db)
        except (OSError, SQLAlchemyError) as error:
            raise StorageError(
                f"{self.place}: the ledger cannot be opened ({reason(error)}); free space, mend it or start its server"
            ) from error
        self._beaten = self._committed = time.monotonic()
        self._busy = False
        self._work: queue.SimpleQueue[tuple[Sequence[Operation], Future[list[Outcome]]] | None] = queue.SimpleQueue()
        self._closed = False
        self._writer = threading.Thread(target=self._write, name="ledger", daemon=True)
        self._writer.start()

    def submit(self, operations: Sequence[Operation]) -> "Future[list[Outcome]]":
        """Do several operations, in their order, in one transaction with whatever else is waiting.

        A claim that does not fit the budget has the BudgetError as its outcome; the others are done all the same. The
        future raises StorageError when nothing could be written.
        """
        future: Future[list[Outcome]] = Future()
        # From now on it cannot be cancelled: what is queued will be done, whoever still waits for it.
        future.set_running_or_notify_cancel()
        if self._closed:
            future.set_exception(StorageError(f"{self.place}: the ledger is closed"))
        else:
            self._work.put((operations, future))
        return future

    @contextlib.contextmanager
    def exclusive(self) -> Generator[sa.Connection]:
        """A transaction of the caller's own, in which nobody else writes.

        Raises:
            StorageError: the database cannot be written.
        """
        try:
            with self.engine.begin() as db:
                db.execute(sa.select(VERSION.c.version).with_for_update())
                yield db
        except SQLAlchemyError as error:
            raise self._unwritable(error) from error

    def perform(self, db: sa.Connection, operations: Sequence[Operation]) -> dict[str, Outcome]:
        """Outcomes by key of operations on different calls, inside an :meth:`exclusive` transaction."""
        return self._round(db, operations) if operations else {}

    def lives(self, db: sa.Connection, owner: str) -> bool:
        """Whether an owner of claims is alive."""
        return owner == self.owner or self._alive(db, owner) is not None

    @property
    def now(self) -> Any:
        """The database's clock, seconds since 1970, as an expression."""
        return self._said.now

    def records(self) -> Records:
        """The ledger for those who only read it; a connection of its own."""
        return Records(self._where, self.account)

    def charged_usd(self) -> float:
        """What counts against the account's budget: answered, reserved and possibly paid."""
        with self.records() as records:
            return records.money().charged_usd

    def possibly_paid(self) -> list[str]:
        """Keys of the account's calls that left no answer once and may have been paid then."""
        with self.records() as records:
            return records.possibly_paid()

    def close(self) -> None:
        """Finish what is waiting and close the database; what is still claimed is free for others to take over."""
        self._closed = True
        self._work.put(None)
        self._writer.join()
        with contextlib.suppress(SQLAlchemyError), self.engine.begin() as db:
            db.execute(OWNERS.update().where(OWNERS.c.owner == self.owner).values(started=ENDED))
        self.engine.dispose()

    @property
    def _ours(self) -> sa.ColumnElement[bool]:
        return ACCOUNT.c.name == self.account

    def _make(self, db: sa.Connection) -> None:
        """Tables, owner and account; one process at a time."""
        make_tables(db, self.place)
        me = {"owner": self.owner, "host": this_host(), "pid": os.getpid(), "started": started(os.getpid())}
        db.execute(OWNERS.insert().values(**me, beat=self._said.now))
        if db.execute(sa.select(ACCOUNT.c.name).where(self._ours)).first() is None:
            db.execute(ACCOUNT.insert().values(name=self.account, charged_usd=0.0))

    # What happens inside a transaction.

    def _round(self, db: sa.Connection, operations: Sequence[Operation]) -> dict[str, Outcome]:
        """Do operations on different calls; outcomes by key."""
        charged = float(db.execute(sa.select(ACCOUNT.c.charged_usd).where(self._ours)).scalar_one())
        replies = [one for one in operations if isinstance(one, Reply)]
        releases = [one for one in operations if isinstance(one, Release)]
        abandons = [one for one in operations if isinstance(one, Abandon)]
        claims = [one for one in operations if isinstance(one, Claim)]
        outcomes: dict[str, Outcome] = {}
        change = 0.0
        # What ends goes first, so that its reservation is free for what begins.
        if replies:
            held, reserved = self._held(db, replies, outcomes)
            # A server may repeat the key that it was sent.
            rows = [
                (one.key, struck(one.response), one.cost_usd, one.latency_s, one.reported_usd, one.fault)
                for one in held
            ]
            self._said.reply(db, rows)
            change += sum(one.cost_usd for one in held) - reserved
        if releases:
            held, reserved = self._held(db, releases, outcomes)
            db.execute(self._said.release, {"rows": array((one.key, _plain(one.error)) for one in held)})
            change -= reserved
        for known in (False, True):
            if some := [one for one in abandons if (one.cost_usd is not None) is known]:
                held, reserved = self._held(db, some, outcomes)
                rows = array((one.key, _plain(one.error), one.cost_usd) for one in held)
                db.execute(self._said.abandon, {"rows": rows})
                change += sum(one.cost_usd or 0.0 for one in held) - reserved if known else 0.0
        if claims:
            change += self._claim(db, claims, charged + change, outcomes)
        if change:
            db.execute(ACCOUNT.update().where(self._ours).values(charged_usd=ACCOUNT.c.charged_usd + change))
        return outcomes

    def _held(self, db: sa.Connection, ending: list[T], outcomes: dict[str, Outcome]) -> tuple[list[T], float]:
        """Those whose claim is still ours, and what they have reserved together, US$."""
        some = cast("list[Reply]", ending)
        asked = {"rows": array((one.key,) for one in some), "owner": self.owner}
        count, reserved = db.execute(self._said.held, asked).one()
        ours = {one.key for one in some}
        if count < len(some):
            ours = {key for key, held in db.execute(self._said.held_keys, asked) if held}
        outcomes.update((one.key, one.key in ours) for one in some)
        return cast("list[T]", [one for one in some if one.key in ours]), float(reserved)

    def _claim(self, db: sa.Connection, claims: list[Claim], charged: float, outcomes: dict[str, Outcome]) -> float:
        """Claim what is free and fits the budget; what is reserved by it, US$."""
        found = db.execute(self._said.found, {"rows": array((one.key,) for one in claims)}).mappings()
        there: dict[str, Mapping[str, Any]] = {row["call_key"]: cast("Mapping[str, Any]", row) for row in found}
        alive: dict[str, Busy | None] = {self.owner: Busy()}
        new: list[Claim] = []
        again: list[Claim] = []
        reserved = 0.0
        for one in claims:
            row = there.get(one.key)
            outcome = None if row is None else self._standing(db, row, alive)
            if (
                outcome is None
                and self.budget_usd is not None
                and charged + reserved + one.reserve_usd > self.budget_usd
            ):
                outcome = BudgetError(
                    f"the next call may cost US$ {one.reserve_usd:.4f} and US$ {charged + reserved:.4f} of the budget "
                    f"of US$ {self.budget_usd:.2f} are charged; raise budget.usd and run the same command again"
                )
            if outcome is None:
                (new if row is None else again).append(one)
                reserved += one.reserve_usd
            outcomes[one.key] = outcome or Claimed()
        who = {"owner": self.owner, "account": self.account}
        if new:
            self._said.add(db, [(one.key, one.request, one.reserve_usd) for one in new], who)
        if again:
            db.execute(self._said.again, {"rows": array((one.key, one.reserve_usd) for one in again), **who})
        return reserved

    def _standing(
        self, db: sa.Connection, row: Mapping[str, Any], alive: dict[str, Busy | None]
    ) -> Recorded | Busy | StorageError | None:
        """Why a call that is there cannot be claimed, or None."""
        if row["status"] == "answered":
            response = json_object(row["response"])
            return (
                self._damaged(row["call_key"])
                if response is None
                else Recorded(response, row["cost_usd"], row["latency_s"])
            )
        if row["status"] != "claimed":
            return None
        owner = row["owner"]
        if owner not in alive:
            alive[owner] = self._alive(db, owner)
        return alive[owner]

    def _damaged(self, key: str) -> StorageError:
        return StorageError(
            f"{self.place}: the answer to call {key} is damaged: it is no JSON object; put a copy of the ledger back, "
            "or remove that row of the table calls, by its call_key, which asks and pays for the call again"
        )

    def _alive(self, db: sa.Connection, owner: str) -> Busy | None:
        """What a claim of *owner* is; None when it died."""
        age = (self._said.now - OWNERS.c.beat).label("age")
        columns = sa.select(OWNERS.c.host, OWNERS.c.pid, OWNERS.c.started, age)
        row = db.execute(columns.where(OWNERS.c.owner == owner)).first()
        if row is None:
            return None
        if row.host == BATCH_HOST:
            return Busy(owner)
        return Busy() if lives(row.host, row.pid, row.started, float(row.age)) else None

    # The writer.

    def _write(self) -> None:
        closing = False
        while not (closing and self._work.empty()):
            batch = self._next_batch()
            self._commit([item for item in batch if item is not None])
            closing = closing or None in batch

    def _next_batch(self) -> list[tuple[Sequence[Operation], "Future[list[Outcome]]"] | None]:
        try:
            batch = [self._work.get(timeout=BEAT_S)]
        except queue.Empty:
            return []
        if self._busy:
            # Much is going on: let more gather, for a transaction costs the same for one call as for twenty.
            time.sleep(max(0.0, self._committed + GATHER_S - time.monotonic()))
        count = len(batch[0][0]) if batch[0] else 0
        while count < MOST_AT_ONCE:
            try:
                item = self._work.get_nowait()
            except queue.Empty:
                break
            batch.append(item)
            count += len(item[0]) if item else 0
        self._busy = count >= MANY
        return batch

    def _commit(self, batch: list[tuple[Sequence[Operation], "Future[list[Outcome]]"]]) -> None:
        results: list[list[Outcome]] = []
        problem: Exception | None = None
        try:
            with self.engine.begin() as db:
                self._lock(db)
                results = self._do(db, [operations for operations, _ in batch])
        except SQLAlchemyError as error:
            problem = self._unwritable(error)
            problem.__cause__ = error
        except Exception as error:  # noqa: BLE001  what nobody foresaw is raised where the futures are awaited
            problem = error
        for at, (_, future) in enumerate(batch):
            if problem is None:
                future.set_result(results[at])
            else:
                future.set_exception(problem)
        self._committed = time.monotonic()

    def _unwritable(self, error: SQLAlchemyError) -> StorageError:
        return StorageError(
            f"{self.place}: the ledger cannot be written ({reason(error)}); free space or start its server, then run "
            "the same command again"
        )

    def _lock(self, db: sa.Connection) -> None:
        """Keep every other writer out until this transaction ends, and say that we are alive."""
        db.execute(sa.select(VERSION.c.version).with_for_update())
        if time.monotonic() - self._beaten >= BEAT_S / 2:
            db.execute(OWNERS.update().where(OWNERS.c.owner == self.owner).values(beat=self._said.now))
            self._beaten = time.monotonic()

    def _do(self, db: sa.Connection, batch: list[Sequence[Operation]]) -> list[list[Outcome]]:
        """The outcomes of each sequence; a call that occurs twice is dealt with in rounds, in order."""
        pending: dict[str, Operation] = {}
        places: list[tuple[int, str]] = []
        results: list[list[Outcome]] = [[] for _ in batch]

        def finish() -> None:
            outcomes = self._round(db, list(pending.values()))
            for at, key in places:
                results[at].append(outcomes[key])
            pending.clear()
            places.clear()

        for at, operations in enumerate(batch):
            for operation in operations:
                if operation.key in pending or len(pending) >= MOST_AT_ONCE:
                    finish()
                pending[operation.key] = operation
                places.append((at, operation.key))
        if pending:
            finish()
        return results


def _plain(text: str) -> str:
    """A server's words as both databases can hold them, and may: without lone surrogates, NUL and secrets."""
    return struck(text).encode(errors="replace").decode().replace("\0", "\ufffd")


class Desk:
    """The ledger as one event loop uses it: what a turn of the loop asks goes to the writer together, and returns so.

    A future and a wake-up of the loop for every call would cost more than the database does.
    """

    def __init__(self, ledger: Ledger) -> None:
        """In a running loop."""
        self.ledger = ledger
        self._loop = asyncio.get_running_loop()
        self._operations: list[Operation] = []
        self._futures: list[asyncio.Future[Outcome] | None] = []
        self._out = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def do(self, operation: Operation) -> "asyncio.Future[Outcome]":
        """The outcome of an operation; raises BudgetError, StorageError.

        It is done whether or not somebody waits. A claim whose future was cancelled goes back free: nothing was sent.
        """
        future: asyncio.Future[Outcome] = self._loop.create_future()
        self._put(operation, future)
        return future

    def tell(self, operation: Operation) -> None:
        """Do an operation whose outcome nobody needs."""
        self._put(operation, None)

    async def drain(self) -> None:
        """Return when everything that was asked has been done."""
        await self._idle.wait()

    def _put(self, operation: Operation, future: "asyncio.Future[Outcome] | None") -> None:
        if not self._operations:
            self._idle.clear()
            self._loop.call_soon(self._flush)
        self._operations.append(operation)
        self._futures.append(future)
        if len(self._operations) >= MOST_TOGETHER:
            # The writer begins while the loop prepares the others.
            self._flush()

    def _flush(self) -> None:
        if not self._operations:
            return
        operations, futures = self._operations, self._futures
        self._operations, self._futures = [], []
        self._out += 1

        def back(done: "Future[list[Outcome]]") -> None:
            self._loop.call_soon_threadsafe(self._deliver, operations, futures, done)

        self.ledger.submit(operations).add_done_callback(back)

    def _deliver(
        self,
        operations: list[Operation],
        futures: "list[asyncio.Future[Outcome] | None]",
        done: "Future[list[Outcome]]",
    ) -> None:
        self._out -= 1
        problem = done.exception()
        outcomes = [problem] * len(operations) if problem else done.result()
        for operation, future, outcome in zip(operations, futures, outcomes, strict=True):
            if future is None:
                continue
            if future.cancelled():
                if isinstance(outcome, Claimed):
                    self.tell(Release(operation.key, "stopped before it was sent"))
            elif isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
        if not self._out and not self._operations:
            self._idle.set()
