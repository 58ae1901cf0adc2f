"""Pins down the ledger: an answered call is never made again, a hard budget, and what a dead owner leaves behind."""

import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline import ledger as module
from pipeline.errors import BudgetError, StorageError
from pipeline.ledger import Busy, Claimed, Ledger, Recorded

BODY = {"model": "m", "messages": [{"role": "user", "content": "é \ud83d"}]}
REPLY = {"choices": [{"message": {"content": "yes"}}]}
WAIT_S = 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    made = Ledger(path, budget_usd=1.0)
    yield made
    made.close()


def kill(path: Path, owner: Ledger) -> None:
    """Let *owner* look as if its process had died."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    with sqlite3.connect(path) as db:
        db.execute("update owners set pid = ? where owner = ?", (gone.pid, owner.owner))
    db.close()


def claim(of: Ledger, key: str, reserve: float = 0.1) -> Recorded | Claimed | Busy:
    return of.claim(key, BODY, reserve).result(WAIT_S)


def test_claimed_then_answered_then_recorded_for_ever(path: Path, ledger: Ledger) -> None:
    assert claim(ledger, "k") == Claimed()
    assert ledger.charged_usd() == pytest.approx(0.1)
    ledger.answer("k", REPLY, 0.04, 1.5).result(WAIT_S)
    assert ledger.charged_usd() == pytest.approx(0.04)
    assert claim(ledger, "k") == Recorded(REPLY, 0.04, 1.5)
    # another process, later, with no budget left at all
    later = Ledger(path, budget_usd=0.0)
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


def test_of_two_living_owners_one_makes_the_call(path: Path, ledger: Ledger) -> None:
    other = Ledger(path, budget_usd=1.0)
    assert claim(ledger, "k") == Claimed()
    assert claim(other, "k") == Busy()
    assert claim(ledger, "k") == Busy()
    ledger.answer("k", REPLY, 0.02, 1).result(WAIT_S)
    assert claim(other, "k") == Recorded(REPLY, 0.02, 1)
    other.close()


def test_a_dead_owners_claim_is_taken_over_listed_and_stays_charged(path: Path, ledger: Ledger) -> None:
    dead = Ledger(path)
    claim(dead, "k", 0.3)
    kill(path, dead)
    assert claim(ledger, "k", 0.2) == Claimed()
    assert ledger.possibly_paid() == ["k"]
    assert ledger.charged_usd() == pytest.approx(0.5)  # .3 that may have been paid, .2 reserved now
    ledger.answer("k", REPLY, 0.1, 1).result(WAIT_S)
    assert ledger.charged_usd() == pytest.approx(0.4)
    dead.close()


def test_an_owner_elsewhere_is_dead_when_its_heart_stopped(path: Path, ledger: Ledger) -> None:
    away = Ledger(path)
    claim(away, "k")
    away.close()
    with sqlite3.connect(path) as db:
        db.execute("update owners set host = 'elsewhere', pid = 1 where owner = ?", (away.owner,))
    assert claim(ledger, "k") == Busy()
    with sqlite3.connect(path) as db:
        late = module.DEAD_AFTER_S + 1
        db.execute("update owners set beat = beat - ? where owner = ?", (late, away.owner))
    db.close()
    assert claim(ledger, "k") == Claimed()
    assert ledger.possibly_paid() == ["k"]


def test_an_idle_owner_keeps_its_heart_beating(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_S", 0.02)
    made = Ledger(path)

    def beat() -> float:
        db = sqlite3.connect(path)
        found = db.execute("select beat from owners").fetchone()[0]
        db.close()
        return float(found)

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


def test_the_budget_holds_between_processes(path: Path, ledger: Ledger) -> None:
    other = Ledger(path, budget_usd=1.0)
    claim(ledger, "a", 0.6)
    with pytest.raises(BudgetError):
        claim(other, "b", 0.6)
    other.close()


def test_many_threads_claim_each_call_once(path: Path, ledger: Ledger) -> None:
    other = Ledger(path, budget_usd=1000)
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


def test_closing_writes_what_is_waiting(path: Path) -> None:
    made = Ledger(path)
    for at in range(50):
        made.claim(f"k{at}", BODY, 0.0)
        made.answer(f"k{at}", REPLY, 0.0, 1)
    made.close()
    later = Ledger(path)
    assert all(isinstance(claim(later, f"k{at}"), Recorded) for at in range(50))
    later.close()


def test_a_ledger_that_cannot_be_opened_says_so(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("this is no database, and long enough to be looked at" * 100)
    with pytest.raises(StorageError, match="the ledger cannot be opened"):
        Ledger(tmp_path / "ledger.sqlite")
