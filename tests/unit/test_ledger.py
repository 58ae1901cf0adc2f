"""Pins down the ledger: an answered call is never made again, a hard budget, and what a dead owner leaves behind.

Every test runs on SQLite and on a real PostgreSQL.
"""

import json
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from pipeline.calls import ledger as module
from pipeline.calls import owners
from pipeline.calls.ledger import Abandon, Busy, Claim, Claimed, Ledger, Recorded, Reply
from pipeline.calls.records import Money, Records
from pipeline.calls.tables import CALLS, OWNERS
from pipeline.errors import BudgetError, ConfigError, StorageError
from tests import ledgers

BODY = {"model": "m", "messages": [{"role": "user", "content": "é \ud83d \x00"}]}
REPLY = {"choices": [{"message": {"content": "yes \x00 \ud83d"}}]}
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
    return ledgers.claim(of, key, BODY, reserve)


def test_claimed_then_answered_then_recorded_for_ever(ledger_place: Place, ledger: Ledger) -> None:
    assert claim(ledger, "k") == Claimed()
    assert ledger.charged_usd() == pytest.approx(0.1)
    ledgers.answer(ledger, "k", REPLY, 0.04, 1.5)
    assert ledger.charged_usd() == pytest.approx(0.04)
    assert claim(ledger, "k") == Recorded(REPLY, 0.04, 1.5)
    # another process, later, with no budget left at all
    later = Ledger(ledger_place, budget_usd=0.0)
    assert claim(later, "k", 99) == Recorded(REPLY, 0.04, 1.5)
    assert later.charged_usd() == pytest.approx(0.04)
    later.close()


def test_what_is_sent_and_what_came_back_can_be_looked_up(ledger: Ledger) -> None:
    assert ledgers.call(ledger, "k") is None
    claim(ledger, "k")
    found = ledgers.call(ledger, "k") or {}
    assert (found["status"], found["request"], found["response"]) == ("claimed", BODY, None)
    ledgers.answer(ledger, "k", REPLY, 0, None)
    found = ledgers.call(ledger, "k") or {}
    assert (found["status"], found["response"]) == ("answered", REPLY)


def test_a_released_call_is_free_and_may_be_made_again(ledger: Ledger) -> None:
    claim(ledger, "k")
    ledgers.release(ledger, "k", "HTTP 429")
    assert ledger.charged_usd() == pytest.approx(0)
    assert (ledgers.call(ledger, "k") or {})["error"] == "HTTP 429"
    assert claim(ledger, "k") == Claimed()
    assert ledger.possibly_paid() == []


def test_an_abandoned_call_stays_charged_and_is_listed(ledger: Ledger) -> None:
    claim(ledger, "k")
    ledgers.abandon(ledger, "k")
    assert ledger.possibly_paid() == ["k"]
    assert ledger.charged_usd() == pytest.approx(0.1)
    # made again, answered for 0.04: the lost one counts as well
    assert claim(ledger, "k") == Claimed()
    ledgers.answer(ledger, "k", REPLY, 0.04, 1)
    assert ledger.charged_usd() == pytest.approx(0.14)
    assert ledger.possibly_paid() == ["k"]


def test_a_reply_that_is_no_answer_stays_charged_with_what_it_cost(ledger: Ledger) -> None:
    """Three attempts at one call: .03 for an empty answer, .1 for one that got none, .04 for the one that is kept."""
    claim(ledger, "k")
    claim(ledger, "other")
    assert ledgers.did(ledger, Abandon("k", "empty \ud83d \x00", 0.03)) is True
    assert ledger.charged_usd() == pytest.approx(0.03 + 0.1)
    assert (ledgers.call(ledger, "k") or {})["error"] == "empty ? \ufffd"
    claim(ledger, "k")
    ledgers.abandon(ledger, "k")
    claim(ledger, "k")
    ledgers.answer(ledger, "k", REPLY, 0.04, 1)
    assert ledger.charged_usd() == pytest.approx(0.03 + 0.1 + 0.04 + 0.1)
    with ledger.records() as records:
        money = records.money()
    assert (money.possibly_paid, money.possibly_paid_usd) == (2, pytest.approx(0.13))


def test_of_two_living_owners_one_makes_the_call(ledger_place: Place, ledger: Ledger) -> None:
    other = Ledger(ledger_place, budget_usd=1.0)
    assert claim(ledger, "k") == Claimed()
    assert claim(other, "k") == Busy()
    assert claim(ledger, "k") == Busy()
    ledgers.answer(ledger, "k", REPLY, 0.02, 1)
    assert claim(other, "k") == Recorded(REPLY, 0.02, 1)
    other.close()


def test_a_dead_owners_claim_is_taken_over_listed_and_stays_charged(ledger_place: Place, ledger: Ledger) -> None:
    dead = Ledger(ledger_place)
    claim(dead, "k", 0.3)
    kill(ledger_place, dead)
    assert claim(ledger, "k", 0.2) == Claimed()
    assert ledger.possibly_paid() == ["k"]
    assert ledger.charged_usd() == pytest.approx(0.5)  # .3 that may have been paid, .2 reserved now
    ledgers.answer(ledger, "k", REPLY, 0.1, 1)
    assert ledger.charged_usd() == pytest.approx(0.4)
    dead.close()


def test_an_owner_elsewhere_is_dead_when_its_heart_stopped(ledger_place: Place, ledger: Ledger) -> None:
    away = Ledger(ledger_place)
    claim(away, "k")
    away.close()
    change_owner(ledger_place, away, host="elsewhere", pid=1)
    assert claim(ledger, "k") == Busy()
    late = owners.DEAD_AFTER_S + 1
    change_owner(ledger_place, away, beat=OWNERS.c.beat - late)
    assert claim(ledger, "k") == Claimed()
    assert ledger.possibly_paid() == ["k"]


def test_an_owner_here_is_dead_when_another_process_has_its_number(ledger_place: Place, ledger: Ledger) -> None:
    """Process numbers come again: when it began tells a new process from the old one, however fresh the heartbeat."""
    away = Ledger(ledger_place)
    claim(away, "k")
    change_owner(ledger_place, away, started="12")
    assert claim(ledger, "k") == Claimed()
    assert ledger.possibly_paid() == ["k"]
    away.close()


@pytest.mark.parametrize("step_s", [-3600.0, -600.0, 600.0, 3600.0])
def test_a_clock_that_steps_takes_nothing_from_a_living_process(
    ledger_place: Place, ledger: Ledger, step_s: float
) -> None:
    away = Ledger(ledger_place)
    claim(away, "k")
    change_owner(ledger_place, away, beat=OWNERS.c.beat + step_s)
    assert claim(ledger, "k") == Busy()
    assert ledgers.answer(away, "k", REPLY, 0.02, 1) is True
    assert claim(ledger, "k") == Recorded(REPLY, 0.02, 1)
    assert ledger.possibly_paid() == []
    away.close()


def test_what_a_closed_ledger_has_claimed_is_free_while_its_process_goes_on(
    ledger_place: Place, ledger: Ledger
) -> None:
    gone = Ledger(ledger_place)
    claim(gone, "k")
    gone.close()
    assert claim(ledger, "k") == Claimed()


def test_where_the_system_does_not_tell_when_a_process_began_its_heart_must_beat(
    ledger_place: Place, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owners, "started", lambda _pid: "")
    away = Ledger(ledger_place)
    claim(away, "k")
    change_owner(ledger_place, away, started="")
    assert claim(ledger, "k") == Busy()
    change_owner(ledger_place, away, beat=OWNERS.c.beat - owners.DEAD_AFTER_S - 1)
    assert claim(ledger, "k") == Claimed()
    away.close()


def test_a_machine_of_the_same_name_is_another_machine(ledger_place: Place, ledger: Ledger) -> None:
    """Its process numbers say nothing here: only its heart does."""
    away = Ledger(ledger_place)
    claim(away, "k")
    gone = subprocess.Popen(["true"])
    gone.wait()
    name = owners.this_host().split()[0]
    change_owner(ledger_place, away, host=f"{name} another-boot", pid=gone.pid)
    assert claim(ledger, "k") == Busy()
    away.close()


def test_who_was_taken_for_dead_writes_nothing(ledger_place: Place, ledger: Ledger) -> None:
    """A process elsewhere that was held up for long finds its claim taken over: its late reply must not undo it."""
    late = Ledger(ledger_place)
    claim(late, "k", 0.3)
    change_owner(ledger_place, late, host="elsewhere", beat=OWNERS.c.beat - owners.DEAD_AFTER_S - 1)
    assert claim(ledger, "k", 0.2) == Claimed()
    assert ledgers.answer(late, "k", {"choices": []}, 0.1, 1) is False
    assert ledgers.release(late, "k", "late") is False
    assert ledgers.abandon(late, "k") is False
    assert ledgers.answer(ledger, "k", REPLY, 0.05, 1) is True
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
    assert ledgers.call(ledger, "one more") is None
    assert ledger.charged_usd() == pytest.approx(0.9)
    for at in range(10):
        ledgers.answer(ledger, f"k{at}", REPLY, 0.01, 1)
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
    asked = ledger.submit([Claim("k", "{}", 0.1)])
    assert asked.cancel() is False
    assert asked.result(ledgers.WAIT_S) == [Claimed()]
    kept = ledger.submit([Reply("k", json.dumps(REPLY), 0.1, 1)])
    kept.cancel()
    kept.result(ledgers.WAIT_S)
    assert claim(ledger, "k") == Recorded(REPLY, 0.1, 1)


@pytest.mark.parametrize("damaged", ["", "{", "[1]", "null", '{"choices": [' + "[" * 100_000])
def test_a_damaged_answer_is_named_and_the_others_are_found(ledger_place: Place, ledger: Ledger, damaged: str) -> None:
    for key in ("good", "bad"):
        claim(ledger, key)
        ledgers.answer(ledger, key, REPLY, 0.04, 1)
    through = Ledger(ledger_place)
    with through.engine.begin() as db:
        db.execute(CALLS.update().where(CALLS.c.call_key == "bad").values(response=damaged))
    through.close()
    good, bad = ledger.submit([Claim("good", "{}", 0.1), Claim("bad", "{}", 0.1)]).result(ledgers.WAIT_S)
    assert good == Recorded(REPLY, 0.04, 1)
    assert isinstance(bad, StorageError)
    assert "the answer to call bad is damaged" in str(bad)
    with ledger.records() as records:
        # nobody asks for it behind the user's back, and those who read leave it out
        assert records.money().charged_usd == pytest.approx(0.08)
        assert [one.response for one in records.some(9)] == [REPLY]


def test_money_by_hand(ledger: Ledger) -> None:
    """Charged and reported are two figures: .04 and .05 reported, .3 for want of a count, .2 lost, .1 in flight."""
    for key, reserve in (("a", 0.1), ("b", 0.1), ("c", 0.3), ("d", 0.2), ("e", 0.1)):
        claim(ledger, key, reserve)
    ledgers.answer(ledger, "a", REPLY, 0.04, 1)
    ledgers.answer(ledger, "b", REPLY, 0.05, 1)
    ledgers.did(ledger, Reply("c", json.dumps(REPLY), 0.3, 1, None, "no usage"))
    ledgers.abandon(ledger, "d")
    with ledger.records() as records:
        assert records.money() == Money(
            charged_usd=pytest.approx(0.69),
            reported_usd=pytest.approx(0.09),
            at_reservation=1,
            at_reservation_usd=pytest.approx(0.3),
            faults={"no usage": 1},
            possibly_paid=1,
            possibly_paid_usd=pytest.approx(0.2),
        )


def test_who_reads_leaves_no_trace(ledger_place: Place, ledger: Ledger) -> None:
    def owners_there() -> int:
        with ledger.engine.connect() as db:
            return int(db.execute(sa.select(sa.func.count()).select_from(OWNERS)).scalar_one())

    claim(ledger, "k")
    before = owners_there()
    for _ in range(3):
        with Records(ledger_place) as records:
            records.money()
            records.answered()
            assert records.call("nothing") is None
            with pytest.raises(sa.exc.DBAPIError), records.engine.begin() as db:
                db.execute(OWNERS.delete())
    assert owners_there() == before


def test_an_empty_database_of_postgresql_has_cost_nothing(postgres_url: str) -> None:
    with Records(postgres_url) as records:
        assert (records.money(), records.answered(), records.some(5), records.call("k")) == (Money(), set(), [], None)


@pytest.mark.parametrize("opened", [Ledger, Records])
def test_an_empty_file_is_not_taken_for_a_new_ledger(tmp_path: Path, opened: "type[Ledger | Records]") -> None:
    place = tmp_path / "ledger.sqlite"
    Ledger(place).close()
    place.write_bytes(b"")
    for side in ("-wal", "-shm"):
        place.with_name(place.name + side).unlink(missing_ok=True)
    with pytest.raises(StorageError, match="holds no ledger: it was cut or replaced"):
        opened(place)
    assert place.read_bytes() == b""


def test_a_new_ledger_appears_whole_whoever_makes_it(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "ledger.sqlite"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _at: Ledger(place), range(8)))
    assert sum(claim(one, "k") == Claimed() for one in made) == 1
    for one in made:
        one.close()
    assert {file.name for file in place.parent.iterdir()} == {"ledger.sqlite"}


def test_closing_writes_what_is_waiting(ledger_place: Place) -> None:
    made = Ledger(ledger_place)
    for at in range(50):
        made.submit([Claim(f"k{at}", "{}", 0.0), Reply(f"k{at}", json.dumps(REPLY), 0.0, 1)])
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
