"""The chat protocol: the body of a request, its key and worst case, an answer from a reply. Pure."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from pipeline.calls import finality
from pipeline.calls.usage import Charge, read_usage
from pipeline.config import OTHER_BOUNDS, Price
from pipeline.engines.base import Answer, Call, Request

OK, REDIRECT = 200, 300
TOP_LOGPROBS = 20

OVERHEAD_TOKENS = 64
"""Tokens a chat template may add to the bytes of a request, for the worst-case cost."""


def request_body(model: str, request: Request) -> dict[str, Any]:
    """The JSON body of a chat completion."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": role, "content": content} for role, content in request.messages],
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
        "stream": False,
    }
    if request.top_p < 1:
        body["top_p"] = request.top_p
    if request.choices:
        body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
    if request.response_schema is not None:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "verdict", "strict": True, "schema": dict(request.response_schema)},
        }
    return body


def call_key(base_url: str, body: Mapping[str, Any], request: Request) -> str:
    """SHA-256 over everything that decides the answer: endpoint, whole body, sample index and attempt."""
    parts = [base_url.rstrip("/"), body, request.sample_index, request.attempt]
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()


def worst_case_usd(body: Mapping[str, Any], price: Price | None) -> float:
    """The most a call can cost: a token is at least a byte, and the answer at most as long as it may be."""
    return bounded_usd(len(orjson.dumps(body)), answer_tokens(body, 0), price)


def bounded_usd(prompt_bytes: int, max_tokens: int, price: Price | None) -> float:
    """US$ of a call whose prompt has so many bytes and whose answer at most so many tokens."""
    if price is None:
        return 0.0
    return ((prompt_bytes + OVERHEAD_TOKENS) * price.input + max_tokens * price.output) / 1e6


def read_answer(key: str, response: Mapping[str, Any], cost: float, latency: float | None) -> Answer:
    """An Answer from a raw reply of status 200; one of the wrong shape is a failed answer, never an exception."""
    used = read_usage(response)
    call = Call(key, "answered", used.prompt_tokens, used.cached_tokens, used.completion_tokens, cost, latency)
    return answer_of(call, finality.outcome(OK, response), response)


def answer_of(call: Call, found: finality.Outcome, response: Mapping[str, Any]) -> Answer:
    """The Answer of a call from what its reply was *found* to mean."""
    thought = None if found.said is None or found.said.reasoning is None else _text(found.said.reasoning)
    if found.fate != "answer" or found.said is None:
        if not found.final:
            call = replace(call, status="unanswered")
        finish = found.finish_reason
        return Answer(call, None, finish, reason=found.reason, error=storable(found.words), reasoning=thought)
    total, first = _logprobs(response)
    return Answer(call, _text(found.said.answer), found.finish_reason, total, first, reasoning=thought)


def _logprobs(response: Mapping[str, Any]) -> tuple[float | None, dict[str, float] | None]:
    """(sum over the tokens, token -> log-probability at the first position), nats; None where there are none."""
    try:
        about: Any = response["choices"][0].get("logprobs") or {}
        tokens: list[Any] = about.get("content") or []
        if not tokens:
            return None, None
        others: list[Any] = tokens[0].get("top_logprobs") or []
        first = {storable(str(one["token"])): float(one["logprob"]) for one in others}
        total = min(sum(float(token["logprob"]) for token in tokens), 0.0)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return None, None  # what stands there is no log-probability
    return total if math.isfinite(total) else None, first


def call_of(key: str, charged: Charge, latency: float) -> Call:
    """An answered call, with what it was charged."""
    used = charged.usage
    return Call(
        key, "answered", used.prompt_tokens, used.cached_tokens, used.completion_tokens, charged.cost_usd, latency
    )


def used_tokens(response: Mapping[str, Any]) -> float | None:
    """Tokens of a call, for the vendor's limit of them."""
    used = read_usage(response)
    return None if used.fault else float((used.prompt_tokens or 0) + (used.completion_tokens or 0))


def _text(said: str) -> str:
    """What a model wrote as a file can hold it: half of a character, as a cut or a broken encoder leaves, is U+FFFD."""
    return said.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def storable(text: str) -> str:
    """*text* as a file can hold it: a lone surrogate, which JSON can spell, is a question mark."""
    return text.encode(errors="replace").decode()


def answer_tokens(body: Mapping[str, Any], otherwise: int) -> int:
    """Tokens that an answer may have by its request."""
    bounds = [body[name] for name in ("max_tokens", *OTHER_BOUNDS) if isinstance(body.get(name), int)]
    return max(bounds, default=otherwise)
