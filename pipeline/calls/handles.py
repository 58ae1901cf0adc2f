"""How many connections fit this process's limit of open files. Reads and raises that limit, within what is allowed.

A connection without a file handle is a call that fails after others were paid for, and a ledger that cannot be opened.
"""

import contextlib
import logging
from pathlib import Path

KEPT = 64
"""Handles left for what the process opens beside its connections: the ledger, frames, the terminal."""
TOLD: set[int] = set()
"""Limits of which somebody was told; once a process is enough."""
LOG = logging.getLogger("jurybox")


def fitting(wanted: int) -> int:
    """At most *wanted* connections at once, as many as fit; fewer than wanted is said, once.

    The soft limit of open files is raised towards the hard one where that helps. Systems without such a limit fit all.
    """
    try:
        import resource
    except ImportError:
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = _open_files() + KEPT
    if soft == resource.RLIM_INFINITY or wanted + taken <= soft:
        return wanted
    enough = wanted + taken if hard == resource.RLIM_INFINITY else min(wanted + taken, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
        soft = enough
    fits = max(1, min(wanted, soft - taken))
    if fits < wanted and soft not in TOLD:
        TOLD.add(soft)
        LOG.warning(
            "warning: concurrency %d does not fit the %d files that this process may open; at most %d calls are in "
            "flight; raise the limit (ulimit -n) or lower the endpoint's concurrency",
            wanted,
            soft,
            fits,
        )
    return fits


def _open_files() -> int:
    for folder in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            return sum(1 for _ in Path(folder).iterdir())
    return KEPT
