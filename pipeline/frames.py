"""Shapes that several stages share: conversations, shards of prompts, pairs with their text. Pure."""

import math
from collections.abc import Mapping, Sequence

import polars as pl

from pipeline.arrays import MOST_BITS, distinct
from pipeline.ids import HALF
from pipeline.schemas import GOLD

LONGEST_RATIO = 3.0
"""Log length ratios, in nats or in units of their spread, are cut here: no empty-looking answer decides alone."""
SHARD_PROMPTS = 128
"""Prompts in a shard, about, and more where there would be too many shards."""


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
