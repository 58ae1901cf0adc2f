"""Pins down that the budget is hard whatever a server says: its own log's bill against it, on SQLite and PostgreSQL.

Every server is benchmarks/budget.py's: real HTTP, 40 prompt and 40 output tokens a call at US$ .001 and .002 each.
"""

import pytest

from benchmarks.budget import TURNS, Row, run, usages
from tests.postgres import Postgres

CALLS, BUDGET = 30, 1.5
HONEST = {"honest", "cached null"}


def asked(server: str, url: str | None, calls: int = CALLS) -> Row:
    return run(server, calls, BUDGET, url)


@pytest.mark.parametrize("server", sorted(usages().keys() - HONEST))
def test_a_count_that_cannot_be_used_is_charged_at_the_reservation(server: str) -> None:
    """By hand: a call reserves (139 bytes and 64) * .001 + 64 * .002 = .331: four of them fit into 1.50."""
    found = asked(server, None)
    assert found.calls == 4
    assert found.bill_usd == pytest.approx(4 * 0.12)
    assert (found.over_usd, found.reported_usd) == (0, 0)
    assert found.bill_usd < found.charged_usd <= BUDGET


@pytest.mark.parametrize("server", sorted(HONEST))
def test_who_counts_is_charged_as_reported(server: str) -> None:
    found = asked(server, None)
    assert found.calls == 10
    assert found.charged_usd == found.reported_usd == found.bill_usd == pytest.approx(1.2)


@pytest.mark.parametrize("server", ["late", "cut", "three bytes short", "hangs up", "504 after the work"])
def test_work_whose_reply_never_came_whole_stays_charged(server: str) -> None:
    found = asked(server, None)
    assert found.calls == 4
    assert found.bill_usd < found.charged_usd <= BUDGET


@pytest.mark.parametrize("server", ["reasoning in the total alone", "reasoning beside the output"])
def test_reasoning_is_charged_wherever_it_is_counted(server: str) -> None:
    """By hand: 40 * .001 + 55 * .002 = .15 a call."""
    found = asked(server, None)
    assert found.charged_usd == found.bill_usd == pytest.approx(found.calls * 0.15)


@pytest.mark.parametrize("on_postgres", [False, True])
def test_all_of_them_at_once(on_postgres: bool, request: pytest.FixtureRequest) -> None:
    postgres: Postgres | None = request.getfixturevalue("postgres") if on_postgres else None
    found = asked(TURNS, postgres.database() if postgres else None, 10)
    assert found.calls > 60
    assert found.over_usd == 0
    assert found.bill_usd <= found.charged_usd <= 20 * BUDGET
