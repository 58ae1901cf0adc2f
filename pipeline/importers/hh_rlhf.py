"""Anthropic's HH-RLHF: ``chosen`` and ``rejected`` are whole transcripts that differ in the last answer. Pure."""

from pipeline.importers.base import Asked, Batch, Kind, PairRow, Row, Table, Unusable, each
from pipeline.importers.reading.conversations import conversation, text_of, transcript, turns_of

SIDES = ("chosen", "rejected")
START = "Human:"


def fits(row: Row, kind: Kind) -> int:
    """See ``pipeline.importers.base``."""
    del kind
    told = all(isinstance(row.get(side), str) and row[side].lstrip().startswith(START) for side in SIDES)
    # One more than the two columns say: their content is plain too.
    return (len(SIDES) + 1) * told


def read(table: Table, asked: Asked) -> Batch:
    """See ``pipeline.importers.base``."""
    batch = Batch(needs=SIDES)
    return each(table, lambda row, where: _pair(batch, row, where, asked), batch)


def _pair(batch: Batch, row: Row, where: str, asked: Asked) -> None:
    one, other = (transcript(text_of(row.get(side), side)) for side in SIDES)
    if turns_of(one[:-1]) != turns_of(other[:-1]):
        raise Unusable("earlier_answers_differ")
    if one[-1]["role"] != "assistant" or other[-1]["role"] != "assistant":
        raise Unusable("no_answer")
    chosen, rejected = (text_of(chat[-1]["content"], side) for chat, side in zip((one, other), SIDES, strict=True))
    pair = PairRow(conversation(one[:-1], row, where), None, chosen, rejected, "imported", "imported")
    batch.vote(asked, pair, "a")
