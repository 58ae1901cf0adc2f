r"""Where a model's reasoning ends and its answer begins: one rule for every engine. Pure: text and JSON in, text out.

Reasoning comes in four shapes: a field of its own beside the content, parts of a list, between tags at the start of the
text, or before a closing tag whose opening tag the chat template wrote into the prompt.

    split("<think>\nhm\n</think>\n\n42")  -> Spoken("42", "hm", whole=True)
    split("<think>\nhm")                     -> Spoken("", "hm", whole=False): it never ended, so there is no answer

A tag in the midst of an answer is part of the answer: only what stands before everything else is reasoning.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

TAGS = (
    ("<think>", "</think>"),  # DeepSeek, Qwen, GLM, Nemotron, most others
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),  # Gemini's compatible endpoint
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("[THINK]", "[/THINK]"),  # Magistral
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),  # Kimi
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Cohere
    (
        "<|channel|>analysis<|message|>",
        "<|start|>assistant<|channel|>final<|message|>",
    ),  # gpt-oss, template not applied
)
FIRST = tuple(sorted({opening[0] for opening, _ in TAGS}))
_UNOPENED = re.compile(r"(?<![\"'`\u201c\u2018])(?:</think>|\[/THINK\]|\u25c1/think\u25b7)(?![\"'`\u201d\u2019])")
"""Closing tags that end a reasoning whose opening tag stands in the prompt; one in quotes is being talked about."""
FIELDS = ("reasoning_content", "reasoning", "thinking")
"""DeepSeek, vLLM, SGLang, llama.cpp; OpenRouter, vLLM, Ollama, LM Studio, Groq; Ollama's own."""
REASONING_PARTS = ("thinking", "reasoning", "reasoning.text", "reasoning.summary", "summary_text", "reasoning_text")
TEXT_PARTS = ("text", "output_text")
DEEPEST = 8


@dataclass(frozen=True, slots=True)
class Spoken:
    """What a model said, its reasoning apart."""

    answer: str
    reasoning: str | None = None
    whole: bool = True
    """False when the reasoning never ended: no answer was begun."""


def split(text: str, given: str | None = None) -> Spoken:
    """*text* without the reasoning at its start; *given* is reasoning that came beside it."""
    start = text.lstrip()
    # Nearly every text has no tag, and to see that is cheaper than to look for each.
    for opening, closing in TAGS if start.startswith(FIRST) else ():
        if start.startswith(opening):
            inner, end, rest = start[len(opening) :].partition(closing)
            return Spoken(rest.lstrip() if end else "", _joined(given, inner), bool(end))
    if "think" in text or "THINK" in text:
        found = _UNOPENED.search(text)
        if found is not None and not any(opening in text[: found.start()] for opening, _ in TAGS):
            return Spoken(text[found.end() :].lstrip(), _joined(given, text[: found.start()]))
    return Spoken(text, _joined(given) if given else None)


def spoken(message: Mapping[str, Any]) -> Spoken:
    """A chat message's answer and reasoning, whatever shape its content has; never raises."""
    content = message.get("content")
    given = None
    for name in (*FIELDS, "reasoning_details"):
        if given is None and message.get(name):
            given = _text(message[name])
    if isinstance(content, str):
        return split(content, given)
    texts, thoughts = _parts(content)
    return split("".join(texts), given or "\n".join(thoughts) or None)


def refusal(message: Mapping[str, Any]) -> str | None:
    """The words with which the model refused, where the protocol says so apart from the content."""
    said = message.get("refusal")
    if isinstance(said, str) and said.strip():
        return said
    content = message.get("content")
    for part in () if isinstance(content, str) else _listed(content):
        if part.get("type") == "refusal":
            return _text(part.get("refusal")) or _text(part.get("text")) or "refused"
    return None


def _parts(content: object) -> tuple[list[str], list[str]]:
    """(texts, reasoning) of a content that is a list of parts, or one part."""
    texts: list[str] = []
    thoughts: list[str] = []
    for part in _listed([cast("object", content)] if isinstance(content, Mapping) else content):
        kind = part.get("type", "text")
        if kind in REASONING_PARTS:
            thoughts += [
                text for name in ("thinking", "reasoning", "text", "summary") if (text := _text(part.get(name)))
            ]
        elif kind in TEXT_PARTS and (text := _text(part.get("text"))):
            texts.append(text)
    return texts, thoughts


def _listed(content: object) -> Iterator[Mapping[str, Any]]:
    for part in cast("list[object]", content if isinstance(content, list) else []):
        if isinstance(part, str):
            yield {"type": "text", "text": part}
        elif isinstance(part, Mapping):
            yield cast("Mapping[str, Any]", part)


def _text(value: object, depth: int = 0) -> str | None:
    """The text in a string, a part or a list of parts; None where there is none."""
    if isinstance(value, str):
        return value or None
    if depth >= DEEPEST:
        return None
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, object]", value)
        return next(
            (found for name in ("text", "summary", "content") if (found := _text(fields.get(name), depth + 1))), None
        )
    if isinstance(value, list):
        return "".join(found for part in cast("list[object]", value) if (found := _text(part, depth + 1))) or None
    return None


def _joined(*texts: str | None) -> str | None:
    """The texts that say something, each once."""
    kept = dict.fromkeys(text.strip() for text in texts if text and text.strip())
    return "\n\n".join(kept) or None
