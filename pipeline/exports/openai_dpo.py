"""Export `openai_dpo`: JSONL for OpenAI's preference fine-tuning (``method.type = dpo``). Writes one file."""

from pathlib import Path

import polars as pl


def export(rows: pl.DataFrame, path: Path, seed: int) -> Path:
    """Write *rows* (``pipeline.stages.export.dataset_rows``) as ``<path>.jsonl`` and return that file.

    Each line is ``{"input": {"messages", "tools": [], "parallel_tool_calls": true}, "preferred_output",
    "non_preferred_output"}`` with one assistant message in each output, and nothing else: the endpoint
    refuses keys it does not know. Sorted by ``pair_id``; *seed* is not used.
    """
    del seed
    target = path.with_name(f"{path.name}.jsonl")
    role = pl.lit("assistant").alias("role")
    rows.sort("pair_id").select(
        pl.struct(
            pl.col("messages"),
            pl.lit([], dtype=pl.List(pl.String)).alias("tools"),
            pl.lit(value=True).alias("parallel_tool_calls"),
        ).alias("input"),
        pl.concat_list(pl.struct(role, pl.col("chosen").alias("content"))).alias("preferred_output"),
        pl.concat_list(pl.struct(role, pl.col("rejected").alias("content"))).alias("non_preferred_output"),
    ).write_ndjson(target)
    return target
