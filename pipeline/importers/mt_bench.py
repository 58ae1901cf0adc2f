"""MT-Bench's ``question.jsonl``: question_id, category, turns; its human judgments have the shape ``arena``. Pure."""

from dataclasses import replace
from typing import cast

from pipeline.importers import arena
from pipeline.importers.base import Asked, Batch, Kind, Row, Table, columns_in, each
from pipeline.importers.jsonl import prompt_of
from pipeline.importers.reading.values import plain


def fits(row: Row, kind: Kind) -> int:
    """See ``pipeline.importers.base``."""
    del kind
    return columns_in(row, "question_id", "category", "turns")


def read(table: Table, asked: Asked) -> Batch:
    """See ``pipeline.importers.base``: one conversation a question; its second turn waits for an answer."""
    if any("winner" in row for _, row in table.rows):
        return arena.read(table, asked)
    batch = Batch(needs=("turns",))
    return each(table, lambda row, where: _question(batch, row, where), batch)


def _question(batch: Batch, row: Row, where: str) -> None:
    made = prompt_of({"turns": row.get("turns")}, where)
    answers = row.get("reference")
    references = cast("list[object]", answers) if isinstance(answers, list) else []
    first = str(references[0]) if references else None
    batch.prompts.append(replace(made, reference=first, tags=(plain(row.get("category", "mt_bench")),)))
