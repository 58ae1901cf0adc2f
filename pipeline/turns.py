"""Messages with more than a role and text: how they read as text, and how they stay whole. Pure.

A conversation is (role, content) turns everywhere; where a file's messages hold tool calls, names or tools, the text of
a turn says so as a model's chat template would, and the messages as they were stand beside it as JSON (`whole`).
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import polars as pl

Json = dict[str, Any]
PLAIN = frozenset({"role", "content"})
CALL = "<tool_call>\n{call}\n</tool_call>"
"""How Hermes' and Qwen's templates write a call."""
TOOLS = "# Tools\n\nThe assistant may call these functions:\n<tools>\n{tools}\n</tools>"
"""How they list what may be called, in the system turn."""


def called(message: Mapping[str, Any]) -> str:
    """The tool calls of a message as text, one below the other; empty where it has none.

    OpenAI's spelling (``tool_calls`` with ``function``), the flat one (``name``, ``arguments``) and the older
    ``function_call`` are read.
    """
    given: list[object] = [*_list(message.get("tool_calls")), *_list(message.get("function_call"))]
    calls = [cast("Json", one) for one in given if isinstance(one, dict)]
    return "\n".join(CALL.format(call=json.dumps(_call(one), ensure_ascii=False)) for one in calls)


def _list(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else [value] if isinstance(value, dict) else []


def _call(one: Json) -> Json:
    function = one.get("function")
    told = cast("Json", function) if isinstance(function, dict) else one
    arguments: object = told.get("arguments", {})
    if isinstance(arguments, str):
        # A model may have written no JSON: its words stay as they are.
        with suppress(ValueError, RecursionError):
            arguments = json.loads(arguments)
    return {"name": told.get("name"), "arguments": arguments}


def with_tools(turns: Sequence[tuple[str, str]], tools: Sequence[object]) -> tuple[tuple[str, str], ...]:
    """*turns* whose system turn lists *tools*; one is put first where there is none."""
    listed = TOOLS.format(tools="\n".join(json.dumps(one, ensure_ascii=False) for one in tools))
    if turns and turns[0][0] in {"system", "developer"}:
        (role, content), *others = turns
        return (role, f"{content}\n\n{listed}"), *others
    return ("system", listed), *turns


def packed(messages: Sequence[Mapping[str, Any]], tools: Sequence[object]) -> str | None:
    """The column ``whole``: the messages and tools as JSON, or None where the turns say all there is."""
    if not tools and all(message.keys() <= PLAIN and isinstance(message["content"], str) for message in messages):
        return None
    return json.dumps({"messages": messages, **({"tools": tools} if tools else {})}, ensure_ascii=False)


def messages_of(turns: Sequence[Mapping[str, str]], whole: str | None) -> list[Json]:
    """The messages to be exported: as the file had them, or [{role, content}]."""
    if whole is not None:
        return json.loads(whole)["messages"]
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


def tools_of(whole: str | None) -> list[Json]:
    """The tools that the file listed for a conversation."""
    return [] if whole is None else json.loads(whole).get("tools", [])


def exported(rows: pl.DataFrame) -> pl.DataFrame:
    """*rows* (``messages``, ``whole``) with ``messages`` as the files had them and ``tools`` where some row has tools.

    Parquet has one type a column: a key that one message has is null in the others, and what has no fixed keys
    (arguments of a call, the schema of a tool) is JSON text, as OpenAI writes arguments.
    """
    if rows["whole"].null_count() == rows.height:
        return rows.drop("whole")
    pairs = list(zip(rows["messages"].to_list(), rows["whole"].to_list(), strict=True))
    told = [[_flat(message) for message in messages_of(turns, whole)] for turns, whole in pairs]
    keys = sorted({key for messages in told for message in messages for key in message} - PLAIN)
    even = [
        [{key: message.get(key) for key in ("role", "content", *keys)} for message in messages] for messages in told
    ]
    made = rows.drop("whole").with_columns(pl.Series("messages", even, strict=False))
    tools = [[json.dumps(tool, ensure_ascii=False) for tool in tools_of(whole)] for _, whole in pairs]
    return made.with_columns(pl.Series("tools", tools, dtype=pl.List(pl.String))) if any(tools) else made


def _flat(message: Json) -> Json:
    """*message* with values that Parquet can hold side by side: texts, and calls of one form."""
    calls = [cast("Json", one) for one in _list(message.get("tool_calls")) if isinstance(one, dict)]
    texts = {key: None if value is None else _text(value) for key, value in message.items() if key != "tool_calls"}
    even = {"tool_calls": [_even(one) for one in calls]} if calls else {}
    return {**texts, "content": texts.get("content"), **even}


def _even(call: Json) -> Json:
    made = _call(call)
    function = {"name": made["name"], "arguments": _text(made["arguments"])}
    return {"id": call.get("id"), "type": call.get("type") or "function", "function": function}


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
