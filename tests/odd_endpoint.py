"""What servers of each family are reported to do, as scripts for ``tests.endpoints``; docs/endpoints.md shows the rows.

A row is a family, a behaviour, what jurybox does about it, the server's script, and what must come of one call after
one that got through: the text, or the reason why there is none, and what the request looked like in the end.
"""

import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.endpoints import Body, Reply, chat

GOOD = "An answer."


@dataclass(frozen=True)
class Row:
    """One behaviour of one family of servers."""

    family: str
    behaviour: str
    done: str
    """What jurybox does."""
    script: Callable[[Body], "str | Reply"]
    text: str | None = GOOD
    reason: str | None = None
    reasoning: str | None = None
    without: tuple[str, ...] = ()
    """Fields that the request has no more when it is answered."""
    has: Mapping[str, object] = field(default_factory=dict[str, object])
    """Fields that it has."""
    asked_again: bool = False
    """Whether the next run asks again."""

    def cells(self) -> str:
        """The row as docs/endpoints.md has it."""
        return f"| {self.family} | {self.behaviour} | {self.done} |"


def error(status: int, message: object, **more: object) -> Reply:
    """An error in OpenAI's shape."""
    return Reply(status, {"error": {"message": message, **more}})


def _unless(wrong: Callable[[Body], bool], refusal: Reply) -> Callable[[Body], "str | Reply"]:
    return lambda body: refusal if wrong(body) else GOOD


def _always(reply: Reply) -> Callable[[Body], "str | Reply"]:
    return lambda body: GOOD if body["messages"][-1]["content"] == "first" else reply


def _message(finish_reason: str = "stop", **message: Any) -> Reply:
    made = chat(GOOD, finish_reason=finish_reason)
    made["choices"][0]["message"] |= message
    return Reply(200, made)


def _stream(*words: str, done: bool = True) -> Reply:
    chunks = [{"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]} for word in words]
    text = ": keep-alive\n\n" + "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    return Reply(200, text + ("data: [DONE]\n\n" if done else ""))


NO_MAX_TOKENS = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
)
ONE_TEMPERATURE = (
    "Unsupported value: 'temperature' does not support 0.5 with this model. Only the default (1) value is supported."
)
EXTRA = {"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted", "input": 7}
NO_SEED = 'Invalid JSON payload received. Unknown name "seed": Cannot find field.'
ROWS = (
    Row("OpenAI o-series, gpt-5", "refuses `max_tokens`, names `max_completion_tokens`", "renames it, says so",
        _unless(lambda body: "max_tokens" in body,
                error(400, NO_MAX_TOKENS, param="max_tokens", code="unsupported_parameter")),
        without=("max_tokens",), has={"max_completion_tokens": 64}),
    Row("OpenAI o-series, gpt-5; newer Claude", "takes only its own temperature",
        "leaves `temperature` out, says so; the samples' `temperature` is null",
        _unless(lambda body: "temperature" in body, error(400, ONE_TEMPERATURE, param="temperature")),
        without=("temperature",)),
    Row("Mistral, Azure AI", "422 `extra_forbidden` at `body.seed`", "leaves `seed` out, says so",
        _unless(lambda body: "seed" in body, Reply(422, {"object": "error", "message": {"detail": [EXTRA]}})),
        without=("seed",)),
    Row("Gemini", 'a list of errors: `Unknown name "seed": Cannot find field`', "leaves `seed` out, says so",
        _unless(lambda body: "seed" in body, Reply(400, [{"error": {"code": 400, "message": NO_SEED}}])),
        without=("seed",)),
    Row("Gemma on vLLM and others", "`System role not supported`", "puts the system message before the first user turn",
        _unless(lambda body: body["messages"][0]["role"] == "system",
                Reply(400, {"object": "error", "message": "System role not supported", "code": 400})),
        has={"messages": [{"role": "user", "content": "Be brief.\n\nsecond"}]}),
    Row("DeepSeek, Moonshot, Zhipu", "takes no `json_schema`", "asks for `json_object`; `structured` sets it",
        _unless(lambda body: (body.get("response_format") or {}).get("type") == "json_schema",
                error(400, "This response_format type is unavailable now")),
        has={"response_format": {"type": "json_object"}}),
    Row("LM Studio", "takes neither JSON form", "asks in words alone",
        _unless(lambda body: "response_format" in body, error(400, "'response_format.type' is not supported")),
        without=("response_format",)),
    Row("OpenRouter", '200 with `{"error": {"code": 502}}`', "tries again, and in the next run",
        _always(error(200, "Provider returned error", code=502, metadata={"raw": "upstream overloaded"})),
        None, "unanswered", asked_again=True),
    Row("OpenRouter", "half a text with `finish_reason: error`", "tries again, and in the next run",
        _always(Reply(200, chat("half", finish_reason="error"))), None, "unanswered", asked_again=True),
    Row("OpenRouter", "403: the input was flagged", "`content_filter`, final", _always(
        error(403, "Your chosen model requires moderation and your input was flagged for violence", code=403)),
        None, "content_filter"),
    Row("OpenRouter, OpenAI", "blank lines or a stream of events to a request for a whole reply", "reads it",
        _always(_stream("An ", "answer."))),
    Row("any", "a stream that breaks off", "tries again, and in the next run", _always(_stream("An ", done=False)),
        None, "unanswered", asked_again=True),
    Row("several", "`choices` null or empty", "tries again, and in the next run",
        _always(Reply(200, {"choices": None, "usage": None})), None, "unanswered", asked_again=True),
    Row("several", "empty content without a refusal, with or without a tool call", "tries again, and in the next run",
        _always(_message("tool_calls", content=None, tool_calls=[{"id": "x"}])), None, "unanswered", asked_again=True),
    Row("DeepSeek, vLLM, SGLang, llama.cpp", "`reasoning_content` beside the content", "keeps it in `reasoning`",
        _always(_message(reasoning_content="hm")), reasoning="hm"),
    Row("OpenRouter, Groq, Ollama, newer vLLM", "`reasoning` beside the content", "keeps it in `reasoning`",
        _always(_message(reasoning="hm")), reasoning="hm"),
    Row("Mistral", "content as parts, some of type `thinking`", "joins the text, keeps the rest in `reasoning`",
        _always(_message(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                                  {"type": "text", "text": GOOD}])), reasoning="hm"),
    Row("models without a reasoning parser", "`<think>…</think>` before the answer", "keeps it in `reasoning`",
        _always(Reply(200, chat(f"<think>\nhm\n</think>\n\n{GOOD}"))), reasoning="hm"),
    Row("models whose template opens the tag", "`…</think>` before the answer", "keeps it in `reasoning`",
        _always(Reply(200, chat(f"hm\n</think>\n\n{GOOD}"))), reasoning="hm"),
    Row("any that reasons", "content null, `finish_reason: length`", "`cut_off`, final",
        _always(_message("length", content=None, reasoning_content="hm")), None, "cut_off", reasoning="hm"),
    Row("OpenAI, vLLM, DeepSeek", "400: maximum context length", "`too_long`, final",
        _always(error(400, "This model's maximum context length is 512 tokens.")), None, "too_long"),
    Row("llama.cpp", "400 `exceed_context_size_error`, or 500: context size has been exceeded", "`too_long`, final",
        _always(error(500, "Context size has been exceeded.", code=500)), None, "too_long"),
    Row("LM Studio", "400: trying to keep the first n tokens when the context overflows", "`too_long`, final",
        _always(Reply(400, {"error": "Trying to keep the first 9 tokens when context the overflows."})),
        None, "too_long"),
    Row("TGI, Together", "422 or 200: `inputs` tokens + `max_new_tokens` must be", "`too_long`, final",
        _always(Reply(200, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8"})),
        None, "too_long"),
    Row("SGLang", "400: longer than the model's context length", "`too_long`, final", _always(
        Reply(400, {"message": "The input (9 tokens) is longer than the model's context length (8 tokens)."})),
        None, "too_long"),
    Row("Gemini", "400: the input token count exceeds the maximum", "`too_long`, final", _always(Reply(400, [
        {"error": {"message": "The input token count (9) exceeds the maximum number of tokens allowed (8)."}}])),
        None, "too_long"),
    Row("Anthropic", "400: prompt is too long", "`too_long`, final",
        _always(error(400, "prompt is too long: 9 tokens > 8 maximum")), None, "too_long"),
    Row("Ollama", "400: prompt too long", "`too_long`, final",
        _always(Reply(400, {"error": "prompt too long; exceeded max context length by 9 tokens"})), None, "too_long"),
    Row("Azure, OpenAI", "400 `content_filter`", "`content_filter`, final", _always(
        error(400, "The response was filtered.", code="content_filter", param="prompt")), None, "content_filter"),
    Row("Azure, Gemini", "200 whose `finish_reason` is a filter's", "`content_filter`, final",
        _always(_message("PROHIBITED_CONTENT", content=None)), None, "content_filter"),
    Row("OpenAI", "200 with `refusal`", "`refused`, final; `max_attempts` asks again",
        _always(Reply(200, chat(None, refusal="I cannot"))), None, "refused"),
    Row("any", "408, 409, 425, 429, 5xx", "tries again, and in the next run", _always(Reply(529, "overloaded")),
        None, "unanswered", asked_again=True),
    Row("any", "any other 4xx", "`rejected`: not repeated now, asked again by the next run",
        _always(error(400, "no such thing")), None, "rejected", asked_again=True),
    Row("any", "a packed body (gzip, deflate)", "unpacks it",
        _always(Reply(200, gzip.compress(json.dumps(chat(GOOD)).encode()), 0, {"Content-Encoding": "gzip"}))),
    Row("any", "a body, or what it unpacks to, longer than such an answer can be", "reads no further; tries again",
        _always(Reply(200, gzip.compress(bytes(80_000_000)), 0, {"Content-Encoding": "gzip"})),
        None, "unanswered", asked_again=True),
)  # fmt: skip
"""The rows that end in one call; docs/endpoints.md has those that end a stage below them."""
