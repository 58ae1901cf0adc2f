"""OpenAI's preference data for DPO: ``input``, ``preferred_output`` and ``non_preferred_output``. Pure."""

from typing import cast

from pipeline.importers.base import Asked, Batch, Kind, PairRow, Row, Table, columns_in, each
from pipeline.importers.reading.conversations import answer_of, conversation, messages_of
from pipeline.importers.reading.values import listed

OUTPUTS = ("preferred_output", "non_preferred_output")


def fits(row: Row, kind: Kind) -> int:
    """See ``pipeline.importers.base``."""
    del kind
    return columns_in(row, "input", *OUTPUTS)


def read(table: Table, asked: Asked) -> Batch:
    """See ``pipeline.importers.base``."""
    batch = Batch(needs=("input", *OUTPUTS))
    return each(table, lambda row, where: _pair(batch, row, where, asked), batch)


def _pair(batch: Batch, row: Row, where: str, asked: Asked) -> None:
    given = listed(row.get("input"))
    told = cast("Row", given) if isinstance(given, dict) else {}
    prompt = conversation(messages_of(told.get("messages")), {**row, **told}, where)
    chosen, rejected = (answer_of(row.get(name), name) for name in OUTPUTS)
    batch.vote(asked, PairRow(prompt, None, chosen, rejected, "imported", "imported"), "a")
