"""An OpenAI-compatible endpoint as an engine. Touches the network and the run's ledger.

Every call goes through the ledger: claimed before it is sent, committed before it is read. The client's own
retries are off; transport failures are retried here with the server's Retry-After.
"""

import asyncio
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, cast

import openai
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from pipeline.config import EndpointConfig, ModelConfig, Price
from pipeline.engines.base import Advance, Answer, Call, Request, Toolbox
from pipeline.errors import EndpointError
from pipeline.ledger import Busy, Claimed, Ledger, Recorded

POLL_S = 0.2
TOP_LOGPROBS = 20
OVERHEAD_TOKENS = 64
"""Tokens a chat template may add to the bytes of a request, for the worst-case cost."""
FATAL = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
RETRIED = (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError, openai.ConflictError)
HTTP_REQUEST_TIMEOUT = 408


class EndpointEngine:
    """Completes requests at one endpoint with one model."""

    def __init__(self, options: ModelConfig, toolbox: Toolbox) -> None:
        name = options.endpoint or ""
        self.options = options
        self.endpoint: EndpointConfig = toolbox.endpoint(name)
        self.ledger: Ledger = toolbox.ledger
        self.key = api_key(name, self.endpoint)
        self.price = self.endpoint.price_of(options)
        self.answered = 0

    def complete(self, requests: Sequence[Request], advance: Advance) -> list[Answer]:
        """See Engine. Raises EndpointError, BudgetError."""
        return asyncio.run(self._complete(requests, advance))

    def close(self) -> None:
        """Nothing is held between calls."""

    async def _complete(self, requests: Sequence[Request], advance: Advance) -> list[Answer]:
        slots = asyncio.Semaphore(self.endpoint.concurrency)
        pace = _Pace(self.endpoint.requests_per_minute)
        async with openai.AsyncOpenAI(
            base_url=self.endpoint.base_url,
            api_key=self.key,
            max_retries=0,
            timeout=self.endpoint.timeout_s,
            http_client=openai.DefaultAioHttpClient(),
        ) as client:

            async def one(request: Request) -> Answer:
                async with slots:
                    answer = await self._answer(client, pace, request)
                advance(1)
                return answer

            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(request)) for request in requests]
            except ExceptionGroup as errors:
                raise _first(errors) from None
        return [task.result() for task in tasks]

    async def _answer(self, client: openai.AsyncOpenAI, pace: "_Pace", request: Request) -> Answer:
        body = request_body(self.options.model, request)
        key = call_key(self.endpoint.base_url, body, request)
        reserve = worst_case_usd(body, self.price)
        while isinstance(claim := await self._claim(key, body, reserve), Busy):  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        if isinstance(claim, Recorded):
            return read_answer(key, claim.response, claim.cost_usd, claim.latency_s)
        try:
            response, latency = await self._send(client, pace, body)
        except openai.APIError as problem:
            await asyncio.wrap_future(self.ledger.release(key, type(problem).__name__))
            return self._failed(key, problem)
        except BaseException:
            # Stopped while the call was in flight: the endpoint may have answered and charged for it. The writer
            # thread does this whether or not anybody is left to wait for it.
            self.ledger.abandon(key)
            raise
        cost = cost_usd(response, self.price)
        await asyncio.shield(asyncio.wrap_future(self.ledger.answer(key, response, cost, latency)))
        self.answered += 1
        return read_answer(key, response, cost, latency)

    async def _claim(self, key: str, body: Mapping[str, Any], reserve: float) -> Recorded | Claimed | Busy:
        asked = self.ledger.claim(key, body, reserve)
        try:
            return await asyncio.wrap_future(asked)
        except asyncio.CancelledError:
            # The writer claims it all the same. Nothing was sent, so the claim goes back free.
            asked.add_done_callback(lambda done: self._unclaim(key, done))
            raise

    def _unclaim(self, key: str, done: "Future[Recorded | Claimed | Busy]") -> None:
        if done.exception() is None and isinstance(done.result(), Claimed):
            self.ledger.release(key, "stopped before it was sent")

    async def _send(
        self, client: openai.AsyncOpenAI, pace: "_Pace", body: Mapping[str, Any]
    ) -> tuple[dict[str, Any], float]:
        backoff = wait_exponential_jitter(multiplier=0.5, max=30)

        def wait(state: RetryCallState) -> float:
            return max(backoff(state), _retry_after(state))

        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(self.endpoint.attempts),
            wait=wait,
            retry=retry_if_exception(_is_transport),
            reraise=True,
        ):
            with attempt:
                await pace.wait()
                started = time.monotonic()
                raw = await cast("Any", client).chat.completions.with_raw_response.create(**body)
                return _decoded(str(raw.text)), time.monotonic() - started
        raise AssertionError("tenacity reraises the last failure")

    def _failed(self, key: str, problem: openai.APIError) -> Answer:
        """A failed call as an answer; a failure that every call would share is raised."""
        where = f"endpoint {self.options.endpoint!r} ({self.endpoint.base_url})"
        if isinstance(problem, openai.AuthenticationError | openai.PermissionDeniedError):
            source = self.endpoint.api_key_env
            remedy = f"set {source} to a valid key" if source else "name the key's variable in api_key_env"
            raise EndpointError(f"{where} refused the key: HTTP {problem.status_code}; {remedy}") from None
        if isinstance(problem, openai.NotFoundError):
            raise EndpointError(
                f"{where} knows no model {self.options.model!r} or no such path: HTTP 404; check model and base_url"
            ) from None
        if isinstance(problem, openai.APIConnectionError) and not self.answered:
            raise EndpointError(
                f"{where} cannot be reached after {self.endpoint.attempts} attempts ({_cause(problem)}); start it or "
                "correct base_url, then run the same command again"
            ) from None
        status = getattr(problem, "status_code", None)
        if _is_transport(problem):
            reason = f"HTTP {status}" if status else _cause(problem)
            return Answer(Call(key, "unanswered"), error=f"unanswered: {reason}")
        return Answer(Call(key, "unanswered"), error=f"rejected: HTTP {status}: {_detail(problem)}")


class _Pace:
    """Spaces calls so that there are at most so many a minute."""

    def __init__(self, per_minute: float | None) -> None:
        self.gap = 60 / per_minute if per_minute else 0.0
        self.next = 0.0

    async def wait(self) -> None:
        """Return when the next call may go out."""
        now = time.monotonic()
        self.next = max(self.next, now) + self.gap
        await asyncio.sleep(self.next - self.gap - now)


def request_body(model: str, request: Request) -> dict[str, Any]:
    """The JSON body of a chat completion."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": role, "content": content} for role, content in request.messages],
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "seed": request.seed,
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
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def worst_case_usd(body: Mapping[str, Any], price: Price | None) -> float:
    """The most a call can cost: a token is at least a byte, and the answer at most ``max_tokens`` long."""
    if price is None:
        return 0.0
    prompt = len(json.dumps(body, ensure_ascii=False).encode()) + OVERHEAD_TOKENS
    return (prompt * price.input + int(body["max_tokens"]) * price.output) / 1e6


def cost_usd(response: Mapping[str, Any], price: Price | None) -> float:
    """What a reply cost by its own count of tokens."""
    if price is None:
        return 0.0
    prompt, cached, completion = _usage(response)
    cached_price = price.input if price.cached_input is None else price.cached_input
    fresh = (prompt or 0) - (cached or 0)
    return (fresh * price.input + (cached or 0) * cached_price + (completion or 0) * price.output) / 1e6


def read_answer(key: str, response: Mapping[str, Any], cost: float, latency: float | None) -> Answer:
    """An Answer from a raw reply; a reply of the wrong shape is a failed answer, never an exception."""
    prompt, cached, completion = _usage(response)
    call = Call(key, "answered", prompt, cached, completion, cost, latency)
    try:
        choice = response["choices"][0]
        message = choice["message"]
        text = message.get("content")
        if message.get("refusal"):
            return Answer(call, error=f"refused: {message['refusal']}")
        if not isinstance(text, str) or not text:
            return Answer(call, error=f"empty_answer: finish_reason {choice.get('finish_reason')!r}")
        text.encode()  # a lone surrogate is no text: a ValueError
        about: Any = choice.get("logprobs") or {}
        tokens = cast("list[dict[str, Any]]", about.get("content") or [])
        first = {str(t["token"]): float(t["logprob"]) for t in tokens[0].get("top_logprobs", [])} if tokens else None
        total = min(sum(float(token["logprob"]) for token in tokens), 0.0) if tokens else None
        return Answer(call, text, str(choice.get("finish_reason") or "stop"), total, first)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        return Answer(call, error=f"malformed: {type(error).__name__}: {error}")


def _usage(response: Mapping[str, Any]) -> tuple[int | None, int | None, int | None]:
    found = response.get("usage")
    if not isinstance(found, Mapping):
        return None, None, None
    usage = cast("Mapping[str, Any]", found)
    inner = usage.get("prompt_tokens_details")
    details = cast("Mapping[str, Any]", inner if isinstance(inner, Mapping) else {})
    counts: tuple[Any, ...] = (usage.get("prompt_tokens"), details.get("cached_tokens"), usage.get("completion_tokens"))
    prompt, cached, completion = (count if isinstance(count, int) and count >= 0 else None for count in counts)
    return prompt, cached, completion


class MalformedReplyError(openai.APIConnectionError):
    """The body of an HTTP 200 is no JSON object: the connection broke, or a proxy spoke."""


def _decoded(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        import httpx2

        raise MalformedReplyError(message="reply is no JSON object", request=httpx2.Request("POST", "/"))
    return cast("dict[str, Any]", value)


def _is_transport(problem: BaseException) -> bool:
    return isinstance(problem, RETRIED) or getattr(problem, "status_code", None) == HTTP_REQUEST_TIMEOUT


def _retry_after(state: RetryCallState) -> float:
    problem = state.outcome.exception() if state.outcome else None
    response = getattr(problem, "response", None)
    try:
        return float(response.headers["retry-after"]) if response is not None else 0.0
    except (KeyError, ValueError):
        return 0.0


def _cause(problem: BaseException) -> str:
    return str(problem.__cause__ or problem) or type(problem).__name__


def _detail(problem: openai.APIError) -> str:
    return str(problem.message)[:300]


def _first(errors: BaseException) -> BaseException:
    while isinstance(errors, BaseExceptionGroup):
        errors = cast("BaseException", errors.exceptions[0])
    return errors


def api_key(name: str, endpoint: EndpointConfig) -> str:
    """The endpoint's key from its environment variable.

    Raises:
        EndpointError: the variable is named and not set.
    """
    if endpoint.api_key_env is None:
        return "none"
    key = os.environ.get(endpoint.api_key_env, "")
    if not key:
        raise EndpointError(
            f"endpoint {name!r} takes its key from {endpoint.api_key_env}, which is not set; export it, or remove "
            "api_key_env if the server needs none"
        )
    return key
