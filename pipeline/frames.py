"""Shapes that several stages share: conversations, shards of prompts, pairs with their text. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.blocks import ROWS, in_blocks
from pipeline.ids import HALF

SHARD_PROMPTS = 128
"""Prompts in a shard, about, and more where there would be too many shards."""
MOST_BITS = 8
"""At most 2**8 shards of one kind: a kill costs a 256th part of a large run, and many files are slow to read."""
MANY = 16
Words = npt.NDArray[np.uint64]
GOLD = "gold"
"""The annotator that stands for a known answer, and the queue such labels are in."""


def conversation(messages: Sequence[Mapping[str, str]]) -> tuple[tuple[str, str], ...]:
    """[{role, content}] as (role, content) turns."""
    return tuple((message["role"], message["content"]) for message in messages)


def bucketed(rows: pl.DataFrame, prompts: float | None = None) -> list[tuple[str, pl.DataFrame]]:
    """*rows* split by the leading bits of ``prompt_id`` into (name, rows) of about *prompts* prompts, or SHARD_PROMPTS.

    The number of buckets is a power of two, so one more prompt changes one bucket only. There are 256 at most.
    """
    count = rows["prompt_id"].n_unique()
    bits = min(MOST_BITS, max(0, math.ceil(math.log2(max(count, 1) / (prompts or SHARD_PROMPTS)))))
    digits = pl.col("prompt_id").str.slice(0, 4).str.to_integer(base=16, strict=True)
    bucket = (digits // 2 ** (16 - bits)).alias("bucket")
    parts = rows.with_columns(bucket).partition_by("bucket", as_dict=True, include_key=False)
    return [(f"{int(key[0]):04d}of{2**bits:04d}", part) for key, part in sorted(parts.items())]


def unit_of(unit: str) -> pl.Expr:
    """The column ``unit`` of pairs: what an audit draws and a bound counts; of ``prompt`` its conversation."""
    return (pl.col("prompt_id").str.tail(HALF) if unit == "prompt" else pl.col("pair_id")).alias("unit")


def units(pairs: pl.DataFrame, unit: str) -> int:
    """How many there are among *pairs*."""
    return pairs.select(unit_of(unit).n_unique()).item()


def with_texts(pairs: pl.DataFrame, samples: pl.DataFrame, prompts: pl.DataFrame) -> pl.DataFrame:
    """*pairs* with ``completion_a``, ``completion_b``, ``messages`` and ``reference``; others are left out."""
    texts = samples.select("sample_id", "completion")
    return (
        pairs.join(texts.rename({"sample_id": "sample_a", "completion": "completion_a"}), on="sample_a")
        .join(texts.rename({"sample_id": "sample_b", "completion": "completion_b"}), on="sample_b")
        .join(prompts.select("prompt_id", "messages", "reference"), on="prompt_id")
        .sort("pair_id")
    )


def given_by_people(labels: pl.DataFrame) -> pl.DataFrame:
    """*labels* without the known answers (annotator and queue ``gold``), which are nobody's opinion."""
    return labels.filter((pl.col("annotator") != GOLD) | (pl.col("queue").cast(pl.String) != GOLD))


def people(labels: pl.DataFrame) -> pl.DataFrame:
    """What people said of each pair; the known answers of gold items are left out.

    Columns: ``pair_id``; ``human``, the mean over annotators of a = 1, tie = 1/2, b = 0; ``for_a`` and ``for_b``, the
    shares that name a side; ``annotators``; ``audit``, whether all labels are; ``inclusion_prob``.
    """
    value = pl.col("label").cast(pl.String).replace_strict({"a": 1.0, "tie": 0.5, "b": 0.0}, return_dtype=pl.Float64)
    return (
        given_by_people(labels)
        .group_by("pair_id")
        .agg(
            value.mean().alias("human"),
            (value == 1).mean().alias("for_a"),
            (value == 0).mean().alias("for_b"),
            pl.len().alias("annotators"),
            (pl.col("queue").cast(pl.String) == "audit").all().alias("audit"),
            pl.col("inclusion_prob").min().alias("inclusion_prob"),
        )
        .sort("pair_id")
    )


def lengths(samples: pl.DataFrame | pl.LazyFrame, *more: str) -> pl.DataFrame:
    """``sample_id``, ``characters`` and *more* columns of each answer; of a lazy frame no text is read."""
    found = samples.lazy().select("sample_id", "characters", *more).collect(engine="streaming")
    # Two generators of one model may have written the same words: that is one sample.
    return found if distinct(found["sample_id"]) else found.unique("sample_id", maintain_order=True)


def numbered(ids: pl.Series) -> npt.NDArray[np.int64]:
    """A number for each of *ids*, from 0 up without gaps, the same for equal ones; nothing else is meant by them."""
    found = _words(ids)
    if found is not None:
        words, keys = found
        index = Index.of(np.unique(keys))
        number = np.concatenate(in_blocks(len(keys), lambda at: index.places(keys[at])))
        seen = np.empty(number.max() + 1, np.int64)
        seen[number] = np.arange(len(ids))
        # Equal keys are equal ids, unless two ids begin with the same 16 digits.
        if all(in_blocks(len(ids), lambda at: np.array_equal(words.take(seen[number[at]], axis=0), words[at]))):
            return number
    return _joined(ids, ids.unique(maintain_order=True))


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
