"""``jurybox schedule`` from the outside: its own Prefect server, a deployment, a run, Ctrl-C. Starts real processes."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.patience import patience

pytestmark = [pytest.mark.slow, pytest.mark.timeout(patience(900))]
CRON = "0 2 * * *"
READY_S = patience(330)
STOP_S = patience(60)

CONFIG = """
name: nightly
prompts: {path: prompts.jsonl}
generators: [{engine: "./parrot.py:Parrot", model: parrot, temperatures: [0.3, 1.0]}]
judges: [{name: length, kind: length}]
"""
PARROT = """
import hashlib, pathlib, time
from pipeline.engines.base import Answer, Call

class Parrot:
    def __init__(self, options, toolbox):
        pass

    def complete(self, requests, advance):
        if (pathlib.Path(__file__).parent / "slow").exists():
            time.sleep(600)
        advance(len(requests))
        return [self.answer(one) for one in requests]

    def answer(self, one):
        call = Call(hashlib.sha256(repr(one).encode()).hexdigest(), "answered", 1, 0, 1)
        return Answer(call, "Why not" + "!" * int(40 * one.temperature))

    def close(self):
        pass
"""


BUSY = 503


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def call(url: str, body: dict[str, Any] | None = None) -> Any:
    """A reply of Prefect's server, asked again as its own client does while its SQLite database is busy (503)."""

    def ask() -> httpx.Response:
        return (
            httpx.get(url, timeout=patience(30)) if body is None else httpx.post(url, json=body, timeout=patience(30))
        )

    reply = ask()
    for _ in range(20):
        if reply.status_code != BUSY:
            break
        time.sleep(1)
        reply = ask()
    return reply.raise_for_status().json()


def soon(found: Callable[[], Any], seconds: float, alive: "subprocess.Popen[str]") -> Any:
    """What *found* gives once it is truthy."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert alive.poll() is None, f"the command ended with {alive.returncode}"
        try:
            if value := found():
                return value
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"not so within {seconds:.0f} s")


def processes_with(mark: str) -> list[str]:
    """Command lines of the processes whose environment holds *mark*."""
    found: list[str] = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "parrot.py").write_text(PARROT)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Why?"}\n{"prompt": "How?"}\n')
    return tmp_path


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """No server is configured, none of this machine's is met, and every process carries a mark."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    home = tmp_path / "prefect"
    home.mkdir()
    return kept | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_API_PORT": str(free_port()),
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
        "SCHEDULE_TEST": str(tmp_path),
    }


@pytest.fixture
def command(folder: Path, environment: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    arguments = [sys.executable, "-m", "jurybox", "schedule", str(folder / "config.yaml")]
    with (folder / "output.txt").open("w") as output:
        started = subprocess.Popen(
            [*arguments, "--cron", CRON, "--run-dir", str(folder / "run")],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(STOP_S)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_schedule_starts_a_server_deploys_runs_and_leaves_nothing_behind(
    how: signal.Signals, command: "subprocess.Popen[str]", folder: Path, environment: dict[str, str]
) -> None:
    url = f"http://127.0.0.1:{environment['PREFECT_SERVER_API_PORT']}/api"
    (deployment,) = soon(lambda: call(f"{url}/deployments/filter", {}), READY_S, command)
    assert deployment["name"] == "nightly"
    (schedule,) = deployment["schedules"]
    assert schedule["active"]
    assert schedule["schedule"]["cron"] == CRON
    assert schedule["schedule"]["timezone"] == "UTC"

    # It fires by itself: a run is planned for the coming night.
    soon(
        lambda: call(f"{url}/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}),
        60,
        command,
    )

    def run_until(states: set[str]) -> Any:
        begun = call(f"{url}/deployments/{deployment['id']}/create_flow_run", {"state": {"type": "SCHEDULED"}})

        def there() -> Any:
            run = call(f"{url}/flow_runs/{begun['id']}")
            return run if run["state_type"] in states else None

        return soon(there, READY_S, command)

    def parts() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (folder / "run").rglob("part-*.parquet")}

    if how == signal.SIGINT:
        for _ in range(2):  # the second run in the same folder finds everything done
            before = parts()
            run = run_until({"COMPLETED", "FAILED", "CRASHED"})
            assert run["state_type"] == "COMPLETED", run["state"]["message"]
            assert parts() == before or not before
        assert (folder / "run" / "summary.json").is_file()
        soon(lambda: len(processes_with(str(folder))) == 2, 60, command)  # the command and its server
    else:  # in the middle of a run
        (folder / "slow").touch()
        run_until({"RUNNING"})
        soon(parts, READY_S, command)
        assert len(processes_with(str(folder))) > 2
    command.send_signal(how)
    assert command.wait(STOP_S) == 0
    assert processes_with(str(folder)) == []
    said = (folder / "output.txt").read_text()
    assert f"starting one at {url.removesuffix('/api')}" in said
    assert "schedule ended" in said
    assert how == signal.SIGTERM or "Traceback" not in said  # a run that is killed may log one


@pytest.mark.parametrize(
    ("config", "cron", "message"),
    [
        (
            "config.yaml",
            "every night",
            'is no cron expression; write minute, hour, day of month, month and day of week, e.g. "0 2 * * *"',
        ),
        ("missing.yaml", CRON, "cannot be read"),
    ],
)
def test_wrong_input_exits_2_and_starts_nothing(
    config: str, cron: str, message: str, folder: Path, environment: dict[str, str]
) -> None:
    arguments = [sys.executable, "-m", "jurybox", "schedule", str(folder / config), "--cron", cron]
    done = subprocess.run(
        arguments, env=environment, cwd=folder, capture_output=True, text=True, check=False, timeout=patience(120)
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert processes_with(str(folder)) == []


def test_a_configured_server_elsewhere_that_does_not_answer_is_an_error(
    folder: Path, environment: dict[str, str]
) -> None:
    arguments = [sys.executable, "-m", "jurybox", "schedule", str(folder / "config.yaml"), "--cron", CRON]
    elsewhere = environment | {"PREFECT_API_URL": "http://prefect.invalid/api"}
    done = subprocess.run(
        arguments, env=elsewhere, cwd=folder, capture_output=True, text=True, check=False, timeout=patience(120)
    )
    assert done.returncode == 1
    assert "PREFECT_API_URL names http://prefect.invalid/api, which does not answer" in done.stderr
    assert processes_with(str(folder)) == []
