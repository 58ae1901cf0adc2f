"""Export `trl_dpo`: Parquet for TRL's DPO family, conversational, explicit prompt. Writes one file."""

from pathlib import Path

import polars as pl

from pipeline.turns import exported

EXTRA = (
    "margin",
    "p_chosen",
    "judges",
    "agreement",
    "chosen_model",
    "rejected_model",
    "chosen_temperature",
    "rejected_temperature",
    "chosen_finish_reason",
    "rejected_finish_reason",
    "pair_id",
    "prompt_id",
)


def export(rows: pl.DataFrame, path: Path, seed: int) -> Path:
    """Write *rows* (``pipeline.stages.export.dataset_rows``) as ``<path>.parquet`` and return that file.

    Columns: ``prompt`` [{role, content}], ``chosen`` and ``rejected`` (each one assistant message and nothing
    of the prompt), ``tools`` where some prompt has tools, then where the pair comes from: ``margin`` and
    ``p_chosen`` (probabilities), ``judges``, ``agreement``, models, temperatures, how each answer ended, ids, and the
    reasoning where it was asked for. Sorted by
    ``pair_id``; *seed* is not used.
    """
    del seed
    target = path.with_name(f"{path.name}.parquet")
    role = pl.lit("assistant").alias("role")
    told = exported(rows.sort("pair_id"))
    told.select(
        pl.col("messages").alias("prompt"),
        *(["tools"] if "tools" in told.columns else []),
        *(
            pl.concat_list(pl.struct(role, pl.col(side).alias("content"))).alias(side)
            for side in ("chosen", "rejected")
        ),
        *EXTRA,
        *(name for name in ("chosen_reasoning", "rejected_reasoning") if name in rows.columns),
    ).write_parquet(target)
    return target
