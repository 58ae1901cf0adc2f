"""A run on a schedule: a served Prefect deployment, and a server for it when there is none.

Touches Prefect's API, one child process (the server it started, which ends with it), that child's log in the run's
folder and a file with that server's password, for its pages, in Prefect's home. Without a server Prefect would only
warn and never fire, so that case does not exist here.

What runs is decided here: a deployment's flow takes no path, and its code is not looked up by what the server says. So
whoever can write to the server can start the scheduled run, and nothing else.
"""

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from prefect.client.orchestration import get_client
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import PrefectHTTPStatusError
from prefect.runner import Runner
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_HOME,
    PREFECT_SERVER_API_PORT,
    temporary_settings,
)
from prefect.types.entrypoint import EntrypointType

from flows.preference import SCHEDULED_CONFIG, SCHEDULED_RUN_DIR, scheduled
from flows.server import LOCAL
from pipeline.errors import ConfigError, EndpointError, JobError
from pipeline.interrupts import TERMINATED, Ending, orderly
from pipeline.secrets import register, struck
from pipeline.shown import printed
from pipeline.workbench import Workbench

ENTRYPOINT = f"{scheduled.__module__}.{scheduled.fn.__name__}"
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
    with orderly() as ending:
        try:
            with _server(folder) as (url, secret), _speaking_to(url, secret):
                deployment = scheduled.to_deployment(
                    name=bench.config.name,
                    schedules=[when],
                    # A path would be looked up from wherever this was started; the module is found from anywhere.
                    entrypoint_type=EntrypointType.MODULE_PATH,
                )
                runner = _Runner(bench.config.name, ending)
                # Typed as a coroutine too, which it is inside an event loop only.
                runner.add_deployment(cast("RunnerDeployment", deployment))
                _say(f"{scheduled.name}/{bench.config.name} runs at `{cron}` (UTC) in {folder}")
                _say(f"see it, or start it now, at {url.removesuffix('/api')}; Ctrl-C ends the schedule")
                with _told(config_path, folder):
                    asyncio.run(runner.serve())
        except (KeyboardInterrupt, asyncio.CancelledError):
            ending.at_once()
            _say("schedule ended; what is done is kept")
            if ending.code != TERMINATED:  # a service that is told to end has done well
                raise KeyboardInterrupt from None


def _speaking_to(url: str, secret: str | None) -> AbstractContextManager[object]:
    """Settings of Prefect's clients, here and in the processes that run flows."""
    known = PREFECT_API_AUTH_STRING.value() if secret is None else secret
    return temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: known})


@contextmanager
def _told(config_path: Path, folder: Path) -> Generator[None]:
    """Tell the processes that this one starts what they are to run, and from which code."""
    told = {
        SCHEDULED_CONFIG: str(config_path),
        SCHEDULED_RUN_DIR: str(folder),
        "PREFECT__FLOW_ENTRYPOINT": ENTRYPOINT,  # Prefect's own: before it, the server's word for it does not count
    }
    os.environ.update(told)
    try:
        yield
    finally:
        for name in told:
            os.environ.pop(name, None)


class _Runner(Runner):
    """Ends in order: runs that are going on are told to end, and get half a minute to bring in what is paid."""

    def __init__(self, name: str, ending: Ending) -> None:
        super().__init__(name=name, limit=1)
        self.ending = ending

    def handle_sigterm(self, *_args: object, **_kwargs: object) -> None:
        """See Runner, which would leave at once."""
        self.ending.terminate(signal.SIGTERM, None)

    async def serve(self) -> None:
        """Start due runs until cancelled; cancelled, stop those that are going on."""
        working, serving = asyncio.ensure_future(self.start()), asyncio.current_task()
        if serving is not None:
            loop = asyncio.get_running_loop()
            self.ending.cancel = lambda: loop.call_soon_threadsafe(serving.cancel)
        try:
            await asyncio.shield(working)
        except asyncio.CancelledError:
            self.ending.at_once()
            if self.started:
                await self.astop()
            else:
                working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            raise


def _checked(cron: str) -> CronSchedule:
    try:
        return CronSchedule(cron=cron, timezone="UTC")
    except ValueError as error:
        raise ConfigError(
            f"--cron {cron!r} is no cron expression; write minute, hour, day of month, month and day of week, e.g. "
            '"0 2 * * *" for every night at two (UTC)'
        ) from error


@contextmanager
def _server(folder: Path) -> Generator[tuple[str, str | None]]:
    """The API address of a server that answers, and the secret it wants if it is ours.

    It is the configured one, one on this machine that lets us in, or a child of ours.
    """
    configured = cast("str | None", PREFECT_API_URL.value())
    if configured and _answers(configured):
        if not _lets_in(configured):
            raise EndpointError(
                f"the Prefect server at {configured} does not let us in; set PREFECT_API_AUTH_STRING to what it wants"
            )
        _say(f"using the Prefect server at {configured}; whoever can write to it can start this run")
        yield configured, None
        return
    if configured and urlsplit(configured).hostname not in LOOPBACK:
        raise EndpointError(
            f"PREFECT_API_URL names {configured}, which does not answer; start that server or correct the address, or "
            "unset it to have one started here"
        )
    port = PREFECT_SERVER_API_PORT.value()
    usual = f"http://{LOCAL}:{port}/api"
    if _answers(usual) and _lets_in(usual):
        _say(f"using the Prefect server that runs at {usual}; whoever can write to it can start this run")
        yield usual, None
        return
    with _listening(port) as socket_, _child(socket_, folder / "prefect-server.log") as found:
        yield found


@contextmanager
def _child(listening: socket.socket, log: Path) -> Generator[tuple[str, str]]:
    """A Prefect server as a child process, which ends with the block, and with this process however that ends."""
    port = int(listening.getsockname()[1])
    url = f"http://{LOCAL}:{port}/api"
    _say(f"no Prefect server answers; starting one at {url.removesuffix('/api')} (log: {log})")
    log.parent.mkdir(parents=True, exist_ok=True)
    secret = register(f"jurybox:{secrets.token_urlsafe(32)}")
    with log.open("ab") as output:
        # In a session of its own, Ctrl-C reaches us alone: the runner still needs the server to sign off.
        child = subprocess.Popen(  # noqa: S603  the arguments are ours
            [sys.executable, "-m", "flows.server", str(listening.fileno())],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[listening.fileno()],
            env={**_importing(os.environ), "PREFECT_API_URL": "", "PREFECT_UI_API_URL": url},
        )
    listening.close()
    try:
        _hand_over(child, secret)
        with _password(port, secret) as file:
            _await(child, url, log)
            _say(f"its pages ask for a password, made for this start: it stands in {file}, which you alone can read")
            yield url, secret
    finally:
        _stop(child)


def _importing(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which a child finds this project from any folder."""
    here = str(Path(__file__).resolve().parents[1])
    return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, (here, environment.get("PYTHONPATH"))))}


def _hand_over(child: "subprocess.Popen[bytes]", secret: str) -> None:
    """The secret by the pipe whose end tells the child that we are gone: no list of processes shows it."""
    if child.stdin is not None:
        with suppress(BrokenPipeError):  # it ended already, which is told by whoever waits for it
            child.stdin.write(f"{secret}\n".encode())
            child.stdin.flush()


@contextmanager
def _password(port: int, secret: str) -> Generator[Path]:
    """A file that holds the secret, for the user of the server's pages, and that nobody else can read."""
    file = Path(PREFECT_HOME.value()) / f"jurybox-{port}.password"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(f"{secret}\n")
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)


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
    if child.stdin is not None:
        with suppress(BrokenPipeError):
            child.stdin.close()
    child.terminate()
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _answers(url: str) -> bool:
    """Whether a Prefect API is healthy at *url*."""
    # The secret is not sent to whoever answers there.
    with temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: None}), get_client(sync_client=True) as one:
        return one.api_healthcheck() is None


def _lets_in(url: str) -> bool:
    """Whether the API at *url* takes the secret that this environment has for it, or wants none."""
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        try:
            client.read_flows(limit=1)
        except PrefectHTTPStatusError as error:
            if error.response.status_code not in (401, 403):
                raise
            return False
    return True


@contextmanager
def _listening(wanted: int) -> Generator[socket.socket]:
    """A listening socket on *wanted* if nothing else listens there, else on a port that the system gives.

    It is bound here and handed to the server, so that nobody can take the port and be given the server's secret.
    """
    for port in (wanted, 0):
        made = socket.socket()
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((LOCAL, port))
            made.listen(1024)
        except OSError:
            made.close()
            continue
        with made:
            yield made
        return
    raise JobError(f"no free port on {LOCAL}; close a program that listens")


def _say(line: str) -> None:
    sys.stderr.write(f"{printed(struck(line))}\n")
    sys.stderr.flush()
