"""The ledger's tables, its version, and how its database is opened: SQLite or PostgreSQL. Touches that database.

A SQLite ledger appears whole or not at all: an empty file where one should be was cut, and is refused.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from pipeline.errors import ConfigError, StorageError
from pipeline.secrets import masked, register_url

SCHEMA_VERSION = 3
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
    # What was charged for the answer, and what it costs by the endpoint's own count of tokens: null where that could
    # not be used. Then `error` says why, and the reservation was charged.
    sa.Column("cost_usd", REAL, nullable=False),
    sa.Column("reported_usd", REAL),
    # Reservations of attempts that may have been paid and left no answer.
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
    sa.Column("started", sa.String(32), nullable=False),
    sa.Column("beat", REAL, nullable=False),
)
ACCOUNT = sa.Table(
    "account",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("charged_usd", REAL, nullable=False),
)
VERSION = sa.Table("ledger_version", METADATA, sa.Column("version", sa.Integer, primary_key=True, autoincrement=False))
BATCHES = sa.Table(
    "batches",
    METADATA,
    sa.Column("tag", sa.String(32), primary_key=True),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("base_url", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("state", sa.String(10), nullable=False),
    sa.Column("keeper", sa.String(32), nullable=False),
    sa.Column("file_id", sa.Text),
    sa.Column("batch_id", sa.Text),
    sa.Column("claimed_at", REAL, nullable=False),
    sa.Column("ended", sa.Text),
)


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


def named(url: sa.URL) -> str:
    """The ledger as messages name it, without its password."""
    return (url.database or "") if is_sqlite(url) else masked(url.render_as_string(hide_password=True))


def is_sqlite(url: sa.URL) -> bool:
    """Whether the ledger is a file."""
    return url.get_backend_name() == "sqlite"


def writing(url: sa.URL) -> sa.Engine:
    """The database for its writer; a SQLite file is made, with empty tables, where there is none.

    Raises:
        StorageError: the file is empty.
        ConfigError: the driver of PostgreSQL is not installed.
    """
    if not is_sqlite(url):
        return _postgres(url, _configure_postgres)
    place = Path(url.database or "")
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        _make_file(place)
    if not place.stat().st_size:
        raise _no_ledger(str(place))
    engine = sa.create_engine(url, connect_args={"timeout": 60}, hide_parameters=True)
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_immediate)
    return engine


def reading(url: sa.URL) -> sa.Engine:
    """The database for those who only read: nothing that they do can change it or hold its writer up.

    Raises:
        ConfigError: the driver of PostgreSQL is not installed.
    """
    if not is_sqlite(url):
        return _postgres(url, _configure_reader)
    place = f"{Path(url.database or '').resolve().as_uri()}?mode=ro"
    return sa.create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(place, uri=True, timeout=60, check_same_thread=False),
        poolclass=sa.NullPool,
        hide_parameters=True,
    )


def make_tables(db: sa.Connection, place: str) -> None:
    """Make the tables where there are none; one process at a time.

    Raises:
        StorageError: another version of jurybox made them, or the file lost them.
    """
    if db.dialect.name == "postgresql":
        db.execute(sa.text("select pg_advisory_xact_lock(hashtext('jurybox ledger'))"))
    if not has_tables(db, place):
        METADATA.create_all(db)
        db.execute(VERSION.insert().values(version=SCHEMA_VERSION))


def has_tables(db: sa.Connection, place: str) -> bool:
    """Whether the database is a ledger already; a PostgreSQL database may be empty.

    Raises:
        StorageError: another version of jurybox made it, or it is a file without a ledger in it.
    """
    known = sa.inspect(db).get_table_names()
    if CALLS.name not in known:
        if db.dialect.name == "sqlite":
            raise _no_ledger(place)
        return False
    found = db.execute(sa.select(VERSION.c.version)).scalar() if VERSION.name in known else 1
    if found != SCHEMA_VERSION:
        raise StorageError(
            f"{place}: the ledger has version {found}, this jurybox reads version {SCHEMA_VERSION}; go on with the "
            "jurybox that made it, or start an empty ledger, which pays for its calls again"
        )
    return True


def array(rows: Iterable[Sequence[object]]) -> str:
    """Rows as one JSON array of arrays, a parameter of a statement over all of them."""
    return orjson.dumps(list(rows)).decode()


def reason(error: Exception) -> str:
    """The database's own words: SQLAlchemy's carry the statement."""
    return str(error.__cause__ or error).strip()


def _no_ledger(place: str) -> StorageError:
    return StorageError(
        f"{place}: the file is there and holds no ledger: it was cut or replaced, and what was paid for is not in it; "
        "put a copy back, or delete it to start an empty ledger, which pays for its calls again"
    )


def _make_file(place: Path) -> None:
    """A ledger without calls under *place*, whole at once: whoever dies before leaves no file under that name."""
    draft = place.with_name(f".{place.name}.{uuid4().hex}")
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(draft)), poolclass=sa.NullPool)
    try:
        with engine.begin() as db:
            db.exec_driver_sql("PRAGMA page_size=16384")
            METADATA.create_all(db)
            db.execute(VERSION.insert().values(version=SCHEMA_VERSION))
        try:
            place.hardlink_to(draft)
        except FileExistsError:
            return
        except OSError:  # a file system without hard links
            if not place.exists():
                draft.replace(place)
    finally:
        engine.dispose()
        draft.unlink(missing_ok=True)


def _postgres(url: sa.URL, configure: Any) -> sa.Engine:
    try:
        # Planned afresh each time: a plan that was made while the ledger was small would stay.
        afresh = {"prepare_threshold": None}
        engine = sa.create_engine(url, pool_pre_ping=True, hide_parameters=True, connect_args=afresh)
    except ModuleNotFoundError as error:
        raise ConfigError(
            "a ledger on PostgreSQL needs the package psycopg; pip install -c constraints.txt -e '.[postgres]'"
        ) from error
    event.listen(engine, "connect", configure)
    return engine


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


def _configure_reader(connection: Any, _record: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")
    connection.commit()


def _begin_immediate(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
