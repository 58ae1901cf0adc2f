"""Nectar and other ranked lists: a ``prompt`` with ``answers`` of which each has a ``rank``, 1 the best. Pure.

Of ranks only the order counts: each two answers are a pair with the judgment 1, 0 or, of equal ranks, 1/2.
"""

from pipeline.importers.base import Asked, Batch, Conversation, Kind, Row, Table, columns_in, each
from pipeline.importers.reading.conversations import asked, conversation, transcript
from pipeline.importers.reading.ratings import Rated, compare
from pipeline.importers.reading.values import number_of, objects, plain, text_fault


def fits(row: Row, kind: Kind) -> int:
    """See ``pipeline.importers.base``."""
    del kind
    told = objects(row.get("answers"))
    return columns_in(row, "prompt", "answers") + 1 if told and columns_in(told[0], "answer", "rank") else 0


def read(table: Table, asked: Asked) -> Batch:
    """See ``pipeline.importers.base``."""
    batch = Batch(needs=("prompt", "answers"))
    return each(table, lambda row, where: _row(batch, row, where, asked), batch)


def _row(batch: Batch, row: Row, where: str, wanted: Asked) -> None:
    prompt = _prompt(row, where)
    told = [one for one in objects(row.get("answers")) or [] if not text_fault(one.get("answer"))]
    ranks = [number_of(one.get("rank")) for one in told]
    answers = [
        Rated(where, one["answer"], plain(one.get("model") or "imported"), None if rank is None else -rank)
        for one, rank in zip(told, ranks, strict=True)
    ]
    compare(batch, wanted, prompt, answers, ranks=True)


def _prompt(row: Row, where: str) -> Conversation:
    """A text, or a transcript that waits for the answer: its last turn is an empty `Assistant:`."""
    given = row.get("prompt")
    if not isinstance(given, str) or not given.lstrip().startswith("Human:"):
        return asked(given, row, where)
    chat = transcript(given)
    return conversation(chat[:-1] if chat[-1]["role"] == "assistant" else chat, row, where)
