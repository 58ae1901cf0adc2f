"""Pins down that kill -9 at any moment, again and again, loses no paid answer and pays for none twice, alone or not.

The endpoint's own log is the witness. The moments are seeded, counted in requests. In CI a few kills of some hundred
calls; with JURYBOX_SOAK set (`make soak`) a hundred kills of five thousand calls. On SQLite and on PostgreSQL.
"""

import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import sqlalchemy as sa
import yaml

from pipeline.calls.tables import ACCOUNT, CALLS, database_url
from pipeline.store import RunFolder
from tests import forked
from tests.endpoints import Body, Endpoint, Reply, Script, chat
from tests.patience import patience
from tests.postgres import Postgres
from tests.recorded_endpoint import PATIENCE_S, jurybox_here

SOAK = bool(os.environ.get("JURYBOX_SOAK"))
KILLS, PROMPTS, PAIRS_A_PROMPT = (100, 250, 10) if SOAK else (4, 24, 5)
DEATHS = 20 if SOAK else 2
CALLS_IN_ALL = 2 * PROMPTS * PAIRS_A_PROMPT
"""One judge, both orders."""
CONCURRENCY = 8
DELAY_S = 0.03
PRICE = {"input": 1.0, "output": 2.0}
USAGE = (400, 0, 20)
PAID_USD = (USAGE[0] * PRICE["input"] + USAGE[2] * PRICE["output"]) / 1e6
BUDGET_USD = 100.0
Place = Path | str


def replies(delay_s: float) -> Script:
    """The same verdict on everything, after a while."""
    verdict = chat(json.dumps({"rationale": "said", "verdict": "A"}), usage=USAGE)
    return lambda _body: Reply(200, verdict, delay_s)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint(replies(DELAY_S)) as server:
        yield server


@dataclass
class Project:
    """A config and its imported pairs, run by processes that may be killed."""

    folder: Path
    endpoint: Endpoint
    ledger: Place
    runs: list[str] = field(default_factory=lambda: ["run"])
    budget_usd: float = BUDGET_USD

    def write(self) -> None:
        """The config, and the pairs imported into every run's folder."""
        judge = {"name": "one", "kind": "pairwise", "endpoint": "local", "model": "judge", "max_tokens": 60}
        config = {
            "name": "killed",
            "endpoints": {"local": {"base_url": self.endpoint.url, "concurrency": CONCURRENCY, "attempts": 3}},
            "judges": [{**judge, "price": PRICE}],
            "budget": {"usd": self.budget_usd},
            "export": ["jsonl"],
        }
        if isinstance(self.ledger, str):
            config["ledger"] = self.ledger
        (self.folder / "c.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        rows = [
            {"prompt": f"Question {at}?", "pair_id": f"{at}-{no}", "response_a": f"yes {no}", "response_b": f"no {no}"}
            for at in range(PROMPTS)
            for no in range(PAIRS_A_PROMPT)
        ]
        (self.folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        for run in self.runs:
            done = jurybox_here(
                "import", "pairs", "pairs.jsonl", "--config", "c.yaml", "--run-dir", run, cwd=self.folder
            )
            assert done.returncode == 0, done.stderr

    def start(self, run: str = "run") -> ForkServerProcess:
        """A process that judges; its last words are in the file ``said``."""
        return forked.start(["judge", "c.yaml", "--run-dir", run], self.folder, self.folder / "said")

    def finish(self, run: str = "run") -> int | None:
        """Judge to the end; the exit code."""
        return ended(self.start(run))

    @property
    def said(self) -> str:
        return (self.folder / "said").read_text(encoding="utf-8")

    def bodies(self, condition: sa.ColumnElement[bool]) -> set[str]:
        """The ledger's calls that meet a condition; none while there is no ledger."""
        if isinstance(self.ledger, Path) and not self.ledger.is_file():
            return set()
        with self._database() as db:
            if not sa.inspect(db).has_table(CALLS.name):
                return set()
            return {
                _same(json.loads(text)) for text in db.execute(sa.select(CALLS.c.request).where(condition)).scalars()
            }

    def answered(self) -> set[str]:
        return self.bodies(CALLS.c.status == "answered")

    def possibly_paid(self) -> set[str]:
        return self.bodies(CALLS.c.lost_claims > 0)

    def owners(self) -> set[str]:
        """The processes that have opened the ledger, and hold or held a call."""
        if isinstance(self.ledger, Path) and not self.ledger.is_file():
            return set()
        with self._database() as db:
            if not sa.inspect(db).has_table(CALLS.name):
                return set()
            return set(db.execute(sa.select(CALLS.c.owner).distinct()).scalars())

    def charged(self) -> float:
        with self._database() as db:
            return float(db.execute(sa.select(ACCOUNT.c.charged_usd)).scalar_one())

    @contextlib.contextmanager
    def _database(self) -> Iterator[sa.Connection]:
        engine = sa.create_engine(database_url(self.ledger), poolclass=sa.NullPool)
        with engine.connect() as db:
            yield db
        engine.dispose()

    def settle(self) -> None:
        """Wait until the endpoint has dealt with what the dead have sent."""
        quiet = 0
        while quiet < 3:
            quiet = 0 if self.endpoint.at_once else quiet + 1
            time.sleep(DELAY_S)

    def assert_whole(self, run: str = "run") -> None:
        """Every judgment once, none failed."""
        judgments = RunFolder(self.folder / run).read("judgments")
        assert judgments.height == judgments.select("pair_id", "judge", "order").n_unique() == CALLS_IN_ALL
        assert judgments["error"].null_count() == CALLS_IN_ALL

    def assert_accounts_balance(self) -> None:
        """Charged is what was answered and what may have been paid; never less than the endpoint would charge for."""
        with self._database() as db:
            paid, lost = db.execute(sa.select(sa.func.sum(CALLS.c.cost_usd), sa.func.sum(CALLS.c.lost_usd))).one()
        assert paid == pytest.approx(CALLS_IN_ALL * PAID_USD)
        assert self.charged() == pytest.approx(paid + lost)
        assert len(self.endpoint.answered) * PAID_USD <= self.charged() + 1e-9


def ended(process: ForkServerProcess) -> int | None:
    """The exit code of a process, once it has one; negative: the signal that ended it."""
    process.join(PATIENCE_S)
    return process.exitcode


@pytest.fixture
def project(tmp_path: Path, endpoint: Endpoint, ledger_place: Place) -> Project:
    in_folder = tmp_path / "run" / "ledger.sqlite"
    return Project(tmp_path, endpoint, ledger_place if isinstance(ledger_place, str) else in_folder)


def _same(body: Body) -> str:
    return json.dumps(body, sort_keys=True)


def _since(endpoint: Endpoint, start: int) -> list[str]:
    return [_same(body) for body in endpoint.bodies[start:]]


@pytest.mark.slow
@pytest.mark.timeout(patience(7200 if SOAK else 300))
def test_kill_after_kill_no_paid_answer_is_lost(project: Project) -> None:
    project.write()
    endpoint, draw = project.endpoint, random.Random(11)
    committed: set[str] = set()
    in_flight: Counter[str] = Counter()
    landed = 0
    while landed < KILLS:
        before = len(endpoint.log)
        process = project.start()
        # The kills are spread over nine tenths of the run.
        after = min(draw.randint(1, 2 * CALLS_IN_ALL * 9 // (10 * KILLS)), CALLS_IN_ALL - len(committed) - CONCURRENCY)
        while len(endpoint.log) < before + after and process.is_alive():
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 2 * DELAY_S))
        process.kill()
        code = ended(process)
        if code == 0:  # done before it was struck
            break
        assert code == -signal.SIGKILL, project.said
        landed += 1
        project.settle()
        sent = _since(endpoint, before)
        assert not committed & set(sent), "a committed call was made again"
        assert len(sent) == len(set(sent)), "a call was made twice by one process"
        committed = project.answered()
        lost = set(sent) - committed
        assert len(lost) <= CONCURRENCY
        in_flight.update(lost)
    before = len(endpoint.log)
    assert project.finish() == 0, project.said
    assert not committed & set(_since(endpoint, before))

    asked = Counter(_since(endpoint, 0))
    assert len(asked) == CALLS_IN_ALL
    twice = {body: count - 1 for body, count in asked.items() if count > 1}
    at_risk, again = sum(in_flight.values()), sum(twice.values())
    print(f"{landed} kills, {CALLS_IN_ALL} calls, {at_risk} in flight at a kill, {again} made again")
    assert landed >= KILLS / 2
    assert all(count <= in_flight[body] for body, count in twice.items())
    assert set(twice) <= project.possibly_paid()
    assert project.answered() == set(asked)
    project.assert_whole()
    project.assert_accounts_balance()
    # All done: nothing is asked again.
    before = len(endpoint.log)
    assert project.finish() == 0
    assert len(endpoint.log) == before


@pytest.mark.slow
@pytest.mark.timeout(patience(3600 if SOAK else 300))
def test_two_processes_share_the_work_and_survive_each_other(project: Project) -> None:
    """On PostgreSQL each has its own run folder, as on two machines; on SQLite one waits for the folder."""
    if not isinstance(project.ledger, str):
        _waits_and_takes_over(project)
        return
    project.runs = ["run", "other"]
    project.write()
    endpoint, draw = project.endpoint, random.Random(12)
    # Slow enough for a companion to find work left when it has started.
    endpoint.answer = replies(5 * DELAY_S)
    lost: Counter[str] = Counter()
    deaths = 0
    survivor = project.start(project.runs[-1])
    for _ in range(DEATHS):
        known = project.owners()
        companion = project.start("run")
        # It dies with calls of its own in flight; at the first turn, two processes have to show up.
        while len(project.owners() - known) < (1 if known else 2) and survivor.is_alive():
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 10 * DELAY_S))
        companion.kill()
        deaths += ended(companion) == -signal.SIGKILL
        # What the survivor has in flight at this moment is among it, too.
        lost.update(set(_since(endpoint, 0)) - project.answered())
    assert ended(survivor) == 0, project.said
    asked = Counter(_since(endpoint, 0))
    twice = {body: count - 1 for body, count in asked.items() if count > 1}
    print(f"{deaths} deaths, {CALLS_IN_ALL} calls, {sum(twice.values())} again")
    assert deaths
    assert 0 < sum(twice.values()) <= deaths * CONCURRENCY
    assert len(asked) == CALLS_IN_ALL
    assert all(count <= lost[body] for body, count in twice.items())
    assert set(twice) <= project.possibly_paid()
    for run in project.runs:
        assert project.finish(run) == 0, project.said
        project.assert_whole(run)
    assert len(endpoint.log) == sum(asked.values())
    project.assert_accounts_balance()


def _waits_and_takes_over(project: Project) -> None:
    """Who waits for a run's folder gets it when its writer is killed, and asks no committed call again."""
    project.write()
    project.endpoint.answer = replies(5 * DELAY_S)
    first = project.start("run")
    while not project.answered() and first.is_alive():
        time.sleep(0.01)
    second = project.start("run")
    time.sleep(20 * DELAY_S)
    first.kill()
    assert ended(first) == -signal.SIGKILL
    lost = set(_since(project.endpoint, 0)) - project.answered()
    assert ended(second) == 0, project.said
    asked = Counter(_since(project.endpoint, 0))
    assert len(asked) == CALLS_IN_ALL
    assert {body for body, count in asked.items() if count > 1} <= lost
    assert len(lost) <= CONCURRENCY
    project.assert_whole("run")
    project.assert_accounts_balance()


@pytest.mark.slow
def test_two_processes_make_no_call_twice(project: Project) -> None:
    if isinstance(project.ledger, str):
        project.runs = ["run", "other"]
    project.write()
    both = [project.start(project.runs[0]), project.start(project.runs[-1])]
    assert [ended(one) for one in both] == [0, 0], project.said
    asked = Counter(_since(project.endpoint, 0))
    assert len(asked) == CALLS_IN_ALL
    assert set(asked.values()) == {1}
    assert project.possibly_paid() == set()
    for run in project.runs:
        project.assert_whole(run)
    project.assert_accounts_balance()


@pytest.mark.slow
@pytest.mark.timeout(patience(3600 if SOAK else 300))
def test_the_budget_holds_through_kills_and_is_resumed_when_raised(project: Project) -> None:
    """By the endpoint's own count of answers it would charge for; possibly paid calls stay charged."""
    project.budget_usd = CALLS_IN_ALL * PAID_USD * 3 / 4
    project.write()
    endpoint, draw = project.endpoint, random.Random(13)
    for _ in range(2):
        before = len(endpoint.log)
        process = project.start()
        while len(endpoint.log) < before + draw.randint(CONCURRENCY, CALLS_IN_ALL // 8) and process.is_alive():
            time.sleep(0.002)
        process.kill()
        ended(process)
        project.settle()
    assert project.finish() == 1
    assert "raise budget.usd and run the same command again" in project.said
    assert "Traceback" not in project.said
    assert project.endpoint.at_once == 0
    paid = len(endpoint.answered) * PAID_USD
    print(f"budget US$ {project.budget_usd:.4f}, charged {project.charged():.4f}, the endpoint would charge {paid:.4f}")
    assert paid <= project.charged() <= project.budget_usd + 1e-9
    # It stopped for want of room, not early: a worst case no longer fits.
    assert project.charged() > project.budget_usd * 0.9
    sent = len(endpoint.log)
    assert project.finish() == 1
    assert len(endpoint.log) == sent
    project.budget_usd = BUDGET_USD
    project.write()
    assert project.finish() == 0, project.said
    project.assert_whole()
    project.assert_accounts_balance()


@pytest.mark.slow
def test_a_database_that_goes_away_stops_the_run_and_loses_nothing(
    tmp_path: Path, endpoint: Endpoint, postgres: Postgres, postgres_url: str
) -> None:
    project = Project(tmp_path, endpoint, postgres_url)
    project.write()
    process = project.start()
    while len(endpoint.log) < CALLS_IN_ALL // 3 and process.is_alive():
        time.sleep(0.002)
    postgres.restart()
    assert ended(process) == 1, project.said
    assert "the ledger cannot be written" in project.said
    assert "run the same command again" in project.said
    assert "Traceback" not in project.said
    project.settle()
    committed, sent = project.answered(), _since(endpoint, 0)
    lost = set(sent) - committed
    # Answers that were on their way into the ledger, and calls that workers had begun meanwhile.
    assert 0 < len(lost) <= 3 * CONCURRENCY
    before = len(endpoint.log)
    assert project.finish() == 0, project.said
    again = set(_since(endpoint, before))
    assert not again & committed
    assert set(sent) & again <= project.possibly_paid()
    project.assert_whole()
