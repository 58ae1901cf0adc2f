"""The ledger for those who only read it: what was charged, what was reported, what was asked and answered.

Opens the database read-only, SQLite or PostgreSQL, and leaves no trace in it: no owner, no lock, no table.
"""

import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from pipeline.calls.tables import ACCOUNT, BATCHES, CALLS, database_url, has_tables, named, reading, reason
from pipeline.config import LedgerConfig
from pipeline.errors import ConfigError, StorageError

FAULTS = 3
"""Reasons for which calls were charged at their reservation that are told, the commonest first."""


@dataclass(frozen=True, slots=True)
class Money:
    """What an account's calls cost, US$."""

    charged_usd: float = 0.0
    """What counts against the budget: answered, reserved and possibly paid."""
    reported_usd: float = 0.0
    """What the answered calls cost by the endpoints' own counts of tokens, as far as those could be used."""
    at_reservation: int = 0
    """Answered calls whose count could not be used."""
    at_reservation_usd: float = 0.0
    """Charged for them."""
    faults: dict[str, int] = field(default_factory=dict[str, int])
    """Why -> how many; the commonest."""
    possibly_paid: int = 0
    """Attempts that left no answer and may have been paid."""
    possibly_paid_usd: float = 0.0
    """Charged for them."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One answered call."""

    request: dict[str, Any]
    response: dict[str, Any]
    latency_s: float | None


@dataclass(frozen=True, slots=True)
class OpenBatch:
    """A batch at a vendor's that is not over."""

    tag: str
    batch_id: str | None
    base_url: str
    model: str
    state: str
    calls: int
    claimed_at: float
    """Seconds since 1970."""


def place_of(wanted: LedgerConfig | None, folder: Path) -> Path | str:
    """Where the ledger of a run in *folder* lies: what its config says, or SQLite beside its frames.

    Raises:
        ConfigError: the URL's variable is not set.
    """
    if wanted is None:
        return folder / "ledger.sqlite"
    if wanted.url_env is None:
        return wanted.url or ""
    url = os.environ.get(wanted.url_env, "").strip()
    if not url:
        raise ConfigError(
            f"`ledger` takes its URL from {wanted.url_env}, which is not set; export it, or leave `ledger` out for "
            "SQLite in the run's folder"
        )
    return url


class Records:
    """One ledger, read; use as a context manager."""

    def __init__(self, place: Path | str, account: str = "run") -> None:
        """Open the ledger at *place* (see ``pipeline.calls.tables.database_url``); *account* is whose money is told.

        Raises:
            StorageError: it cannot be read, is empty, or another version of jurybox wrote it.
            ConfigError: the URL is of no database that a ledger can be on.
        """
        url = database_url(place)
        self.place, self.account = named(url), account
        self.engine = reading(url)
        with self._reading() as db:
            self.empty = not has_tables(db, self.place)
            """Nothing was ever claimed: a database that no run has used."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.engine.dispose()

    def money(self) -> Money:
        """What the account's calls cost."""
        if self.empty:
            return Money()
        ours = CALLS.c.account == self.account
        guessed = sa.and_(CALLS.c.status == "answered", CALLS.c.reported_usd.is_(None), CALLS.c.cost_usd > 0)
        sums = sa.select(
            sa.func.coalesce(sa.func.sum(CALLS.c.reported_usd), 0.0),
            sa.func.count().filter(guessed),
            sa.func.coalesce(sa.func.sum(CALLS.c.cost_usd).filter(guessed), 0.0),
            sa.func.coalesce(sa.func.sum(CALLS.c.lost_claims), 0),
            sa.func.coalesce(sa.func.sum(CALLS.c.lost_usd), 0.0),
        ).where(ours)
        count = sa.func.count()
        why = sa.select(CALLS.c.error, count).where(ours, guessed).group_by(CALLS.c.error)
        with self._reading() as db:
            charged = db.execute(sa.select(ACCOUNT.c.charged_usd).where(ACCOUNT.c.name == self.account)).scalar()
            reported, guesses, guessed_usd, lost, lost_usd = db.execute(sums).one()
            faults: dict[str, int] = {
                str(fault): int(times)
                for fault, times in db.execute(why.order_by(count.desc(), CALLS.c.error).limit(FAULTS)).tuples()
            }
        return Money(
            # Sums of reservations taken and given back leave some 1e-17 of either sign.
            charged_usd=max(float(charged or 0.0), 0.0),
            reported_usd=float(reported),
            at_reservation=int(guesses),
            at_reservation_usd=float(guessed_usd),
            faults=faults,
            possibly_paid=int(lost),
            possibly_paid_usd=float(lost_usd),
        )

    def possibly_paid(self) -> list[str]:
        """Keys of the account's calls that left no answer once and may have been paid then."""
        lost = sa.select(CALLS.c.call_key).where(CALLS.c.lost_claims > 0, CALLS.c.account == self.account)
        return self._keys(lost)

    def answered(self) -> set[str]:
        """Keys of all answered calls, whoever paid for them."""
        return set(self._keys(sa.select(CALLS.c.call_key).where(CALLS.c.status == "answered")))

    def some(self, most: int) -> list[Answered]:
        """Some answered calls; a row that is no JSON is left out."""
        if self.empty:
            return []
        columns = sa.select(CALLS.c.request, CALLS.c.response, CALLS.c.latency_s)
        with self._reading() as db:
            rows = db.execute(columns.where(CALLS.c.status == "answered").limit(most)).all()
        found = ((json_object(request), json_object(response), latency) for request, response, latency in rows)
        return [Answered(one, other, latency) for one, other, latency in found if one is not None and other is not None]

    def call(self, key: str) -> dict[str, Any] | None:
        """Everything recorded of one call; None where there is none.

        ``request`` and ``response`` are JSON values, or the text as it stands where it is damaged.
        """
        if self.empty:
            return None
        with self._reading() as db:
            row = db.execute(sa.select(CALLS).where(CALLS.c.call_key == key)).mappings().first()
        if row is None:
            return None
        return {**row, "request": _value(row["request"]), "response": _value(row["response"])}

    def batches(self) -> list[OpenBatch]:
        """The account's batches that are not over, the oldest first."""
        if self.empty:
            return []
        inside = sa.select(sa.func.count()).where(CALLS.c.owner == BATCHES.c.tag, CALLS.c.status == "claimed")
        columns = (BATCHES.c.tag, BATCHES.c.batch_id, BATCHES.c.base_url, BATCHES.c.model, BATCHES.c.state)
        wanted = (
            sa.select(*columns, inside.scalar_subquery(), BATCHES.c.claimed_at)
            .where(BATCHES.c.account == self.account, BATCHES.c.state != "done")
            .order_by(BATCHES.c.claimed_at, BATCHES.c.tag)
        )
        with self._reading() as db:
            return [OpenBatch(*row) for row in db.execute(wanted)]

    def _keys(self, query: "sa.Select[tuple[str]]") -> list[str]:
        if self.empty:
            return []
        with self._reading() as db:
            return sorted(db.execute(query).scalars())

    @contextmanager
    def _reading(self) -> Generator[sa.Connection]:
        try:
            with self.engine.connect() as db:
                yield db
        except (OSError, SQLAlchemyError) as error:
            raise StorageError(
                f"{self.place}: the ledger cannot be read ({reason(error)}); mend it or start its server, then try "
                "again"
            ) from error


def json_object(text: object) -> dict[str, Any] | None:
    """The JSON object in a row's text; None where there is none: the row is damaged."""
    found = _value(text)
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None


def _value(text: object) -> Any:
    """The JSON value in a row's text, or what stands there instead."""
    if not isinstance(text, str | bytes):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text if isinstance(text, str) else text.decode(errors="replace")
