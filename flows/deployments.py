"""A run on a schedule: a served Prefect deployment, and a server for it when there is none.

Touches Prefect's API, one child process (the server it started, which it stops again) and that child's log in the
run's folder. Without a server Prefect would only warn and never fire, so that case does not exist here.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from prefect.client.orchestration import get_client
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.runner import Runner
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_API_PORT, temporary_settings
from prefect.types.entrypoint import EntrypointType

from flows.preference import preference
from pipeline.errors import ConfigError, EndpointError, JobError
from pipeline.workbench import Workbench

LOCAL = "127.0.0.1"
LOOPBACK = frozenset({LOCAL, "localhost", "::1"})
START_S = 300.0
"""Seconds until a server that we start must answer; a cold one on a busy machine takes minutes."""
STOP_S = 15.0
"""Seconds that it gets to stop by itself."""
POLL_S = 0.25
TAIL = 5


def schedule(config_path: Path, cron: str, run_dir: Path | None = None) -> None:
    """Serve the flow of a config on a schedule until Ctrl-C or SIGTERM.

    Every scheduled run goes through the same folder, so that it does what changed and skips the rest. One run at a
    time: one that is due while another works waits for it.

    Args:
        config_path: the run's YAML config.
        cron: five fields, UTC, e.g. ``0 2 * * *``.
        run_dir: the run's folder; default ``runs/<name>``.

    Raises:
        ConfigError: the config or *cron* is wrong.
        EndpointError: PREFECT_API_URL names a server on another machine, which does not answer.
        JobError: no server could be started.
    """
    when = _checked(cron)
    config_path = config_path.resolve()
    bench = Workbench.open(config_path, run_dir)
    folder = bench.folder.path.resolve()
    try:
        with _terminable(), _server(folder) as url, temporary_settings({PREFECT_API_URL: url}):
            deployment = preference.to_deployment(
                name=bench.config.name,
                schedules=[when],
                parameters={"config_path": str(config_path), "run_dir": str(folder)},
                # A path would be looked up from wherever this was started; the module is found from anywhere.
                entrypoint_type=EntrypointType.MODULE_PATH,
            )
            runner = _Runner(name=bench.config.name, limit=1)
            # Typed as a coroutine too, which it is inside an event loop only.
            runner.add_deployment(cast("RunnerDeployment", deployment))
            _say(f"preference/{bench.config.name} runs at `{cron}` (UTC) in {folder}")
            _say(f"see it, or start it now, at {url.removesuffix('/api')}; Ctrl-C ends the schedule")
            asyncio.run(runner.start())
    except KeyboardInterrupt:
        _say("schedule ended; what is done is kept")


def _interrupt(*_: object) -> None:
    signal.raise_signal(signal.SIGINT)


class _Runner(Runner):
    """Takes SIGTERM for Ctrl-C, instead of leaving at once: its runs and our server are then stopped in order."""

    def handle_sigterm(self, *args: object, **kwargs: object) -> None:
        """See Runner."""
        _interrupt(*args, *kwargs)


def _checked(cron: str) -> CronSchedule:
    try:
        return CronSchedule(cron=cron, timezone="UTC")
    except ValueError as error:
        raise ConfigError(
            f"--cron {cron!r} is no cron expression; write minute, hour, day of month, month and day of week, e.g. "
            '"0 2 * * *" for every night at two (UTC)'
        ) from error


@contextmanager
def _terminable() -> Generator[None]:
    """Let SIGTERM unwind as Ctrl-C does, so that a service manager's stop leaves no server behind."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _server(folder: Path) -> Generator[str]:
    """The API address of a server that answers: the configured one, one on this machine, or a child of ours."""
    configured = cast("str | None", PREFECT_API_URL.value())
    if configured and _answers(configured):
        _say(f"using the Prefect server at {configured}")
        yield configured
        return
    if configured and urlsplit(configured).hostname not in LOOPBACK:
        raise EndpointError(
            f"PREFECT_API_URL names {configured}, which does not answer; start that server or correct the address, or "
            "unset it to have one started here"
        )
    port = PREFECT_SERVER_API_PORT.value()
    usual = f"http://{LOCAL}:{port}/api"
    if _answers(usual):
        _say(f"using the Prefect server that runs at {usual}")
        yield usual
        return
    port = _free_port(port)
    with _child(port, folder / "prefect-server.log") as url:
        yield url


@contextmanager
def _child(port: int, log: Path) -> Generator[str]:
    """A Prefect server as a child process, stopped when the block ends."""
    url = f"http://{LOCAL}:{port}/api"
    _say(f"no Prefect server answers; starting one at {url.removesuffix('/api')} (log: {log})")
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", LOCAL, "--port", str(port)]
    with log.open("ab") as output:
        # In a session of its own, Ctrl-C reaches us alone: the runner still needs the server to sign off.
        child = subprocess.Popen(  # noqa: S603  the arguments are ours
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PREFECT_API_URL": "", "PREFECT_UI_API_URL": url},
        )
    try:
        _await(child, url, log)
        yield url
    finally:
        _stop(child)


def _await(child: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    until = time.monotonic() + START_S
    while not _answers(url):
        if child.poll() is not None or time.monotonic() > until:
            how = "did not answer in time" if child.poll() is None else f"ended with exit code {child.returncode}"
            tail = " / ".join(log.read_text(encoding="utf-8", errors="replace").split("\n")[-TAIL:]).strip(" /")
            raise JobError(
                f"the Prefect server {how}: {tail or 'it printed nothing'}; read {log}, or start a server yourself "
                "with `prefect server start` and name it in PREFECT_API_URL"
            )
        time.sleep(POLL_S)


def _stop(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _answers(url: str) -> bool:
    """Whether a Prefect API is healthy at *url*."""
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        return client.api_healthcheck() is None


def _free_port(wanted: int) -> int:
    """*wanted* if nothing listens there, else one that the system gives."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOCAL, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise JobError(f"no free port on {LOCAL}; close a program that listens")


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
