"""Chats as OpenAI stores them: whole ``messages``, or a request beside its ``choices``. Pure.

The last assistant turn is an answer to what stands before it; each of several choices is one.
"""

from typing import Any, cast

from pipeline.importers.base import Asked, Batch, Kind, Row, SampleRow, Table, each, first_of
from pipeline.importers.reading.conversations import ASKING, ROLES, Message, answered, conversation, messages_of
from pipeline.importers.reading.values import listed, name_of, objects, plain

REQUEST, RESPONSE = ("request", "input", "body"), ("response", "output")
CHATS = ("messages", "conversation")


def fits(row: Row, kind: Kind) -> int:
    """See ``pipeline.importers.base``."""
    del kind
    messages, choices = _messages(row), _choices(row)
    if choices:
        return 1 + bool(messages) + ("model" in row)
    roles = [ROLES.get(str(message.get("role"))) for message in messages]
    # One that ends with a question speaks for our own prompts as well.
    return ("user" in roles) * (1 + (roles[-1:] == ["assistant"]))


def read(table: Table, asked: Asked) -> Batch:
    """See ``pipeline.importers.base``."""
    batch = Batch(needs=("messages",))
    return each(table, lambda row, where: _chat(batch, row, where, asked), batch)


def _chat(batch: Batch, row: Row, where: str, asked: Asked) -> None:
    messages, choices = messages_of(_messages(row)), _choices(row)
    model = plain(row.get("model") or _inner(row, REQUEST).get("model") or "imported")
    given = name_of(row.get("id"))
    told = {**_inner(row, REQUEST), **row}
    if asked.kind == "prompts" and messages[-1]["role"] in ASKING:
        batch.prompts.append(conversation(messages, told, where))
        return
    ends: list[list[Message]] = [[message] for message in choices] if choices else [[]]
    made: list[SampleRow] = []
    for end in ends:
        chat = [*messages, *(messages_of(end) if end else [])]
        made.append(SampleRow(*answered(chat, told, where), model, given))
    batch.samples += made


def _inner(row: Row, names: tuple[str, ...]) -> Row:
    given = listed(first_of(row, names))
    return cast("Row", given) if isinstance(given, dict) else {}


def _messages(row: Row) -> list[Message]:
    inner = first_of(row, REQUEST)
    given: object = first_of(row, CHATS) or _inner(row, REQUEST).get("messages") or inner
    return objects(given) or []


def _choices(row: Row) -> list[Message]:
    """The messages of a completion's choices."""
    given = objects(row.get("choices")) or objects(_inner(row, RESPONSE).get("choices")) or []
    told = [cast("Any", choice.get("message")) for choice in given]
    return [cast("Message", message) for message in told if isinstance(message, dict)]
