"""ShareGPT's chats: ``conversations`` of {from, value}, or of {role, content}. Pure.

As prompts they are what stands before the last answer; as samples, that answer too.
"""

from pipeline.importers.base import Asked, Batch, Kind, Row, SampleRow, Table, each, first_of
from pipeline.importers.reading.conversations import ASKING, answered, asked, led, messages_of
from pipeline.importers.reading.values import name_of, objects, plain

CHAT = ("conversations", "conversation", "items")


def fits(row: Row, kind: Kind) -> int:
    """See ``pipeline.importers.base``."""
    del kind
    told = objects(first_of(row, CHAT))
    return 2 * bool(told and ({"from", "value"} <= told[0].keys() or {"role", "content"} <= told[0].keys()))


def read(table: Table, asked: Asked) -> Batch:
    """See ``pipeline.importers.base``."""
    batch = Batch(needs=("|".join(CHAT),))
    return each(table, lambda row, where: _chat(batch, row, where, asked), batch)


def _chat(batch: Batch, row: Row, where: str, wanted: Asked) -> None:
    messages = messages_of(first_of(row, CHAT))
    system = row.get("system")
    if wanted.kind == "prompts" and messages[-1]["role"] in ASKING:
        batch.prompts.append(asked(messages, row, where, system=system))
        return
    split = answered(led(system, messages), row, where)
    batch.samples.append(SampleRow(*split, plain(row.get("model") or "imported"), name_of(row.get("id"))))
