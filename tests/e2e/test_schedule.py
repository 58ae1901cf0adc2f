"""``jurybox schedule`` from the outside: its own Prefect server, a deployment, a run, its end. Starts real processes.

And from the wrong side: a web page of somebody else's in a real browser on the same machine, and a program that does
not know the server's secret.
"""

import base64
import contextlib
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.browser import CHROMIUM, QUIET
from tests.patience import patience

if TYPE_CHECKING:
    from playwright.sync_api import Browser

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


def password(environment: dict[str, str]) -> str:
    """What the server's pages ask for, as its user reads it."""
    place = Path(environment["PREFECT_HOME"]) / f"jurybox-{environment['PREFECT_SERVER_API_PORT']}.password"
    assert place.stat().st_mode & 0o777 == 0o600
    return place.read_text().strip()


def authorization(environment: dict[str, str]) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(password(environment).encode()).decode()}"}


def call(environment: dict[str, str], path: str, body: dict[str, Any] | None = None) -> Any:
    """A reply of Prefect's server, asked again as its own client does while its SQLite database is busy (503)."""
    url = f"{api(environment)}/{path}"
    headers = authorization(environment)

    def ask() -> httpx.Response:
        if body is None:
            return httpx.get(url, timeout=patience(30), headers=headers)
        return httpx.post(url, json=body, timeout=patience(30), headers=headers)

    reply = ask()
    for _ in range(20):
        if reply.status_code != BUSY:
            break
        time.sleep(1)
        reply = ask()
    return reply.raise_for_status().json()


def api(environment: dict[str, str]) -> str:
    return f"http://127.0.0.1:{environment['PREFECT_SERVER_API_PORT']}/api"


def soon(found: Callable[[], Any], seconds: float, alive: "subprocess.Popen[str] | None" = None) -> Any:
    """What *found* gives once it is truthy."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert alive is None or alive.poll() is None, f"the command ended with {alive.returncode}"
        with contextlib.suppress(httpx.HTTPError, FileNotFoundError):
            if value := found():
                return value
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


@contextlib.contextmanager
def schedule(
    folder: Path, environment: dict[str, str], *, background: bool = False
) -> Generator["subprocess.Popen[str]"]:
    """The command; in the *background* as a script starts it, so that SIGINT is ignored."""
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
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_IGN) if background else None,  # noqa: PLW1509
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


def deployment(environment: dict[str, str], command: "subprocess.Popen[str]") -> dict[str, Any]:
    (found,) = soon(lambda: call(environment, "deployments/filter", {}), READY_S, command)
    return found


def run_until(
    states: set[str], environment: dict[str, str], command: "subprocess.Popen[str]", **asked: object
) -> dict[str, Any]:
    """A run of the deployment, started now, once it is in one of *states*."""
    place = f"deployments/{deployment(environment, command)['id']}/create_flow_run"
    begun = call(environment, place, {"state": {"type": "SCHEDULED"}, **asked})

    def there() -> Any:
        run = call(environment, f"flow_runs/{begun['id']}")
        return run if run["state_type"] in states else None

    return soon(there, READY_S, command)


OVER = {"COMPLETED", "FAILED", "CRASHED"}


def parts(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (folder / "run").rglob("part-*.parquet")}


def test_schedule_starts_a_server_deploys_runs_and_ctrl_c_leaves_nothing_behind(
    folder: Path, environment: dict[str, str]
) -> None:
    with schedule(folder, environment) as command:
        made = deployment(environment, command)
        assert made["name"] == "nightly"
        assert made["parameters"] == {}
        (planned,) = made["schedules"]
        assert planned["active"]
        assert planned["schedule"]["cron"] == CRON
        assert planned["schedule"]["timezone"] == "UTC"

        # It fires by itself: a run is planned for the coming night.
        waiting = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
        soon(lambda: call(environment, "flow_runs/filter", waiting), 60, command)

        for _ in range(2):  # the second run in the same folder finds everything done
            before = parts(folder)
            run = run_until({"COMPLETED", "FAILED", "CRASHED"}, environment, command)
            assert run["state_type"] == "COMPLETED", run["state"]["message"]
            assert parts(folder) == before or not before
        assert (folder / "run" / "summary.json").is_file()
        soon(lambda: len(processes_with(str(folder))) == 2, 60, command)  # the command and its server

        secret = password(environment)
        command.send_signal(signal.SIGINT)
        assert command.wait(STOP_S) == 130
    assert processes_with(str(folder)) == []
    said = (folder / "output.txt").read_text()
    assert f"starting one at {api(environment).removesuffix('/api')}" in said
    assert "schedule ended" in said
    assert "Traceback" not in said
    keeps = [file for file in folder.rglob("*") if file.is_file() and secret.encode() in file.read_bytes()]
    assert keeps == []


def test_sigterm_ends_a_schedule_that_a_script_started_with_its_server_and_its_run(
    folder: Path, environment: dict[str, str]
) -> None:
    (folder / "slow").touch()
    with schedule(folder, environment, background=True) as command:
        run_until({"RUNNING"}, environment, command)
        soon(lambda: parts(folder), READY_S, command)
        assert len(processes_with(str(folder))) > 2
        command.send_signal(signal.SIGINT)  # as Ctrl-C in the foreground reaches the jobs in the background
        time.sleep(1)
        assert command.poll() is None
        command.send_signal(signal.SIGTERM)
        assert command.wait(STOP_S) == 0
    assert processes_with(str(folder)) == []
    assert "schedule ended" in (folder / "output.txt").read_text()


def test_after_a_kill_neither_server_nor_run_stays(folder: Path, environment: dict[str, str]) -> None:
    (folder / "slow").touch()
    with schedule(folder, environment) as command:
        run_until({"RUNNING"}, environment, command)
        soon(lambda: parts(folder), READY_S, command)
        command.kill()
        command.wait()
        soon(lambda: processes_with(str(folder)) == [], STOP_S)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{api(environment)}/health")


EVIL = """<!doctype html><title>evil</title><form method=post enctype="text/plain" target=hole></form><iframe name=hole>
</iframe>"""
STEAL = """
async ([server, id]) => {
  const told = {};
  const attempt = async (name, path, options) => {
    try {
      const reply = await fetch(server + path, options);
      told[name] = reply.type === "opaque" ? "opaque" : reply.status + " " + (await reply.text()).slice(0, 200);
    } catch (error) { told[name] = "refused"; }
  };
  const body = JSON.stringify({parameters: {config_path: "/evil.yaml"}});
  const json = {"Content-Type": "application/json"};
  await attempt("read", "/api/deployments/filter", {method: "POST", body: "{}", headers: json});
  await attempt("ui", "/ui-settings", {});
  await attempt("start", `/api/deployments/${id}/create_flow_run`, {method: "POST", body, headers: json});
  await attempt("blind", `/api/deployments/${id}/create_flow_run`, {method: "POST", body, mode: "no-cors"});
  const form = document.querySelector("form");
  if (form) { form.action = `${server}/api/deployments/${id}/create_flow_run`; form.submit(); }
  told.socket = await new Promise(done => {
    const socket = new WebSocket(server.replace("http", "ws") + "/api/events/out", "prefect");
    socket.onopen = () => done("open");
    socket.onerror = () => done("refused");
  });
  await new Promise(done => setTimeout(done, 500));
  return told;
}
"""


class _Evil(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(EVIL.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """A web site of somebody else's."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Evil) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://evil.test:{server.server_address[1]}/"
        server.shutdown()


@pytest.fixture
def turned() -> Iterator["Browser"]:
    """A browser for which the names of others lead to this machine, as they can be made to (DNS rebinding)."""
    if not Path(CHROMIUM).is_file():
        pytest.skip(f"no chromium at {CHROMIUM}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        made = play.chromium.launch(
            executable_path=CHROMIUM, args=[*QUIET, "--host-resolver-rules=MAP evil.test 127.0.0.1"]
        )
        yield made
        made.close()


def test_no_page_of_another_site_reads_or_starts_anything_and_no_flow_takes_a_path(
    turned: "Browser", elsewhere: str, folder: Path, environment: dict[str, str]
) -> None:
    server = api(environment).removesuffix("/api")
    with schedule(folder, environment) as command:
        made = deployment(environment, command)

        def asked_for() -> list[dict[str, Any]]:
            return [run for run in call(environment, "flow_runs/filter", {}) if not run["auto_scheduled"]]

        # A page of another origin, as it is and with the user's own server under its name.
        page = turned.new_page()
        page.goto(elsewhere)
        told = page.evaluate(STEAL, [server, made["id"]])
        assert told == {"read": "refused", "ui": "refused", "start": "refused", "blind": "opaque", "socket": "refused"}
        turned_server = server.replace("127.0.0.1", "evil.test")
        assert (reply := page.goto(f"{turned_server}/"))
        assert reply.status == 403
        told = page.evaluate(STEAL, [turned_server, made["id"]])
        assert {name: said[:3] for name, said in told.items()} == {
            "read": "403", "ui": "403", "start": "403", "blind": "403", "socket": "ref",
        }  # fmt: skip

        # A program of another user's on this machine knows no secret.
        assert httpx.post(f"{server}/api/deployments/filter", json={}).status_code == 401
        assert httpx.get(f"{server}/api/health").json() is True
        assert asked_for() == []

        # Its own pages work, for whoever knows the password.
        own = turned.new_page()
        assert (reply := own.goto(f"{server}/"))
        assert reply.status == 200
        ask = "([url, headers]) => fetch(url, {method: 'POST', body: '{}', headers}).then(reply => reply.status)"
        headers = {"Content-Type": "application/json"}
        assert own.evaluate(ask, [f"{server}/api/deployments/filter", headers]) == 401
        assert own.evaluate(ask, [f"{server}/api/deployments/filter", headers | authorization(environment)]) == 200

        # And whoever does, starts what is scheduled and nothing else: neither a path nor other code.
        (folder / "evil.py").write_text("open('evil-ran', 'w')\n")
        (folder / "evil.yaml").write_text(CONFIG.replace("./parrot.py", "./evil.py"))
        path = {"config_path": str(folder / "evil.yaml")}
        run = run_until(OVER, environment, command, parameters=path, enforce_parameter_schema=False)
        assert run["state_type"] == "CRASHED", run["state"]
        patch: dict[str, object] = {"entrypoint": "evil.py:evil", "path": str(folder), "pull_steps": []}
        place = f"{server}/api/deployments/{made['id']}"
        changed = httpx.patch(place, json=patch, headers=authorization(environment))
        assert changed.status_code == 204, changed.text
        run = run_until(OVER, environment, command)
        assert run["state_type"] == "COMPLETED", run["state"]
        assert not (folder / "evil-ran").exists()


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
