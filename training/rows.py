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
IGNORED = -100
"""Label of a token that is not learned."""
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
    """``prompt_ids``, ``chosen_ids``, ``rejected_ids``: see :func:`cut`."""
    prompt, (chosen, rejected) = cut(tokenizer, row["prompt"], [row[side] for side in SIDES])
    return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}


def cut(tokenizer: Any, prompt: list[Row], answers: Sequence[list[Row]]) -> tuple[list[int], list[list[int]]]:
    """(tokens of the prompt, of each answer), as TRL cuts them: where prompt and conversation diverge.

    A prompt that ends in an assistant's turn is continued: an answer goes on in that turn and no end token follows.
    """
    if continued(prompt):
        opened = prompt[-1]["content"]
        turns = [[*prompt[:-1], {**prompt[-1], "content": opened + answer[0]["content"]}] for answer in answers]
        before = chat_tokens(tokenizer, prompt, continue_final_message=True)
        wholes = [chat_tokens(tokenizer, turn, continue_final_message=True) for turn in turns]
    else:
        before = chat_tokens(tokenizer, prompt, add_generation_prompt=True)
        wholes = [chat_tokens(tokenizer, [*prompt, *answer]) for answer in answers]
    at = min(shared(before, whole) for whole in wholes)
    return before[:at], [whole[at:] for whole in wholes]


def continued(prompt: Sequence[Row]) -> bool:
    """Whether answers go on in the last turn of *prompt*."""
    return prompt[-1]["role"] == "assistant"


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning of two sequences."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def row_fault(
    prompt: Sequence[int], answer: Sequence[int], ends: frozenset[int], max_length: int, *, step: bool = False
) -> str | None:
    """Why an answer cannot be learned from: ``no_end``, ``end_inside``, ``too_long``; None when it can.

    Args:
        prompt: tokens before the answer.
        answer: tokens of the answer.
        ends: tokens that end an answer; there must be exactly one in it (TRL #4481, #1541).
        max_length: tokens that the trainer keeps.
        step: the answer is a step of a turn that goes on, so no end belongs in it.
    """
    count = sum(token in ends for token in answer)
    if step and count:
        return "end_inside"
    if count != 1 and not step:
        return "end_inside" if count else "no_end"
    return "too_long" if len(prompt) + len(answer) > max_length else None


def dataset(rows: Iterable[Mapping[str, Any]]) -> Any:
    """*rows* as a ``datasets.Dataset``."""
    import datasets

    untyped: Any = datasets
    return untyped.Dataset.from_list([dict(row) for row in rows])


def splits(parts: Mapping[str, Iterable[Mapping[str, Any]]]) -> Any:
    """*parts* as a ``datasets.DatasetDict``; None of none."""
    import datasets

    untyped: Any = datasets
    return untyped.DatasetDict({name: dataset(rows) for name, rows in parts.items()}) if parts else None


def counts(dropped: Mapping[str, str]) -> dict[str, int]:
    """Reason -> how many rows."""
    reasons = sorted(cast("Iterable[str]", dropped.values()))
    return {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}
