"""How a run shows that it goes on: bars on a terminal, plain lines elsewhere, status.json for the dashboard.

Writes to standard error, and the one file.
"""

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from pipeline.shown import line

STATUS = "status.json"
"""In the run's folder: what the process that last worked on it is, or was, doing."""
LONGEST_NOTE = 1_000
Write = Callable[[str, Mapping[str, object]], None]
"""Writes a JSON file of the run's folder, whole or not at all (``pipeline.store.RunFolder.write_json``)."""


class Progress(Protocol):
    """Told by the runner what happens."""

    def start(self, stage: str, total: int, *, skipped: bool) -> None:
        """A stage begins, with *total* units to do."""
        ...

    def advance(self, done: int) -> None:
        """*done* more units are finished."""
        ...

    def end(self, stage: str, rows: Mapping[str, int], *, skipped: bool) -> None:
        """The stage is over; *rows* counts what it wrote, by frame."""
        ...

    def note(self, text: str) -> None:
        """Something that whoever watches should know, and that stops nothing."""
        ...


class Silent:
    """Shows nothing: tests, flows and ``--json``."""

    def start(self, stage: str, total: int, *, skipped: bool) -> None:
        """See Progress."""

    def advance(self, done: int) -> None:
        """See Progress."""

    def end(self, stage: str, rows: Mapping[str, int], *, skipped: bool) -> None:
        """See Progress."""

    def note(self, text: str) -> None:
        """See Progress."""


class StatusFile:
    """Writes status.json, at most once a second, and tells somebody else too.

    Its keys: ``stage``; ``state`` (``running``, ``ended``, ``failed``); ``done`` of ``total`` units of the stage;
    ``started_at`` and ``updated_at``, seconds since 1970; ``host`` and ``pid`` of the process. A process that was
    killed leaves ``running`` behind, so whoever reads it looks whether the process lives.
    """

    INTERVAL_S = 1.0

    def __init__(self, other: Progress, write: Write) -> None:
        self.other, self.write = other, write
        self.stage, self.total, self.done = "", 0, 0
        self.started = self.written = 0.0

    def start(self, stage: str, total: int, *, skipped: bool) -> None:
        """See Progress."""
        self.other.start(stage, total, skipped=skipped)
        self.stage, self.total, self.done, self.started = stage, total, 0, time.time()
        self._record("running")

    def advance(self, done: int) -> None:
        """See Progress."""
        self.other.advance(done)
        self.done += done
        if self.stage and time.time() - self.written >= self.INTERVAL_S:
            self._record("running")

    def end(self, stage: str, rows: Mapping[str, int], *, skipped: bool) -> None:
        """See Progress."""
        self.other.end(stage, rows, skipped=skipped)
        self._record("ended")
        self.stage = ""

    def note(self, text: str) -> None:
        """See Progress."""
        self.other.note(text)

    def failed(self) -> None:
        """The stage that is running, if any, goes no further."""
        if self.stage:
            self._record("failed")
            self.stage = ""

    def _record(self, state: str) -> None:
        self.written = time.time()
        status = {
            "stage": self.stage,
            "state": state,
            "done": self.total if state == "ended" else self.done,
            "total": self.total,
            "started_at": self.started,
            "updated_at": self.written,
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        self.write(STATUS, status)


class Lines:
    """One line when a stage begins and ends, and one every ten seconds between."""

    INTERVAL_S = 10.0

    def __init__(self) -> None:
        self.stage, self.total, self.done = "", 0, 0
        self.started = self.spoken = time.monotonic()

    def start(self, stage: str, total: int, *, skipped: bool) -> None:
        """See Progress."""
        self.stage, self.total, self.done = stage, total, 0
        self.started = self.spoken = time.monotonic()
        if not skipped:
            self._say(f"{stage}: started, {total} to do")

    def advance(self, done: int) -> None:
        """See Progress."""
        self.done += done
        now = time.monotonic()
        if now - self.spoken >= self.INTERVAL_S:
            self.spoken = now
            self._say(f"{self.stage}: {self.done} of {self.total} after {now - self.started:.0f} s")

    def end(self, stage: str, rows: Mapping[str, int], *, skipped: bool) -> None:
        """See Progress."""
        made = ", ".join(f"{count} {frame}" for frame, count in rows.items())
        how = "unchanged, skipped" if skipped else f"done in {time.monotonic() - self.started:.1f} s"
        self._say(f"{stage}: {how}{': ' + made if made else ''}")

    def note(self, text: str) -> None:
        """See Progress."""
        self._say(f"note: {line(text, LONGEST_NOTE)}")

    def _say(self, line: str) -> None:
        # A run that is paid for does not end because nobody can read how far it is.
        with contextlib.suppress(OSError):
            print(line, file=sys.stderr, flush=True)


class Bars:
    """A bar per stage, for a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self.bars = RichProgress(
            TextColumn("{task.description:>10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
        )
        self.bars.start()
        self.task = self.bars.add_task("", visible=False, note="")

    def start(self, stage: str, total: int, *, skipped: bool) -> None:
        """See Progress."""
        self.task = self.bars.add_task(stage, total=total or 1, note="unchanged" if skipped else "")

    def advance(self, done: int) -> None:
        """See Progress."""
        self.bars.advance(self.task, done)

    def end(self, stage: str, rows: Mapping[str, int], *, skipped: bool) -> None:
        """See Progress."""
        del stage
        made = ", ".join(f"{count} {frame}" for frame, count in rows.items())
        note = f"unchanged: {made}" if skipped else made
        total = self.bars.tasks[self.task].total
        self.bars.update(self.task, completed=total, note=note)
        self.bars.stop_task(self.task)

    def note(self, text: str) -> None:
        """See Progress."""
        self.bars.console.print(f"note: {line(text, LONGEST_NOTE)}", markup=False, highlight=False)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self.bars.stop()


def for_terminal(*, quiet: bool) -> Progress:
    """Bars on a terminal, lines elsewhere, nothing when *quiet*."""
    if quiet:
        return Silent()
    return Bars() if sys.stderr.isatty() else Lines()
