"""Importer: ``question_text`` and, where known, ``known_answer``. Reads the user's file where it is the user's own.

``fits`` and ``read`` make it one of the house; a config names ``read_prompts`` as ``./questions.py:read_prompts``.
"""

from pathlib import Path

from pipeline.importers.base import Asked, Batch, Conversation, Kind, Refused, Row, Table, Unusable, each
from pipeline.importers.reading.tables import json_lines


def fits(row: Row, kind: Kind) -> int:
    """See ``pipeline.importers.base``."""
    return kind == "prompts" and "question_text" in row and 1 + ("known_answer" in row)


def read(table: Table, asked: Asked) -> Batch:
    """See ``pipeline.importers.base``; a row without a question is refused as ``no_question``."""
    del asked
    batch = Batch(needs=("question_text",))
    return each(table, lambda row, where: batch.prompts.append(_prompt(row, where)), batch)


def read_prompts(path: Path) -> tuple[list[Conversation], Refused]:
    """One conversation a row of a file of JSON lines, and the rows that cannot be used."""
    table = Table(path.name, [(f"{path.name}:{number}", row) for number, row in json_lines(path)], ("question_text",))
    batch = read(table, Asked("prompts", path.name))
    return batch.prompts, batch.refused


def _prompt(row: Row, where: str) -> Conversation:
    if not row.get("question_text"):
        raise Unusable("no_question")
    return Conversation(where, (("user", str(row["question_text"])),), (), row.get("known_answer"))
