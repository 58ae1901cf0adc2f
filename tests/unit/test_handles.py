"""Pins down that connections fit the process's limit of open files, and that it is said once."""

import subprocess
import sys

ASK = """
import resource
from pipeline.calls.handles import fitting
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
print(*[fitting({wanted}) for _ in range(2)], resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def asked(soft: int, hard: int, wanted: int) -> tuple[list[int], str]:
    """(what fits twice, and the soft limit then; what was said), in a process of its own."""
    code = ASK.format(soft=soft, hard=hard, wanted=wanted)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return [int(word) for word in done.stdout.split()], done.stderr


def test_what_fits_is_left_alone() -> None:
    found, said = asked(256, 256, 64)
    assert (found, said) == ([64, 64, 256], "")


def test_what_does_not_fit_is_fewer_and_said_once() -> None:
    (first, second, limit), said = asked(256, 256, 1000)
    # 64 are kept for the ledger, frames and the terminal, and some are open already
    assert 100 < first == second <= 256 - 64
    assert limit == 256
    assert said.count("concurrency 1000 does not fit the 256 files") == 1


def test_the_soft_limit_is_raised_as_far_as_it_may() -> None:
    (first, _, limit), said = asked(256, 2048, 1000)
    assert (first, said) == (1000, "")
    assert 1064 < limit <= 2048


def test_there_is_always_one() -> None:
    (first, _, _), _ = asked(40, 40, 1000)
    assert first == 1
