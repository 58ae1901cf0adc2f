"""Export `kto`: Parquet of single answers labelled good or bad, in the order KTO needs. Writes one file."""

from pathlib import Path

import polars as pl

from pipeline import ids
from pipeline.turns import exported

SIDES = ("chosen", "rejected")
SINGLE = True
"""Rows may hold one answer alone: the other side is null."""


def export(rows: pl.DataFrame, path: Path, seed: int) -> Path:
    """Write *rows* (``pipeline.stages.export.dataset_rows``) as ``<path>.parquet`` and return that file.

    Columns: ``prompt`` [{role, content}], ``completion`` (one assistant message), ``label`` (true: chosen),
    ``pair_id``; two rows a pair, and one for an answer that is in none.

    TRL's KTO reads rows in order and estimates its KL term by pairing each prompt with the completion of the
    row before. So good and bad rows are shuffled apart, by a hash of *seed*, pair and label, and then
    alternate in blocks of one each whose order the hash decides: every prefix of two rows or more holds both
    classes and their counts never differ by more than one, and a pair's two answers rarely stand together.
    """
    target = path.with_name(f"{path.name}.parquet")
    told = exported(rows)
    blocks = pl.concat([_shuffled(told.filter(pl.col(side).is_not_null()), side, seed) for side in SIDES])
    columns = ("prompt", *(["tools"] if "tools" in told.columns else []), "completion", "label", "pair_id")
    blocks.sort("block", "turn", "pair_id").select(columns).write_parquet(target)
    return target


def _shuffled(rows: pl.DataFrame, side: str, seed: int) -> pl.DataFrame:
    """One class as rows of its own in drawn order, ``block`` counting from 0."""
    draws = [ids.uniform_from(seed, "kto", side, pair) for pair in rows["pair_id"]]
    # Drawn apart: rows stand in the order of their draws, so whichever class leads by them leads for many blocks.
    turns = [ids.uniform_from(seed, "kto-turn", side, pair) for pair in rows["pair_id"]]
    message = pl.struct(pl.lit("assistant").alias("role"), pl.col(side).alias("content"))
    return (
        rows.select(
            pl.col("messages").alias("prompt"),
            *(["tools"] if "tools" in rows.columns else []),
            pl.concat_list(message).alias("completion"),
            pl.lit(side == "chosen").alias("label"),
            "pair_id",
            pl.Series("draw", draws, dtype=pl.Float64),
            pl.Series("turn", turns, dtype=pl.Float64),
        )
        .sort("draw", "pair_id")
        .with_row_index("block")
    )
