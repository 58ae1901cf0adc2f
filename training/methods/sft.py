"""Supervised fine-tuning, by TRL: on the chosen answers, or on conversations of the user's own.

Of a conversation every assistant turn is learned from, and nothing else. Reads the dataset or the file.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, cast

from pipeline import ids
from pipeline.config import ConfigPath
from pipeline.engines.local_models import chat_tokens
from pipeline.errors import DataError
from training import rows as dataset_rows
from training.base import Lesson
from training.rows import IGNORED, Row, Tokens
from training.trl import TrlMethod, TrlOptions


class SftMethod(TrlMethod):
    """SFT on the chosen answers of ``dataset/trl_dpo``, or on a file of conversations."""

    class Options(TrlOptions):
        """Keys of ``method: sft``."""

        method: str = "sft"
        """`sft`."""
        conversations: ConfigPath | None = None
        """JSON lines of `{"messages": [{"role", "content"}]}` to learn from instead of the chosen answers."""

    options: Options
    rates: ClassVar[tuple[float, float]] = (2e-4, 2e-5)

    @property
    def reads(self) -> tuple[str, ...]:
        """See Method."""
        own = self.options.conversations
        return super().reads if own is None else (str(own.resolve()),)

    def read(self, lesson: Lesson) -> tuple[list[Row], list[Row]]:
        """See TrlMethod. An answer that is chosen in several pairs is one row; a file has no test split."""
        if self.options.conversations is not None:
            return list(conversations(self.options.conversations)), []
        train, test = super().read(lesson)
        return _once(train), _once(test)

    def tokens(self, tokenizer: Any, row: Row) -> Tokens:
        """``input_ids``, and ``labels``: the same, or IGNORED where nothing is learned."""
        if "messages" in row:
            return conversation_tokens(tokenizer, row["messages"])
        prompt, (answer,) = dataset_rows.cut(tokenizer, row["prompt"], [row["chosen"]])
        return {"input_ids": [*prompt, *answer], "labels": [IGNORED] * len(prompt) + answer}

    def fault(self, row: Row, tokens: Tokens, ends: frozenset[int]) -> str | None:
        """See TrlMethod. A step that is chosen has no end."""
        step = "prompt" in row and dataset_rows.continued(row["prompt"])
        runs = [list(run) for learned, run in groupby(tokens["labels"], lambda label: label != IGNORED) if learned]
        if len(tokens["labels"]) > self.options.max_length:
            return "too_long"
        faults = (dataset_rows.row_fault([], run, ends, self.options.max_length, step=step) for run in runs)
        return next((fault for fault in faults if fault is not None), None)

    def example(self, row: Row) -> Row:
        """See TrlMethod."""
        return {name: row[name] for name in ("input_ids", "labels")}

    def build(self, made: dict[str, Any]) -> Any:
        """See TrlMethod."""
        from training.trainers import trl

        return trl.SFTTrainer(**{**made, "args": trl.SFTConfig(**made["args"])})


def conversations(path: Path) -> Iterator[Row]:
    """Rows of a file: ``pair_id`` (a hash of the content) and ``messages``.

    Raises:
        DataError: a line is not a conversation with an assistant's turn.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); give a file of JSON lines") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            messages = cast("list[dict[str, Any]]", json.loads(line)["messages"])
            turns = [(turn["role"], turn["content"]) for turn in messages]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}:{number}: is no conversation ({type(error).__name__}: {error}); each line is "
                '{"messages": [{"role": ..., "content": ...}, ...]}'
            ) from error
        if not any(role == "assistant" for role, _ in turns) or not all(isinstance(text, str) for _, text in turns):
            raise DataError(
                f"{path}:{number}: has no assistant's turn to learn from, or a turn whose content is no text; found "
                f"roles {[role for role, _ in turns]}"
            )
        yield {
            "pair_id": ids.content_hash("conversation", *(part for turn in turns for part in turn)),
            "messages": [{"role": role, "content": text} for role, text in turns],
        }


def conversation_tokens(tokenizer: Any, messages: Sequence[Row]) -> Tokens:
    """``input_ids`` and ``labels`` of a conversation: each assistant's turn, from where it begins to where it ends."""
    whole = chat_tokens(tokenizer, messages)
    labels = [IGNORED] * len(whole)
    for at, turn in enumerate(messages):
        if turn["role"] == "assistant":
            opened = chat_tokens(tokenizer, messages[:at], add_generation_prompt=True) if at else []
            closed = chat_tokens(tokenizer, messages[: at + 1])
            begin, end = dataset_rows.shared(opened, whole), dataset_rows.shared(closed, whole)
            labels[begin:end] = whole[begin:end]
    return {"input_ids": whole, "labels": labels}


def _once(rows: Sequence[Row]) -> list[Row]:
    seen: dict[str, Row] = {}
    for row in rows:
        seen.setdefault(json.dumps([row["prompt"], row["chosen"]]), row)
    return list(seen.values())
