"""Looking up and numbering a million ids: pipeline/arrays.py, pyarrow's kernels and a Polars join. Touches nothing.

``python -m benchmarks.lookups`` prints, for each task and way, the median wall and processor seconds over ROUNDS turns;
the ways take turns. Ids are hashes as the pipeline makes them, four pairs a prompt.
"""

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pyarrow.compute

from pipeline.arrays import numbered, positions

ROWS = 1_000_000
PAIRS_A_PROMPT = 4
ROUNDS = 7
COMPUTE: Any = pyarrow.compute


def ids(count: int, seed: int) -> pl.Series:
    """So many different ids, in no order."""
    words = np.random.default_rng(seed).integers(0, 2**63, (count, 2), dtype=np.uint64)
    return pl.Series("id", [f"{a:016x}{b:016x}" for a, b in words.tolist()])


def by_arrow(wanted: pl.Series, known: pl.Series) -> np.ndarray:
    """As :func:`positions`."""
    return COMPUTE.index_in(wanted.to_arrow(), value_set=known.to_arrow()).fill_null(-1).to_numpy()


def by_join(wanted: pl.Series, known: pl.Series) -> np.ndarray:
    """As :func:`positions`."""
    table = pl.DataFrame({"id": known, "at": np.arange(len(known))})
    joined = pl.DataFrame({"id": wanted}).join(table, on="id", how="left", maintain_order="left")
    return joined["at"].fill_null(-1).to_numpy()


def main() -> int:
    """Print the table."""
    known = ids(ROWS, 0)
    random = np.random.default_rng(1)
    ends = known.gather(random.integers(0, ROWS, 2 * ROWS))
    prompts = ids(ROWS // PAIRS_A_PROMPT, 2).gather(np.repeat(np.arange(ROWS // PAIRS_A_PROMPT), PAIRS_A_PROMPT))
    lookups = {
        "find 2 M ids among 1 M": (ends, known),
        "find 2 M ids among 1 M sorted": (ends, known.sort()),
        "find 1,000 ids among 1 M": (ends[:1000], known),
    }
    tasks: dict[str, dict[str, Callable[[], np.ndarray]]] = {
        name: {
            way.__name__: lambda way=way, wanted=wanted, there=there: way(wanted, there)
            for way in (positions, by_arrow, by_join)
        }
        for name, (wanted, there) in lookups.items()
    }
    for name, of in {"number the prompts of 1 M pairs": prompts, "number 1 M different ids": known}.items():
        tasks[name] = {
            "numbered": lambda of=of: numbered(of),
            "by_join": lambda of=of: by_join(of, of.unique(maintain_order=True)),
        }
    for name, ways in tasks.items():
        took: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way, work in ways.items():
                wall, cpu = time.perf_counter(), time.process_time()
                work()
                took[way].append((time.perf_counter() - wall, time.process_time() - cpu))
        for way, turns in took.items():
            wall, cpu = (statistics.median(column) for column in zip(*turns, strict=True))
            print(f"{name:34}{way:12}{wall:>9.3f} s wall{cpu:>9.3f} s CPU", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
