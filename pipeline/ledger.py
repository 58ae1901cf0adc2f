"""The record of every call that may cost money, and the only cache. Touches one database: SQLite or PostgreSQL.

A call is *claimed* (its worst-case cost reserved), then *answered* (the raw reply committed before anything is
read from it) or *released* (no reply came; free to be tried again). After a crash an answered call is never made
again. A claim whose owner died is taken over; it may have been paid, so it is listed and stays charged.

All writes of a process go through one thread that commits whatever is waiting in one transaction, on disk when it
returns. Within it every step is one statement over the whole batch, its rows a JSON array or a VALUES list: a statement
a call would take Python's global lock once a call, away from the thread that talks to the endpoint. Every transaction
begins by locking the ledger (SQLite: ``BEGIN IMMEDIATE``; PostgreSQL: the row of ``ledger_version``), so processes on
several machines see each other's claims and one budget. The clock of heartbeats is the database's.
"""

import asyncio
import contextlib
import json
import os
import queue
import socket
import threading
import time
import uuid
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import orjson
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from pipeline.errors import BudgetError, ConfigError, StorageError
from pipeline.secrets import masked, register_url, struck

BATCH_HOST = "batch"
"""Host of an owner that is a batch at the vendor's (``pipeline.batches``): no process, and alive until it is over."""
BEAT_S = 5.0
DEAD_AFTER_S = 60.0
SCHEMA_VERSION = 2
MOST_AT_ONCE = 1000
"""Operations in one transaction: the others' wait is bounded."""
MOST_TOGETHER = 100
"""Operations that a loop hands over at once."""
GATHER_S = 0.01
MANY = 8
"""Operations in a transaction from which on the next one waits GATHER_S for company."""
T = TypeVar("T")

REAL: Any = sa.Double
METADATA = sa.MetaData()
CALLS = sa.Table(
    "calls",
    METADATA,
    sa.Column("call_key", sa.String(64), primary_key=True),
    sa.Column("status", sa.String(10), nullable=False),
    sa.Column("owner", sa.String(32), nullable=False),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("response", sa.Text),
    sa.Column("reserved_usd", REAL, nullable=False),
    sa.Column("cost_usd", REAL, nullable=False),
    sa.Column("lost_usd", REAL, nullable=False),
    sa.Column("lost_claims", sa.Integer, nullable=False),
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
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("charged_usd", REAL, nullable=False),
)
VERSION = sa.Table("ledger_version", METADATA, sa.Column("version", sa.Integer, primary_key=True, autoincrement=False))


# SQLite takes long texts as parameters: out of JSON it parses and copies them several times.
SQLITE_ADD = """INSERT INTO calls
(call_key, request, reserved_usd, status, owner, account, cost_usd, lost_usd, lost_claims)
SELECT column1, column2, column3, 'claimed', ?, ?, 0.0, 0.0, 0 FROM (VALUES {rows})"""
SQLITE_REPLY = """UPDATE calls
SET status = 'answered', response = column2, cost_usd = column3, latency_s = column4, reserved_usd = 0.0
FROM (VALUES {rows}) WHERE call_key = column1"""


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
    """Ask to make a call. Its outcome is Recorded, Claimed, Busy, or a BudgetError."""

    key: str
    request: str
    """JSON of the body that will be sent; it holds no secret."""
    reserve_usd: float


@dataclass(frozen=True, slots=True)
class Reply:
    """The raw reply to a claimed call. Its outcome is whether it was committed (see ``Ledger.answer``)."""

    key: str
    response: str
    """JSON, as it came."""
    cost_usd: float
    latency_s: float | None


@dataclass(frozen=True, slots=True)
class Release:
    """No reply came, nothing was paid. Its outcome is whether the claim was still ours."""

    key: str
    error: str


@dataclass(frozen=True, slots=True)
class Abandon:
    """Stopped in flight: may have been paid. Its outcome is whether the claim was still ours."""

    key: str


Operation = Claim | Reply | Release | Abandon
Outcome = Recorded | Claimed | Busy | bool | BudgetError


class Ledger:
    """Claims, answers and releases calls; safe for threads, several processes and several machines on one database."""

    def __init__(self, place: Path | str, *, budget_usd: float | None = None, account: str = "run") -> None:
        """Open the ledger and make it where there is none.

        Args:
            place: a SQLite file, or the URL of a PostgreSQL database (``postgresql+psycopg://…``).
            budget_usd: what the account's calls may cost in all; None for no limit.
            account: whose budget it is: runs of one name share it, wherever they run.

        Raises:
            StorageError: it cannot be opened, or another version of jurybox wrote it.
            ConfigError: the URL is of no database that a ledger can be on.
        """
        self.budget_usd, self.account = budget_usd, account
        self.owner = uuid.uuid4().hex
        url = database_url(place)
        self.place = url.database if url.get_backend_name() == "sqlite" else masked(str(url))
        try:
            self.engine = _engine(url)
            self._said = _Statements(self.engine.dialect.name)
            with self.engine.begin() as db:
                self._make(db)
        except (OSError, SQLAlchemyError) as error:
            raise StorageError(
                f"{self.place}: the ledger cannot be opened ({_reason(error)}); free space, mend it or start its server"
            ) from error
        self._beaten = self._committed = time.monotonic()
        self._busy = False
        self._work: queue.SimpleQueue[tuple[Sequence[Operation], Future[list[Outcome]]] | None] = queue.SimpleQueue()
        self._closed = False
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
        return cast("Future[Recorded | Claimed | Busy]", self._one(Claim(key, json.dumps(request), reserve_usd)))

    def answer(self, key: str, response: Mapping[str, Any], cost_usd: float, latency_s: float | None) -> "Future[bool]":
        """Commit the raw reply to a claimed call; when the future is done it is on disk.

        False when the claim was no longer ours: this process was held up for so long that it passed for dead, and
        somebody took the call over. Nothing is written then; ask for the call again.
        """
        return cast("Future[bool]", self._one(Reply(key, json.dumps(response), cost_usd, latency_s)))

    def release(self, key: str, error: str) -> "Future[bool]":
        """Give a claim back: no reply came, nothing was paid."""
        return cast("Future[bool]", self._one(Release(key, error)))

    def abandon(self, key: str) -> "Future[bool]":
        """Give up a call in flight: it may have been paid, so it is listed and stays charged, and may be made again."""
        return cast("Future[bool]", self._one(Abandon(key)))

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

    def lookup(self, key: str) -> dict[str, Any] | None:
        """Everything recorded of one call: request, response, status, cost."""
        with self.engine.connect() as db:
            row = db.execute(sa.select(CALLS).where(CALLS.c.call_key == key)).mappings().first()
        if row is None:
            return None
        found = dict(row)
        return {**found, "request": json.loads(found["request"]), "response": json.loads(found["response"] or "null")}

    def charged_usd(self) -> float:
        """What counts against the account's budget: answered, reserved and possibly paid."""
        with self.engine.connect() as db:
            return float(db.execute(sa.select(ACCOUNT.c.charged_usd).where(self._ours)).scalar_one())

    def possibly_paid(self) -> list[str]:
        """Keys of the account's calls that were in flight when their owner died or was stopped."""
        lost = sa.select(CALLS.c.call_key).where(CALLS.c.lost_claims > 0, CALLS.c.account == self.account)
        with self.engine.connect() as db:
            return sorted(db.execute(lost).scalars())

    def close(self) -> None:
        """Finish what is waiting and close the database."""
        self._closed = True
        self._work.put(None)
        self._writer.join()
        self.engine.dispose()

    @property
    def _ours(self) -> sa.ColumnElement[bool]:
        return ACCOUNT.c.name == self.account

    def _make(self, db: sa.Connection) -> None:
        """Tables, owner and account; one process at a time."""
        if db.dialect.name == "postgresql":
            db.execute(sa.text("select pg_advisory_xact_lock(hashtext('jurybox ledger'))"))
        known = sa.inspect(db).get_table_names()
        if CALLS.name in known:
            found = db.execute(sa.select(VERSION.c.version)).scalar() if VERSION.name in known else 1
            if found != SCHEMA_VERSION:
                raise StorageError(
                    f"{self.place}: the ledger has version {found}, this jurybox reads version {SCHEMA_VERSION}; go on "
                    "with the jurybox that made it, or start an empty ledger, which pays for its calls again"
                )
        else:
            METADATA.create_all(db)
            db.execute(VERSION.insert().values(version=SCHEMA_VERSION))
        db.execute(OWNERS.insert().values(owner=self.owner, host=this_host(), pid=os.getpid(), beat=self._said.now))
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
            rows = [(one.key, struck(one.response), one.cost_usd, one.latency_s) for one in held]
            self._said.reply(db, rows)
            change += sum(one.cost_usd for one in held) - reserved
        if releases:
            held, reserved = self._held(db, releases, outcomes)
            db.execute(self._said.release, {"rows": _array((one.key, struck(one.error)) for one in held)})
            change -= reserved
        if abandons:
            held, _ = self._held(db, abandons, outcomes)
            db.execute(self._said.abandon, {"rows": _array((one.key,) for one in held)})
        if claims:
            change += self._claim(db, claims, charged + change, outcomes)
        if change:
            db.execute(ACCOUNT.update().where(self._ours).values(charged_usd=ACCOUNT.c.charged_usd + change))
        return outcomes

    def _held(self, db: sa.Connection, ending: list[T], outcomes: dict[str, Outcome]) -> tuple[list[T], float]:
        """Those whose claim is still ours, and what they have reserved together, US$."""
        some = cast("list[Reply]", ending)
        named = {"rows": _array((one.key,) for one in some), "owner": self.owner}
        count, reserved = db.execute(self._said.held, named).one()
        ours = {one.key for one in some}
        if count < len(some):
            ours = {key for key, held in db.execute(self._said.held_keys, named) if held}
        outcomes.update((one.key, one.key in ours) for one in some)
        return cast("list[T]", [one for one in some if one.key in ours]), float(reserved)

    def _claim(self, db: sa.Connection, claims: list[Claim], charged: float, outcomes: dict[str, Outcome]) -> float:
        """Claim what is free and fits the budget; what is reserved by it, US$."""
        found = db.execute(self._said.found, {"rows": _array((one.key,) for one in claims)}).mappings()
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
            db.execute(self._said.again, {"rows": _array((one.key, one.reserve_usd) for one in again), **who})
        return reserved

    def _standing(
        self, db: sa.Connection, row: Mapping[str, Any], alive: dict[str, Busy | None]
    ) -> Recorded | Busy | None:
        """Why a call that is there cannot be claimed, or None."""
        if row["status"] == "answered":
            return Recorded(json.loads(row["response"]), row["cost_usd"], row["latency_s"])
        if row["status"] != "claimed":
            return None
        owner = row["owner"]
        if owner not in alive:
            alive[owner] = self._alive(db, owner)
        return alive[owner]

    def _alive(self, db: sa.Connection, owner: str) -> Busy | None:
        """What a claim of *owner* is; None when it died."""
        age = (self._said.now - OWNERS.c.beat).label("age")
        row = db.execute(sa.select(OWNERS.c.host, OWNERS.c.pid, age).where(OWNERS.c.owner == owner)).first()
        if row is not None and row.host == BATCH_HOST:
            return Busy(owner)
        if row is None or float(row.age) > DEAD_AFTER_S:
            return None
        return Busy() if row.host != this_host() or _process_lives(row.pid) else None

    # The writer.

    def _one(self, operation: Operation) -> "Future[Outcome]":
        """One operation; a BudgetError is raised by the future."""
        wanted: Future[Outcome] = Future()
        wanted.set_running_or_notify_cancel()

        def pass_on(done: "Future[list[Outcome]]") -> None:
            problem = done.exception()
            outcome = problem or done.result()[0]
            if isinstance(outcome, BaseException):
                wanted.set_exception(outcome)
            else:
                wanted.set_result(outcome)

        self.submit((operation,)).add_done_callback(pass_on)
        return wanted

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
            f"{self.place}: the ledger cannot be written ({_reason(error)}); free space or start its server, then run "
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


class _Statements:
    """The statements over a batch, each with its rows as one JSON array of arrays in the parameter ``rows``."""

    def __init__(self, dialect: str) -> None:
        rows = sa.bindparam("rows", type_=sa.Text)
        owner, account = sa.bindparam("owner", type_=sa.Text), sa.bindparam("account", type_=sa.Text)
        row: Any
        if dialect == "postgresql":
            self.now: Any = sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), REAL)
            row = sa.func.json_array_elements(sa.cast(rows, sa.JSON)).table_valued(sa.column("value", sa.JSON))
        else:
            self.now = (sa.func.julianday("now") - 2440587.5) * 86400.0
            row = sa.func.json_each(rows).table_valued("value")

        def text(at: int) -> Any:
            return row.c.value.op("->>", return_type=sa.Text())(sa.literal_column(str(at)))

        def number(at: int) -> Any:
            return sa.cast(text(at), REAL)

        this = CALLS.c.call_key == text(0)
        # No condition beside the key: PostgreSQL would take all claims for a few and compare each with every row.
        ours = sa.and_(CALLS.c.status == "claimed", CALLS.c.owner == owner)
        reserved = sa.func.coalesce(sa.func.sum(CALLS.c.reserved_usd).filter(ours), 0.0)
        self.held = sa.select(sa.func.count().filter(ours), reserved).select_from(CALLS).where(this)
        self.held_keys = sa.select(CALLS.c.call_key, ours).where(this)
        answered = CALLS.c.status == "answered"
        self.found = sa.select(
            CALLS.c.call_key,
            CALLS.c.status,
            CALLS.c.owner,
            sa.case((answered, CALLS.c.response)).label("response"),
            CALLS.c.cost_usd,
            CALLS.c.latency_s,
        ).where(this)
        ended = CALLS.update().where(this)
        self._reply = ended.values(
            status="answered", response=text(1), cost_usd=number(2), latency_s=number(3), reserved_usd=0.0
        )
        self.release = ended.values(status="unanswered", error=text(1), reserved_usd=0.0)
        self.abandon = ended.values(
            status="unanswered",
            error="stopped in flight",
            lost_usd=CALLS.c.lost_usd + CALLS.c.reserved_usd,
            lost_claims=CALLS.c.lost_claims + 1,
            reserved_usd=0.0,
        )
        columns = (
            "call_key", "request", "reserved_usd", "status", "owner", "account", "cost_usd", "lost_usd", "lost_claims",
        )  # fmt: skip
        zero = sa.literal(0.0, REAL)
        fresh = sa.select(text(0), text(1), number(2), sa.literal("claimed"), owner, account, zero, zero, sa.literal(0))
        self._add = CALLS.insert().from_select(columns, fresh, include_defaults=False)
        # Taken from a dead owner it may have been paid; given back it was not.
        taken = CALLS.c.status == "claimed"
        self.again = ended.values(
            status="claimed",
            owner=owner,
            account=account,
            lost_usd=CALLS.c.lost_usd + sa.case((taken, CALLS.c.reserved_usd), else_=0.0),
            lost_claims=CALLS.c.lost_claims + sa.case((taken, 1), else_=0),
            reserved_usd=number(1),
            error=None,
        )

    def add(self, db: sa.Connection, rows: Sequence[tuple[str, str, float]], who: Mapping[str, str]) -> None:
        """New claims: (key, request, reservation)."""
        if db.dialect.name == "sqlite":
            _insert(db, SQLITE_ADD, rows, (who["owner"], who["account"]))
        elif rows:
            db.execute(self._add, {"rows": _array(rows), **who})

    def reply(self, db: sa.Connection, rows: Sequence[tuple[str, str, float, float | None]]) -> None:
        """Replies to claims of ours: (key, response, cost, latency)."""
        if db.dialect.name == "sqlite":
            _insert(db, SQLITE_REPLY, rows, ())
        elif rows:
            db.execute(self._reply, {"rows": _array(rows)})


def _insert(db: sa.Connection, statement: str, rows: Sequence[Sequence[object]], first: tuple[str, ...]) -> None:
    """One statement over *rows* as a list of VALUES, or a few: SQLite takes 32,766 parameters at once."""
    for start in range(0, len(rows), MOST_AT_ONCE):
        some = rows[start : start + MOST_AT_ONCE]
        marks = f"({', '.join('?' * len(some[0]))})"
        values = [value for row in some for value in row]
        db.exec_driver_sql(statement.format(rows=", ".join([marks] * len(some))), (*first, *values))


def database_url(place: Path | str) -> sa.URL:
    """The URL of a ledger: a path is a SQLite file, a string the URL of a PostgreSQL or SQLite database.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(place, Path):
        return sa.URL.create("sqlite", database=str(place))
    register_url(place)
    try:
        url = sa.make_url(place)
    except SQLAlchemyError:
        raise ConfigError("the ledger's URL cannot be read; write postgresql+psycopg://user@host/database") from None
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("postgresql+psycopg", "sqlite"):
        raise ConfigError(
            f"a ledger cannot be on {url.drivername!r}; leave `ledger` out for SQLite in the run's folder, or write "
            "postgresql+psycopg://user@host/database"
        )
    return url


def _engine(url: sa.URL) -> sa.Engine:
    if url.get_backend_name() == "sqlite":
        Path(url.database or "").parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(url, connect_args={"timeout": 60}, hide_parameters=True)
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_immediate)
        return engine
    try:
        # Planned afresh each time: a plan that was made while the ledger was small would stay.
        afresh = {"prepare_threshold": None}
        engine = sa.create_engine(url, pool_pre_ping=True, hide_parameters=True, connect_args=afresh)
    except ModuleNotFoundError as error:
        raise ConfigError(
            "a ledger on PostgreSQL needs the package psycopg; pip install -c constraints.txt -e '.[postgres]'"
        ) from error
    event.listen(engine, "connect", _configure_postgres)
    return engine


def _array(rows: Iterable[Sequence[object]]) -> str:
    return orjson.dumps(list(rows)).decode()


def _reason(error: Exception) -> str:
    """The database's own words: SQLAlchemy's carry the statement."""
    return str(error.__cause__ or error).strip()


@cache
def this_host() -> str:
    """Where this process has its number: names of machines repeat, and a container counts processes of its own."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(Path("/proc/self/ns/pid").readlink().name)
    return " ".join(parts)


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
    # A request and its reply are some kilobytes: a page holds them, so that a row is no chain of pages.
    for setting in ("page_size=16384", "journal_mode=WAL", "synchronous=FULL", "busy_timeout=60000"):
        connection.execute(f"PRAGMA {setting}")


def _configure_postgres(connection: Any, _record: object) -> None:
    # The planner takes every JSON array for 100 rows, and for so few would compare each with each call: make comparing
    # dear, so that it looks every row up by its key.
    with connection.cursor() as cursor:
        cursor.execute("SET cpu_operator_cost = 1")
    connection.commit()


def _begin_immediate(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
