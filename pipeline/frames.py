"""Shapes that several stages share: conversations, shards of prompts, pairs with their text. Pure."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

SHARD_PROMPTS = 128
"""Prompts in a shard, about."""
MANY = 16
GOLD = "gold"
"""The annotator that stands for a known answer, and the queue such labels are in."""


def conversation(messages: Sequence[Mapping[str, str]]) -> tuple[tuple[str, str], ...]:
    """[{role, content}] as (role, content) turns."""
    return tuple((message["role"], message["content"]) for message in messages)


def bucketed(rows: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    """*rows* split by the leading bits of ``prompt_id`` into (name, rows) of about SHARD_PROMPTS prompts.

    The number of buckets is a power of two, so one more prompt changes one bucket only.
    """
    count = rows["prompt_id"].n_unique()
    bits = max(0, math.ceil(math.log2(max(count, 1) / SHARD_PROMPTS)))
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
    return found if found["sample_id"].n_unique() == found.height else found.unique("sample_id", maintain_order=True)


def numbered(ids: pl.Series) -> npt.NDArray[np.int64]:
    """A number for each of *ids*, the same for equal ones: 0 for the first, 1 for the next that differs, ..."""
    return positions(ids, ids.unique(maintain_order=True))


def positions(wanted: pl.Series, known: pl.Series) -> npt.NDArray[np.int64]:
    """Position in *known*, whose values are unique, of each of *wanted*; -1 where there is none."""
    if len(wanted) == len(known) and (wanted == known).all():
        return np.arange(len(known))
    places = np.arange(len(known))
    if len(wanted) < len(known) // MANY:
        # To look through all for a few is quicker than to index all.
        places = np.flatnonzero(known.is_in(wanted.unique().implode()).to_numpy())
        known = known.gather(places)
    joined = pl.DataFrame({"id": wanted}).join(
        pl.DataFrame({"id": known, "at": places}), on="id", how="left", maintain_order="left"
    )
    return joined["at"].fill_null(-1).to_numpy()
