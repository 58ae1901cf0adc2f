"""Numbers and words as arrays, worked on in blocks and threads. Touches nothing."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
import threadpoolctl

MOST_BITS = 8
"""At most 2**8 shards of one kind: a kill costs a 256th part of a large run, and many files are slow to read."""

MANY = 16

Words = npt.NDArray[np.uint64]


def numbered(ids: pl.Series) -> npt.NDArray[np.int64]:
    """A number for each of *ids*, from 0 up without gaps, the same for equal ones; nothing else is meant by them."""
    arrow: Any = ids
    return np.asarray(arrow.to_arrow().dictionary_encode().indices, np.int64)


def positions(wanted: pl.Series, known: pl.Series) -> npt.NDArray[np.int64]:
    """Position in *known*, whose values are unique, of each of *wanted*; -1 where there is none."""
    if len(wanted) == len(known) and (wanted == known).all():
        return np.arange(len(known))
    if len(wanted) < len(known) // MANY:
        # To look through all for a few is quicker than to index all.
        if known.is_sorted():
            at = known.search_sorted(wanted, side="left").to_numpy().astype(np.int64)
            return np.where((known.gather(np.minimum(at, len(known) - 1)) == wanted).to_numpy(), at, -1)
        places = np.flatnonzero(known.is_in(wanted.unique().implode()).to_numpy())
        return np.append(places, -1)[_joined(wanted, known.gather(places))]
    there = _words(known)
    if there is None:
        return _joined(wanted, known)
    words, keys = there
    order = None
    if not (keys[1:] > keys[:-1]).all():
        order = np.argsort(keys, kind="stable")
        keys, words = keys[order], words.take(order, axis=0)
        if (keys[1:] == keys[:-1]).any():
            return _joined(wanted, known)
    index = Index.of(keys)
    found = np.empty(len(wanted), np.int64)

    def sought(block: slice) -> bool:
        asked = _words(wanted.slice(block.start, block.stop - block.start))
        if asked is None:
            return False
        at = index.places(asked[1])
        off = words.take(at, axis=0) ^ asked[0]
        same = (off[:, 0] | off[:, 1] | off[:, 2] | off[:, 3]) == 0
        found[block] = np.where(same, at if order is None else order[at], -1)
        return True

    return found if all(in_blocks(len(wanted), sought)) else _joined(wanted, known)


def distinct(ids: pl.Series) -> bool:
    """Whether no id is there twice; of sorted ids only neighbours are compared."""
    if ids.is_sorted():
        return not (ids == ids.shift(1)).any()
    return ids.n_unique() == len(ids)


def _words(ids: pl.Series) -> tuple[Words, Words] | None:
    """(ids, 4) the bytes of each id as four numbers, and (ids,) what its first 16 digits spell, in the ids' order.

    Numbers are compared and looked up many times faster than strings. None where one of them has not 32 bytes.
    """
    found = ids.cast(pl.Binary).bin.reinterpret(dtype=pl.Array(pl.UInt64, 4))
    if found.null_count() or not len(ids):
        return None
    words = found.to_numpy()
    keys = np.empty(len(ids), np.uint64)
    for start in range(0, len(ids), ROWS):
        block = slice(start, start + ROWS)
        keys[block] = _spelt(words[block, 0]) << np.uint64(32) | _spelt(words[block, 1])
    return words, keys


def _spelt(word: Words) -> Words:
    """What eight hexadecimal digits spell, the first in the lowest byte; of other bytes a number like any other."""
    # The low four bits of `0` to `9` are their value, those of `a` to `f` less by nine; only these have bit 6.
    value: Words = (word & 0x0F0F0F0F0F0F0F0F) + 9 * (word >> 6 & 0x0101010101010101)  # type: ignore[assignment]
    for bits, kept in ((4, 0x00FF00FF00FF00FF), (8, 0x0000FFFF0000FFFF), (16, 0x00000000FFFFFFFF)):
        # Neighbours, of which the first counts more, become one number of twice the width.
        value = (value << np.uint64(bits) | value >> np.uint64(2 * bits)) & np.uint64(kept)
    return value


@dataclass(frozen=True)
class Index:
    """Numbers that rise, and where to begin to look for one.

    Ids are hashes: their leading bits tell the place but for a few steps, where a search would take twenty.
    """

    known: Words
    shift: np.uint64
    """Bits that are left out of account to find the start."""
    starts: npt.NDArray[np.int64] | None
    """Place of the first number with these leading bits or higher ones; None where many share theirs."""

    @classmethod
    def of(cls, known: Words) -> "Index":
        """An index of *known*, which rises and is not empty."""
        bits = len(known).bit_length()
        shift = np.uint64(64 - bits)
        sizes = np.bincount((known >> shift).astype(np.int64), minlength=1 << bits)
        return cls(known, shift, None if sizes.max() > MANY else np.cumsum(sizes) - sizes)

    def places(self, keys: Words) -> npt.NDArray[np.int64]:
        """Where the first number that is not below the key stands, for each of *keys*; the last where all are."""
        last = len(self.known) - 1
        if self.starts is None:
            return np.minimum(np.searchsorted(self.known, keys), last)
        at = np.minimum(self.starts[(keys >> self.shift).astype(np.int64)], last)
        left = np.flatnonzero(self.known[at] < keys)
        while len(left := left[at[left] < last]):
            at[left] += 1
            left = left[self.known[at[left]] < keys[left]]
        return at


def _joined(wanted: pl.Series, known: pl.Series) -> npt.NDArray[np.int64]:
    joined = pl.DataFrame({"id": wanted}).join(
        pl.DataFrame({"id": known, "at": np.arange(len(known))}), on="id", how="left", maintain_order="left"
    )
    return joined["at"].fill_null(-1).to_numpy()


Array = npt.NDArray[np.float64]

Integers = npt.NDArray[np.int64]

Mask = npt.NDArray[np.bool_]


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
