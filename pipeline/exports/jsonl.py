"""Export `jsonl`: plain strings, one JSON object a line, for trainers without chat. Writes one file."""

from pathlib import Path

import polars as pl

from pipeline.transcript import transcript


def export(rows: pl.DataFrame, path: Path, seed: int) -> Path:
    """Write *rows* (``pipeline.stages.export.dataset_rows``) as ``<path>.jsonl`` and return that file.

    Keys: ``prompt`` (a lone user turn is its own words, other conversations are labelled by role), ``chosen``,
    ``rejected``, their reasoning where it was asked for, ``pair_id``. Sorted by ``pair_id``; *seed* is not used.
    """
    del seed
    target = path.with_name(f"{path.name}.jsonl")
    ordered = rows.sort("pair_id")
    prompts = [
        transcript([(message["role"], message["content"]) for message in messages])
        for messages in ordered["messages"].to_list()
    ]
    prompt = pl.Series("prompt", prompts, dtype=pl.String)
    kept = [name for name in ("chosen_reasoning", "rejected_reasoning") if name in rows.columns]
    ordered.select(prompt, "chosen", "rejected", *kept, "pair_id").write_ndjson(target)
    return target
