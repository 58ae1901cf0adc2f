"""Pins down the ledger: an answered call is never made again, a hard budget, and what a dead owner leaves behind.

Every test runs on SQLite and on a real PostgreSQL.
"""

import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from pipeline.calls import ledger as module
from pipeline.calls.ledger import OWNERS, Busy, Claimed, Ledger, Recorded
from pipeline.errors import BudgetError, ConfigError, StorageError
from tests.patience import patience

BODY = {"model": "m", "messages": [{"role": "user", "content": "é \ud83d \x00"}]}
REPLY = {"choices": [{"message": {"content": "yes \x00 \ud83d"}}]}
WAIT_S = patience(20)
Place = Path | str


@pytest.fixture
def ledger(ledger_place: Place) -> Iterator[Ledger]:
    made = Ledger(ledger_place, budget_usd=1.0)
    yield made
    made.close()


def change_owner(place: Place, owner: Ledger, **values: object) -> None:
    """Let *owner* look otherwise than it is."""
    through = Ledger(place)
    with through.engine.begin() as db:
        db.execute(OWNERS.update().where(OWNERS.c.owner == owner.owner).values(**values))
    through.close()


def kill(place: Place, owner: Ledger) -> None:
    """Let *owner* look as if its process had died."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    change_owner(place, owner, pid=gone.pid)


def claim(of: Ledger, key: str, reserve: float = 0.1) -> Recorded | Claimed | Busy:
    return of.claim(key, BODY, reserve).result(WAIT_S)


def test_claimed_then_answered_then_recorded_for_ever(ledger_place: Place, ledger: Ledger) -> None:
    assert claim(ledger, "k") == Claimed()
    assert ledger.charged_usd() == pytest.approx(0.1)
    ledger.answer("k", REPLY, 0.04, 1.5).result(WAIT_S)
    assert ledger.charged_usd() == pytest.approx(0.04)
    assert claim(ledger, "k") == Recorded(REPLY, 0.04, 1.5)
    # another process, later, with no budget left at all
    later = Ledger(ledger_place, budget_usd=0.0)
    assert claim(later, "k", 99) == Recorded(REPLY, 0.04, 1.5)
    assert later.charged_usd() == pytest.approx(0.04)
    later.close()


def test_what_is_sent_and_what_came_back_can_be_looked_up(ledger: Ledger) -> None:
    assert ledger.lookup("k") is None
    claim(ledger, "k")
    found = ledger.lookup("k") or {}
    assert (found["status"], found["request"], found["response"]) == ("claimed", BODY, None)
    ledger.answer("k", REPLY, 0, None).result(WAIT_S)
    found = ledger.lookup("k") or {}
    assert (found["status"], found["response"]) == ("answered", REPLY)


def test_a_released_call_is_free_and_may_be_made_again(ledger: Ledger) -> None:
    claim(ledger, "k")
    ledger.release("k", "HTTP 429").result(WAIT_S)
    assert ledger.charged_usd() == pytest.approx(0)
    assert (ledger.lookup("k") or {})["error"] == "HTTP 429"
    assert claim(ledger, "k") == Claimed()
    assert ledger.possibly_paid() == []


def test_an_abandoned_call_stays_charged_and_is_listed(ledger: Ledger) -> None:
    claim(ledger, "k")
    ledger.abandon("k").result(WAIT_S)
    assert ledger.possibly_paid() == ["k"]
    assert ledger.charged_usd() == pytest.approx(0.1)
    # made again, answered for 0.04: the lost one counts as well
    assert claim(ledger, "k") == Claimed()
    ledger.answer("k", REPLY, 0.04, 1).result(WAIT_S)
    assert ledger.charged_usd() == pytest.approx(0.14)
    assert ledger.possibly_paid() == ["k"]


def test_of_two_living_owners_one_makes_the_call(ledger_place: Place, ledger: Ledger) -> None:
    other = Ledger(ledger_place, budget_usd=1.0)
    assert claim(ledger, "k") == Claimed()
    assert claim(other, "k") == Busy()
    assert claim(ledger, "k") == Busy()
    ledger.answer("k", REPLY, 0.02, 1).result(WAIT_S)
    assert claim(other, "k") == Recorded(REPLY, 0.02, 1)
    other.close()


def test_a_dead_owners_claim_is_taken_over_listed_and_stays_charged(ledger_place: Place, ledger: Ledger) -> None:
    dead = Ledger(ledger_place)
    claim(dead, "k", 0.3)
    kill(ledger_place, dead)
    assert claim(ledger, "k", 0.2) == Claimed()
    assert ledger.possibly_paid() == ["k"]
    assert ledger.charged_usd() == pytest.approx(0.5)  # .3 that may have been paid, .2 reserved now
    ledger.answer("k", REPLY, 0.1, 1).result(WAIT_S)
    assert ledger.charged_usd() == pytest.approx(0.4)
    dead.close()


def test_an_owner_elsewhere_is_dead_when_its_heart_stopped(ledger_place: Place, ledger: Ledger) -> None:
    away = Ledger(ledger_place)
    claim(away, "k")
    away.close()
    change_owner(ledger_place, away, host="elsewhere", pid=1)
    assert claim(ledger, "k") == Busy()
    late = module.DEAD_AFTER_S + 1
    change_owner(ledger_place, away, beat=OWNERS.c.beat - late)
    assert claim(ledger, "k") == Claimed()
    assert ledger.possibly_paid() == ["k"]


def test_an_owner_here_is_dead_when_its_heart_stopped_though_its_number_lives(
    ledger_place: Place, ledger: Ledger
) -> None:
    """Process numbers come again: the heartbeat tells a new process from the old one."""
    away = Ledger(ledger_place)
    claim(away, "k")
    away.close()
    change_owner(ledger_place, away, host=module.this_host(), pid=1, beat=OWNERS.c.beat - module.DEAD_AFTER_S - 1)
    assert claim(ledger, "k") == Claimed()


def test_a_machine_of_the_same_name_is_another_machine(ledger_place: Place, ledger: Ledger) -> None:
    """Its process numbers say nothing here: only its heart does."""
    away = Ledger(ledger_place)
    claim(away, "k")
    gone = subprocess.Popen(["true"])
    gone.wait()
    name = module.this_host().split()[0]
    change_owner(ledger_place, away, host=f"{name} another-boot", pid=gone.pid)
    assert claim(ledger, "k") == Busy()
    away.close()


def test_who_was_taken_for_dead_writes_nothing(ledger_place: Place, ledger: Ledger) -> None:
    """A process that was held up for long finds its claim taken over: its late reply must not undo the other's."""
    late = Ledger(ledger_place)
    claim(late, "k", 0.3)
    change_owner(ledger_place, late, beat=OWNERS.c.beat - module.DEAD_AFTER_S - 1)
    assert claim(ledger, "k", 0.2) == Claimed()
    assert late.answer("k", {"choices": []}, 0.1, 1).result(WAIT_S) is False
    assert late.release("k", "late").result(WAIT_S) is False
    assert late.abandon("k").result(WAIT_S) is False
    assert ledger.answer("k", REPLY, 0.05, 1).result(WAIT_S) is True
    assert claim(ledger, "k") == Recorded(REPLY, 0.05, 1)
    assert ledger.charged_usd() == pytest.approx(0.35)  # .3 that may have been paid, .05 that was
    late.close()


def test_an_idle_owner_keeps_its_heart_beating(ledger_place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_S", 0.02)
    made = Ledger(ledger_place)

    def beat() -> float:
        with made.engine.connect() as db:
            return float(db.execute(sa.select(OWNERS.c.beat)).scalar_one())

    before = beat()
    waiting = threading.Event()
    for _ in range(100):
        waiting.wait(0.05)
        if beat() > before:
            break
    assert beat() > before
    made.close()


def test_the_budget_is_hard(ledger: Ledger) -> None:
    for at in range(10):
        assert claim(ledger, f"k{at}", 0.09) == Claimed()
    # .9 are reserved
    with pytest.raises(
        BudgetError, match=r"may cost US\$ 0.1100 and US\$ 0.9000 of the budget of US\$ 1.00 are charged"
    ):
        claim(ledger, "one more", 0.11)
    assert ledger.lookup("one more") is None
    assert ledger.charged_usd() == pytest.approx(0.9)
    for at in range(10):
        ledger.answer(f"k{at}", REPLY, 0.01, 1)
    assert claim(ledger, "one more", 0.11) == Claimed()


def test_the_budget_holds_between_processes(ledger_place: Place, ledger: Ledger) -> None:
    other = Ledger(ledger_place, budget_usd=1.0)
    claim(ledger, "a", 0.6)
    with pytest.raises(BudgetError):
        claim(other, "b", 0.6)
    other.close()


def test_many_threads_claim_each_call_once(ledger_place: Place, ledger: Ledger) -> None:
    other = Ledger(ledger_place, budget_usd=1000)
    ledger.budget_usd = 1000
    keys = [f"k{at % 40}" for at in range(160)]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda at: claim((ledger, other)[at % 2], keys[at]), range(len(keys))))
    assert sum(one == Claimed() for one in found) == 40
    assert ledger.charged_usd() == pytest.approx(4.0)
    other.close()


def test_a_cancelled_wait_neither_ends_the_writer_nor_undoes_a_write(ledger: Ledger) -> None:
    asked = ledger.claim("k", BODY, 0.1)
    assert asked.cancel() is False
    assert asked.result(WAIT_S) == Claimed()
    kept = ledger.answer("k", REPLY, 0.1, 1)
    kept.cancel()
    kept.result(WAIT_S)
    assert claim(ledger, "k") == Recorded(REPLY, 0.1, 1)


def test_what_cannot_be_written_fails_alone(ledger: Ledger) -> None:
    with pytest.raises(TypeError):
        ledger.claim("bad", {"messages": object()}, 0.1)
    good = ledger.claim("good", BODY, 0.1)
    assert good.result(WAIT_S) == Claimed()
    assert ledger.charged_usd() == pytest.approx(0.1)


def test_closing_writes_what_is_waiting(ledger_place: Place) -> None:
    made = Ledger(ledger_place)
    for at in range(50):
        made.claim(f"k{at}", BODY, 0.0)
        made.answer(f"k{at}", REPLY, 0.0, 1)
    made.close()
    later = Ledger(ledger_place)
    assert all(isinstance(claim(later, f"k{at}"), Recorded) for at in range(50))
    later.close()


def test_a_ledger_that_cannot_be_opened_says_so(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("this is no database, and long enough to be looked at" * 100)
    with pytest.raises(StorageError, match="the ledger cannot be opened"):
        Ledger(tmp_path / "ledger.sqlite")


def test_a_database_that_is_not_there_is_named_without_its_password() -> None:
    with pytest.raises(StorageError, match="the ledger cannot be opened") as found:
        Ledger("postgresql://somebody:secret-word@127.0.0.1:1/nothing")
    assert "secret-word" not in str(found.value)
    with pytest.raises(ConfigError, match="postgresql"):
        Ledger("mysql://somebody:secret-word@127.0.0.1:1/nothing")


def test_accounts_on_one_database_have_budgets_of_their_own(ledger_place: Place, ledger: Ledger) -> None:
    other = Ledger(ledger_place, budget_usd=1.0, account="other")
    claim(ledger, "a", 0.9)
    assert claim(other, "b", 0.9) == Claimed()
    assert (ledger.charged_usd(), other.charged_usd()) == (pytest.approx(0.9), pytest.approx(0.9))
    other.close()
