"""Ctrl-C and SIGTERM: once ends in order, twice at once. Touches this process's signal handlers.

SIGTERM is what a script or a service manager sends, and it does what Ctrl-C does. Where SIGINT is ignored, as in a
script's background job, it stays so, and SIGTERM ends the process all the same.
"""

import os
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 128 + signal.SIGINT
"""Exit code after Ctrl-C."""
TERMINATED = 128 + signal.SIGTERM
"""Exit code after SIGTERM."""


class Ending:
    """How the process was told to end."""

    def __init__(self) -> None:
        self.code = INTERRUPTED
        """Exit code to end with when a KeyboardInterrupt arrives."""
        self.cancel: Callable[[], object] | None = None
        """What ends the work in order, where an exception at any line would not."""
        self._told = False

    def terminate(self, _number: int, frame: FrameType | None) -> None:
        """Handler of SIGTERM: raises KeyboardInterrupt, or lets a running event loop cancel what it does."""
        if self._told:
            os._exit(TERMINATED)
        self._told, self.code = True, TERMINATED
        interrupt = signal.getsignal(signal.SIGINT)
        if self.cancel is not None:
            self.cancel()
        elif callable(interrupt):
            interrupt(signal.SIGINT, frame)
        else:
            raise KeyboardInterrupt

    def at_once(self) -> None:
        """From now on either signal ends the process without another word."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, self._leave)

    def _leave(self, *_: object) -> None:
        os._exit(self.code)


@contextmanager
def orderly() -> Generator[Ending]:
    """Let SIGTERM unwind the block as Ctrl-C does."""
    ending = Ending()
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield ending
        return
    before: Callable[..., object] | int | None = signal.signal(signal.SIGTERM, ending.terminate)
    try:
        yield ending
    finally:
        signal.signal(signal.SIGTERM, before)
