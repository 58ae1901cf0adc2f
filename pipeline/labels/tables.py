"""The tables of the label book, what is asked of them, and how its SQLite file is opened. Touches nothing itself."""

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from pipeline.labels.names import LONGEST_NAME

VERSION = 1

METADATA = sa.MetaData()
REAL: Any = sa.Double
TASKS = sa.Table(
    "tasks",
    METADATA,
    sa.Column("pair_id", sa.String(32), primary_key=True),
    sa.Column("queue", sa.String(6), primary_key=True),
    sa.Column("rank", sa.Integer, nullable=False),
    sa.Column("inclusion_prob", REAL, nullable=False),
    sa.Column("each", sa.Integer, nullable=False),
    sa.Index("tasks_in_order", "queue", "rank"),
)
OPINION: tuple[tuple[str, Any], ...] = (
    ("pair_id", sa.String(32)),
    ("annotator", sa.String(LONGEST_NAME)),
    ("label", sa.String(3)),
    ("queue", sa.String(6)),
    ("inclusion_prob", REAL),
    ("seconds", REAL),
    ("labelled_at", sa.String(32)),
    ("left", sa.String(1)),
)
LABELLED = sa.Table(
    "labels",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    *(sa.Column(name, kind, nullable=name == "seconds") for name, kind in OPINION),
    sa.UniqueConstraint("pair_id", "annotator"),
    sa.Index("labels_of_person", "annotator", "number"),
    sqlite_autoincrement=True,
)
UNDONE = sa.Table(
    "undone",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    *(sa.Column(name, kind, nullable=name == "seconds") for name, kind in OPINION),
    sa.Column("undone_at", sa.String(32), nullable=False),
)
CLAIMS = sa.Table(
    "claims",
    METADATA,
    sa.Column("annotator", sa.String(LONGEST_NAME), primary_key=True),
    sa.Column("pair_id", sa.String(32), nullable=False, index=True),
    sa.Column("queue", sa.String(6), nullable=False),
    sa.Column("asked", sa.String(6), nullable=False),
    sa.Column("since", REAL, nullable=False),
    sa.Column("shown_at", REAL, nullable=False),
)
SKIPPED = sa.Table(
    "skipped",
    METADATA,
    sa.Column("pair_id", sa.String(32), primary_key=True),
    sa.Column("annotator", sa.String(LONGEST_NAME), primary_key=True),
    sa.Column("times", sa.Integer, nullable=False),
    sa.Column("skipped_at", REAL, nullable=False),
)
ELSEWHERE = sa.Table(
    "elsewhere",
    METADATA,
    sa.Column("pair_id", sa.String(32), primary_key=True),
    sa.Column("annotator", sa.Text, primary_key=True),
    sa.Column("queue", sa.String(6), nullable=False),
)
COLUMNS = tuple(name for name, _ in OPINION if name != "left")

OTHERS = "(SELECT count(*) FROM elsewhere e WHERE e.pair_id = t.pair_id AND e.queue = t.queue)"
OPEN = f"""FROM tasks t LEFT JOIN skipped s ON s.pair_id = t.pair_id AND s.annotator = :who
WHERE t.queue = :queue
AND NOT EXISTS (SELECT 1 FROM labels l WHERE l.pair_id = t.pair_id AND l.annotator = :who)
AND NOT EXISTS (SELECT 1 FROM elsewhere e WHERE e.pair_id = t.pair_id AND e.annotator = :who)
AND {OTHERS}
+ (SELECT count(*) FROM labels l WHERE l.pair_id = t.pair_id AND l.queue != 'gold')
+ (SELECT count(*) FROM claims c WHERE c.pair_id = t.pair_id AND c.annotator != :who AND c.queue != 'gold'
AND c.since >= :alive) < t.each"""  # noqa: S608
"""Tasks of a queue that a person may label: not done by them, and short of labels and people at work on it."""
FIRST_NEW = sa.text(f"SELECT t.pair_id {OPEN} AND s.pair_id IS NULL ORDER BY t.rank LIMIT 1")
FIRST_SKIPPED = sa.text(f"SELECT t.pair_id {OPEN} AND s.pair_id IS NOT NULL ORDER BY s.skipped_at, t.rank LIMIT 1")
COUNT_OPEN = sa.text(f"SELECT count(*), sum(s.pair_id IS NOT NULL) {OPEN}")
COUNT_LABELS = sa.text("SELECT count(*), coalesce(sum(annotator = :who), 0) FROM labels")
IS_OPEN = sa.text(f"SELECT 1 {OPEN} AND t.pair_id = :pair")
OPEN_GOLD = sa.text(
    """SELECT t.pair_id, coalesce(s.times, 0)
FROM tasks t LEFT JOIN skipped s ON s.pair_id = t.pair_id AND s.annotator = :who
WHERE t.queue = 'gold'
AND NOT EXISTS (SELECT 1 FROM tasks o WHERE o.pair_id = t.pair_id AND o.queue != 'gold')
AND NOT EXISTS (SELECT 1 FROM labels l WHERE l.pair_id = t.pair_id AND l.annotator = :who)
AND NOT EXISTS (SELECT 1 FROM elsewhere e WHERE e.pair_id = t.pair_id AND e.annotator = :who)"""
)
"""Gold items that are new to a person; a pair of another queue whose answer is known is labelled there."""


def engine_of(path: Path) -> sa.Engine:
    """The book in the file *path*; every transaction of it holds the file alone."""
    url = sa.URL.create("sqlite", database=str(path))
    engine = sa.create_engine(url, connect_args={"timeout": 60}, poolclass=sa.NullPool)
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin_immediate)
    return engine


def _configure(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    # EXTRA: the folder is flushed too, so that a label whose journal was just removed outlives a power cut.
    for setting in ("journal_mode=DELETE", "synchronous=EXTRA", "busy_timeout=60000"):
        connection.execute(f"PRAGMA {setting}")


def _begin_immediate(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
