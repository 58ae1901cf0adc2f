"""What people say on the labelling page, and whose turn a pair is. Touches one SQLite file in the run's folder.

Every change is one transaction that holds the file alone (``BEGIN IMMEDIATE``) and is on disk when the call returns,
so a label outlives a crash from the moment its key was acknowledged, and several people, in threads and processes of
their own, never work twice. A label that is taken back stays in the history. There is no write-ahead log, so the file
alone is the whole record.

A pair is *claimed* by whoever sees it. Claims of a browser that is gone expire; a page that is open renews its own.
"""

import threading
import time
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import polars as pl
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from pipeline import ids, schemas
from pipeline.errors import InputError, StorageError
from pipeline.frames import given_by_people
from pipeline.labels.tables import (
    CLAIMS,
    COLUMNS,
    COUNT_LABELS,
    COUNT_OPEN,
    ELSEWHERE,
    FIRST_NEW,
    FIRST_SKIPPED,
    IS_OPEN,
    LABELLED,
    METADATA,
    OPEN_GOLD,
    SKIPPED,
    TASKS,
    UNDONE,
    VERSION,
    engine_of,
)
from pipeline.store import slice_digest

FILE = "labelbook.sqlite"
"""Its name in the run's folder."""
CLAIM_S = 600.0
"""A claim that nobody renewed for so long, s, is free."""
GOLD_SHARE = 0.1
"""Share of the items that are gold ones, while there are any; where they come is drawn for each person."""
Label = Literal["a", "b", "tie"]
Queue = Literal["audit", "active", "gold"]
LABELS = ("a", "b", "tie")
QUEUES = ("audit", "active", "gold")
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Task:
    """A pair that somebody is to label."""

    pair_id: str
    queue: Queue
    """Which queue its label belongs to; the person is not told."""
    left: Literal["a", "b"]
    """The answer, in canonical order, that this person sees on the left."""
    shown_at: float
    """When this person saw it first, s since 1970."""


@dataclass(frozen=True, slots=True)
class Done:
    """How far a person and all together are. Gold items count like others, so that no figure tells them apart."""

    mine: int
    """Labels that the person gave."""
    everyone: int
    """Labels that all people gave."""
    left: int
    """Items that will still come for this person if nobody else labels, the one on the page included."""
    skipped: int
    """Of those, pairs that the person passed over."""


class AnsweredError(InputError):
    """The pair cannot take this label: it has another one, or enough."""


class LabelBook:
    """The labels of one run; safe for threads and processes."""

    def __init__(self, path: Path, seed: int, now: Callable[[], float] = time.time) -> None:
        """Open the book and make it where there is none.

        Args:
            path: the SQLite file.
            seed: the run's seed; sides, places of gold items and their order follow from it.
            now: seconds since 1970.

        Raises:
            StorageError: it cannot be opened, or another version of jurybox wrote it.
        """
        self.path, self.seed, self.now = path, seed, now
        with self._storage():
            path.parent.mkdir(parents=True, exist_ok=True)
        # Within a process people wait in line; SQLite's own waiting is by sleeping longer and longer.
        self._turn = threading.Lock()
        self.engine = engine_of(path)
        with self._changing() as db:
            found = int(db.exec_driver_sql("PRAGMA user_version").scalar_one())
            if found not in (0, VERSION):
                raise StorageError(f"{path}: has version {found}, this jurybox reads {VERSION}; go on with its jurybox")
            METADATA.create_all(db)
            db.exec_driver_sql(f"PRAGMA user_version = {VERSION}")

    def extend(self, rows: pl.DataFrame, *, each: int, elsewhere: pl.DataFrame | None = None) -> dict[str, int]:
        """Add pairs to the queues; doing it again changes nothing.

        The open pairs of the active queue are the latest choice: those that it leaves out and nobody has begun go.

        Args:
            rows: ``pair_id``, ``queue``, ``rank``, ``inclusion_prob``.
            each: people wanted a pair; a pair keeps the largest number that was ever asked for it.
            elsewhere: frame ``labels``: what people said by other ways. It counts, and nobody is asked again. It
                replaces what was given before.

        Returns:
            how many pairs each queue has now.
        """
        wanted = [{**row, "each": each} for row in rows.iter_rows(named=True)]
        with self._changing() as db:
            if elsewhere is not None:
                db.execute(ELSEWHERE.delete())
                given = given_by_people(elsewhere).unique(["pair_id", "annotator"])
                columns = given.select("pair_id", "annotator", pl.col("queue").cast(pl.String))
                if columns.height:
                    db.execute(ELSEWHERE.insert(), columns.to_dicts())
            begun = sa.union(sa.select(LABELLED.c.pair_id), sa.select(CLAIMS.c.pair_id))
            idle = TASKS.delete().where(TASKS.c.queue == "active", TASKS.c.pair_id.not_in(begun))
            if any(row["queue"] == "active" for row in wanted):
                db.execute(idle)
            if wanted:
                add = sa.text(
                    "INSERT INTO tasks VALUES (:pair_id, :queue, :rank, :inclusion_prob, :each) ON CONFLICT DO UPDATE "
                    "SET rank = :rank, inclusion_prob = :inclusion_prob, each = max(each, :each)"
                )
                db.execute(add, wanted)
            # What the audit holds is labelled there, where it certifies.
            other = TASKS.alias()
            db.execute(idle.where(TASKS.c.pair_id.in_(sa.select(other.c.pair_id).where(other.c.queue == "audit"))))
            counts = db.execute(sa.select(TASKS.c.queue, sa.func.count()).group_by(TASKS.c.queue))
            return {str(queue): int(count) for queue, count in counts}

    def take(self, annotator: str, queue: Queue) -> Task | None:
        """The pair that *annotator* is to label now, claimed; None when nothing is left for this person.

        The same call again gives the same pair, with the time it was first shown. Now and then, at places drawn for
        each person, it is a gold item.
        """
        now = self.now()
        with self._changing() as db:
            db.execute(CLAIMS.delete().where(CLAIMS.c.since < now - CLAIM_S))
            mine = db.execute(sa.select(CLAIMS).where(CLAIMS.c.annotator == annotator)).mappings().first()
            if mine is not None and mine["asked"] == queue:
                db.execute(CLAIMS.update().where(CLAIMS.c.annotator == annotator).values(since=now))
                return self._task(annotator, mine["pair_id"], mine["queue"], mine["shown_at"])
            db.execute(CLAIMS.delete().where(CLAIMS.c.annotator == annotator))
            found = self._next(db, annotator, queue)
            if found is None:
                return None
            pair, kind = found
            self._claim(db, annotator, pair, kind, queue, now)
            return self._task(annotator, pair, kind, now)

    def renew(self, annotator: str) -> None:
        """Keep the claim of a page that is open."""
        with self._changing() as db:
            db.execute(CLAIMS.update().where(CLAIMS.c.annotator == annotator).values(since=self.now()))

    def answer(self, annotator: str, pair_id: str, label: Label) -> None:
        """Record a label, in canonical order; it is on disk on return. The same answer again changes nothing.

        Raises:
            AnsweredError: this person said something else of the pair, or it has enough labels without this one.
        """
        now = self.now()
        with self._changing() as db:
            known = db.execute(
                sa.select(LABELLED.c.label).where(LABELLED.c.pair_id == pair_id, LABELLED.c.annotator == annotator)
            ).scalar()
            if known == label:
                return
            if known is not None:
                raise AnsweredError("You have labelled this pair already, differently; undo takes a label back.")
            claim = (
                db.execute(sa.select(CLAIMS).where(CLAIMS.c.annotator == annotator, CLAIMS.c.pair_id == pair_id))
                .mappings()
                .first()
            )
            task = self._open(db, annotator, pair_id, claim)
            if task is None:
                raise AnsweredError("This pair was given to somebody else while the page was away; it is not needed.")
            seconds = None if claim is None else round(max(now - float(claim["shown_at"]), 0.0), 3)
            db.execute(
                LABELLED.insert().values(
                    pair_id=pair_id,
                    annotator=annotator,
                    label=label,
                    queue=task["queue"],
                    inclusion_prob=task["inclusion_prob"],
                    seconds=seconds,
                    labelled_at=_iso(now),
                    left=self.left(annotator, pair_id),
                )
            )
            db.execute(CLAIMS.delete().where(CLAIMS.c.annotator == annotator, CLAIMS.c.pair_id == pair_id))
            db.execute(SKIPPED.delete().where(SKIPPED.c.annotator == annotator, SKIPPED.c.pair_id == pair_id))

    def skip(self, annotator: str, pair_id: str) -> None:
        """Pass a pair over: it goes to others at once, and comes back to this person last."""
        with self._changing() as db:
            gone = db.execute(CLAIMS.delete().where(CLAIMS.c.annotator == annotator, CLAIMS.c.pair_id == pair_id))
            if gone.rowcount:
                db.execute(
                    sa.text(
                        "INSERT INTO skipped VALUES (:pair, :who, 1, :now) ON CONFLICT DO UPDATE "
                        "SET times = times + 1, skipped_at = :now"
                    ),
                    {"pair": pair_id, "who": annotator, "now": self.now()},
                )

    def undo(self, annotator: str, queue: Queue) -> str | None:
        """Take back the person's last label, which stays in the history; :meth:`take` of *queue* shows the pair again.

        Its time goes on from what it took before. Returns the pair's id; None when there is no label.
        """
        now = self.now()
        last = sa.select(LABELLED).where(LABELLED.c.annotator == annotator).order_by(LABELLED.c.number.desc()).limit(1)
        with self._changing() as db:
            found = db.execute(last).mappings().first()
            if found is None:
                return None
            db.execute(UNDONE.insert().values(**found, undone_at=_iso(now)))
            db.execute(LABELLED.delete().where(LABELLED.c.number == found["number"]))
            db.execute(CLAIMS.delete().where(CLAIMS.c.annotator == annotator))
            self._claim(db, annotator, found["pair_id"], found["queue"], queue, now, spent=float(found["seconds"] or 0))
            return str(found["pair_id"])

    def progress(self, annotator: str, queue: Queue) -> Done:
        """How far *annotator* is with *queue*."""
        with self._reading() as db:
            everyone, mine = db.execute(COUNT_LABELS, {"who": annotator}).one()
            left, skipped = db.execute(COUNT_OPEN, self._asking(annotator, queue)).one()
            gold = len(db.execute(OPEN_GOLD, {"who": annotator}).all())
            held = db.execute(sa.select(CLAIMS.c.queue).where(CLAIMS.c.annotator == annotator)).scalar()
            place = self._place(db, annotator)
        if queue == "gold":
            return Done(int(mine), int(everyone), gold, 0)
        coming = int(held == "gold")  # it was chosen by this place's coin
        to_go, place = int(left), place + coming
        while to_go and coming < gold:
            to_go, coming = (to_go, coming + 1) if self._is_gold(annotator, place) else (to_go - 1, coming)
            place += 1
        return Done(int(mine), int(everyone), int(left) + coming, int(skipped or 0))

    def queues(self) -> dict[str, int]:
        """Queues that have pairs, with how many."""
        with self._reading() as db:
            rows = db.execute(sa.select(TASKS.c.queue, sa.func.count()).group_by(TASKS.c.queue))
            counts = {str(queue): int(count) for queue, count in rows}
        return {queue: counts[queue] for queue in QUEUES if queue in counts}

    def rows(self) -> pl.DataFrame:
        """The labels: frame ``labels``, sorted by pair and annotator; known answers are not in it."""
        with self._reading() as db:
            found = db.execute(sa.select(*(LABELLED.c[name] for name in COLUMNS))).mappings().all()
        made = schemas.frame("labels", [dict(row) for row in found])
        return made.sort("pair_id", "annotator")

    def others(self, labels: pl.DataFrame) -> pl.DataFrame:
        """The rows of the frame ``labels`` that do not come from here, now or before they were taken back."""
        keys = ["pair_id", "annotator"]
        with self._reading() as db:
            query = sa.union(*(sa.select(table.c.pair_id, table.c.annotator) for table in (LABELLED, UNDONE)))
            found = [(str(pair), str(name)) for pair, name in db.execute(query)]
        own = pl.DataFrame(found, schema=dict.fromkeys(keys, pl.String), orient="row")
        return labels.join(own, on=keys, how="anti")

    def withdraw(self, pairs: Collection[str]) -> None:
        """Take pairs that the run no longer has out of the queues; what was said of them stays."""
        gone = sorted(pairs)
        with self._changing() as db:
            for table in (TASKS, CLAIMS, SKIPPED):
                db.execute(table.delete().where(table.c.pair_id.in_(gone)))

    def pairs(self, queue: Queue | None = None) -> list[str]:
        """Every pair of a queue, or of all."""
        query = sa.select(TASKS.c.pair_id).distinct().order_by(TASKS.c.pair_id)
        with self._reading() as db:
            asked = query if queue is None else query.where(TASKS.c.queue == queue)
            return [str(key) for key in db.execute(asked).scalars()]

    def history(self) -> list[Row]:
        """The labels that were taken back, oldest first."""
        with self._reading() as db:
            return [dict(row) for row in db.execute(sa.select(UNDONE).order_by(UNDONE.c.number)).mappings()]

    def left(self, annotator: str, pair_id: str) -> Literal["a", "b"]:
        """The answer that *annotator* sees on the left."""
        return "a" if ids.uniform_from(self.seed, "left", annotator, pair_id) < 1 / 2 else "b"

    # What happens inside a transaction.

    def _task(self, annotator: str, pair: str, queue: Queue, shown_at: float) -> Task:
        return Task(pair, queue, self.left(annotator, pair), shown_at)

    def _next(self, db: sa.Connection, annotator: str, queue: Queue) -> tuple[str, Queue] | None:
        """The next pair and the queue its label belongs to."""
        asking = self._asking(annotator, queue)
        pair = db.execute(FIRST_NEW, asking).scalar() or db.execute(FIRST_SKIPPED, asking).scalar()
        if queue == "gold":
            gold = self._gold(db, annotator)
            return (gold, "gold") if gold else None
        if pair is None:
            return None
        if self._is_gold(annotator, self._place(db, annotator)) and (gold := self._gold(db, annotator)):
            return gold, "gold"
        return str(pair), queue

    def _place(self, db: sa.Connection, annotator: str) -> int:
        """How many items the person has been through."""
        given = db.execute(sa.select(sa.func.count()).where(LABELLED.c.annotator == annotator)).scalar_one()
        passed = sa.select(sa.func.coalesce(sa.func.sum(SKIPPED.c.times), 0)).where(SKIPPED.c.annotator == annotator)
        return int(given) + int(db.execute(passed).scalar_one())

    def _is_gold(self, annotator: str, place: int) -> bool:
        """Whether the person's item at *place* is a gold one, while there are any."""
        return ids.uniform_from(self.seed, "gold-place", annotator, place) < GOLD_SHARE

    def _gold(self, db: sa.Connection, annotator: str) -> str | None:
        """A gold item that is new to the person, drawn for them; passed over ones last."""
        open_ = db.execute(OPEN_GOLD, {"who": annotator}).all()
        order = sorted(open_, key=lambda row: (row[1], ids.uniform_from(self.seed, "gold", annotator, row[0])))
        return str(order[0][0]) if order else None

    def _open(self, db: sa.Connection, annotator: str, pair_id: str, claim: Any) -> Row | None:
        """The task under which a label of the pair is wanted from this person; None when there is none."""
        found = {
            str(row["queue"]): dict(row)
            for row in db.execute(sa.select(TASKS).where(TASKS.c.pair_id == pair_id)).mappings()
        }
        if claim is not None:
            # The pair was withdrawn from its queue in the meantime: it was seen, so the label counts.
            return found.get(claim["queue"], {"queue": claim["queue"], "inclusion_prob": 1.0})
        for queue, task in found.items():
            if queue != "gold" and db.execute(IS_OPEN, {**self._asking(annotator, queue), "pair": pair_id}).scalar():
                return task
        return found["gold"] if list(found) == ["gold"] else None

    def _claim(
        self, db: sa.Connection, annotator: str, pair: str, kind: Queue, asked: Queue, now: float, spent: float = 0.0
    ) -> None:
        db.execute(
            CLAIMS.insert().values(
                annotator=annotator, pair_id=pair, queue=kind, asked=asked, since=now, shown_at=now - spent
            )
        )

    def _asking(self, annotator: str, queue: str) -> Row:
        return {"who": annotator, "queue": queue, "alive": self.now() - CLAIM_S}

    @contextmanager
    def _changing(self) -> Generator[sa.Connection]:
        """A transaction in which nobody else writes, on disk when the block is left."""
        with self._turn, self._storage(), self.engine.begin() as db:
            yield db

    _reading = _changing
    """Reading takes its turn too: a reader in between would find the file locked."""

    @contextmanager
    def _storage(self) -> Generator[None]:
        try:
            yield
        except (OSError, SQLAlchemyError) as error:
            raise StorageError(
                f"{self.path}: cannot be used ({error.__cause__ or error}); free space or mend permissions; what was "
                "acknowledged is in it"
            ) from error


def rows_of(path: Path, seed: int) -> pl.DataFrame | None:
    """The labels of the book in the file *path*; None when there is none. Makes no book."""
    return LabelBook(path, seed).rows() if path.is_file() else None


def digest_of(rows: pl.DataFrame | None) -> str | None:
    """SHA-256 of the labels: claims, skips and queues do not count. None where there is no label."""
    return None if rows is None or rows.is_empty() else slice_digest({"labels": rows})


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
