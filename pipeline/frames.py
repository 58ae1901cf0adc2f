"""Shapes that several stages share: conversations, shards of prompts, pairs with their text. Pure."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

SHARD_PROMPTS = 128
"""Prompts in a shard, about."""
MANY = 16
BLOCK = 1 << 17
GOLD = "gold"
"""The annotator that stands for a known answer, and the queue such labels are in."""


def conversation(messages: Sequence[Mapping[str, str]]) -> tuple[tuple[str, str], ...]:
    """[{role, content}] as (role, content) turns."""
    return tuple((message["role"], message["content"]) for message in messages)


def bucketed(rows: pl.DataFrame, prompts: float | None = None) -> list[tuple[str, pl.DataFrame]]:
    """*rows* split by the leading bits of ``prompt_id`` into (name, rows) of about *prompts* prompts, or SHARD_PROMPTS.

    The number of buckets is a power of two, so one more prompt changes one bucket only.
    """
    count = rows["prompt_id"].n_unique()
    bits = max(0, math.ceil(math.log2(max(count, 1) / (prompts or SHARD_PROMPTS))))
    digits = pl.col("prompt_id").str.slice(0, 4).str.to_integer(base=16, strict=True)
    bucket = (digits // 2 ** (16 - bits)).alias("bucket")
    parts = rows.with_columns(bucket).partition_by("bucket", as_dict=True, include_key=False)
    return [(f"{int(key[0]):04d}of{2**bits:04d}", part) for key, part in sorted(parts.items())]


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


def lengths(samples: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
    """``sample_id`` and ``length``, the characters of its completion; of a lazy frame no text is held."""
    counted = samples.lazy().select("sample_id", pl.col("completion").str.len_chars().cast(pl.Int64).alias("length"))
    found = counted.collect(engine="streaming")
    # Two generators of one model may have written the same words: that is one sample.
    return found if distinct(found["sample_id"]) else found.unique("sample_id", maintain_order=True)


def numbered(ids: pl.Series) -> npt.NDArray[np.int64]:
    """A number for each of *ids*, from 0 up without gaps, the same for equal ones; nothing else is meant by them."""
    found = _words(ids)
    if found is not None:
        words, keys = found
        known = np.unique(keys)
        number = _searched(keys, known)
        seen = np.empty(len(known), np.int64)
        seen[number] = np.arange(len(ids))
        if np.array_equal(words.take(seen.take(number), axis=0), words):
            return number
    return _joined(ids, ids.unique(maintain_order=True))


def positions(wanted: pl.Series, known: pl.Series) -> npt.NDArray[np.int64]:
    """Position in *known*, whose values are unique, of each of *wanted*; -1 where there is none."""
    if len(wanted) == len(known) and (wanted == known).all():
        return np.arange(len(known))
    if len(wanted) < len(known) // MANY:
        # To look through all for a few is quicker than to index all.
        places = np.flatnonzero(known.is_in(wanted.unique().implode()).to_numpy())
        return np.append(places, -1)[_joined(wanted, known.gather(places))]
    there = _words(known)
    if there is None:
        return _joined(wanted, known)
    known_words, known_keys = there
    order = None
    if not (known_keys[1:] > known_keys[:-1]).all():
        order = np.argsort(known_keys, kind="stable")
        known_keys, known_words = known_keys[order], known_words.take(order, axis=0)
        if (known_keys[1:] == known_keys[:-1]).any():
            return _joined(wanted, known)
    found = np.empty(len(wanted), np.int64)
    # Block by block: what is made on the way stays in the processor's cache.
    for start in range(0, len(wanted), BLOCK):
        sought = _words(wanted.slice(start, BLOCK))
        if sought is None:
            return _joined(wanted, known)
        at = np.minimum(_searched(sought[1], known_keys), len(known) - 1)
        same = (known_words.take(at, axis=0) == sought[0]).all(axis=1)
        found[start : start + BLOCK] = np.where(same, at if order is None else order[at], -1)
    return found


def distinct(ids: pl.Series) -> bool:
    """Whether no id is there twice; of sorted ids only neighbours are compared."""
    if ids.is_sorted():
        return not (ids == ids.shift(1)).any()
    return ids.n_unique() == len(ids)


def _words(ids: pl.Series) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]] | None:
    """(ids, 4) the bytes of each id as four numbers, and (ids,) what its first 16 digits spell, in the ids' order.

    Numbers are compared and looked up many times faster than strings. None where one of them is no id of 32 digits.
    """
    words = ids.cast(pl.Binary).bin.reinterpret(dtype=pl.Array(pl.UInt64, 4))
    keys = ids.str.head(16).str.to_integer(base=16, dtype=pl.UInt64, strict=False)
    if words.null_count() or keys.null_count() or not len(ids):
        return None
    return words.to_numpy(), keys.to_numpy()


def _searched(keys: npt.NDArray[np.uint64], known: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Where the first of *known*, which rises, that is not below the key stands, for each of *keys*.

    Ids are hashes: their leading bits tell the place but for a few steps, where a search would take twenty.
    """
    bits = len(known).bit_length()
    shift = np.uint64(64 - bits)
    starts = np.searchsorted(known, np.arange(1 << bits, dtype=np.uint64) << shift)
    if np.diff(starts, append=len(known)).max() > MANY:
        return np.searchsorted(known, keys)
    at = starts[(keys >> shift).astype(np.int64)]
    padded = np.append(known, np.iinfo(np.uint64).max)
    left = np.flatnonzero(padded[at] < keys)
    while len(left):
        at[left] += 1
        left = left[padded[at[left]] < keys[left]]
    return at


def _joined(wanted: pl.Series, known: pl.Series) -> npt.NDArray[np.int64]:
    joined = pl.DataFrame({"id": wanted}).join(
        pl.DataFrame({"id": known, "at": np.arange(len(known))}), on="id", how="left", maintain_order="left"
    )
    return joined["at"].fill_null(-1).to_numpy()
