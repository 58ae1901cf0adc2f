"""Pins down the limiter in fast-forward: concurrency, rates, pauses, the circuit, and the line of those who wait."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from heapq import heappop, heappush
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.calls.limiter import (
    DEAD_AFTER,
    DECREASE,
    FIRST_PROBE_S,
    PROBES,
    START,
    Clock,
    EndpointDeadError,
    Kind,
    Limiter,
    Permit,
    retry_after_s,
)

NOON = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


class Still(Clock):
    """A clock that a test moves."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 0.0

    def now(self) -> float:
        return self.at

    def wall(self) -> datetime:
        return NOON


def made(concurrency: int = 8, **rules: float) -> tuple[Limiter, Still]:
    clock = Still()
    return Limiter(concurrency, clock=clock, **rules), clock


def admitted(limiter: Limiter, tokens: float = 0.0) -> Permit:
    found = limiter.admit(tokens)
    assert isinstance(found, Permit)
    return found


def failed(limiter: Limiter, times: int, kind: Kind = "failed") -> None:
    for _ in range(times):
        limiter.leave(admitted(limiter), kind)


Endpoint = Callable[[float, int], tuple[Kind, float, Mapping[str, str]]]
"""(time, calls in flight) -> how a call ends, its latency, its headers."""


def simulated(limiter: Limiter, clock: Still, endpoint: Endpoint, calls: int) -> list[tuple[float, Kind]]:
    """Make calls one after another as fast as they are let out: (time it went out, how it ended)."""
    flying: list[tuple[float, int, Permit, Kind, Mapping[str, str]]] = []
    log: list[tuple[float, Kind]] = []
    while len(log) < calls:
        found = limiter.admit(1.0)
        if isinstance(found, Permit):
            kind, latency, headers = endpoint(clock.at, limiter.in_flight)
            heappush(flying, (clock.at + latency, len(log), found, kind, headers))
            log.append((clock.at, kind))
            continue
        due = flying[0][0] if flying else math.inf
        assert min(due, found) < math.inf, "stuck: nothing in flight and no time to wait for"
        if clock.at + found < due:
            clock.at += found
        else:
            clock.at, _, permit, kind, headers = heappop(flying)
            limiter.leave(permit, kind, headers)
    return log


def test_it_starts_at_what_the_config_says_the_endpoint_bears() -> None:
    limiter, _ = made(3)
    for _ in range(3):
        admitted(limiter)
    assert limiter.admit() == math.inf
    assert Limiter(10**6).limit == START


def test_a_throttle_takes_thirty_per_cent_once_for_all_that_were_in_flight() -> None:
    limiter, _ = made(100)
    permits = [admitted(limiter) for _ in range(100)]
    for permit in permits:
        limiter.leave(permit, "throttled")
    assert limiter.limit == pytest.approx(100 * DECREASE)
    # one that went out afterwards counts again: 70 * .7
    limiter.leave(admitted(limiter), "timeout")
    assert limiter.limit == pytest.approx(49)


def test_it_rises_by_one_a_round_trip_and_never_over_the_config() -> None:
    limiter, clock = made(10)
    limiter.leave(admitted(limiter), "throttled")
    assert limiter.limit == pytest.approx(7)
    # By hand: 7 successes at 1/7 each, the first few of them a little more than that as the limit grows: about 1.
    for _ in range(7):
        permit = admitted(limiter)
        clock.at += 0.5
        limiter.leave(permit, "ok")
    assert limiter.limit == pytest.approx(8, abs=0.1)
    for _ in range(1000):
        permit = admitted(limiter)
        clock.at += 0.5
        limiter.leave(permit, "ok")
    assert limiter.limit == 10


def test_it_does_not_rise_while_latency_has_doubled() -> None:
    limiter, clock = made(10)

    def ten(latency: float, times: int) -> None:
        for _ in range(times):
            permit = admitted(limiter)
            clock.at += latency
            limiter.leave(permit, "ok")

    ten(0.5, 50)
    limiter.leave(admitted(limiter), "throttled")
    ten(5.0, 20)  # the running mean passes 1.0 after three of them: 0.5 + 4.5 * (1 - .95 ** 3) = 1.14
    held = limiter.limit
    assert held < 7.5
    ten(5.0, 20)
    assert limiter.limit == held
    ten(0.5, 200)
    assert limiter.limit > held


def test_an_overloaded_endpoint_is_kept_near_what_it_bears() -> None:
    """It refuses what goes over 20 in flight; to come down from 1,000 costs 1,000 * (1 + .7 + .49 + ...) = 3,333 calls.

    Then the limit climbs from .7 * 21 = 14.7 to 21, which takes (21 ** 2 - 14.7 ** 2) / 2 = 112 successes, and
    until the first refusal is back at most the 20 places are refused once each.
    """
    limiter, clock = made(1000)

    def bears_twenty(_at: float, in_flight: int) -> tuple[Kind, float, Mapping[str, str]]:
        return ("throttled", 0.01, {}) if in_flight > 20 else ("ok", 0.5, {})

    log = simulated(limiter, clock, bears_twenty, 6400)[3400:]
    assert sum(kind == "throttled" for _, kind in log) < 20 / 112 * 3000
    assert 10 <= limiter.limit <= 22
    # at 14 to 20 in flight and .5 s a call, 3,000 calls take 75 to 107 s
    assert 70 < log[-1][0] - log[0][0] < 115


@given(rate=st.floats(60, 6000), calls=st.integers(10, 80), latency=st.floats(0.01, 5))
def test_no_more_calls_a_minute_than_the_config_allows(rate: float, calls: int, latency: float) -> None:
    limiter, clock = made(1000, requests_per_minute=rate)
    log = simulated(limiter, clock, lambda *_: ("ok", latency, {}), calls)
    times = [at for at, _ in log]
    gaps = [after - before for before, after in pairwise(times)]
    assert min(gaps) >= 60 / rate * (1 - 1e-6)
    # and it loses nothing: they go out exactly that far apart
    assert times[-1] == pytest.approx((calls - 1) * 60 / rate)


def test_tokens_a_minute_are_estimated_and_corrected() -> None:
    # 6,000 tokens a minute are 100 a second, of which one second's worth may go at once.
    limiter, clock = made(8, tokens_per_minute=6000)
    first = admitted(limiter, 80)
    assert limiter.admit(80) == pytest.approx(0.6)  # 20 are left, 60 more take .6 s
    limiter.leave(first, "ok", None, used=30.0)
    assert limiter.admit(80) == pytest.approx(0.1)  # 50 of the estimate come back: 70 are there
    clock.at += 0.1
    admitted(limiter, 80)
    # a call larger than the bucket waits until it is full, and leaves a debt: 1,000 - 100 = 900 missing, and then 100
    clock.at += 1.0
    admitted(limiter, 1000)
    assert limiter.admit(100) == pytest.approx(10.0)


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["ok", "throttled", "timeout", "failed", "stopped", "unsent"]), st.floats(0, 100)),
        max_size=60,
    )
)
def test_whatever_happens_a_call_can_go_out_again_within_the_longest_wait(steps: list[tuple[Kind, float]]) -> None:
    limiter, clock = made(4, max_wait_s=30, requests_per_minute=600)
    for kind, pause in steps:
        clock.at += pause
        try:
            found = limiter.admit(10)
        except EndpointDeadError:
            continue
        if isinstance(found, Permit):
            headers = {"Retry-After": "9999", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "9h"}
            limiter.leave(found, kind, headers)
        assert 1 <= limiter.limit <= 4
        assert limiter.in_flight == 0
    clock.at += 30.0 + 0.2  # 600 a minute: one each tenth of a second
    assert isinstance(limiter.admit(10), Permit)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("7", 7),
        ("0.5", 0.5),
        ("Sat, 21 Nov 2026 12:01:30 GMT", 90),
        ("Sat, 21 Nov 2026 11:00:00 GMT", 0),
        ("-3", 0),
        ("nan", 0),
        ("inf", 0),
        ("soon", 0),
        ("", 0),
    ],
)
def test_retry_after_is_seconds_or_a_date(said: str, seconds: float) -> None:
    assert retry_after_s(said, NOON) == seconds


@pytest.mark.parametrize("name", ["Retry-After", "x-ratelimit-reset-requests", "x-ratelimit-remaining-tokens"])
@pytest.mark.parametrize("value", ["9" * 8000, "9" * 8000 + "x", "1m" * 4000, "1e999", "-1", "nan", "soon"])
def test_a_limit_that_is_none_says_nothing_and_costs_no_time(name: str, value: str) -> None:
    """8,000 digits without a unit took 1.3 s by trying every start; what is so long is not looked at."""
    started = time.process_time()
    for _ in range(20):
        limiter, _ = made(10)
        headers = {"x-ratelimit-remaining-requests": "5", "x-ratelimit-limit-tokens": value, name: value}
        limiter.leave(admitted(limiter), "throttled", headers)
        assert isinstance(limiter.admit(1.0), Permit)
    assert time.process_time() - started < 5.0  # of the CPU; it was 26


@pytest.mark.parametrize(
    "said", ["Fri, 01 Jan 99999999999 00:00:00 GMT", "Fri, 01 Jan 2027 00:00:00 +99999999", "\x80\xff", "Fri, 99"]
)
def test_a_date_that_is_none_asks_for_no_wait(said: str) -> None:
    assert retry_after_s(said, NOON) == 0.0


def test_retry_after_stops_the_whole_endpoint_and_is_bounded() -> None:
    limiter, clock = made(8, max_wait_s=60)
    limiter.leave(admitted(limiter), "throttled", {"Retry-After": "20"})
    assert limiter.admit() == pytest.approx(20)
    clock.at += 20
    limiter.leave(admitted(limiter), "failed", {"Retry-After": "Sat, 21 Nov 2026 18:00:00 GMT"})
    assert limiter.admit() == pytest.approx(60)


@pytest.mark.parametrize(
    ("reset", "seconds"), [("1s", 1), ("6m0s", 90), ("20ms", 0.02), ("1m30s", 90), ("2", 2), ("1.5s", 1.5)]
)
def test_a_vendors_limit_that_is_used_up_is_waited_for(reset: str, seconds: float) -> None:
    """6 minutes are more than the config's longest wait of 90 s."""
    for what, cost in (("requests", 1.0), ("tokens", 10.0)):
        limiter, clock = made(8, max_wait_s=90)
        headers = {f"x-ratelimit-remaining-{what}": "0", f"x-ratelimit-reset-{what}": reset}
        limiter.leave(admitted(limiter, cost), "ok", headers)
        assert limiter.admit(cost) == pytest.approx(seconds)
        clock.at += seconds
        admitted(limiter, cost)


def test_a_vendors_limit_flows_back_where_it_says_how_large_it_is() -> None:
    limiter, clock = made(8)
    headers = {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1m0s",
    }
    limiter.leave(admitted(limiter), "ok", headers)
    # 60 in 60 s: one a second
    assert limiter.admit() == pytest.approx(1)
    clock.at += 3
    for _ in range(3):
        admitted(limiter)
    assert limiter.admit() == pytest.approx(1)


@pytest.mark.parametrize("headers", [{"x-ratelimit-remaining-requests": "lots"}, {"x-ratelimit-reset-tokens": "1s"}])
def test_headers_that_say_nothing_stop_nothing(headers: dict[str, str]) -> None:
    limiter, _ = made(8)
    limiter.leave(admitted(limiter), "ok", headers)
    admitted(limiter)


def test_a_dead_endpoint_is_looked_at_by_one_call_at_a_time_ever_less_often() -> None:
    limiter, clock = made(20)
    failed(limiter, DEAD_AFTER - 1)
    assert not limiter.open
    failed(limiter, 1)
    assert limiter.open
    for probe in range(PROBES):
        wait = limiter.admit()
        # 1, 2, 4, 8, 16 s
        assert wait == pytest.approx(FIRST_PROBE_S * 2**probe)
        clock.at += float(wait)
        looking = admitted(limiter)
        assert limiter.admit() == math.inf
        assert not limiter.given_up
        limiter.leave(looking, "failed")
    assert limiter.given_up
    with pytest.raises(EndpointDeadError):
        limiter.admit()
    # 32 s later somebody may look again; it is back, and everybody may go
    clock.at += 32
    limiter.leave(admitted(limiter), "ok")
    assert not limiter.open
    assert not limiter.given_up
    for _ in range(20):
        admitted(limiter)


def test_a_look_that_was_stopped_leaves_the_next_one_free() -> None:
    limiter, clock = made(20)
    failed(limiter, DEAD_AFTER)
    clock.at += FIRST_PROBE_S
    limiter.leave(admitted(limiter), "stopped")
    admitted(limiter)


def test_failures_between_successes_open_nothing() -> None:
    limiter, _ = made(20)
    for _ in range(20):
        failed(limiter, DEAD_AFTER - 1)
        limiter.leave(admitted(limiter), "ok")
        assert not limiter.open


async def _all_go(limiter: Limiter, count: int, hold_s: float) -> tuple[int, list[int]]:
    """Largest number in flight, and who went in which order."""
    most, order = 0, list[int]()

    async def one(number: int) -> None:
        nonlocal most
        permit = await limiter.enter(1.0)
        order.append(number)
        most = max(most, limiter.in_flight)
        await limiter.clock.sleep(hold_s)
        limiter.exit(permit, "ok")

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(one(number))
    return most, order


def test_who_waits_goes_in_the_order_of_coming() -> None:
    limiter = Limiter(3, clock=Clock(speed=100))
    most, order = asyncio.run(_all_go(limiter, 20, 0.5))
    assert most == 3
    assert order == list(range(20))
    assert limiter.in_flight == 0


def test_who_waits_for_a_rate_is_let_out_in_time() -> None:
    limiter = Limiter(50, requests_per_minute=600, clock=Clock(speed=50))
    _, order = asyncio.run(_all_go(limiter, 20, 0.01))
    assert order == list(range(20))


def test_a_waiter_that_is_cancelled_gives_its_place_to_the_next() -> None:
    async def scene() -> int:
        limiter = Limiter(1, clock=Clock(speed=100))
        held = await limiter.enter()
        tasks = [asyncio.create_task(limiter.enter()) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        limiter.exit(held, "ok")  # goes to the second: the first is cancelled before it could take it
        tasks[1].cancel()
        second = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(second[0], asyncio.CancelledError)
        assert isinstance(second[2], Permit)
        limiter.exit(second[2], "ok")
        return limiter.in_flight

    assert asyncio.run(scene()) == 0


def test_all_who_wait_for_a_dead_endpoint_are_told() -> None:
    async def scene() -> list[object]:
        limiter = Limiter(20, clock=Clock(speed=1000))
        failed(limiter, DEAD_AFTER)

        async def one() -> None:
            while True:
                limiter.exit(await limiter.enter(), "failed")

        return list(await asyncio.gather(*(one() for _ in range(30)), return_exceptions=True))

    assert {type(found) for found in asyncio.run(scene())} == {EndpointDeadError}


def test_two_event_loops_share_one_limit() -> None:
    async def scene() -> int:
        limiter = Limiter(4, clock=Clock(speed=20))

        def other() -> tuple[int, list[int]]:
            return asyncio.run(_all_go(limiter, 30, 0.2))

        (first, one), (second, two) = await asyncio.gather(asyncio.to_thread(other), asyncio.to_thread(other))
        assert sorted(one) == sorted(two) == list(range(30))
        assert limiter.in_flight == 0
        return max(first, second)

    assert asyncio.run(scene()) <= 4
