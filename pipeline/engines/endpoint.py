"""An OpenAI-compatible endpoint as an engine. Touches the network and the run's ledger.

Every call goes through the ledger: claimed before it is sent, committed before it is used. What a reply means is
decided in ``pipeline.calls.finality``; what passes is tried again here, and when a call may go out is the business of
the endpoint's limiter. Requests are taken one by one as workers get free, so a long run holds no more of them than are
in flight. One file on purpose: the life of a call from claim to commit is one sequence.
"""

import asyncio
import gc
import json
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, cast

import orjson

from pipeline.calls import finality
from pipeline.calls.batches import require_kept
from pipeline.calls.client import NoReplyError, Session, longest_body
from pipeline.calls.client import Reply as HttpReply
from pipeline.calls.ledger import Abandon, Busy, Claim, Desk, Ledger, Outcome, Recorded, Release, Reply
from pipeline.calls.limiter import BYTES_PER_TOKEN, EndpointDeadError, Kind, Limiter, Permit
from pipeline.calls.streams import assembled, is_stream
from pipeline.calls.usage import Charge, charge, surely_unpaid
from pipeline.config import EndpointConfig, ModelConfig
from pipeline.engines.base import Advance, Answer, Call, Request, Toolbox
from pipeline.engines.chat import (
    OK,
    REDIRECT,
    answer_of,
    answer_tokens,
    bounded_usd,
    call_key,
    call_of,
    read_answer,
    request_body,
    storable,
    used_tokens,
)
from pipeline.engines.wire import client
from pipeline.errors import BudgetError, EndpointError, UnreachableError

POLL_S = 0.2
COLLECT_AFTER = 50_000
"""New containers after which the cycle collector looks at the young ones, while calls are in flight."""
BACKOFF_S = 0.5
MOST_BACKOFF_S = 30.0
DRAIN_S = 20.0
"""How long calls in flight are waited for when a run is stopped; then they stay charged as possibly paid."""
LOG = logging.getLogger("jurybox")
UNSENT = "stopped before it was sent"
SHARED_AFTER = 3
"""Calls in a row for which a person has to mend something, until the endpoint is taken to refuse them all."""
MOST_CHANGES = 8
"""Times that a call is made again with a parameter less."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A request as it is sent, claimed and accounted."""

    at: int
    request: Request
    key: str
    plain: Mapping[str, Any]
    """The request as the protocol has it."""
    sent: Mapping[str, Any]
    """The same as this endpoint and model take it."""
    body: bytes
    text: str
    """What is sent, for the ledger."""
    reserve_usd: float
    tokens: float
    """What the call may take from a vendor's limit of tokens: the prompt's bytes over 4, and ``max_tokens``."""


class _Heard(NamedTuple):
    """One exchange: what the reply means, and the reply, if one came."""

    found: finality.Outcome
    text: str = ""
    response: Mapping[str, Any] | None = None
    """The reply's JSON object, where it is one."""
    status: int = 0
    latency: float = 0.0
    unpaid: bool = False
    """It was surely not done, so nothing is charged."""


class EndpointEngine:
    """Completes requests at one endpoint with one model."""

    def __init__(self, options: ModelConfig, toolbox: Toolbox) -> None:
        name = options.endpoint or ""
        self.options = options
        self.endpoint: EndpointConfig = toolbox.endpoint(name)
        self.price = self.endpoint.price_of(options)
        self.ledger: Ledger = toolbox.ledger
        self.limiter: Limiter = toolbox.limiter(name)
        self.dialect = toolbox.dialect(options)
        self.client = client(name, self.endpoint, options, self.dialect.family.key_header)
        self.excess = 1.0
        """The dearest call so far as a multiple of its worst case: a vendor that bills more than was asked for (hidden
        prompts, reasoning beyond ``max_tokens``) is reckoned with from then on."""
        self.through = 0
        """Calls to this model that got a final reply, now or before."""
        self.turned_away = 0
        """Calls in a row for which a person has to mend something."""

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
        plain = request_body(self.options.model, request)
        body = self.dialect.body(plain)
        encoded = orjson.dumps(body)
        longest = answer_tokens(body, request.max_tokens)
        return _Prepared(
            at,
            request,
            call_key(self.endpoint.base_url, body, request),
            plain,
            body,
            encoded,
            encoded.decode(),
            bounded_usd(len(encoded), longest, self.price) * self.excess,
            len(encoded) / BYTES_PER_TOKEN + longest,
        )

    def charge(self, call: "_Prepared", response: Mapping[str, Any]) -> Charge:
        """What a reply is charged (see ``pipeline.calls.usage``)."""
        found = charge(response, call.reserve_usd, self.price)
        if found.cost_usd > call.reserve_usd > 0:
            self.excess *= found.cost_usd / call.reserve_usd
        return found

    def failed(self, key: str, found: finality.Outcome) -> Answer:
        """A call that got no answer, as one; raises the failure that every call would share."""
        if found.fate == "mend":
            self.turned_away += 1
            if not self.through or self.turned_away >= SHARED_AFTER:
                raise self.shared(found)
        if found.final:
            self.got_through()
        status = "answered" if found.final else "unanswered"
        return Answer(Call(key, status), reason=found.reason, error=storable(found.words))

    def got_through(self) -> None:
        """Take note that a call got a final reply."""
        self.through += 1
        self.turned_away = 0

    def shared(self, found: finality.Outcome) -> EndpointError:
        """The error of a refusal that is no single call's, with the remedy."""
        source = self.endpoint.api_key_env
        key = f"set {source} to a valid key" if source else "name the key's variable in api_key_env"
        said, model = found.words, self.options.model
        told = {
            "key": f"refused the key: {said}; {key}",
            "credit": f"is out of money, quota or credit: {said}; top up the account or raise its limit, then run the "
            "same command again",
            "model": f"knows no model {model!r} or no such path: {said}; check model, base_url and query (Azure: "
            "api-version)",
            "redirect": f"sends calls elsewhere: {said}; set base_url to the address that is meant",
        }
        return EndpointError(
            f"{self.where} {told.get(found.about, f'refused model {model!r}: {said}; mend what it names')}"
        )

    @property
    def where(self) -> str:
        """The endpoint as errors name it."""
        return f"endpoint {self.options.endpoint!r} ({self.endpoint.base_url})"

    def unreachable(self, words: str) -> UnreachableError:
        """The error of an endpoint that has not replied once."""
        return UnreachableError(
            f"{self.where} cannot be reached after {self.endpoint.attempts} attempts ({words}); start it or "
            "correct base_url, then run the same command again",
            self.options.endpoint or "",
        )


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
        self.last = "nothing"
        """Words of the latest failure."""
        self.in_flight: set[asyncio.Task[None]] = set()
        """Workers whose call is at the endpoint's: what it answers is paid for."""
        self.settled = asyncio.Event()
        """Set, and replaced, when one of them gets it."""

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
                for _ in range(MOST_CHANGES):
                    if await self._answer(self.engine.prepared(*item)):
                        break
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

    async def _claimed(self, call: _Prepared) -> bool:
        """Whether the call is ours to make; where it is not, what is to be done has been."""
        claim = await self._claim(call)
        if isinstance(claim, Busy):
            if claim.batch is not None:
                await asyncio.to_thread(require_kept, self.engine.ledger, claim.batch)
            self.later.append((call.at, call.request))
            return False
        if isinstance(claim, Recorded):
            self.engine.through += 1
            self._finish(call, read_answer(call.key, claim.response, claim.cost_usd, claim.latency_s))
            return False
        self.claimed += 1
        return True

    async def _answer(self, call: _Prepared) -> bool:
        """Get the call its answer; False when it must be made in other words, which have just been learned."""
        if not await self._claimed(call):
            return True
        heard = await self._send(call)
        if heard is None:
            return True  # others do it, or are about to
        found = heard.found
        if found.fate == "answer" or (found.final and heard.response is not None and not heard.unpaid):
            self._commit(call, heard)
            return True
        self._give_back(call, heard)
        changed = not found.final and self.engine.dialect.learn(heard.status, found.words, call.sent, call.plain)
        if changed:
            return False
        if not heard.status and not self.limiter.successes:
            raise self.engine.unreachable(found.words)
        self._finish(call, self.engine.failed(call.key, found))
        return True

    def _commit(self, call: _Prepared, heard: _Heard) -> None:
        self.engine.got_through()
        response = heard.response or {}
        charged = self.engine.charge(call, response)
        answer = answer_of(call_of(call.key, charged, heard.latency), heard.found, response)
        reply = Reply(
            call.key, heard.text, charged.cost_usd, heard.latency, charged.reported_usd, charged.fault or None
        )
        committed = self.desk.do(reply)
        committed.add_done_callback(partial(self._committed, call, answer))

    def _committed(self, call: _Prepared, answer: Answer, done: "asyncio.Future[Outcome]") -> None:
        if done.cancelled():
            return
        self._settle()
        if (problem := done.exception()) is not None:
            self.broken = self.broken or problem
        elif done.result():
            self._finish(call, answer)
        else:
            self.again.append((call.at, call.request))

    def _give_back(self, call: _Prepared, heard: _Heard) -> None:
        """End a claim without an answer: charged unless the work was surely not done."""
        words = heard.found.words
        if heard.unpaid:
            self.desk.tell(Release(call.key, words))
        else:
            cost = None if heard.response is None else self.engine.charge(call, heard.response).cost_usd
            self.desk.tell(Abandon(call.key, words, cost))
        self._settle()

    def _settle(self) -> None:
        self.claimed -= 1
        self.settled.set()
        self.settled = asyncio.Event()

    def _finish(self, call: _Prepared, answer: Answer) -> None:
        if "temperature" not in call.sent:
            answer = replace(answer, temperature_sent=False)
        self.found[call.at] = answer
        self.advance(1)

    async def _send(self, call: _Prepared) -> _Heard | None:
        """The last exchange of a call, tried again while that may help; its claim is still held.

        None when the claim was lost between two tries: what may have been paid is given back and claimed anew.
        """
        heard: _Heard | None = None
        failures = tries = 0
        while True:
            seen = self.limiter.successes
            permit = await self._permit(call, failures, heard)
            if permit is None and heard is not None:
                return heard._replace(unpaid=True)  # what may have been paid was given back before this claim
            if permit is None:
                return _Heard(
                    finality.no_reply("the endpoint is given up: it did not reply to other calls"), unpaid=True
                )
            heard = await self._exchanged(call, permit)
            self.last = heard.found.words
            failures += 1
            # Too fast, while others got through: that is the limiter's business and not one of the call's tries.
            tries += not (heard.found.throttled and self.limiter.successes > seen)
            if tries >= self.engine.endpoint.attempts or not self._worth_a_try(call, heard):
                return heard
            if not heard.unpaid:
                self._give_back(call, heard)
                if not await self._claimed(call):
                    return None

    def _worth_a_try(self, call: _Prepared, heard: _Heard) -> bool:
        found = heard.found
        if (
            found.final
            or self.broken is not None
            or self.engine.dialect.learn(heard.status, found.words, call.sent, call.plain)
        ):
            return False
        if found.fate == "mend":
            return self.engine.through > 0
        return found.fate == "again"

    async def _permit(self, call: _Prepared, failures: int, heard: _Heard | None) -> Permit | None:
        """Wait until the call may go out; stopped while it waits, it goes back free. None: the endpoint is given up."""
        try:
            if failures:
                await self.limiter.clock.sleep(_backoff(failures))
            return await self.limiter.enter(call.tokens)
        except asyncio.CancelledError:
            self.desk.tell(Release(call.key, UNSENT if heard is None else heard.found.words))
            raise
        except EndpointDeadError:
            return None

    async def _exchanged(self, call: _Prepared, permit: Permit) -> _Heard:
        started, worker = time.monotonic(), cast("asyncio.Task[None]", asyncio.current_task())
        self.in_flight.add(worker)
        try:
            reply = await self.session.post(call.body, longest_body(answer_tokens(call.sent, call.request.max_tokens)))
        except NoReplyError as problem:
            self.limiter.exit(permit, "timeout" if problem.timeout else "failed")
            return _Heard(finality.no_reply(str(problem)), status=problem.status, unpaid=not problem.sent)
        except BaseException:
            # Stopped while the call was in flight: the endpoint may have answered and charged for it.
            self.limiter.exit(permit, "stopped")
            self.desk.tell(Abandon(call.key))
            raise
        finally:
            self.in_flight.discard(worker)
        heard = _heard(reply, time.monotonic() - started)
        used = None if heard.response is None or heard.status != OK else used_tokens(heard.response)
        self.limiter.exit(permit, _kind(heard.found), reply.headers, used)
        return heard


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


def _heard(reply: HttpReply, latency: float) -> _Heard:
    """What a reply means, with its JSON where that is an object."""
    value, text = _decoded(reply.body)
    found = finality.outcome(reply.status, value)
    response = cast("Mapping[str, Any]", value) if isinstance(value, dict) else None
    return _Heard(
        found,
        text,
        response,
        reply.status,
        latency,
        reply.status >= REDIRECT and (surely_unpaid(reply.status) or found.about == "redirect"),
    )


def _decoded(body: bytes) -> tuple[object, str]:
    """A body as JSON and the text that is kept of it: a stream is put together, and what is no JSON stays text."""
    try:
        return orjson.loads(body), body.decode()
    except ValueError:
        pass
    text = body.decode(errors="replace")
    if is_stream(text):
        whole = assembled(text)
        return whole, json.dumps(whole)
    # orjson takes no lone surrogates and no NaN; what a judge wrote around them is still its reply.
    try:
        return json.loads(body), text
    except (ValueError, RecursionError):
        return text, text


def _kind(found: finality.Outcome) -> Kind:
    """What a reply says about the endpoint."""
    if found.throttled:
        return "throttled"
    return "failed" if found.fate == "again" else "ok"


def _backoff(count: int) -> float:
    """Seconds before the next try: doubling, with half of it random so that calls that failed together part."""
    return min(MOST_BACKOFF_S, BACKOFF_S * 2**count) * random.uniform(0.5, 1)  # noqa: S311  no secret hangs on it
