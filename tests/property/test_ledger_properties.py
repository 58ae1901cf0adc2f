"""Whatever several processes do to one ledger, in whatever order, dying when they like: nothing is lost or paid twice.

The model beside the ledger is a dictionary and three sums, kept by hand; amounts are multiples of 1/64 US$, which add
up exactly in binary.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.calls.ledger import Busy, Claimed, Ledger, Recorded
from pipeline.calls.tables import CALLS
from pipeline.errors import BudgetError
from tests import ledgers

UNIT = 1 / 64
BUDGET = 20 * UNIT
RUNS = count()

owners = st.integers(0, 1)
keys = st.integers(0, 2)
amounts = st.integers(1, 8).map(lambda units: units * UNIT)
texts = st.text(max_size=20)
steps = st.one_of(
    st.tuples(st.just("claim"), owners, keys, amounts),
    st.tuples(st.just("answer"), owners, keys, texts),
    st.tuples(st.just("release"), owners, keys),
    st.tuples(st.just("abandon"), owners, keys),
    st.tuples(st.just("die"), owners),
)


@dataclass
class Known:
    """What the test knows of one call."""

    holder: Ledger | None = None
    reserved: float = 0.0
    answer: tuple[str, float] | None = None
    lost: list[float] = field(default_factory=list[float])


@dataclass
class World:
    """Two processes on one ledger, and what must be true of it."""

    place: Path | str
    account: str
    ledgers: list[Ledger]
    calls: dict[int, Known]
    dead: set[str]

    def open(self) -> Ledger:
        return Ledger(self.place, budget_usd=BUDGET, account=self.account)

    def key(self, number: int) -> str:
        return f"{self.account}-{number}"

    @property
    def charged(self) -> float:
        return sum(
            one.reserved + sum(one.lost) + (one.answer[1] if one.answer is not None else 0.0)
            for one in self.calls.values()
        )

    def claim(self, owner: int, number: int, amount: float) -> None:
        me, call = self.ledgers[owner], self.calls[number]
        request = self.key(number), {"messages": [str(number)]}, amount
        if call.answer is not None:
            assert ledgers.claim(me, *request) == Recorded({"text": call.answer[0]}, call.answer[1], 1.0)
        elif call.holder is not None and call.holder.owner not in self.dead:
            assert ledgers.claim(me, *request) == Busy()
        elif self.charged + amount > BUDGET:
            with pytest.raises(BudgetError):
                ledgers.claim(me, *request)
        else:
            assert ledgers.claim(me, *request) == Claimed()
            if call.holder is not None:
                call.lost.append(call.reserved)
            call.holder, call.reserved = me, amount

    def answer(self, owner: int, number: int, text: str) -> None:
        me, call = self.ledgers[owner], self.calls[number]
        cost = call.reserved / 2
        kept = ledgers.answer(me, self.key(number), {"text": text}, cost, 1.0)
        assert kept is (call.holder is me)
        if kept:
            call.holder, call.reserved, call.answer = None, 0.0, (text, cost)

    def release(self, owner: int, number: int) -> None:
        me, call = self.ledgers[owner], self.calls[number]
        given_back = ledgers.release(me, self.key(number), "HTTP 503")
        assert given_back is (call.holder is me)
        if given_back:
            call.holder, call.reserved = None, 0.0

    def abandon(self, owner: int, number: int) -> None:
        me, call = self.ledgers[owner], self.calls[number]
        given_up = ledgers.abandon(me, self.key(number))
        assert given_up is (call.holder is me)
        if given_up:
            call.lost.append(call.reserved)
            call.holder, call.reserved = None, 0.0

    def die(self, owner: int) -> None:
        """It ends with what it has claimed, and another takes its place."""
        gone = self.ledgers[owner]
        gone.close()
        self.ledgers[owner] = self.open()
        self.dead.add(gone.owner)

    def check(self) -> None:
        assert self.ledgers[0].charged_usd() == self.charged <= BUDGET
        lost = sorted(self.key(number) for number, call in self.calls.items() if call.lost)
        assert self.ledgers[0].possibly_paid() == lost


@contextmanager
def world(place: Path | str) -> Iterator[World]:
    """A fresh account on the ledger at *place*: a new database for every example would take too long."""
    made = World(place, f"run-{next(RUNS)}", [], {number: Known() for number in range(3)}, set())
    made.ledgers = [made.open() for _ in range(2)]
    try:
        yield made
    finally:
        for one in made.ledgers:
            one.close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, min_size=10, max_size=30))
def test_nothing_is_lost_and_nothing_is_paid_twice(ledger_place: Path | str, done: list[tuple[object, ...]]) -> None:
    with world(ledger_place) as made:
        for name, *arguments in done:
            getattr(made, str(name))(*arguments)
            made.check()
        with made.ledgers[0].engine.connect() as db:
            kept = db.execute(sa.select(CALLS).where(CALLS.c.account == made.account)).mappings().all()
        assert {row["call_key"] for row in kept if row["status"] == "answered"} == {
            made.key(number) for number, call in made.calls.items() if call.answer is not None
        }
