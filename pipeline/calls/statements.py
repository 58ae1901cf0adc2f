"""The ledger's statements, each over a whole batch of calls. Touches the database it is given.

Rows are one JSON array of arrays in the parameter ``rows``, or a list of VALUES where SQLite is faster with one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from pipeline.calls.tables import CALLS, REAL, array

MOST_ROWS = 1000
"""Rows of one list of VALUES: SQLite takes 32,766 parameters at once."""

# SQLite takes long texts as parameters: out of JSON it parses and copies them several times.
SQLITE_ADD = """INSERT INTO calls
(call_key, request, reserved_usd, status, owner, account, cost_usd, lost_usd, lost_claims)
SELECT column1, column2, column3, 'claimed', ?, ?, 0.0, 0.0, 0 FROM (VALUES {rows})"""
SQLITE_REPLY = """UPDATE calls
SET status = 'answered', response = column2, cost_usd = column3, latency_s = column4, reported_usd = column5,
    error = column6, reserved_usd = 0.0
FROM (VALUES {rows}) WHERE call_key = column1"""


class Statements:
    """The statements over a batch, each with its rows as one JSON array of arrays in the parameter ``rows``."""

    def __init__(self, dialect: str) -> None:
        """For a database of this dialect: ``sqlite`` or ``postgresql``."""
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
            status="answered",
            response=text(1),
            cost_usd=number(2),
            latency_s=number(3),
            reported_usd=number(4),
            error=text(5),
            reserved_usd=0.0,
        )
        self.release = ended.values(status="unanswered", error=text(1), reserved_usd=0.0)
        self.abandon = ended.values(
            status="unanswered",
            error=text(1),
            lost_usd=CALLS.c.lost_usd + sa.func.coalesce(number(2), CALLS.c.reserved_usd),
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
            db.execute(self._add, {"rows": array(rows), **who})

    def reply(
        self, db: sa.Connection, rows: Sequence[tuple[str, str, float, float | None, float | None, str | None]]
    ) -> None:
        """Replies to claims of ours: (key, response, cost, latency, reported cost, why that cannot be used)."""
        if db.dialect.name == "sqlite":
            _insert(db, SQLITE_REPLY, rows, ())
        elif rows:
            db.execute(self._reply, {"rows": array(rows)})


def _insert(db: sa.Connection, statement: str, rows: Sequence[Sequence[object]], first: tuple[str, ...]) -> None:
    """One statement over *rows* as a list of VALUES, or a few: SQLite takes 32,766 parameters at once."""
    for start in range(0, len(rows), MOST_ROWS):
        some = rows[start : start + MOST_ROWS]
        marks = f"({', '.join('?' * len(some[0]))})"
        values = [value for row in some for value in row]
        db.exec_driver_sql(statement.format(rows=", ".join([marks] * len(some))), (*first, *values))
