"""What importers hand over, and reading JSON lines. Reads the user's file and nothing else."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pipeline.errors import DataError

Turn = tuple[str, str]
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Conversation:
    """A prompt as a file gives it."""

    where: str
    """File and line."""
    messages: tuple[Turn, ...]
    """(role, content) turns up to the first answer."""
    later_turns: tuple[str, ...] = ()
    """User turns that follow once the answer before them is there."""
    reference: str | None = None
    tags: tuple[str, ...] = ()


@dataclass
class Refused:
    """Rows that were read and cannot be used: (id, reason)."""

    rows: dict[str, str] = field(default_factory=dict[str, str])

    def add(self, row: str, reason: str) -> None:
        """Note the first reason for *row*."""
        self.rows.setdefault(row, reason)


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(1-based line, object) of every line that is not blank.

    Raises:
        DataError: the file is missing, empty or not UTF-8, or a line is no JSON object; names file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); give a UTF-8 file of one JSON object a line") from error
    if not any(line.strip() for line in lines):
        raise DataError(f"{path}: is empty; expected one JSON object a line")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value: object = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path}:{number}: is not JSON ({error}), found {line[:60]!r}; correct or delete the line"
            ) from error
        if not isinstance(value, dict):
            raise DataError(f"{path}:{number}: expected a JSON object, found {type(value).__name__}")
        yield number, cast("dict[str, Any]", value)


def text_fault(value: object) -> str | None:
    """Why *value* is no usable text: ``missing``, ``not_text``, ``empty`` or ``not_unicode``; None when it is."""
    if value is None:
        return "missing"
    if not isinstance(value, str):
        return "not_text"
    if not value.strip():
        return "empty"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "not_unicode"
    return None


def plain(value: object) -> str:
    """*value* as text that any file can hold: a lone surrogate becomes a question mark."""
    return str(value).encode(errors="replace").decode()


def turns_of(row: dict[str, Any]) -> tuple[tuple[Turn, ...], tuple[str, ...]] | str:
    """(messages, later user turns) of a row with ``messages``, ``turns`` or ``prompt``; or why there are none."""
    if "messages" in row:
        return _messages(row["messages"])
    if "turns" in row:
        turns = row["turns"]
        if not isinstance(turns, list) or not turns:
            return "turns_not_a_list"
        for turn in cast("list[object]", turns):
            if fault := text_fault(turn):
                return f"turn_{fault}"
        texts = cast("list[str]", turns)
        return (("user", texts[0]),), tuple(texts[1:])
    if fault := text_fault(row.get("prompt")):
        return f"prompt_{fault}"
    return (("user", cast("str", row["prompt"])),), ()


def _messages(value: object) -> tuple[tuple[Turn, ...], tuple[str, ...]] | str:
    if not isinstance(value, list) or not value:
        return "messages_not_a_list"
    turns: list[Turn] = []
    for entry in cast("list[object]", value):
        message = cast("dict[str, object]", entry) if isinstance(entry, dict) else {}
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            return "unknown_role"
        if fault := text_fault(content):
            return f"content_{fault}"
        turns.append((str(role), str(content)))
    return (tuple(turns), ()) if turns[-1][0] == "user" else "last_turn_not_user"
