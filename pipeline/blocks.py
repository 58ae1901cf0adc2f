"""Work on many rows, block by block and on every processor. Pure.

What is made on the way of one block stays in the processor's cache, and NumPy and Polars let other threads go on while
they compute. A result hangs on the blocks, never on how many threads there are.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import polars as pl
import threadpoolctl

ROWS = 1 << 15
"""Rows in a block: a column of them takes a quarter of a megabyte."""
PIECE = 1 << 17
"""Rows in a piece of a long column, in memory and on disk."""
Item = TypeVar("Item")
Found = TypeVar("Found")
THREADS: Any = threadpoolctl


def in_blocks(rows: int, work: Callable[[slice], Found], size: int = ROWS) -> list[Found]:
    """What *work* returns for each block of at most *size* of *rows* rows, in the rows' order.

    Blocks are worked on at the same time, so what *work* writes must lie in its own block.
    """
    blocks = [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
    threads = min(pl.thread_pool_size(), len(blocks))
    # Block by block would be much to arrange for little work: a thread takes every so many.
    shares = at_once(lambda first: [work(block) for block in blocks[first::threads]], range(threads))
    return [shares[at % threads][at // threads] for at in range(len(blocks))]


def at_once(work: Callable[[Item], Found], items: Sequence[Item]) -> list[Found]:
    """What *work* returns for each of *items*, in their order, worked on by as many threads as Polars uses."""
    if len(items) < 2:  # noqa: PLR2004
        return [work(item) for item in items]
    with ThreadPoolExecutor(pl.thread_pool_size()) as pool:
        return list(pool.map(work, items))


def together(*tasks: Callable[[], Found]) -> list[Found]:
    """What each of *tasks* returns, done at the same time."""

    def done(task: Callable[[], Found]) -> Found:
        return task()

    return at_once(done, tasks)


def one_blas_thread() -> AbstractContextManager[object]:
    """While it is open, products of matrices in this process are computed by the thread that asks for them.

    OpenBLAS's own threads wait for more by spinning, for .1 s after each product, on the processors that blocks want;
    and how many there are shows in the last digit. Libraries loaded later are not held. Two that overlap, one opened in
    the other's time and closed after it, leave BLAS at one thread.
    """
    return THREADS.threadpool_limits(1, user_api="blas")
