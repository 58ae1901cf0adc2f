"""A real PostgreSQL for tests: one server a session, in a folder of its own, and a fresh database for each test.

Needs Debian's package ``postgresql`` (any version). Without it the tests that ask for a database are skipped with the
reason, or fail where JURYBOX_REQUIRE_POSTGRES is set. PostgreSQL refuses to run as root, so there it runs as
``postgres``, the user that the package makes. Nothing outlives the session, so nothing is flushed to disk.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.patience import patience

USER = "postgres"
REQUIRED_ENV = "JURYBOX_REQUIRE_POSTGRES"
PATIENCE_S = round(patience(60))
MOST_CONNECTIONS = 200


class Postgres:
    """A running server on 127.0.0.1 that trusts everybody."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self.binaries, self.folder = binaries, folder
        self._numbers = count()
        self._data = folder / "data"
        self._log = folder / "log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])

    def start(self) -> None:
        """Make the cluster, start the server and wait until it answers."""
        if os.geteuid() == 0:
            shutil.chown(self.folder, USER)
        self._run("initdb", "-A", "trust", "-U", USER, "-D", self._data, "-E", "UTF8", "--no-sync", "--locale=C")
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c max_connections={MOST_CONNECTIONS}"
        options += " -c fsync=off -c synchronous_commit=off -c full_page_writes=off"
        self._run("pg_ctl", "start", "-w", "-t", PATIENCE_S, "-D", self._data, "-l", self._log, "-o", options)

    def restart(self) -> None:
        """Stop the server under everybody's hands, and start it again with its data."""
        self._run("pg_ctl", "restart", "-m", "fast", "-w", "-t", PATIENCE_S, "-D", self._data, "-l", self._log)

    def stop(self) -> None:
        """Stop the server, whoever is still connected; nothing where it never started."""
        if (self._data / "postmaster.pid").is_file():
            self._run("pg_ctl", "stop", "-m", "immediate", "-D", self._data)

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"test_{next(self._numbers)}_{time.monotonic_ns()}"
        self._run("createdb", "-h", "127.0.0.1", "-p", self.port, "-U", USER, name)
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{name}"

    def _run(self, program: str, *arguments: object) -> None:
        # The server inherits what pg_ctl holds open: a pipe would never end, a file may stay open.
        with (self.folder / f"{program}.txt").open("w+", encoding="utf-8") as said:
            done = subprocess.run(
                [self.binaries / program, *map(str, arguments)],
                cwd=self.folder,
                user=USER if os.geteuid() == 0 else None,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                timeout=2 * PATIENCE_S,
                check=False,
            )
            said.seek(0)
            if done.returncode:
                log = self._log.read_text(encoding="utf-8") if self._log.is_file() else ""
                raise RuntimeError(f"{program} failed ({done.returncode}): {said.read()}\n{log}")


def binaries() -> Path | None:
    """The folder of initdb and pg_ctl: on the PATH, or the newest under Debian's; None where there is none."""
    on_path = shutil.which("initdb")
    debian = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    found = [Path(on_path).resolve()] if on_path else []
    found += sorted(debian, key=lambda path: int(path.parts[-3]), reverse=True)
    return next((path.parent for path in found if (path.parent / "pg_ctl").is_file()), None)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running server; ``postgres.database()`` is the URL of a fresh database."""
    place = binaries()
    if place is None:
        reason = "PostgreSQL is not installed; on Debian: apt-get install postgresql"
        if os.environ.get(REQUIRED_ENV):
            pytest.fail(reason)
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="jurybox-postgres-"))
    server = Postgres(place, folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres: Postgres) -> str:
    """The URL of a fresh database."""
    return postgres.database()


@pytest.fixture(params=["sqlite", "postgres"])
def ledger_place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where an empty ledger may lie: a file, then a fresh database of a real PostgreSQL."""
    return tmp_path / "ledger.sqlite" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
