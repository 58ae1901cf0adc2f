"""Who owns a claim, and whether it is alive. Reads this machine's table of processes.

On the same machine an owner lives as long as its process does, told from a later one with its number by the moment it
started, in the kernel's own time since boot: no clock that somebody sets decides. On another machine it lives while its
heart beats, by the database's clock.
"""

import contextlib
import os
import socket
from functools import cache
from pathlib import Path

BATCH_HOST = "batch"
"""Host of an owner that is a batch at the vendor's (``calls.batches``): no process, and alive until it is over."""
BEAT_S = 5.0
DEAD_AFTER_S = 60.0
ENDED = "ended"
"""``started`` of an owner that closed the ledger and left its process running."""
STARTED_FIELD = 19
"""Of /proc/PID/stat after the name in brackets: start time in ticks since boot (proc(5), field 22)."""


@cache
def this_host() -> str:
    """Where this process has its number: names of machines repeat, and a container counts processes of its own."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(Path("/proc/self/ns/pid").readlink().name)
    return " ".join(parts)


def started(pid: int) -> str:
    """When a process of this machine began; empty where it is not there, or the system does not tell."""
    with contextlib.suppress(OSError, IndexError):
        # The name may hold anything, brackets too: what follows the last one is fields.
        told = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return "" if told[0] in "ZX" else told[STARTED_FIELD]
    return ""


def lives(host: str, pid: int, began: str, age_s: float) -> bool:
    """Whether the owner with this row is alive; *age_s* is the time since its last heartbeat."""
    if host != this_host():
        return age_s <= DEAD_AFTER_S
    if began and (now := started(os.getpid())):
        return bool(now) and started(pid) == began
    # A system that does not tell when a process began: its number may have come again, so its heart must beat too.
    return began != ENDED and _there(pid) and age_s <= DEAD_AFTER_S


def _there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
