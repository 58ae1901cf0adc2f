"""Conversations as files spell them: a text, messages of OpenAI or ShareGPT, transcripts, content in parts. Pure.

What cannot be used raises ``Unusable``; the reasons are ``messages_not_a_list``, ``unknown_role``, ``content_empty``
(or ``_missing``, ``_not_text``, ``_not_unicode``), ``image_part`` (or whatever else a part is), ``last_turn_not_user``,
``no_answer``, ``no_transcript`` and those that begin with the column's name.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, cast

from pipeline.importers.base import Conversation, Row, Turn, Unusable
from pipeline.importers.reading.values import listed, objects, plain, text_fault
from pipeline.turns import called, packed, with_tools

ROLES = {
    **{role: role for role in ("system", "developer", "user", "assistant", "tool", "function")},
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "bot", "chatbot", "model", "chatgpt", "function_call"), "assistant"),
    **dict.fromkeys(("observation", "function_response"), "tool"),
}
ASKING = ("user", "tool", "function")
"""Roles whose turn an answer follows."""
MAY_BE_EMPTY = ("system", "tool", "function")
TEXTS = ("text", "input_text", "output_text")
KEPT = ("name", "tool_calls", "tool_call_id", "function_call")
"""What messages hold besides role and content."""
TAGS = ("subset", "category")
MARKER = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")
SPEAKERS = {"Human": "user", "Assistant": "assistant"}
Message = dict[str, Any]


def text_of(value: object, name: str) -> str:
    """*value*, which must be a text; *name* is the column's."""
    if fault := text_fault(value):
        raise Unusable(f"{name}_{fault}")
    return cast("str", value)


def messages_of(value: object) -> list[Message]:
    """The messages of a list, in OpenAI's spelling.

    ``from`` and ``value`` are read as ``role`` and ``content``, parts of text are joined, an empty system turn is none.
    An image, a sound or a file is refused by its name (``image_part``): judges are shown text.
    """
    given = listed(value)
    entries = cast("list[object]", given) if isinstance(given, list) else []
    made = [_message(cast("Row", entry) if isinstance(entry, dict) else {}) for entry in entries]
    told = [message for message in made if message["role"] != "system" or message["content"]]
    if not told:
        raise Unusable("messages_not_a_list")
    return told


def _message(entry: Row) -> Message:
    spelt = entry.get("role") or entry.get("from")
    role = ROLES.get(spelt.lower()) if isinstance(spelt, str) else None
    if role is None:
        raise Unusable("unknown_role")
    kept = {key: entry[key] for key in KEPT if entry.get(key)}
    content = _content(next((entry[key] for key in ("content", "value", "text") if entry.get(key) is not None), None))
    if spelt == "function_call" and content:
        kept, content = {"tool_calls": [{"function": listed(content)}]}, None
    bare = role in MAY_BE_EMPTY or bool(called(kept))
    if not bare or content not in {None, ""}:
        text_of(content, "content")
    return {"role": role, "content": content if content is not None or role == "assistant" else "", **kept}


def _content(value: object) -> Any:
    """The text of a message's content, its parts joined."""
    return "".join(map(_part, cast("list[object]", value))) if isinstance(value, list) else value


def _part(part: object) -> str:
    if isinstance(part, str):
        return part
    told = cast("Row", part) if isinstance(part, dict) else {}
    kind = told.get("type", "text" if "text" in told else "unknown")
    if kind not in TEXTS or not isinstance(told.get("text"), str):
        raise Unusable(f"{_medium(kind)}_part")
    return told["text"]


def _medium(kind: object) -> str:
    """``image`` of ``image_url``, ``input_image``; one word that may stand in a reason."""
    words = re.sub(r"[^a-z_]", "", str(kind).lower())[:30]
    return words.removeprefix("input_").removesuffix("_url") or "unknown"


def turns_of(messages: Sequence[Message]) -> tuple[Turn, ...]:
    """Messages as (role, text) turns: a call is told as a model's template would tell it."""
    texts = ((message["role"], message["content"] or "", called(message)) for message in messages)
    return tuple((role, "\n".join(part for part in (text, calls) if part)) for role, text, calls in texts)


def conversation(messages: Sequence[Message], row: Row, where: str) -> Conversation:
    """*messages* up to the answer as a prompt, with the row's reference, tags and tools."""
    if not messages or messages[-1]["role"] not in ASKING:
        raise Unusable("last_turn_not_user")
    tools, turns = objects(row.get("tools")) or [], turns_of(messages)
    shown = with_tools(turns, tools) if tools else turns
    return Conversation(where, shown, (), reference_of(row), tags_of(row), packed(messages, tools))


def asked(text: object, row: Row, where: str, name: str = "prompt", system: object = None) -> Conversation:
    """A prompt that is a text or a list of messages; *name* is the column's."""
    given = listed(text)
    chat = objects(given)
    if isinstance(given, list) and (chat is not None or not isinstance(text, str)):
        messages = messages_of(cast("object", given))
    else:
        messages = [{"role": "user", "content": text_of(text, name)}]
    return conversation(led(system, messages), row, where)


def led(system: object, messages: list[Message]) -> list[Message]:
    """*messages* with a system turn before them, where there is a text for it and they have none."""
    if text_fault(system) or messages[0]["role"] in {"system", "developer"}:
        return messages
    return [{"role": "system", "content": system}, *messages]


def answered(messages: Sequence[Message], row: Row, where: str) -> tuple[Conversation, str]:
    """(the conversation before it, the text of the last turn, an assistant's) of a whole chat."""
    if messages[-1]["role"] != "assistant":
        raise Unusable("no_answer")
    return conversation(messages[:-1], row, where), text_of(turns_of(messages[-1:])[0][1], "answer")


def answer_of(value: object, name: str) -> str:
    """An answer that is a text, a message, or a list of one message; *name* is the column's."""
    given = listed(value)
    chat = objects([cast("object", given)] if isinstance(given, dict) else given)
    if not chat:
        return text_of(value, name)
    try:
        messages = messages_of(chat)
    except Unusable as fault:
        raise Unusable(f"{name}_{fault.reason}") from fault
    if len(messages) > 1:
        raise Unusable(f"{name}_of_several_turns")
    return turns_of(messages)[0][1]


def reference_of(row: Row) -> str | None:
    """The row's reference as text; None where it has none."""
    reference = row.get("reference")
    if reference is not None and not isinstance(reference, str):
        reference = json.dumps(reference, sort_keys=True, ensure_ascii=False, default=str)
    if reference is not None and text_fault(reference) == "not_unicode":
        raise Unusable("reference_not_unicode")
    return reference


def tags_of(row: Row) -> tuple[str, ...]:
    """The row's tags, null ones left out, and its subset."""
    given = listed(row.get("tags"))
    tags = cast("list[object]", given) if isinstance(given, list) else []
    named = [row[key] for key in TAGS if isinstance(row.get(key), str) and row[key]]
    return tuple(sorted({plain(tag) for tag in (*tags, *named) if tag is not None}))


def transcript(text: str) -> list[Message]:
    r"""The messages of a transcript of ``\n\nHuman: ... \n\nAssistant: ...``."""
    pieces = MARKER.split(text if text.startswith("\n\n") else f"\n\n{text.lstrip()}")
    if pieces[0].strip() or len(pieces) < len(("", "role", "text")):
        raise Unusable("no_transcript")
    told = zip(pieces[1::2], pieces[2::2], strict=True)
    return [{"role": SPEAKERS[speaker], "content": words.strip()} for speaker, words in told]
