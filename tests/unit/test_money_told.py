"""Pins down how a run's money is told: charged and reported, with warnings; and that telling it changes no ledger."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from pipeline import summary
from pipeline.calls.ledger import Ledger, Reply
from pipeline.commands import plan
from pipeline.commands.explain import raw_call
from pipeline.config import LedgerConfig
from pipeline.store import RunFolder
from tests import ledgers
from tests.endpoints import Endpoint, chat
from tests.endpoints import Reply as Said
from tests.worlds import bench, world

PRICE = {"input": 1000.0, "output": 2000.0}


def settings(url: str) -> dict[str, Any]:
    return {
        "endpoints": {"e": {"base_url": url, "concurrency": 1}},
        "generators": [{"model": "m", "endpoint": "e", "price": PRICE, "max_tokens": 64}],
        "budget": {"usd": 50},
    }


def owners(place: Path) -> int:
    db = sqlite3.connect(place)
    (found,) = db.execute("select count(*) from owners").fetchone()
    db.close()
    return int(found)


def test_charged_and_reported_are_two_figures_with_a_warning(tmp_path: Path) -> None:
    """Two of three replies count nothing: charged at the reservation, and said; the third is charged as it counted."""
    from pipeline.engines.base import Request

    def script(_body: dict[str, Any]) -> Said:
        reply = chat("An answer.", usage=(40, 0, 40))
        return Said(200, reply if len(server.log) == 1 else {**reply, "usage": None})

    with Endpoint(script) as server, bench(tmp_path, world({"q": ["x", "yy"]}), **settings(server.url)) as run:
        wanted = [Request((("user", f"Q{at}"),), 64) for at in range(3)]
        run.engine(run.config.generators[0]).complete(wanted, lambda _done: None)
        made = summary.summary(run)
        told = "\n".join(summary.lines(made, tmp_path))
        before = owners(tmp_path / "run" / "ledger.sqlite")
        for _ in range(5):
            summary.summary(run)
            plan.plan(run, 0)
        assert owners(tmp_path / "run" / "ledger.sqlite") == before
    # 40 * .001 + 40 * .002
    assert made["reported_usd"] == pytest.approx(0.12)
    assert made["at_reservation"] == 2
    assert made["charged_usd"] == pytest.approx(0.12 + made["at_reservation_usd"])
    assert made["faults"] == {"no usage": 2}
    assert f"money: US$ {made['charged_usd']:.4f} charged to the budget, US$ 0.1200 reported by the endpoints" in told
    assert "2 call(s) were charged at their reservation" in told
    assert "2 times: no usage" in told


def test_a_run_without_a_ledger_makes_none_to_tell_its_money(tmp_path: Path) -> None:
    with bench(tmp_path) as run:
        made = summary.summary(run)
    assert (made["charged_usd"], made["reported_usd"], made["possibly_paid"]) == (0, 0, 0)
    assert not list(tmp_path.rglob("*.sqlite"))


def test_a_raw_call_is_read_from_postgresql(tmp_path: Path, postgres_url: str) -> None:
    ledger = Ledger(postgres_url)
    ledgers.claim(ledger, "k", {"model": "m", "messages": []}, 0.1)
    ledgers.did(ledger, Reply("k", '{"choices": []}', 0.1, 1.0, None, "no usage"))
    ledger.close()
    run = RunFolder(tmp_path)
    run.write_text("config.yaml", f"ledger: {LedgerConfig(url=postgres_url).url}\n")
    found = raw_call(run, "k")
    assert (found["request"]["model"], found["response"], found["status"]) == ("m", {"choices": []}, "answered")
    assert found["error"] == "no usage"


def test_a_damaged_row_is_shown_as_it_stands(tmp_path: Path) -> None:
    place = tmp_path / "ledger.sqlite"
    ledger = Ledger(place)
    ledgers.claim(ledger, "k", {"model": "m", "messages": []}, 0.1)
    ledgers.answer(ledger, "k", {"choices": []}, 0.1, 1.0)
    ledger.close()
    db = sqlite3.connect(place)
    db.execute("update calls set response = '{half'")
    db.commit()
    db.close()
    assert raw_call(RunFolder(tmp_path), "k")["response"] == "{half"
