"""What endpoints say when something is wrong: their words out of every shape of error, and what these mean. Pure.

The words decide where the status does not: the same HTTP 400 means a prompt that is too long, one that a filter caught,
an empty account or a parameter that the model does not take. The phrases are those of the servers named beside them,
in lower case; they are looked for in what a server says itself, never in a request that it repeats.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

LONGEST = 500
"""Characters of an endpoint's words that are kept: enough for the longest sentence and its remedy."""
DEEPEST = 6
MOST_PIECES = 12


def _any(*phrases: str) -> re.Pattern[str]:
    return re.compile("|".join(phrases))


_WINDOW = r"context[ _](?:length|window|size|limit)"
TOO_LONG = _any(
    r"context_length_exceeded|string_above_max_length",  # OpenAI, Azure, Groq, llama-cpp-python
    r"exceed_context_size|available context size|context size has been exceeded",  # llama.cpp
    r"maximum context length|max_model_len|maximum model length",  # vLLM, OpenAI, DeepSeek, Mistral, Fireworks
    r"model's context length|exceeds the maximum allowed length",  # SGLang
    rf"{_WINDOW}\b.{{0,60}}(?:exceed|overflow|too (?:small|long)|not enough)",
    rf"(?:exceed|overflow|longer than|larger than|greater than)\w*\b.{{0,60}}{_WINDOW}",
    r"context (?:the )?overflows|tokens to keep from the initial prompt|reached context length",  # LM Studio
    r"model_context_window_exceeded|context window exceeds",  # Anthropic, MiniMax
    r"`?inputs`? tokens \+ `?max_new_tokens`? must be|`inputs` must have less than",  # TGI, Together
    r"(?:prompt|input|request|message|conversation)s? (?:is |are )?too long",  # Anthropic, Bedrock, Ollama
    r"prompt_too_long|input_too_long|too many (?:input |prompt )?tokens|tokens in request more than",
    r"input token count .{0,60}exceeds|exceeds the maximum number of (?:input )?tokens",  # Gemini
    r"max(?:imum)? (?:prompt|input) length|prompt (?:token )?(?:count|length).{0,60}(?:exceed|limit)",  # xAI, Copilot
    r"reduce the length of the (?:messages|prompt|input)|reduce your prompt",  # Groq, Cerebras, OpenAI
    r"exceeded model token limit",  # Moonshot
    r"(?:prompt|input) exceeds (?:the )?(?:max|length|limit|model)|input tokens exceed",  # Zhipu and others
    r"input length should be",  # DashScope
    r"request_too_large|request entity too large|payload too large",
    r"prompt .{0,40}(?:long|larg)er than the (?:maximum )?(?:model|context)|max_seq_len|session_len",  # TensorRT-LLM
)
FILTERED = _any(
    r"content_filter|contentfilter|content[_ ]policy|responsibleaipolicyviolation",  # OpenAI, Azure
    r"content management policy|content filtering policy|content safety|safety system|usage (?:polic|guideline)",
    r"content exists risk",  # DeepSeek
    r"data_inspection_failed|inappropriate content",  # DashScope
    r"input was flagged|was flagged (?:as|for|by)|requires moderation|moderation_blocked",  # OpenRouter, OpenAI
    r"considered high risk|safety_check|safety_violation|safety reasons|safety filter",  # Moonshot, xAI
    r"prohibited_content|blocked by (?:the )?(?:safety|content)|sensitive_words|(?:sensitive|unsafe) content",
    r"\u654f\u611f|\u4e0d\u5b89\u5168",  # Zhipu: sensitive, unsafe
)
NO_CREDIT = _any(
    r"insufficient[_ ](?:quota|balance|credits?|funds)|exceeded[_ ](?:your )?current[_ ]quota",  # OpenAI, DeepSeek
    r"credit balance|requires more credits|out of credits?|no credits?\b|more credits to|add (?:\d+ )?credits",
    r"billing[_ ](?:hard|not|limit|error)|payment required|spend(?:ing)? limit|(?:credit|monthly|usage) limit",
    r"budget has been exceeded|budget_exceeded|quota (?:has been |is )?(?:exceeded|exhausted|reached)",  # LiteLLM
    r"arrearage|overdue|good standing|account[_ ](?:deactivated|suspended)|access_terminated",  # DashScope
    r"\u4f59\u989d|\u6b20\u8d39",  # Zhipu: balance, arrears
    r"per[- ]day\b|\(tpd\)|\(rpd\)|daily (?:limit|quota)",  # Groq, OpenRouter's free models
    r"request too large for",  # OpenAI and Groq: one request is more than a minute's tokens
)
PASSING = _any(
    r"overloaded|temporarily|try again (?:later|in)|retry (?:in|after|later|shortly)|please retry|timed? ?out",
    r"retrydelay|per[- ]?minute|at capacity|server (?:is )?busy|loading model|model is (?:currently )?loading",
    r"upstream (?:error|connect)|service unavailable|internal (?:server )?error|bad gateway",
)
"""What passes by itself: of a refusal in such words, another try is worth its call."""
MISCONFIGURED = _any(
    r"unexpected endpoint or method|no models? (?:is |are )?(?:loaded|found)",  # LM Studio, under 200 and 404
    r"model[_ ]not[_ ](?:found|available)|model .{0,80}(?:not found|does not exist)|no endpoints found",
    r"(?:invalid|unknown|no such) model|not a valid model|deploymentnotfound",
)
"""What a person mends before any call can be answered: a path or model that is not there."""
BAD_KEY = _any(r"invalid[_ ]api[_ ]key|api[_ ]key not valid|incorrect api key")  # Gemini says it under 400
ACCOUNT = _any(r"\baccount\b|organi[sz]ation|api key")
"""Under 401 and 403: it is about who asks, and not about what."""


def words(status: int, body: object) -> str:
    """What an endpoint said, in one line of at most LONGEST characters that a terminal can show.

    Args:
        status: HTTP status.
        body: the decoded JSON, or text where it was none.

    Every message in the body is in it, that of a server behind the server included (``metadata.raw`` of OpenRouter),
    with the parameter or code it names; what a server repeats of the request is not.
    """
    pieces: dict[str, None] = {}
    for piece in _pieces(body):
        line = shown(piece)
        if line and not any(line in other for other in pieces):
            pieces[line] = None
        if len(pieces) >= MOST_PIECES:
            break
    said = "; ".join(pieces) or "no words"
    return f"HTTP {status}: {said}"[:LONGEST]


def shown(text: str) -> str:
    """*text* in one line, without tags of HTML, control characters and what no file can hold."""
    plain = re.sub(
        r"<(?:script|style)\b.*?</(?:script|style)>|<[a-zA-Z!/][^<>]{0,500}>", " ", text[:8000], flags=re.DOTALL
    )
    kept = "".join(mark if mark.isprintable() else " " for mark in plain.encode(errors="replace").decode())
    return " ".join(kept.split())[:LONGEST]


def _pieces(value: object, depth: int = 0) -> Iterator[str]:
    """Every text with which an error body says something, the most telling first."""
    if isinstance(value, str):
        nested = _nested(value) if depth < DEEPEST else None
        if nested is not None:
            yield from _pieces(nested, depth + 1)
        else:
            yield value
    elif depth >= DEEPEST:
        return
    elif isinstance(value, list):
        for item in cast("list[object]", value)[:MOST_PIECES]:
            yield from _pieces(item, depth + 1)
    elif isinstance(value, Mapping):
        yield from _fields(cast("Mapping[str, Any]", value), depth)


def _fields(fields: Mapping[str, Any], depth: int) -> Iterator[str]:
    for name in ("error", "errors", "message", "msg", "detail", "details", "reason", "error_message", "description"):
        if name in fields:
            yield from _pieces(fields[name], depth + 1)
    if "loc" in fields:  # pydantic's: where in the body
        yield f"at {fields['loc']!s:.100}"
    for name in ("innererror", "metadata"):
        inner = fields.get(name)
        if isinstance(inner, Mapping):
            some = cast("Mapping[str, Any]", inner)
            yield from (str(some[key]) for key in ("provider_name", "code", "reason") if isinstance(some.get(key), str))
            yield from _pieces(some.get("raw", ""), depth + 1)
            yield from _pieces(some.get("message", ""), depth + 1)
    for name in ("code", "param", "type", "status", "error_type"):
        if isinstance(told := fields.get(name), str) and told:
            yield f"{name} {told}"


def _nested(text: str) -> object | None:
    """The JSON that a text holds, as servers behind servers are quoted."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return cast("object", found) if isinstance(found, dict | list) else None
