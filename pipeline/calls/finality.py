"""What a reply means: an answer, a failure for good, or something that is asked again. Pure; decided here alone.

Every engine that speaks the protocol comes here with a status and a body and does what the outcome's ``fate`` says.
:data:`TABLE` is the rule in words; docs/architecture.md has it, and a test holds each of its rows to the code.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from pipeline.calls import error_words
from pipeline.calls.reasoning import Spoken, refusal, spoken

Fate = Literal["answer", "final", "again", "mend", "rejected"]
"""``answer``: text came. ``final``: there will be none, and nobody asks again. ``again``: it may pass; tried again at
once, then by the next run. ``mend``: a person must do something first; asked again by the next run, and ends the stage
where no call gets through. ``rejected``: this request is refused; not repeated in this run, asked again by the next."""
About = Literal["", "key", "credit", "model", "redirect", "other"]
"""What a person has to mend; empty where it is nothing of the kind."""
Reason = Literal["refused", "content_filter", "too_long", "cut_off", "empty_answer", "unanswered", "rejected"]
"""``empty_answer`` is of a model in this process: it would say nothing again."""

OK, REDIRECT, HTTP_ERROR, SERVER_ERROR, TOO_LARGE, THROTTLED = 200, 300, 400, 500, 413, 429
PASSING_STATUS = (408, 409, 423, 424, 425, 429, 449, 499)
MENDED_STATUS: Mapping[int, About] = {
    401: "key", 402: "credit", 403: "key", 404: "model", 405: "model", 407: "other", 410: "model", 426: "other",
}  # fmt: skip
NOBODY = (401, 403)
WORDLESS = (401, 402, 407, 429)
"""Statuses whose words never mean a prompt that is too long: a minute's tokens are counted in the same words."""
CUT_OFF = ("length", "max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded", "token_limit")
"""OpenAI; Anthropic and Gemini; Mistral; Anthropic."""
FILTERED = (
    "content_filter",
    "safety",
    "recitation",
    "blocklist",
    "prohibited_content",
    "spii",
    "sensitive",
    "guardrail",
)
"""OpenAI and Azure; Gemini, in capitals; Zhipu; gateways. Gemini's come as ``content_filter: SAFETY`` too."""
USUAL = ("stop", "length")
BROKEN = (
    "error",
    "abort",
    "aborted",
    "network_error",
    "insufficient_system_resource",
    "cancelled",
    "canceled",
    "timeout",
)
"""OpenRouter; SGLang and vLLM; Zhipu; DeepSeek."""

TABLE: tuple[tuple[str, str, Fate], ...] = (
    ("2xx with text", "-", "answer"),
    (
        "2xx with text, `finish_reason` `length` or a like word",
        "- (`cut_off` drops it where answers are kept)",
        "answer",
    ),
    ("2xx, cut off before an answer began (all of it reasoning or white space)", "cut_off", "final"),
    ("2xx with the protocol's refusal", "refused", "final"),
    ("2xx whose `finish_reason` is a content filter's, with or without text", "content_filter", "final"),
    (
        "2xx with an error object, without a usable choice, with empty content, or cut by an error",
        "unanswered",
        "again",
    ),
    ("any status whose words say that the prompt is too long for the model", "too_long", "final"),
    ("413", "too_long", "final"),
    ("any status whose words say that a content filter caught it", "content_filter", "final"),
    ("408, 409, 423, 424, 425, 429, 449, 499, every 5xx, no whole reply", "unanswered", "again"),
    (
        "401, 402, 403, 404, 405, 407, 410, 426, every 3xx, words of quota or credit under any status",
        "unanswered",
        "mend",
    ),
    ("every other 4xx", "rejected", "rejected"),
)
"""(what comes, the reason in `dropped`, fate)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one reply means."""

    fate: Fate
    reason: Reason | None = None
    """Why there is no text; None for an answer."""
    words: str = ""
    """The endpoint's own words, in one line."""
    said: Spoken | None = None
    """The answer, and the reasoning of whatever kind of outcome."""
    finish_reason: str | None = None
    """``stop``, ``length``, or the endpoint's own word."""
    throttled: bool = False
    """The endpoint asks for fewer calls."""
    about: About = ""
    """What a person has to mend."""

    @property
    def final(self) -> bool:
        """Whether nobody need ask again."""
        return self.fate in ("answer", "final")


def outcome(status: int, body: object) -> Outcome:
    """What a reply means.

    Args:
        status: HTTP status.
        body: the decoded JSON of the body, or its text where it is none.
    """
    if status < HTTP_ERROR:
        return (
            _replied(status, body)
            if status < REDIRECT
            else Outcome("mend", "unanswered", error_words.words(status, body), about="redirect")
        )
    return failed(status, error_words.words(status, body))


def failed(status: int, words: str) -> Outcome:
    """What an error means.

    Args:
        status: of HTTP, or that which an error object carries; 0 where it carries none.
        words: the endpoint's.
    """
    fate, reason, about = _judged(status, words.lower())
    return Outcome(fate, reason, words, throttled=status == THROTTLED, about=about)


def _judged(status: int, low: str) -> tuple[Fate, Reason, About]:
    """The fate of an error, its reason and what is to be mended, by its status and its words in lower case."""
    passing = error_words.PASSING.search(low) is not None
    about_us = status in NOBODY and error_words.ACCOUNT.search(low) is not None
    by_words: tuple[tuple[bool, re.Pattern[str], Fate, Reason, About], ...] = (
        (status not in WORDLESS and not about_us, error_words.FILTERED, "final", "content_filter", ""),
        (not (status == THROTTLED and passing), error_words.NO_CREDIT, "mend", "unanswered", "credit"),
        (status not in WORDLESS, error_words.TOO_LONG, "final", "too_long", ""),
        (
            status < SERVER_ERROR and status not in (401, 403, THROTTLED),
            error_words.BAD_KEY,
            "mend",
            "unanswered",
            "key",
        ),
        (status < SERVER_ERROR and status != THROTTLED, error_words.MISCONFIGURED, "mend", "unanswered", "model"),
    )
    for applies, phrases, fate, reason, about in by_words:
        if applies and phrases.search(low):
            return fate, reason, about
    if status == TOO_LARGE:
        return "final", "too_long", ""
    if status in MENDED_STATUS:
        return "mend", "unanswered", MENDED_STATUS[status]
    if status in PASSING_STATUS or status >= SERVER_ERROR or passing:
        return "again", "unanswered", ""
    return "rejected", "rejected", ""


def no_reply(words: str) -> Outcome:
    """What it means that no whole reply came."""
    return Outcome("again", "unanswered", error_words.shown(words))


def _replied(status: int, body: object) -> Outcome:
    """What a reply with a status of success means: some carry an error all the same."""
    if not isinstance(body, Mapping):
        return _error_inside(status, body)
    reply = cast("Mapping[str, Any]", body)
    choice = _choice(reply)
    if choice is None:
        blocked = _blocked(reply)
        return Outcome("final", "content_filter", blocked) if blocked else _error_inside(status, reply)
    if choice.get("error") or reply.get("error"):
        return _error_inside(status, [choice.get("error"), reply.get("error")])
    return _said(choice)


def _said(choice: Mapping[str, Any]) -> Outcome:
    """What a choice means."""
    message = _message(choice)
    said, finish = spoken(message), _finish(choice)
    low = finish.lower()
    if (refused := refusal(message)) is not None or low == "refusal":
        return Outcome("final", "refused", error_words.shown(refused or said.answer or "refused"), said, finish)
    if low.startswith(FILTERED):
        words = error_words.shown(f"finish_reason {finish!r}; {_told(choice)}").rstrip("; ")
        return Outcome("final", "content_filter", words, said, finish)
    if low in BROKEN:
        return Outcome("again", "unanswered", f"finish_reason {finish!r}: half an answer is none", said, finish)
    cut_off = low in CUT_OFF or not said.whole
    if said.answer.strip() or (said.whole and _has_logprobs(choice)):
        return Outcome("answer", None, "", said, "length" if cut_off else finish)
    if cut_off:
        why = "the reasoning never ended" if said.reasoning else "nothing was written"
        return Outcome("final", "cut_off", f"cut off at max_tokens: {why}; raise max_tokens", said, "length")
    called = "; it called a tool" if message.get("tool_calls") or message.get("function_call") else ""
    return Outcome("again", "unanswered", f"empty content, finish_reason {finish!r}{called}", said, finish)


def _choice(reply: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The first choice, if it is one."""
    choices = reply.get("choices")
    listed = cast("list[object]", choices if isinstance(choices, list) else [])
    first = listed[0] if listed else None
    return cast("Mapping[str, Any]", first) if isinstance(first, Mapping) and first else None


def _message(choice: Mapping[str, Any]) -> Mapping[str, Any]:
    message = choice.get("message")
    for found in (message, choice.get("delta")):
        if isinstance(found, Mapping):
            return cast("Mapping[str, Any]", found)
    return {"content": choice.get("text")}


def _finish(choice: Mapping[str, Any]) -> str:
    """The endpoint's word for how it ended, in one short line; ``stop`` where it has none or one for the same."""
    told = choice.get("finish_reason") or choice.get("finishReason")
    if told in USUAL:
        return told
    word = error_words.shown(str(told))[:80] if isinstance(told, str) else ""
    return (
        "stop"
        if word.lower() in ("", "stop", "eos", "eos_token", "end_turn", "stop_sequence", "none", "null")
        else word
    )


def _has_logprobs(choice: Mapping[str, Any]) -> bool:
    about = choice.get("logprobs")
    return isinstance(about, Mapping) and bool(cast("Mapping[str, Any]", about).get("content"))


def _told(choice: Mapping[str, Any]) -> str:
    """What a content filter says of a choice: Azure's categories that were filtered."""
    results = choice.get("content_filter_results")
    found = cast("Mapping[str, Any]", results if isinstance(results, Mapping) else {})
    caught = [
        name
        for name, about in found.items()
        if isinstance(about, Mapping) and cast("Mapping[str, Any]", about).get("filtered") is True
    ]
    return ", ".join(caught)


def _blocked(reply: Mapping[str, Any]) -> str:
    """Why a prompt without a choice was blocked, where the reply says so (Gemini behind a gateway)."""
    for name in ("promptFeedback", "prompt_feedback"):
        about = reply.get(name)
        if isinstance(about, Mapping):
            fields = cast("Mapping[str, Any]", about)
            if why := fields.get("blockReason") or fields.get("block_reason"):
                return error_words.shown(f"{name}: {why}")
    return ""


def _error_inside(status: int, body: object) -> Outcome:
    """An error under a status of success: its own code decides where it has one, and it is never final but by words."""
    words = error_words.words(status, body)
    if not _mentions(body):
        return Outcome("again", "unanswered", f"{words}; the reply has no usable choice")
    found = failed(_code(body) or 0, words)
    return Outcome("again", "unanswered", words) if found.fate == "rejected" else found


def _mentions(body: object) -> bool:
    """Whether there is anything in *body* that could be an error's words."""
    if isinstance(body, Mapping):
        fields = cast("Mapping[str, Any]", body)
        return any(fields.get(name) for name in ("error", "errors", "message", "detail"))
    return bool(body)


def _code(body: object) -> int | None:
    """The status that an error object carries."""
    if isinstance(body, list):
        return next((code for item in cast("list[object]", body) if (code := _code(item)) is not None), None)
    if not isinstance(body, Mapping):
        return None
    fields = cast("Mapping[str, Any]", body)
    for name in ("code", "status", "status_code"):
        told = fields.get(name)
        if isinstance(told, str) and told.isascii() and told.isdigit() and len(told) == len("502"):
            told = int(told)
        if isinstance(told, int) and not isinstance(told, bool) and HTTP_ERROR <= told < 1000:  # noqa: PLR2004
            return told
    return _code(fields.get("error"))


def decoded(content: bytes) -> object:
    """A body as :func:`outcome` takes it: its JSON, or its text."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return content.decode(errors="replace")
