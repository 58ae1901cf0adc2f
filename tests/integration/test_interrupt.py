"""Pins down that Ctrl-C and kill -9 at any moment lose nothing, pay for nothing twice, and change no result.

A run generates and judges against a slow endpoint in this process; the moments are seeded, counted in requests. What
was in flight is told by the endpoint's own log and the ledger's file as they are when the process is gone.
"""

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from pipeline import schemas
from pipeline.store import RunFolder
from tests.endpoints import Body, Endpoint, Reply
from tests.recorded_endpoint import PATIENCE_S, command, jurybox, rows_of, scripted

CONCURRENCY = 4
PROMPTS = 12
GENERATED = 2 * PROMPTS
JUDGED = 2 * 2 * PROMPTS
"""Two judges, both orders, one pair a prompt."""
DELAY_S = 0.04
STRIKES = 3
CONFIG = """\
name: slow
prompts: {{path: prompts.jsonl}}
endpoints: {{local: {{base_url: "{url}", concurrency: {concurrency}}}}}
generators:
  - {{endpoint: local, model: student, temperatures: [0.3, 1.0], max_tokens: 16, price: {{input: 1, output: 2}}}}
controls: {{number: 0}}
judges:
  - {{name: one, kind: pairwise, endpoint: local, model: judge-1, price: {{input: 1, output: 2}}}}
  - {{name: two, kind: pairwise, endpoint: local, model: judge-2, price: {{input: 1, output: 2}}}}
budget: {{usd: 100}}
export: [jsonl]
"""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    def slow(body: Body) -> Reply:
        return scripted(body)._replace(delay=DELAY_S)

    with Endpoint(slow) as server:
        yield server


def project(folder: Path, endpoint: Endpoint) -> Path:
    (folder / "c.yaml").write_text(CONFIG.format(url=endpoint.url, concurrency=CONCURRENCY), encoding="utf-8")
    lines = (json.dumps({"prompt": f"Question {number}?"}) for number in range(PROMPTS))
    (folder / "prompts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def undisturbed(endpoint: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = project(tmp_path_factory.mktemp("undisturbed"), endpoint)
    done = jurybox("run", "c.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert len(endpoint.log) == GENERATED + JUDGED
    return folder


def run_of(folder: Path) -> RunFolder:
    return RunFolder(folder / "runs" / "slow")


def ledger(folder: Path, condition: str) -> set[str]:
    """Bodies of the ledger's calls that meet a condition; none while there is no ledger."""
    path = run_of(folder).path / "ledger.sqlite"
    if not path.is_file():
        return set()
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("pragma integrity_check").fetchone() == ("ok",)
        if not db.execute("select 1 from sqlite_master where name = 'calls'").fetchone():
            return set()
        rows = db.execute(f"select request from calls where {condition}").fetchall()  # noqa: S608  our own words
    return {json.dumps(json.loads(request), sort_keys=True) for (request,) in rows}


def bodies(endpoint: Endpoint, start: int) -> list[str]:
    return [json.dumps(body, sort_keys=True) for body in endpoint.bodies[start:]]


def struck(folder: Path, endpoint: Endpoint, how: signal.Signals, after: int, pause: float) -> tuple[int, str]:
    """Start a run, send it *how* once it made *after* requests and *pause* seconds went by; exit code and stderr."""
    start = len(endpoint.log)
    with subprocess.Popen(
        command("run", "c.yaml"),
        cwd=folder,
        env=dict(os.environ),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        while len(endpoint.log) < start + after and process.poll() is None:
            time.sleep(0.005)
        time.sleep(pause)
        process.send_signal(how)
        _, said = process.communicate(timeout=PATIENCE_S)
    settled = -1
    while settled != len(endpoint.log):
        settled = len(endpoint.log)
        time.sleep(3 * DELAY_S)
    return process.returncode, said


def assert_files_are_whole(run: Path) -> None:
    """Everything under its final name can be read to the end."""
    for file in run.rglob("[!.]*"):
        if file.suffix == ".parquet":
            pl.read_parquet(file)
        elif file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
        elif file.suffix == ".jsonl":
            rows_of(file)
        elif file.name == "report.html":
            assert file.read_text(encoding="utf-8").rstrip().endswith("</html>")


def assert_same_results(run: RunFolder, expected: RunFolder) -> None:
    """Every frame, row for row, but for how long a call took and when; and the dataset, byte for byte."""
    for frame in schemas.FRAMES:
        timeless = [name for name in run.read(frame).columns if name not in {"latency_s", "measured_at"}]
        keys = schemas.FRAMES[frame].primary_key()
        found, wanted = (one.read(frame).select(timeless).sort(keys) for one in (run, expected))
        assert found.equals(wanted), frame
    datasets = [
        {str(file.relative_to(one.path)): file.read_bytes() for file in (one.path / "dataset").rglob("*.jsonl")}
        for one in (run, expected)
    ]
    assert datasets[0] == datasets[1] != {}


@pytest.mark.parametrize(
    ("how", "seed"), [(signal.SIGKILL, 1), (signal.SIGKILL, 2), (signal.SIGINT, 3), (signal.SIGINT, 4)]
)
def test_a_struck_run_goes_on_where_it_stopped(
    endpoint: Endpoint, undisturbed: Path, tmp_path: Path, how: signal.Signals, seed: int
) -> None:
    folder, draw = project(tmp_path, endpoint), random.Random(seed)
    start = len(endpoint.log)
    at_risk: Counter[str] = Counter()
    landed = 0
    for _ in range(STRIKES):
        before = len(endpoint.log)
        code, said = struck(folder, endpoint, how, draw.randint(1, GENERATED), draw.uniform(0, 2 * DELAY_S))
        if code == 0:  # done before it was struck: the machine held this process up
            continue
        landed += 1
        if how is signal.SIGKILL:
            assert code == -signal.SIGKILL
        else:
            assert (code, "Traceback" in said) == (130, False), said
            assert "interrupted" in said
            assert "the same command goes on from there" in said
        assert_files_are_whole(run_of(folder).path)
        in_flight = set(bodies(endpoint, before)) - ledger(folder, "status = 'answered'")
        assert len(in_flight) <= CONCURRENCY
        at_risk.update(in_flight)
    assert landed
    done = jurybox("run", "c.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr

    asked = Counter(bodies(endpoint, start))
    assert len(asked) == GENERATED + JUDGED
    # Asked twice: only what was sent and not committed when the process died, and the ledger lists it.
    twice = {body: count - 1 for body, count in asked.items() if count > 1}
    assert all(count <= at_risk[body] for body, count in twice.items())
    assert set(twice) <= ledger(folder, "lost_claims > 0")
    assert ledger(folder, "status = 'answered'") == set(asked)

    judgments = run_of(folder).read("judgments")
    assert judgments.height == judgments.select("pair_id", "judge", "order").n_unique() == JUDGED
    assert judgments["error"].null_count() == JUDGED
    assert_files_are_whole(run_of(folder).path)
    assert_same_results(run_of(folder), run_of(undisturbed))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_what_is_in_flight_when_a_run_is_stopped_is_kept(tmp_path: Path, how: signal.Signals) -> None:
    """All calls that are out are answered a second later and committed; nothing is sent meanwhile, or made twice."""

    def slow(body: Body) -> Reply:
        return scripted(body)._replace(delay=1.0)

    with Endpoint(slow) as server:
        folder = project(tmp_path, server)
        code, said = struck(folder, server, how, CONCURRENCY, 0.3)
        assert (code, "Traceback" in said) == (128 + how, False), said
        assert "interrupted" in said
        assert f"{CONCURRENCY} calls in flight are waited for" in said
        assert len(server.log) == CONCURRENCY
        assert ledger(folder, "status = 'answered' and lost_claims = 0") == set(bodies(server, 0))
        assert ledger(folder, "status = 'claimed'") == set()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_struck_after_its_last_call_asks_nothing_again(
    endpoint: Endpoint, undisturbed: Path, tmp_path: Path, how: signal.Signals
) -> None:
    """The stages that make no call (aggregate to export) are struck; what was in flight at most is asked again."""
    folder, start = project(tmp_path, endpoint), len(endpoint.log)
    struck(folder, endpoint, how, GENERATED + JUDGED, random.Random(5).uniform(2, 4) * DELAY_S)
    assert_files_are_whole(run_of(folder).path)
    uncommitted = set(bodies(endpoint, start)) - ledger(folder, "status = 'answered'")
    done = jurybox("run", "c.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    again = bodies(endpoint, start)[GENERATED + JUDGED :]
    assert set(again) <= uncommitted
    assert_same_results(run_of(folder), run_of(undisturbed))


def test_possibly_paid_calls_are_reported_and_stay_charged(endpoint: Endpoint, tmp_path: Path) -> None:
    """By hand: after one kill with n calls lost, the account holds what was answered plus n worst cases."""
    folder = project(tmp_path, endpoint)
    struck(folder, endpoint, signal.SIGKILL, 6, DELAY_S / 2)
    done = jurybox("run", "c.yaml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    with contextlib.closing(sqlite3.connect(run_of(folder).path / "ledger.sqlite")) as db:
        lost, lost_usd, paid = db.execute("select sum(lost_claims), sum(lost_usd), sum(cost_usd) from calls").fetchone()
        (charged,) = db.execute("select charged_usd from account").fetchone()
    assert 0 < lost <= CONCURRENCY
    assert made["possibly_paid"] == lost
    assert any(f"{lost} call(s) were in flight" in warning for warning in made["warnings"])
    # 10 prompt tokens at US$ 1 and 5 completion tokens at US$ 2 per million, for every call that was answered.
    assert paid == pytest.approx((GENERATED + JUDGED) * 20e-6)
    assert charged == pytest.approx(paid + lost_usd)
    assert lost_usd > lost * 20e-6
