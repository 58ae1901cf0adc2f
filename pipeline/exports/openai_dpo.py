"""Export `openai_dpo`: JSONL for OpenAI's preference fine-tuning (``method.type = dpo``). Writes one file."""

import json
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.turns import messages_of, tools_of


def export(rows: pl.DataFrame, path: Path, seed: int) -> Path:
    """Write *rows* (``pipeline.stages.export.dataset_rows``) as ``<path>.jsonl`` and return that file.

    Each line is ``{"input": {"messages", "tools", "parallel_tool_calls": true}, "preferred_output",
    "non_preferred_output"}`` with one assistant message in each output, and nothing else: the endpoint
    refuses keys it does not know. Sorted by ``pair_id``; *seed* is not used.
    """
    del seed
    target = path.with_name(f"{path.name}.jsonl")
    columns = ("messages", "whole", "chosen", "rejected")
    with target.open("w", encoding="utf-8") as file:
        for row in rows.sort("pair_id").select(columns).iter_rows(named=True):
            file.write(json.dumps(_line(row), ensure_ascii=False, separators=(",", ":")) + "\n")
    return target


def _line(row: dict[str, Any]) -> dict[str, Any]:
    asked = {"messages": messages_of(row["messages"], row["whole"]), "tools": tools_of(row["whole"])}
    preferred, other = ([{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected"))
    return {
        "input": {**asked, "parallel_tool_calls": True},
        "preferred_output": preferred,
        "non_preferred_output": other,
    }
