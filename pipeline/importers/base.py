"""What importers hand over. Pure: types only.

An importer of a file's shape is one module here with two functions: ``fits(row, kind)``, how many of a row's columns
speak for the shape (0: it is another), and ``read(table, asked)``, a :class:`Batch` of what its rows hold. A row that
cannot be used is refused by name with a reason; nothing of a file is lost without one.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal

Row = dict[str, Any]
"""A row as a file gives it: what is null there is absent here."""
Turn = tuple[str, str]
PART = re.compile(r"#[\w-]+$")
"""What tells the pairs of one row apart."""
Kind = Literal["prompts", "samples", "pairs", "judgments", "labels"]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A prompt as a file gives it."""

    where: str
    """File and line."""
    messages: tuple[Turn, ...]
    """(role, content) turns up to the first answer."""
    later_turns: tuple[str, ...] = ()
    """User turns that follow once the answer before them is there."""
    reference: str | None = None
    tags: tuple[str, ...] = ()
    whole: str | None = None
    """``pipeline.turns.packed``: messages and tools as they were, where the turns do not say all."""


@dataclass(frozen=True, slots=True)
class SampleRow:
    """An answer as a file gives it."""

    conversation: Conversation
    completion: str
    model: str
    external_id: str | None
    scores: tuple[tuple[str, float], ...] = ()
    """(aspect, score) in the file's own unit, higher is better."""


@dataclass(frozen=True, slots=True)
class PairRow:
    """A pair as a file gives it, its own a first."""

    conversation: Conversation
    external_id: str | None
    """The file's name of it; where it has none, the row is its name."""
    response_a: str
    response_b: str
    model_a: str
    model_b: str

    @property
    def name(self) -> str:
        """What opinions of the same file call it."""
        return self.external_id or self.conversation.where


@dataclass(frozen=True, slots=True)
class JudgmentRow:
    """A judge's opinion in terms of the file's a and b."""

    pair: str
    judge: str
    order: str | None
    """What the judge saw; None where answers were judged one by one."""
    preference: float | None
    rationale: str | None
    where: str = field(default="", compare=False)
    """File and line."""


@dataclass(frozen=True, slots=True)
class LabelRow:
    """A person's opinion in terms of the file's a and b."""

    pair: str
    annotator: str
    label: str
    queue: str
    inclusion_prob: float
    seconds: float | None
    labelled_at: str | None
    where: str = field(default="", compare=False)
    """File and line."""


@dataclass
class Refused:
    """Rows that were read and cannot be used, each once."""

    rows: dict[str, str] = field(default_factory=dict[str, str])
    """Id -> reason."""
    details: dict[str, str] = field(default_factory=dict[str, str])
    """Id -> what was found and what is allowed, where a reason alone does not tell."""

    def add(self, row: str, reason: str, where: str = "", detail: str = "") -> None:
        """Note *reason* for *row*; a row whose id another one took is known by *where* it stands."""
        names = (row, where, *(f"{where or row} ({at})" for at in range(2, 4)))
        key = next((name for name in names if name and name not in self.rows), "")
        key = key or next(name for at in count(4) if (name := f"{where or row} ({at})") not in self.rows)
        self.rows[key] = reason
        if detail:
            self.details[key] = detail


@dataclass(frozen=True, slots=True)
class Table:
    """A file's rows."""

    name: str
    """The file's name."""
    rows: list[tuple[str, Row]]
    """(file and line, row)."""
    columns: tuple[str, ...]
    """All columns that some row has, in order, those included that are null throughout."""


class Unusable(Exception):  # noqa: N818  a row's lot, not an error of the program
    """A row cannot be used; caught where rows are read, and never seen beyond."""

    def __init__(self, reason: str, detail: str = "", name: str = "") -> None:
        """*reason* in one word; *detail* is what was found and what is allowed, *name* the row's own id."""
        super().__init__(reason)
        self.reason, self.detail, self.name = reason, detail, name


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command wants of a file."""

    kind: Kind
    source: str
    """The judge that the file's own ratings and choices are named after."""
    annotator: str | None = None
    """Whose choices the file holds."""

    def by_people(self, who: str | None = None) -> str | None:
        """The person whose label a choice is, or None where it is the judgment of a judge; *who* is the file's word.

        Raises:
            Unusable: labels are wanted and nobody is named.
        """
        if self.kind == "judgments":
            return None
        if self.kind == "labels" and not (who or self.annotator):
            raise Unusable("annotator_missing", "name the person who chose with --annotator")
        return who or self.annotator


@dataclass
class Batch:
    """What a file holds; pairs and samples bring their prompts."""

    prompts: list[Conversation] = field(default_factory=list[Conversation])
    samples: list[SampleRow] = field(default_factory=list[SampleRow])
    pairs: list[PairRow] = field(default_factory=list[PairRow])
    judgments: list[JudgmentRow] = field(default_factory=list[JudgmentRow])
    labels: list[LabelRow] = field(default_factory=list[LabelRow])
    refused: Refused = field(default_factory=Refused)
    named: set[str] = field(default_factory=set[str])
    """Ids that the file has given to pairs."""
    needs: tuple[str, ...] = ()
    """Columns the shape cannot do without; ``a|b`` is either."""
    columns: tuple[str, ...] | None = None
    """Those the file has; None where a user's own importer read it."""

    def conversations(self) -> list[Conversation]:
        """The prompts of all rows; a row that holds several answers to one prompt has it once."""
        given = [row.conversation for row in (*self.samples, *self.pairs)]
        told: dict[tuple[object, ...], Conversation] = {}
        for item in (*self.prompts, *given):
            row = PART.sub("", item.where)
            told.setdefault((row, item.messages, item.reference), replace(item, where=row))
        return list(told.values())

    def vote(self, asked: Asked, pair: PairRow, label: str, who: str | None = None) -> None:
        """*pair* and the choice made between its answers: a person's label, or the judgment of *who* or of the file."""
        where = pair.conversation.where
        person = asked.by_people(who)
        self.pairs.append(pair)
        if person is not None:
            self.labels.append(LabelRow(pair.name, person, label, "audit", 1.0, None, None, where))
        else:
            self.judgments.append(JudgmentRow(pair.name, who or asked.source, None, PREFERENCES[label], None, where))


PREFERENCES = {"a": 1.0, "b": 0.0, "tie": 0.5}
Read = Callable[[Table, Asked], Batch]
Own = Callable[[Path], tuple[list[Any], Refused]]
"""A user's own importer, ``./file.py:name``: a file's path in, rows of the kind asked for out."""


def each(table: Table, one: Callable[[Row, str], None], batch: Batch) -> Batch:
    """*batch* after *one* has read every row (row, where) into it; rows for which it raised Unusable are refused."""
    for where, row in table.rows:
        try:
            one(row, where)
        except Unusable as fault:
            batch.refused.add(fault.name or where, fault.reason, where, fault.detail)
    return batch


def columns_in(row: Row, *names: str) -> int:
    """How many of *names* the row has, if it has all of them; else 0."""
    return len(names) if all(name in row for name in names) else 0


def first_of(row: Row, names: Iterable[str]) -> Any:
    """The first of these columns that the row has; None where it has none."""
    return next((row[name] for name in names if name in row), None)
