"""Pins down where a run's ledger lies: SQLite in its folder or PostgreSQL, whose password appears nowhere."""

import sqlite3
from pathlib import Path

import pytest

from pipeline.calls.ledger import Claim, Claimed, Ledger, Recorded, Reply
from pipeline.config_file import load
from pipeline.errors import BudgetError, ConfigError, StorageError
from tests import ledgers
from tests.worlds import bench

PASSWORD = "hunter-two"  # noqa: S105  nobody's


def configured(folder: Path, ledger: str) -> str | None:
    """The URL that a config with this `ledger` has."""
    path = folder / "c.yaml"
    path.write_text(f"name: x\nledger: {ledger}\n", encoding="utf-8")
    found = load(path).ledger
    assert found is not None
    return found.url


def test_a_bare_url_is_enough(tmp_path: Path) -> None:
    assert configured(tmp_path, "postgresql+psycopg://me@host/calls") == "postgresql+psycopg://me@host/calls"


@pytest.mark.parametrize(
    ("ledger", "hint"),
    [
        (f"postgresql://me:{PASSWORD}@host/calls", "holds a password; name a variable"),
        (f"postgresql://host/calls?password={PASSWORD}", "holds a password"),
        (f"mysql://me:{PASSWORD}@host/calls", "is no URL of a PostgreSQL database"),
        ("{url: 'postgresql://host/calls', url_env: URL}", "one of the two"),
        ("{}", "one of the two"),
    ],
)
def test_a_password_is_refused_in_the_config_and_not_repeated(tmp_path: Path, ledger: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint) as found:
        configured(tmp_path, ledger)
    assert PASSWORD not in str(found.value)


def test_a_url_in_a_variable_that_is_not_set_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEDGER_URL", raising=False)
    with (
        bench(tmp_path, ledger={"url_env": "LEDGER_URL"}) as run,
        pytest.raises(ConfigError, match="takes its URL from LEDGER_URL, which is not set"),
    ):
        assert run.ledger


def test_an_unreachable_server_is_told_without_its_password() -> None:
    with pytest.raises(StorageError, match="the ledger cannot be opened") as found:
        Ledger(f"postgresql://me:{PASSWORD}@127.0.0.1:1/calls")
    told: BaseException | None = found.value
    while told is not None:
        assert PASSWORD not in str(told)
        told = told.__cause__


def test_another_kind_of_database_is_a_wrong_input() -> None:
    with pytest.raises(ConfigError, match="cannot be on 'mysql'") as found:
        Ledger(f"mysql://me:{PASSWORD}@host/calls")
    assert PASSWORD not in str(found.value)


def test_a_run_on_postgresql_leaves_neither_ledger_nor_password_in_its_folder(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEDGER_URL", postgres_url.replace("postgres@", f"postgres:{PASSWORD}@"))
    with bench(tmp_path, ledger={"url_env": "LEDGER_URL"}) as run:
        assert run.has_ledger
        assert ledgers.claim(run.ledger, "k", {}, 0.1) == Claimed()
        assert PASSWORD not in str(run.ledger.place)
        assert PASSWORD not in run.source
    assert not any(PASSWORD.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert not list(tmp_path.rglob("*.sqlite"))


def test_runs_of_one_name_share_a_budget_and_all_runs_share_the_answers(tmp_path: Path, postgres_url: str) -> None:
    """The answers of another name cost this one nothing, and its money is its own."""
    places = [Ledger(postgres_url, budget_usd=1.0, account=name) for name in ("one", "one", "two")]
    first, again, other = places
    assert ledgers.claim(first, "a", {}, 0.7) == Claimed()
    with pytest.raises(BudgetError):
        ledgers.claim(again, "b", {}, 0.7)
    assert ledgers.claim(other, "b", {}, 0.7) == Claimed()
    assert ledgers.answer(first, "a", {"x": 1}, 0.5, None)
    assert ledgers.claim(other, "a", {}, 0.7) == Recorded({"x": 1}, 0.5, None)
    assert [one.charged_usd() for one in places] == pytest.approx([0.5, 0.5, 0.7])
    ledgers.abandon(other, "b")
    assert [one.possibly_paid() for one in places] == [[], [], ["b"]]
    for one in places:
        one.close()


def test_any_number_of_operations_goes_at_once(ledger_place: Path | str) -> None:
    """More than SQLite takes parameters for (32,766); a key that comes again is dealt with in order."""
    keys = [f"{at:064x}" for at in range(12_000)]
    made = Ledger(ledger_place)
    claims = made.submit([Claim(key, "{}", 0.01) for key in keys]).result(ledgers.WAIT_S)
    assert claims == [Claimed()] * len(keys)
    again = [step for key in keys[:20] for step in (Reply(key, '{"x": 1}', 0.005, 0.5), Claim(key, "{}", 0.01))]
    done = made.submit([*again, *(Reply(key, '{"x": 1}', 0.005, 0.5) for key in keys[20:])]).result(ledgers.WAIT_S)
    assert done == [True, Recorded({"x": 1}, 0.005, 0.5)] * 20 + [True] * (len(keys) - 20)
    assert made.charged_usd() == pytest.approx(12_000 * 0.005)
    made.close()


def test_a_ledger_of_another_version_is_told(tmp_path: Path) -> None:
    place = tmp_path / "ledger.sqlite"
    Ledger(place).close()
    db = sqlite3.connect(place)
    db.execute("update ledger_version set version = 99")
    db.commit()
    db.close()
    with pytest.raises(StorageError, match=r"has version 99, this jurybox reads version \d+; go on with the jurybox"):
        Ledger(place)
