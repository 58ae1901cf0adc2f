"""An OpenAI-compatible endpoint as an engine. Touches the network and the run's ledger.

Every call goes through the ledger: claimed before it is sent, committed before it is used. Transport failures are
retried here; when a call may go out is the business of the endpoint's limiter. Requests are taken one by one as
workers get free, so a long run holds no more of them than are in flight.
"""

import asyncio
import gc
import hashlib
import json
import logging
import math
import os
import random
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import aiohttp
import openai
import orjson

from pipeline.batches import require_kept
from pipeline.calls.usage import Charge, charge, read_usage, surely_unpaid
from pipeline.client import Client, Session
from pipeline.config import EndpointConfig, ModelConfig, Price
from pipeline.engines.base import Advance, Answer, Call, Request, Toolbox
from pipeline.errors import BudgetError, ConfigError, EndpointError, UnreachableError
from pipeline.ledger import Abandon, Busy, Claim, Desk, Ledger, Operation, Outcome, Recorded, Release, Reply
from pipeline.limiter import BYTES_PER_TOKEN, EndpointDeadError, Kind, Limiter, Permit

POLL_S = 0.2
COLLECT_AFTER = 50_000
"""New containers after which the cycle collector looks at the young ones, while calls are in flight."""
BACKOFF_S = 0.5
MOST_BACKOFF_S = 30.0
TOP_LOGPROBS = 20
DRAIN_S = 20.0
"""How long calls in flight are waited for when a run is stopped; then they stay charged as possibly paid."""
OVERHEAD_TOKENS = 64
"""Tokens a chat template may add to the bytes of a request, for the worst-case cost."""
RETRIED = (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError, openai.ConflictError)
HTTP_REQUEST_TIMEOUT = 408
HTTP_TOO_LARGE = 413
TOO_LONG = ("context_length_exceeded", "maximum context length", "context window", "max_model_len", "too many tokens")
"""What vendors and vLLM say, in lower case, of a prompt that does not fit."""
UNSENT = "stopped before it was sent"
LOG = logging.getLogger("jurybox")


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A request as it is sent, claimed and accounted."""

    at: int
    request: Request
    key: str
    body: bytes
    text: str
    """The body, for the ledger."""
    reserve_usd: float
    tokens: float
    """What the call may take from a vendor's limit of tokens: the prompt's bytes over 4, and ``max_tokens``."""


class EndpointEngine:
    """Completes requests at one endpoint with one model."""

    def __init__(self, options: ModelConfig, toolbox: Toolbox) -> None:
        name = options.endpoint or ""
        self.options = options
        self.endpoint: EndpointConfig = toolbox.endpoint(name)
        self.price = self.endpoint.price_of(options)
        self.ledger: Ledger = toolbox.ledger
        self.limiter: Limiter = toolbox.limiter(name)
        self.client = Client(self.endpoint.base_url, api_key(name, self.endpoint))
        self.excess = 1.0
        """The dearest call so far as a multiple of its worst case: a vendor that bills more than was asked for (hidden
        prompts, reasoning beyond ``max_tokens``) is reckoned with from then on."""

    def complete(self, requests: Iterable[Request], advance: Advance) -> list[Answer]:
        """See Engine. Raises EndpointError, BudgetError, StorageError.

        On Ctrl-C what is in flight is waited for, at most DRAIN_S.
        """
        with _few_collections(), asyncio.Runner(loop_factory=_fast_loop()) as runner:
            return runner.run(self._complete(requests, advance))

    def close(self) -> None:
        """Nothing is held between calls."""

    async def _complete(self, requests: Iterable[Request], advance: Advance) -> list[Answer]:
        timeout_s = self.limiter.clock.real(self.endpoint.timeout_s)
        async with self.client.session(self.limiter.most, timeout_s) as session:
            return await _Run(self, session, Desk(self.ledger), requests, advance).answers()

    def prepared(self, at: int, request: Request) -> _Prepared:
        """The request number *at* as it is sent."""
        body = request_body(self.options.model, request)
        encoded = orjson.dumps(body)
        return _Prepared(
            at,
            request,
            call_key(self.endpoint.base_url, body, request),
            encoded,
            encoded.decode(),
            _worst_case_usd(len(encoded), request.max_tokens, self.price) * self.excess,
            len(encoded) / BYTES_PER_TOKEN + request.max_tokens,
        )

    def charge(self, call: "_Prepared", response: Mapping[str, Any]) -> Charge:
        """What a reply is charged (see ``pipeline.calls.usage``)."""
        found = charge(response, call.reserve_usd, self.price)
        if found.cost_usd > call.reserve_usd > 0:
            self.excess *= found.cost_usd / call.reserve_usd
        return found

    def failed(self, key: str, problem: openai.APIError | EndpointDeadError) -> Answer:
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
        if isinstance(problem, openai.APIConnectionError | EndpointDeadError) and not self.limiter.successes:
            raise UnreachableError(
                f"{where} cannot be reached after {self.endpoint.attempts} attempts ({_cause(problem)}); start it or "
                "correct base_url, then run the same command again",
                self.options.endpoint or "",
            ) from None
        status = getattr(problem, "status_code", None)
        if isinstance(problem, EndpointDeadError) or _is_transport(problem):
            reason = f"HTTP {status}" if status else _cause(problem)
            return Answer(Call(key, "unanswered"), error=f"unanswered: {reason}")
        kind = "too_long" if _is_too_long(problem) else "rejected"
        return Answer(Call(key, "unanswered"), error=f"{kind}: HTTP {status}: {_detail(problem)}")


@dataclass(slots=True)
class _Tries:
    """How often one call failed, and why the last time."""

    count: int = 0
    """Of those that count against ``attempts``."""
    failures: int = 0
    problem: openai.APIError | None = None

    def failed(self, problem: openai.APIError, *, counts: bool) -> None:
        """Once more."""
        self.problem = problem
        self.failures += 1
        self.count += counts


class _Run:
    """One `complete`: as many workers as calls may be in flight, each taking the next request when it has answered one.

    A worker whose reply is on its way to the ledger goes on with the next request: the reply and the next claim are
    committed together, in that order, so claims without an answer are never more than workers.
    """

    def __init__(
        self, engine: EndpointEngine, session: Session, desk: Desk, requests: Iterable[Request], advance: Advance
    ) -> None:
        self.engine, self.session, self.desk, self.advance = engine, session, desk, advance
        self.limiter = engine.limiter
        self.feed = enumerate(requests)
        self.later: deque[tuple[int, Request]] = deque()
        """Calls that somebody else is making: their turn comes when there is nothing else to do, so that processes
        that share a ledger share the work."""
        self.again: list[tuple[int, Request]] = []
        """Calls whose claim was taken over while this process seemed dead."""
        self.found: dict[int, Answer] = {}
        self.broken: BaseException | None = None
        self.claimed = 0
        """Claims of this run that have no outcome yet."""
        self.settled = asyncio.Event()
        """Set, and replaced, when one of them gets it."""
        self.in_flight: set[asyncio.Task[None]] = set()
        """Workers whose call is at the endpoint's: what it answers is paid for."""

    async def answers(self) -> list[Answer]:
        """One answer per request, in their order."""
        try:
            while True:
                await self._together([asyncio.create_task(self._work()) for _ in range(self.limiter.most)])
                await self.desk.drain()
                if self.broken is not None:
                    raise self.broken
                if not self.again:
                    return [self.found[at] for at in range(len(self.found))]
        finally:
            # Claims that were cancelled are given back in the drain, so it is waited for to the end.
            await self.desk.drain()

    async def _together(self, workers: "Sequence[asyncio.Task[None]]") -> None:
        """Let them work; when one fails, or we are stopped, nothing more goes out, what is in flight is awaited."""
        try:
            done, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
            failed = next((one.exception() for one in done if one.exception() is not None), None)
            self.broken = self.broken or failed
            if failed is not None:
                await self._landed(workers)
        except asyncio.CancelledError as stopped:
            self.broken = self.broken or stopped
            await self._landed(workers)
            raise
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _landed(self, workers: "Sequence[asyncio.Task[None]]") -> None:
        """Wait for the calls in flight, at most DRAIN_S; who waits for his turn to send is stopped at once."""
        for worker in workers:
            if worker not in self.in_flight:
                worker.cancel()
        if self.in_flight:
            wait_s = self.limiter.clock.real(DRAIN_S)
            LOG.warning("stopping: %d calls in flight are waited for, %.0f s at most", len(self.in_flight), wait_s)
            await asyncio.wait(self.in_flight, timeout=wait_s)

    async def _work(self) -> None:
        while self.broken is None and (item := await self._next()) is not None:
            try:
                await self._answer(self.engine.prepared(*item))
            except BudgetError as spent:
                # What is in flight is being paid for: it gets its answer, and nothing more goes out.
                self.broken = self.broken or spent

    async def _next(self) -> tuple[int, Request] | None:
        if self.again:
            return self.again.pop()
        if (item := next(self.feed, None)) is not None or not self.later:
            return item
        waiting = self.later.popleft()
        await self.limiter.clock.sleep(POLL_S)
        return waiting

    async def _claim(self, call: _Prepared) -> Outcome:
        """The outcome of a claim; where the budget is short, once what is reserved was settled."""
        while True:
            try:
                return await self.desk.do(Claim(call.key, call.text, call.reserve_usd))
            except BudgetError:
                if not self.claimed or self.broken is not None:
                    raise
                await self.settled.wait()

    async def _answer(self, call: _Prepared) -> None:
        tries = _Tries()
        while True:
            claim = await self._claim(call)
            if isinstance(claim, Busy):
                if claim.batch is not None:
                    await asyncio.to_thread(require_kept, self.engine.ledger, claim.batch)
                self.later.append((call.at, call.request))
                return
            if isinstance(claim, Recorded):
                self._finish(call.at, read_answer(call.key, claim.response, claim.cost_usd, claim.latency_s))
                return
            self.claimed += 1
            try:
                text, response, latency = await self._send(call, tries)
                break
            except (openai.APIError, EndpointDeadError) as problem:
                self.desk.tell(_ended(call.key, problem))
                self._settle()
                if not self._goes_on(problem, tries):
                    told = (tries.problem or problem) if isinstance(problem, EndpointDeadError) else problem
                    self._finish(call.at, self.engine.failed(call.key, told))
                    return
        charged = self.engine.charge(call, response)
        answer = read_answer(call.key, response, charged.cost_usd, latency)
        reply = Reply(call.key, text, charged.cost_usd, latency, charged.reported_usd, charged.fault or None)
        committed = self.desk.do(reply)
        committed.add_done_callback(partial(self._committed, call, answer))

    def _committed(self, call: _Prepared, answer: Answer, done: "asyncio.Future[Outcome]") -> None:
        if done.cancelled():
            return
        self._settle()
        if (problem := done.exception()) is not None:
            self.broken = self.broken or problem
        elif done.result():
            self._finish(call.at, answer)
        else:
            self.again.append((call.at, call.request))

    def _settle(self) -> None:
        self.claimed -= 1
        self.settled.set()
        self.settled = asyncio.Event()

    def _finish(self, at: int, answer: Answer) -> None:
        self.found[at] = answer
        self.advance(1)

    async def _send(self, call: _Prepared, tries: "_Tries") -> tuple[str, dict[str, Any], float]:
        """The reply as text and as JSON, and its seconds; tried again while nothing was done and the transport fails.

        Raises what may have been paid at once: the next try needs a reservation of its own.
        """
        while True:
            seen = self.limiter.successes
            permit = await self._permit(call, tries)
            try:
                return await self._sent(call, permit)
            except openai.APIError as failed:
                problem = failed
            kind = _kind(problem)
            self.limiter.exit(permit, kind, _headers(problem))
            # Too fast, while others got through: that is the limiter's business and not one of the call's tries.
            tries.failed(problem, counts=not (kind == "throttled" and self.limiter.successes > seen))
            if not _surely_unpaid(problem) or not self._goes_on(problem, tries):
                raise problem

    def _goes_on(self, problem: "openai.APIError | EndpointDeadError", tries: "_Tries") -> bool:
        """Whether a call that failed is tried again."""
        return self.broken is None and tries.count < self.engine.endpoint.attempts and _is_transport(problem)

    async def _permit(self, call: _Prepared, tries: "_Tries") -> Permit:
        """Wait until the call may go out; stopped while it waits, it goes back free."""
        try:
            if tries.failures:
                await self.limiter.clock.sleep(_backoff(tries.failures))
            return await self.limiter.enter(call.tokens)
        except asyncio.CancelledError:
            self.desk.tell(Release(call.key, UNSENT))
            raise

    async def _sent(self, call: _Prepared, permit: Permit) -> tuple[str, dict[str, Any], float]:
        started, worker = time.monotonic(), cast("asyncio.Task[None]", asyncio.current_task())
        self.in_flight.add(worker)
        try:
            reply = await self.session.post(call.body)
        except openai.APIError:
            raise
        except BaseException:
            # Stopped while the call was in flight: the endpoint may have answered and charged for it.
            self.limiter.exit(permit, "stopped")
            self.desk.tell(Abandon(call.key))
            raise
        finally:
            self.in_flight.discard(worker)
        response = _decoded(reply.body)
        if response is None:
            raise self.engine.client.malformed()
        usage = read_usage(response)
        used = None if usage.fault else float((usage.prompt_tokens or 0) + (usage.completion_tokens or 0))
        self.limiter.exit(permit, "ok", reply.headers, used)
        return reply.body.decode(), response, time.monotonic() - started


@contextmanager
def _few_collections() -> Generator[None]:
    """Let Python's cycle collector look seldom: calls by the thousand are no garbage, and it looks at them all."""
    before = gc.get_threshold()
    gc.set_threshold(COLLECT_AFTER, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop, where the platform has it."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


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
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()


def worst_case_usd(body: Mapping[str, Any], price: Price | None) -> float:
    """The most a call can cost: a token is at least a byte, and the answer at most ``max_tokens`` long."""
    return _worst_case_usd(len(orjson.dumps(body)), int(body["max_tokens"]), price)


def _worst_case_usd(prompt_bytes: int, max_tokens: int, price: Price | None) -> float:
    if price is None:
        return 0.0
    return ((prompt_bytes + OVERHEAD_TOKENS) * price.input + max_tokens * price.output) / 1e6


def read_answer(key: str, response: Mapping[str, Any], cost: float, latency: float | None) -> Answer:
    """An Answer from a raw reply; a reply of the wrong shape is a failed answer, never an exception."""
    used = read_usage(response)
    call = Call(key, "answered", used.prompt_tokens, used.cached_tokens, used.completion_tokens, cost, latency)
    try:
        choice = response["choices"][0]
        message = choice["message"]
        text = message.get("content")
        if message.get("refusal"):
            return Answer(call, error=_plain(f"refused: {message['refusal']}"))
        if not isinstance(text, str) or not text:
            return Answer(call, error=_plain(f"empty_answer: finish_reason {choice.get('finish_reason')!r}"))
        text.encode()  # a lone surrogate is no text: a ValueError
        about: Any = choice.get("logprobs") or {}
        tokens = cast("list[dict[str, Any]]", about.get("content") or [])
        first = {str(t["token"]): float(t["logprob"]) for t in tokens[0].get("top_logprobs", [])} if tokens else None
        total = min(sum(float(token["logprob"]) for token in tokens), 0.0) if tokens else None
        known = total if total is not None and math.isfinite(total) else None
        return Answer(call, text, _plain(str(choice.get("finish_reason") or "stop")), known, first)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        return Answer(call, error=_plain(f"malformed: {type(error).__name__}: {error}"))


def _plain(text: str) -> str:
    """*text* as a file can hold it: a lone surrogate, which JSON can spell, is a question mark."""
    return text.encode(errors="replace").decode()


def _decoded(body: bytes) -> dict[str, Any] | None:
    """A reply's JSON object; None for anything else."""
    try:
        value: object = orjson.loads(body)
    except ValueError:
        # orjson takes no lone surrogates and no NaN; what a judge wrote around them is still its reply.
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _is_transport(problem: BaseException) -> bool:
    return isinstance(problem, RETRIED) or getattr(problem, "status_code", None) == HTTP_REQUEST_TIMEOUT


def _is_too_long(problem: openai.APIError) -> bool:
    said = f"{problem.code} {problem.message}".lower()
    return getattr(problem, "status_code", None) == HTTP_TOO_LARGE or any(words in said for words in TOO_LONG)


def _surely_unpaid(problem: BaseException) -> bool:
    """Whether a call that failed was surely not made: it never went out, or the server says that it did not do it."""
    if isinstance(problem, openai.APIStatusError):
        return surely_unpaid(problem.status_code)
    cause = problem.__cause__
    return isinstance(problem, EndpointDeadError) or isinstance(
        cause, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError
    )


def _ended(key: str, problem: BaseException) -> Operation:
    """What a call without a reply means for the ledger."""
    if _surely_unpaid(problem):
        return Release(key, type(problem).__name__)
    return Abandon(key, f"no whole reply: {_cause(problem)}"[:300])


def _kind(problem: openai.APIError) -> Kind:
    """What a failure says about the endpoint."""
    if isinstance(problem, openai.RateLimitError):
        return "throttled"
    if isinstance(problem, openai.APITimeoutError):
        return "timeout"
    return "failed" if _is_transport(problem) else "ok"


def _headers(problem: openai.APIError) -> Mapping[str, str] | None:
    return problem.response.headers if isinstance(problem, openai.APIStatusError) else None


def _backoff(count: int) -> float:
    """Seconds before the next try: doubling, with half of it random so that calls that failed together part."""
    return min(MOST_BACKOFF_S, BACKOFF_S * 2**count) * random.uniform(0.5, 1)  # noqa: S311  no secret hangs on it


def _cause(problem: BaseException) -> str:
    return str(problem.__cause__ or problem) or type(problem).__name__


def _detail(problem: openai.APIError) -> str:
    return str(problem.message)[:300]


def api_key(name: str, endpoint: EndpointConfig) -> str:
    """The endpoint's key from its environment variable.

    Raises:
        ConfigError: the variable is named and not set.
    """
    if endpoint.api_key_env is None:
        return "none"
    key = os.environ.get(endpoint.api_key_env, "")
    if not key:
        raise ConfigError(
            f"endpoint {name!r} takes its key from {endpoint.api_key_env}, which is not set; export it, or remove "
            "api_key_env if the server needs none"
        )
    return key
