"""Batches of calls at a vendor's batch API, in the ledger's database. Touches that database and nothing else.

The calls of a batch are claims whose owner is the batch and no process, so they outlive the process that made them:
nobody takes them over and nobody pays for them again while the batch is open. A batch goes through these states, each
committed before the next step is taken, so that whoever finds it knows what may have happened at the vendor's:

    claimed    its calls are claimed; nothing is at the vendor's but perhaps a file
    creating   the file lies there under its id; the batch may have been created (look for its tag before creating it)
    running    the batch's id is known
    done       every answer is committed, every other claim given back

One live process at a time, its keeper, moves a batch; another takes it over when that one died.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

import sqlalchemy as sa

from pipeline.calls.ledger import Claim, Claimed, Ledger, Operation, Outcome, Release
from pipeline.calls.owners import BATCH_HOST
from pipeline.calls.tables import BATCHES, CALLS, OWNERS
from pipeline.errors import StageError


@dataclass(frozen=True, slots=True)
class Batch:
    """One row of the table ``batches``."""

    tag: str
    """Ours, given to the vendor as metadata: by it the batch is found again."""
    state: str
    """``claimed``, ``creating`` or ``running``."""
    file_id: str | None
    """The vendor's id of the input file."""
    batch_id: str | None
    """The vendor's id of the batch."""
    claimed_at: float
    """Seconds since 1970, by the database's clock."""


class Batches:
    """The batches of one ledger."""

    def __init__(self, ledger: Ledger) -> None:
        """Of this ledger."""
        self.ledger = ledger

    def claim(self, claims: Sequence[Claim], base_url: str, model: str) -> tuple[Batch | None, dict[str, Outcome]]:
        """Claim calls for a new batch; (the batch of those that could be claimed, what came of each by key)."""
        tag = uuid4().hex
        with self.ledger.exclusive() as db:
            outcomes = self.ledger.perform(db, claims)
            ours = [key for key, outcome in outcomes.items() if isinstance(outcome, Claimed)]
            if not ours:
                return None, outcomes
            now: sa.ColumnElement[float] = self.ledger.now
            db.execute(OWNERS.insert().values(owner=tag, host=BATCH_HOST, pid=0, started="", beat=now))
            self._pass_on(db, ours, self.ledger.owner, tag)
            row = {"tag": tag, "account": self.ledger.account, "base_url": base_url, "model": model}
            db.execute(BATCHES.insert().values(**row, state="claimed", keeper=self.ledger.owner, claimed_at=now))
            return self._row(db, tag), outcomes

    def adopt(self, base_url: str, model: str) -> list[Batch]:
        """The account's open batches for a model at an endpoint, less those that another live process keeps."""
        mine = (BATCHES.c.account == self.ledger.account, BATCHES.c.base_url == base_url, BATCHES.c.model == model)
        with self.ledger.exclusive() as db:
            rows = db.execute(sa.select(BATCHES.c.tag, BATCHES.c.keeper).where(*mine, BATCHES.c.state != "done")).all()
            free = [tag for tag, keeper in rows if keeper == self.ledger.owner or not self.ledger.lives(db, keeper)]
            for tag in free:
                self._set(db, tag, keeper=self.ledger.owner)
            return [self._row(db, tag) for tag in sorted(free)]

    def leave(self) -> None:
        """Keep no batch any more: the next process need not wait until this one is dead."""
        with self.ledger.exclusive() as db:
            db.execute(BATCHES.update().where(BATCHES.c.keeper == self.ledger.owner).values(keeper=""))

    def left_by(self, tag: str) -> str | None:
        """The account of an open batch that no live process keeps; None when one does, or the batch is done."""
        with self.ledger.exclusive() as db:
            row = db.execute(sa.select(BATCHES).where(BATCHES.c.tag == tag, BATCHES.c.state != "done")).first()
            return None if row is None or self.ledger.lives(db, row.keeper) else str(row.account)

    def calls(self, batch: Batch) -> list[tuple[str, str]]:
        """(call key, JSON of the body) of the calls that wait for this batch.

        In the order of their words: calls that share a prefix stand next to each other.
        """
        waiting = sa.select(CALLS.c.call_key, CALLS.c.request).where(CALLS.c.owner == batch.tag, _CLAIMED)
        with self.ledger.engine.connect() as db:
            return sorted(((key, body) for key, body in db.execute(waiting)), key=lambda row: (row[1], row[0]))

    def reserved(self, batch: Batch) -> dict[str, float]:
        """Call key -> what it has reserved, US$, of the calls that wait for this batch."""
        waiting = sa.select(CALLS.c.call_key, CALLS.c.reserved_usd).where(CALLS.c.owner == batch.tag, _CLAIMED)
        with self.ledger.engine.connect() as db:
            return {key: float(usd) for key, usd in db.execute(waiting)}

    def take(self, tag: str) -> Batch | None:
        """Keep an open batch, whatever model it is of; None when it is done or another live process keeps it."""
        with self.ledger.exclusive() as db:
            found = db.execute(sa.select(BATCHES).where(BATCHES.c.tag == tag, BATCHES.c.state != "done")).first()
            if found is None or (found.keeper != self.ledger.owner and self.ledger.lives(db, found.keeper)):
                return None
            self._set(db, tag, keeper=self.ledger.owner)
            return self._row(db, tag)

    def uploaded(self, batch: Batch, file_id: str) -> Batch:
        """The input file lies at the vendor's; from now on the batch may have been created."""
        with self.ledger.exclusive() as db:
            self._set(db, batch.tag, state="creating", file_id=file_id)
            return self._row(db, batch.tag)

    def created(self, batch: Batch, batch_id: str) -> Batch:
        """The vendor has the batch under this id."""
        with self.ledger.exclusive() as db:
            self._set(db, batch.tag, state="running", batch_id=batch_id)
            return self._row(db, batch.tag)

    def commit(self, batch: Batch, operations: Sequence[Operation]) -> dict[str, Outcome]:
        """End some of the batch's calls, all in one transaction; whether each was still the batch's, by key."""
        with self.ledger.exclusive() as db:
            self._pass_on(db, [one.key for one in operations], batch.tag, self.ledger.owner)
            return self.ledger.perform(db, operations)

    def finish(self, batch: Batch, why: str) -> list[str]:
        """The batch is over: the keys of the calls it left without an answer, given back unpaid."""
        with self.ledger.exclusive() as db:
            left = list(db.execute(sa.select(CALLS.c.call_key).where(CALLS.c.owner == batch.tag, _CLAIMED)).scalars())
            self._pass_on(db, left, batch.tag, self.ledger.owner)
            self.ledger.perform(db, [Release(key, why) for key in left])
            self._set(db, batch.tag, state="done", ended=why)
            db.execute(OWNERS.delete().where(OWNERS.c.owner == batch.tag))
            return left

    @staticmethod
    def _pass_on(db: sa.Connection, keys: Sequence[str], giver: str, taker: str) -> None:
        held = CALLS.c.owner == giver, _CLAIMED, CALLS.c.call_key == sa.bindparam("key")
        if keys:
            db.execute(CALLS.update().where(*held).values(owner=taker), [{"key": key} for key in keys])

    @staticmethod
    def _set(db: sa.Connection, tag: str, **values: str) -> None:
        db.execute(BATCHES.update().where(BATCHES.c.tag == tag).values(**values))

    @staticmethod
    def _row(db: sa.Connection, tag: str) -> Batch:
        row = db.execute(sa.select(BATCHES).where(BATCHES.c.tag == tag)).one()
        return Batch(row.tag, row.state, row.file_id, row.batch_id, float(row.claimed_at))


def require_kept(ledger: Ledger, tag: str) -> None:
    """Raise StageError for a call that waits in a batch which no live process fetches."""
    account = Batches(ledger).left_by(tag)
    if account is not None:
        raise left_behind(account)


def left_behind(account: str) -> StageError:
    """The error of a call that waits in a batch which nobody fetches."""
    return StageError(
        f"a call is in a batch of run {account!r} that no process fetches; run {account!r} once more with `batch` on "
        "this model, which fetches its answers and pays for nothing twice, then run this command again"
    )


def line(key: str, body: str) -> bytes:
    """A call as a line of a batch's input file."""
    return b'{"custom_id":%b,"method":"POST","url":"/v1/chat/completions","body":%b}\n' % (
        json.dumps(key).encode(),
        body.encode(),
    )


_CLAIMED = CALLS.c.status == "claimed"
