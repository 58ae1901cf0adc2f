"""How many calls an endpoint gets at once, and when: one limiter per endpoint, shared by everything in the process.

Four rules, each able to make a call wait; formulas in docs/methods.md.

- *Concurrency.* Starts at the config's ``concurrency`` (at most START): the user has said what the endpoint bears. A
  429 or a time-out takes 30 % off, once for all calls that were already in flight together; then it rises, by one a
  success up to where it last was, by one a round trip beyond, while latency holds (Chiu & Jain 1989, AIMD, with
  TCP's slow start).
- *Rates.* Requests and tokens a minute from the config, and the vendor's own from its reply headers.
- *Pauses.* A 429 or 503 with ``Retry-After`` stops the endpoint for that long, at most ``max_wait_s``.
- *Circuit.* DEAD_AFTER failures in a row open it: one call at a time looks whether the endpoint is back, after 1 s,
  2 s, 4 s ... When PROBES looks in a row failed, the endpoint is given up: whoever waits is told, and later calls
  too, until the next look is due.

Touches nothing: time comes from a :class:`Clock`, which a test may run faster.
"""

import asyncio
import contextlib
import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

START = 1024
DECREASE = 0.7
LATENCY_HOLDS = 2.0
"""Concurrency rises while the latency is at most this many times the lowest."""
SMOOTHING = 0.05
"""Weight of one call in the running mean of latencies."""
FORGET = 1.0001
"""The lowest latency drifts up by this factor a call, so that a faster past is forgotten in some thousand calls."""
DEAD_AFTER = 10
PROBES = 5
FIRST_PROBE_S = 1.0
BYTES_PER_TOKEN = 4
LONGEST_HEADER = 64
"""Characters of a limit, a wait or a date; what is longer says nothing, and is not looked at."""
EPSILON = 1e-9
"""Below this a wait or a lack is a rounding error."""
Kind = Literal["ok", "throttled", "timeout", "failed", "stopped", "unsent"]
"""``ok``: the endpoint replied, be it with a refusal. ``throttled``: HTTP 429. ``failed``: 5xx or no connection.
``stopped``: we went away; it says nothing about the endpoint. ``unsent``: nothing went out."""


class EndpointDeadError(Exception):
    """The endpoint is given up; nothing was sent."""


class Clock:
    """Time as limiters and retries see it, in seconds; *speed* runs it faster, for tests."""

    def __init__(self, speed: float = 1.0) -> None:
        self.speed = speed

    def now(self) -> float:
        """A monotonic time."""
        return time.monotonic() * self.speed

    def wall(self) -> datetime:
        """The time of day, for dates that a server names."""
        return datetime.now(UTC)

    def real(self, seconds: float) -> float:
        """What a wait of *seconds* takes on the wall."""
        return seconds / self.speed

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(self.real(seconds))


@dataclass(slots=True)
class Permit:
    """A call that may go out, and what is known of it."""

    tokens: float
    sent_at: float
    number: int
    """Calls that went out before it."""
    probe: bool


class Bucket:
    """A token bucket: *rate* a second flow in, up to *capacity*; a call takes its cost, and may leave a debt."""

    def __init__(self, capacity: float, rate: float, now: float, level: float | None = None) -> None:
        self.capacity, self.rate, self.at = capacity, rate, now
        self.level = capacity if level is None else level

    def wait(self, cost: float, now: float) -> float:
        """Seconds until a call of *cost* may go out; a call larger than the capacity needs a full bucket."""
        self._flow(now)
        missing = min(cost, self.capacity) - self.level
        return 0.0 if missing <= EPSILON else missing / self.rate

    def take(self, cost: float, now: float) -> None:
        """Account for a call; a negative cost gives back."""
        self._flow(now)
        self.level = min(self.level - cost, self.capacity)

    def _flow(self, now: float) -> None:
        self.level = min(self.capacity, self.level + (now - self.at) * self.rate)
        self.at = now


@dataclass(slots=True, eq=False)
class _Waiter:
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[None]"
    tokens: float
    permit: Permit | None = None


class Limiter:
    """Lets calls to one endpoint out; safe for threads, each with an event loop of its own.

    ``admit`` and ``leave`` are the rules, without waiting; ``enter`` waits in line, first come, first served.
    """

    def __init__(
        self,
        concurrency: int,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        max_wait_s: float = 120.0,
        clock: Clock | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self.most, self.max_wait_s = concurrency, max_wait_s
        self.limit = float(min(concurrency, START))
        self.in_flight = 0
        self.successes = 0
        """Replies so far, for whoever wants to know whether others got through."""
        now = self.clock.now()
        # A second's worth at once: vendors enforce a minute's limit over seconds.
        self._requests = _per_minute(requests_per_minute, 1.0, now)
        self._tokens = _per_minute(tokens_per_minute, (tokens_per_minute or 0) / 60, now)
        self._vendor: dict[str, Bucket] = {}
        self._told = 0
        """Number of the latest call whose reply said what remains."""
        self._resume_at = -math.inf
        self._sent = 0
        self._threshold = float(self.most)
        self._cut_at = 0
        """Calls with a smaller number were in flight when concurrency was last cut."""
        self._latency = 0.0
        self._lowest = math.inf
        self._failures = 0
        self._probing = False
        self._probes = 0
        self._probe_at = -math.inf
        self._waiting: deque[_Waiter] = deque()
        self._timer: _Waiter | None = None
        self._timer_at = math.inf
        self._lock = threading.Lock()

    @property
    def open(self) -> bool:
        """Whether the endpoint counts as dead for now: the circuit is open."""
        return self._failures >= DEAD_AFTER

    @property
    def given_up(self) -> bool:
        """Whether it stayed dead through PROBES looks."""
        return self._probes >= PROBES

    def admit(self, tokens: float = 0.0) -> Permit | float:
        """A permit, or the seconds after which to ask again; infinite when only a call that leaves can help.

        Raises:
            EndpointDeadError: the endpoint is given up and the next look is not due.
        """
        now = self.clock.now()
        if self.open:
            if self._probing:
                return math.inf
            if now < self._probe_at:
                if self.given_up:
                    raise EndpointDeadError
                return self._probe_at - now
        if self.in_flight >= max(1, int(self.limit)):
            return math.inf
        buckets = self._buckets(tokens)
        wait = max(self._resume_at - now, *(bucket.wait(cost, now) for bucket, cost in buckets), 0.0)
        if wait > EPSILON:
            return wait
        for bucket, cost in buckets:
            bucket.take(cost, now)
        self.in_flight += 1
        self._sent += 1
        self._probing = self.open
        return Permit(tokens, now, self._sent, self._probing)

    def leave(
        self, permit: Permit, kind: Kind, headers: Mapping[str, str] | None = None, used: float | None = None
    ) -> None:
        """Give a permit back.

        Args:
            permit: what `admit` gave.
            kind: how the call ended.
            headers: of the reply, if there was one; names in any case.
            used: tokens the call took by its own count.
        """
        now = self.clock.now()
        self.in_flight -= 1
        if permit.probe:
            self._probing = False
        if kind == "unsent":
            for bucket, cost in self._buckets(permit.tokens):
                bucket.take(-cost, now)
        if kind in ("unsent", "stopped"):
            return
        if used is not None and self._tokens is not None:
            self._tokens.take(used - permit.tokens, now)
        if kind in ("throttled", "timeout") and permit.number > self._cut_at:
            self._threshold = self.limit = max(1.0, self.limit * DECREASE)
            self._cut_at = self._sent
        if kind == "ok":
            self.successes += 1
            self._rise(now - permit.sent_at)
        self._watch(permit, kind, now)
        if headers:
            self._obey(permit, kind, headers, now)

    async def enter(self, tokens: float = 0.0) -> Permit:
        """Wait for a permit.

        Raises:
            EndpointDeadError: the endpoint is given up.
        """
        with self._lock:
            if not self._waiting and isinstance(found := self.admit(tokens), Permit):
                return found
            loop = asyncio.get_running_loop()
            waiter = _Waiter(loop, loop.create_future(), tokens)
            self._waiting.append(waiter)
            self._serve()
        try:
            await waiter.future
        except asyncio.CancelledError:
            self._forget(waiter)
            raise
        if waiter.permit is None:
            raise EndpointDeadError
        return waiter.permit

    def exit(
        self, permit: Permit, kind: Kind, headers: Mapping[str, str] | None = None, used: float | None = None
    ) -> None:
        """`leave`, and let the next in line go."""
        with self._lock:
            self.leave(permit, kind, headers, used)
            if self._waiting:
                self._serve()

    # The line.

    def _serve(self) -> None:
        """Let out whoever may go; under the lock."""
        while self._waiting:
            head = self._waiting[0]
            try:
                found = self.admit(head.tokens)
            except EndpointDeadError:
                for waiter in self._waiting:
                    _wake(waiter)
                self._waiting.clear()
                return
            if not isinstance(found, Permit):
                self._arm(head, found)
                return
            self._waiting.popleft()
            head.permit = found
            _wake(head)

    def _arm(self, head: _Waiter, wait: float) -> None:
        """Look again after *wait*, unless somebody looks before."""
        due = self.clock.now() + wait
        if due < (math.inf if self._timer is None else self._timer_at):
            self._timer, self._timer_at = head, due
            _on(head.loop, lambda: head.loop.call_later(self.clock.real(wait), self._ring, head))

    def _ring(self, waiter: _Waiter) -> None:
        with self._lock:
            if self._timer is waiter:
                self._timer = None
                self._serve()

    def _forget(self, waiter: _Waiter) -> None:
        """A waiter was cancelled: its place, its timer or its permit goes to the others."""
        with self._lock:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            if self._timer is waiter:
                self._timer = None
            if waiter.permit is not None:
                self.leave(waiter.permit, "unsent")
            self._serve()

    # The rules.

    def _buckets(self, tokens: float) -> list[tuple[Bucket, float]]:
        """Every rate with what a call of *tokens* takes from it."""
        found: list[tuple[Bucket, float]] = []
        if self._requests is not None:
            found.append((self._requests, 1.0))
        if self._tokens is not None:
            found.append((self._tokens, tokens))
        for what, bucket in self._vendor.items():
            found.append((bucket, 1.0 if what == "requests" else tokens))
        return found

    def _rise(self, latency: float) -> None:
        first = self._latency == 0.0
        self._latency = latency if first else self._latency + SMOOTHING * (latency - self._latency)
        self._lowest = min(self._lowest * FORGET, self._latency)
        if self._latency <= LATENCY_HOLDS * self._lowest:
            step = 1.0 if self.limit < self._threshold else 1.0 / self.limit
            self.limit = min(self.limit + step, float(self.most))

    def _watch(self, permit: Permit, kind: Kind, now: float) -> None:
        """The circuit: closed by any reply, opened by failures in a row."""
        if kind in ("ok", "throttled"):
            self._failures = self._probes = 0
            return
        was_open = self.open
        self._failures += 1
        if permit.probe:
            self._probes += 1
        if permit.probe or (self.open and not was_open):
            wait = min(FIRST_PROBE_S * 2**self._probes, self.max_wait_s)
            self._probe_at = now + wait

    def _obey(self, permit: Permit, kind: Kind, headers: Mapping[str, str], now: float) -> None:
        if kind in ("throttled", "failed") and (asked := headers.get("Retry-After")):
            wait = retry_after_s(asked, self.clock.wall())
            self._resume_at = max(self._resume_at, now + min(wait, self.max_wait_s))
        if permit.number < self._told:
            return
        for what in ("requests", "tokens"):
            remaining = _number(headers.get(f"x-ratelimit-remaining-{what}"))
            reset = _seconds(headers.get(f"x-ratelimit-reset-{what}"))
            if remaining is None or not reset:
                continue
            self._told = permit.number
            # Calls that went out after this one may not be counted in what remains.
            level = remaining - (self._sent - permit.number) * (1.0 if what == "requests" else permit.tokens)
            capacity = max(_number(headers.get(f"x-ratelimit-limit-{what}")) or 0.0, remaining, 1.0)
            rate = max(capacity - level, 1.0) / min(reset, self.max_wait_s)
            self._vendor[what] = Bucket(capacity, rate, now, level)


def retry_after_s(value: str, now: datetime) -> float:
    """Seconds that a ``Retry-After`` asks for: a number, or an HTTP date (RFC 9110, 10.2.3); 0 for neither."""
    if len(value) > LONGEST_HEADER:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            when = parsedate_to_datetime(value)
            seconds = ((when if when.tzinfo else when.replace(tzinfo=UTC)) - now).total_seconds()
        except (ValueError, TypeError, IndexError, OverflowError):
            return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


def _number(value: str | None) -> float | None:
    if not value or len(value) > LONGEST_HEADER:
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return found if math.isfinite(found) and found >= 0 else None


def _seconds(value: str | None) -> float | None:
    """A vendor's duration: ``6m0s``, ``1.5s``, ``20ms``, or plain seconds."""
    if not value or len(value) > LONGEST_HEADER:
        return None
    if (plain := _number(value)) is not None:
        return plain
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[smhd])", value)
    if "".join(number + unit for number, unit in parts) != value:
        return None
    return sum(float(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}[unit] for number, unit in parts)


def _per_minute(rate: float | None, capacity: float, now: float) -> Bucket | None:
    return None if rate is None else Bucket(max(capacity, 1.0), rate / 60, now)


def _wake(waiter: _Waiter) -> None:
    def done() -> None:
        if not waiter.future.done():
            waiter.future.set_result(None)

    _on(waiter.loop, done)


def _on(loop: asyncio.AbstractEventLoop, what: Callable[[], object]) -> None:
    """Do it in the loop, from whatever thread; a loop that has ended has nobody left who waits."""
    if asyncio._get_running_loop() is loop:  # its public twin raises where there is none
        what()
        return
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(what)
