"""A reply that streams although a whole one was asked for, put together again. Pure: text in, a reply's JSON out.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html, and the chunks of OpenAI's protocol.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

BEGINS = ("data:", "event:", "id:", "retry:", ":")
TEXTS = ("content", "reasoning_content", "reasoning", "thinking", "refusal")


def is_stream(text: str) -> bool:
    """Whether a body is a stream of events."""
    return text.lstrip("\ufeff \t\r\n").startswith(BEGINS)


def assembled(text: str) -> dict[str, Any]:
    """The reply that a stream of chunks makes up, as it would have come whole.

    A stream without an end (no ``finish_reason`` and no ``[DONE]``) has the ``finish_reason`` ``error``, and an error
    in it stands beside the choices: neither passes for an answer.
    """
    whole: dict[str, Any] = {"object": "chat.completion", "choices": []}
    choice: dict[str, Any] = {"index": 0, "finish_reason": None, "message": {"role": "assistant", "content": None}}
    ended = False
    for data in _events(text):
        if data.strip() == "[DONE]":
            ended = True
            break
        chunk = _object(data)
        if chunk is None:
            whole.setdefault("error", {"message": f"an event that is no JSON: {data[:200]}"})
            continue
        for name in ("id", "created", "model"):
            if name in chunk:
                whole.setdefault(name, chunk[name])
        if chunk.get("usage") is not None:
            whole["usage"] = chunk["usage"]
        if chunk.get("error"):
            whole["error"] = chunk["error"]
        _add(choice, chunk)
    if choice["finish_reason"] is None and not ended:
        choice |= {"finish_reason": "error", "error": {"message": "the stream broke off"}}
    whole["choices"] = [choice]
    return whole


def _events(text: str) -> Iterator[str]:
    """The data of each event."""
    lines: list[str] = []
    for line in re.split(r"\r\n|\n|\r", text.lstrip("\ufeff")):
        if line.startswith("data:"):
            lines.append(line[len("data:") :].removeprefix(" "))
        elif not line and lines:
            yield "\n".join(lines)
            lines = []
    if lines:
        yield "\n".join(lines)


def _add(choice: dict[str, Any], chunk: Mapping[str, Any]) -> None:
    choices = chunk.get("choices")
    first = cast("list[object]", choices)[0] if isinstance(choices, list) and choices else None
    if not isinstance(first, Mapping):
        return
    said = cast("Mapping[str, Any]", first)
    if said.get("finish_reason") is not None:
        choice["finish_reason"] = said["finish_reason"]
    if said.get("error"):
        choice["error"] = said["error"]
    about = said.get("logprobs")
    if isinstance(about, Mapping) and isinstance(cast("Mapping[str, Any]", about).get("content"), list):
        choice.setdefault("logprobs", {"content": []})["content"] += cast("Mapping[str, Any]", about)["content"]
    delta = said.get("delta") or said.get("message")
    message: dict[str, Any] = choice["message"]
    for name, value in cast("Mapping[str, Any]", delta if isinstance(delta, Mapping) else {}).items():
        if name in TEXTS and isinstance(value, str):
            message[name] = _joined(message.get(name), value)
        elif name in ("content", "reasoning_details") and isinstance(value, list):
            message[name] = _joined(message.get(name), cast("list[object]", value))
        elif name == "tool_calls" and value:
            message[name] = value


def _joined(before: object, more: str | list[object]) -> str | list[object]:
    if before is None:
        return more
    if isinstance(before, str) and isinstance(more, str):
        return before + more
    listed = cast("list[object]", before if isinstance(before, list) else [before])
    return [*listed, *(more if isinstance(more, list) else [more])]


def _object(data: str) -> dict[str, Any] | None:
    try:
        found: object = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None
