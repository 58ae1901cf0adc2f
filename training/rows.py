"""Rows that a trainer can learn from: read from the dataset, as tokens, or left out by name. Reads the dataset.

Rows are tokenised here, once, for every method. A row that the trainer would cut or misread is left out: ``too_long``
(the answer's end would be cut off, so the model would learn not to stop) and ``end_inside`` (an answer spells the end
token).
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import polars as pl

from pipeline.engines.local_models import chat_tokens
from pipeline.errors import StageError

TRAIN, TEST = "dataset/trl_dpo/train.parquet", "dataset/trl_dpo/test.parquet"
SIDES = ("chosen", "rejected")
Row = dict[str, Any]
Tokens = dict[str, list[int]]


def pairs(path: Path) -> list[Row]:
    """Rows of a split of the export `trl_dpo`; of a test split that is not there, none.

    Raises:
        StageError: there is no such file, or an answer is not one assistant message.
    """
    if not path.is_file():
        if path.name == Path(TEST).name:
            return []
        raise StageError(
            f"{path} does not exist; it is the export `trl_dpo` that is trained on: add trl_dpo to `export`, then run "
            "`jurybox export`"
        )
    rows = pl.read_parquet(path).to_dicts()
    for row in rows:
        for side in SIDES:
            if [message["role"] for message in row[side]] != ["assistant"]:
                raise StageError(
                    f"{path}: {side} of pair {row['pair_id']} is not exactly one assistant message; "
                    "run `jurybox export` again"
                )
    return rows


def pair_tokens(tokenizer: Any, row: Row) -> Tokens:
    """``prompt_ids``, ``chosen_ids``, ``rejected_ids``: as TRL cuts them, where prompt and conversation diverge."""
    prompt = chat_tokens(tokenizer, row["prompt"], add_generation_prompt=True)
    wholes = [chat_tokens(tokenizer, [*row["prompt"], *row[side]]) for side in SIDES]
    at = min(shared(prompt, whole) for whole in wholes)
    return {"prompt_ids": prompt[:at], "chosen_ids": wholes[0][at:], "rejected_ids": wholes[1][at:]}


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning of two sequences."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def row_fault(prompt: Sequence[int], answer: Sequence[int], ends: frozenset[int], max_length: int) -> str | None:
    """Why an answer cannot be learned from: ``no_end``, ``end_inside``, ``too_long``; None when it can.

    Args:
        prompt: tokens before the answer.
        answer: tokens of the answer.
        ends: tokens that end an answer; there must be exactly one in it (TRL #4481, #1541).
        max_length: tokens that the trainer keeps.
    """
    count = sum(token in ends for token in answer)
    if count != 1:
        return "end_inside" if count else "no_end"
    return "too_long" if len(prompt) + len(answer) > max_length else None


def dataset(rows: Iterable[Mapping[str, Any]]) -> Any:
    """*rows* as a ``datasets.Dataset``."""
    import datasets

    untyped: Any = datasets
    return untyped.Dataset.from_list([dict(row) for row in rows])


def counts(dropped: Mapping[str, str]) -> dict[str, int]:
    """Reason -> how many rows."""
    reasons = sorted(cast("Iterable[str]", dropped.values()))
    return {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}
