"""A real browser for tests of the pages: the system's chromium, headless. Starts servers, and ends those it started.

Without chromium the tests are skipped, unless JURYBOX_REQUIRE_BROWSER=1 (as CI sets it) makes that a failure.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.patience import patience

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[1]
CHROMIUM = os.environ.get("JURYBOX_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
START_S = patience(60)
JURYBOX = (sys.executable, "-m", "jurybox")
# Chromium itself asks for updates and the like; pages must not.
QUIET = ("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-gpu")


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """Headless chromium. One a module: while it is open no other test of the thread can run an event loop."""
    if not Path(CHROMIUM).is_file():
        reason = f"no chromium at {CHROMIUM}; install it, or name it in JURYBOX_CHROMIUM"
        if os.environ.get("JURYBOX_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        made = play.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield made
        made.close()


@dataclass
class Served:
    """A command that serves pages."""

    url: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def kill(self) -> None:
        """SIGKILL to it and to whatever it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def served(
    command: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None, port_flag: str = "--port"
) -> Iterator[Served]:
    """Run *command* with a free port until it answers; ended when the block is left.

    Args:
        command: e.g. ``(*JURYBOX, "label", "c.yaml")``, or ``(sys.executable, "-m", "streamlit", "run", ...)``.
        cwd: where it is run.
        env: variables besides this process's own.
        port_flag: how it takes its port.
    """
    port = free_port()
    log = cwd / f"served-{port}.log"
    places = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, port_flag, str(port)],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": places, **(env or {})},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    made = Served(f"http://127.0.0.1:{port}", process, log)
    try:
        _wait(made)
        yield made
    finally:
        made.kill()


def _wait(made: Served) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if made.process.poll() is not None:
            raise AssertionError(f"the server ended with {made.process.returncode}:\n{made.log.read_text()}")
        if _healthy(made.url):
            return
        time.sleep(0.1)
    raise AssertionError(f"no answer within {START_S} s:\n{made.log.read_text()}")


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/_stcore/health", timeout=2) as reply:  # noqa: S310
            return bool(reply.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


@dataclass
class Seen:
    """What a page did that nobody sees: a test ends with :meth:`harmless`."""

    home: str
    errors: list[str] = field(default_factory=list[str])
    """Errors on its console, and exceptions."""
    outside: list[str] = field(default_factory=list[str])
    """Addresses it asked for on other servers."""
    dialogs: list[str] = field(default_factory=list[str])

    def harmless(self) -> None:
        """Fails unless the page had no error, opened no dialog and asked no other server."""
        assert (self.errors, self.outside, self.dialogs) == ([], [], [])


def watched(page: "Page", url: str) -> Seen:
    """Records what *page*, served from *url*, does from now on; requests to other servers are stopped."""
    seen = Seen(urlsplit(url).netloc)

    def console(message: Any) -> None:
        if message.type == "error":
            seen.errors.append(message.text)

    def dialog(found: Any) -> None:
        seen.dialogs.append(found.message)
        found.dismiss()

    def route(found: Any) -> None:
        asked = found.request.url
        if urlsplit(asked).scheme in {"http", "https", "ws", "wss"} and urlsplit(asked).netloc != seen.home:
            seen.outside.append(asked)
            found.abort()
        else:
            found.continue_()

    page.on("console", console)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("dialog", dialog)
    page.route("**/*", route)
    return seen


def violations(page: "Page") -> list[str]:
    """What axe finds wrong with the page's accessibility: ``rule: what it says: first element``."""
    from axe_playwright_python.sync_playwright import Axe

    found: Any = Axe().run(page)
    return [
        f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]} {one['nodes'][0].get('failureSummary', '')}"
        for one in found.response["violations"]
    ]
