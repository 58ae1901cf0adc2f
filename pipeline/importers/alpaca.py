"""Alpaca's instructions: ``instruction``, optional ``input`` and ``output``. Pure.

The output, where there is one, is an answer.
"""

from pipeline.importers.alpaca_eval import prompt_of
from pipeline.importers.base import Asked, Batch, Kind, Row, SampleRow, Table, each
from pipeline.importers.reading.conversations import text_of


def fits(row: Row, kind: Kind) -> int:
    """See ``pipeline.importers.base``."""
    del kind
    return "instruction" in row and 1 + ("input" in row) + ("output" in row)


def read(table: Table, asked: Asked) -> Batch:
    """See ``pipeline.importers.base``."""
    batch = Batch(needs=("instruction",) if asked.kind == "prompts" else ("instruction", "output"))
    return each(table, lambda row, where: _row(batch, row, where, asked), batch)


def _row(batch: Batch, row: Row, where: str, asked: Asked) -> None:
    prompt = prompt_of(row, where)
    if asked.kind == "prompts":
        batch.prompts.append(prompt)
    else:
        batch.samples.append(SampleRow(prompt, text_of(row.get("output"), "output"), "imported", None))
