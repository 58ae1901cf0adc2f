"""Pins down the endpoint engine over real HTTP: answers, failures, the end, and what stopping leaves."""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.calls.ledger import Claimed, Ledger
from pipeline.calls.limiter import Clock
from pipeline.calls.tables import OWNERS
from pipeline.calls.usage import charge
from pipeline.config import Price
from pipeline.engines import endpoint
from pipeline.engines.base import Answer, Request
from pipeline.engines.chat import call_key, read_answer, request_body, worst_case_usd
from pipeline.errors import BudgetError, ConfigError, EndpointError
from tests import ledgers
from tests.endpoints import DROP, Endpoint, Reply, Script, chat
from tests.worlds import bench

PRICE = {"input": 2.0, "output": 8.0}


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "BACKOFF_S", 0.0)


def requests(count: int) -> list[Request]:
    return [Request((("user", f"Q{at}"),), 5) for at in range(count)]


def complete(
    folder: Path, url: str, wanted: Iterable[Request], *, clock: Clock | None = None, **config: Any
) -> list[Answer]:
    given = {"attempts": 2, "concurrency": 8, **config.pop("endpoint", {})}
    settings = {
        "endpoints": {"e": {"base_url": url, **given}},
        "generators": [{"model": "m", "endpoint": "e", "price": PRICE}],
        **config,
    }
    with bench(folder, **settings) as run:
        run.clock = clock or run.clock
        return run.engine(run.config.generators[0]).complete(wanted, lambda _done: None)


def rows(folder: Path) -> list[tuple[Any, ...]]:
    db = sqlite3.connect(folder / "run/ledger.sqlite")
    found = db.execute("select status, reserved_usd, lost_claims from calls").fetchall()
    db.close()
    return found


def charged(folder: Path) -> float:
    db = sqlite3.connect(folder / "run/ledger.sqlite")
    (found,) = db.execute("select charged_usd from account").fetchone()
    db.close()
    return float(found)


def echo(body: dict[str, Any]) -> str:
    return body["messages"][-1]["content"]


def test_answers_come_in_the_order_of_the_requests_and_are_paid_once(tmp_path: Path) -> None:
    def slow_first(body: dict[str, Any]) -> Reply:
        return Reply(200, chat(echo(body), usage=(10, 4, 5)), 0.2 if echo(body) == "Q0" else 0.0)

    with Endpoint(slow_first) as server:
        for _ in range(2):
            found = complete(tmp_path, server.url, requests(20))
            assert [one.text for one in found] == [f"Q{at}" for at in range(20)]
        assert len(server.log) == 20
        assert 1 < server.most_at_once <= 8
    # 6 fresh + 4 cached prompt tokens at 2, 5 at 8 US$ per million: 60 millionths each
    assert found[0].call.cost_usd == pytest.approx(60e-6)
    assert charged(tmp_path) == pytest.approx(20 * 60e-6)


def test_what_is_sent(tmp_path: Path) -> None:
    wanted = [
        Request((("system", "S"), ("user", "U")), 7, 0.5, 0.9, 3),
        Request((("user", "U"),), 1, choices=("A", "B")),
        Request((("user", "U"),), 9, response_schema={"type": "object"}),
    ]
    with Endpoint(lambda _body: Reply(200, chat("x", logprobs={"A": -0.1}))) as server:
        complete(tmp_path, server.url, wanted)
        by_size = {body["max_tokens"]: body for body in server.bodies}
    assert by_size[7] == {
        "model": "m",
        "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}],
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 3,
        "stream": False,
    }
    assert (by_size[1]["logprobs"], by_size[1]["top_logprobs"]) == (True, 20)
    assert by_size[9]["response_format"]["json_schema"]["schema"] == {"type": "object"}


@pytest.mark.parametrize(
    ("reply", "reason", "words"),
    [
        (Reply(429, {"error": {"message": "slow"}}), "unanswered", "HTTP 429: slow"),
        (Reply(503, "down"), "unanswered", "HTTP 503: down"),
        (Reply(408, "late"), "unanswered", "HTTP 408: late"),
        (Reply(DROP), "unanswered", "Server"),
        (Reply(200, "<html>"), "unanswered", "HTTP 200: no words"),
        (Reply(200, "[]"), "unanswered", "HTTP 200: no words"),
        (
            Reply(200, {"error": {"message": "Provider returned error", "code": 502}}),
            "unanswered",
            "HTTP 200: Provider",
        ),
        (Reply(403, {"error": {"message": "not you"}}), "unanswered", "HTTP 403: not you"),
        (Reply(400, {"error": {"message": "no such thing"}}), "rejected", "HTTP 400: no such thing"),
        (Reply(400, {"error": {"code": "context_length_exceeded", "message": "no"}}), "too_long", "HTTP 400: no"),
        (
            Reply(400, {"message": "The model's maximum context length is 512 tokens"}),
            "too_long",
            "HTTP 400: The model",
        ),
        (Reply(413, "no"), "too_long", "HTTP 413: no"),
        (Reply(400, {"error": {"message": "no", "code": "content_filter"}}), "content_filter", "HTTP 400: no"),
        (Reply(200, chat(None, finish_reason="length")), "cut_off", "cut off at max_tokens"),
        (Reply(200, chat("")), "unanswered", "empty content, finish_reason 'stop'"),
        (Reply(200, chat(None, refusal="I cannot")), "refused", "I cannot"),
        (Reply(200, {}), "unanswered", "HTTP 200: no words; the reply has no usable choice"),
        (Reply(200, {"choices": []}), "unanswered", "HTTP 200: no words"),
        (Reply(200, {"choices": [{"message": "x"}]}), "unanswered", "empty content"),
    ],
)
def test_one_bad_reply_is_one_failed_answer(tmp_path: Path, reply: Reply, reason: str, words: str) -> None:
    with Endpoint(lambda body: reply if echo(body) == "Q9" else echo(body)) as server:
        # the others go first: a connection that never worked is another matter
        complete(tmp_path, server.url, requests(9))
        found = complete(tmp_path, server.url, requests(12)[10:] + requests(10), endpoint={"concurrency": 1})
        assert [one.text for one in found[:-1]] == ["Q10", "Q11", *(f"Q{at}" for at in range(9))]
        assert (found[-1].text, found[-1].reason) == (None, reason)
        assert str(found[-1].error).startswith(words)
        assert found[-1].unanswered is (reason in ("unanswered", "rejected"))
        # what is not final is asked again by the next run, and what was paid and is final is not
        before = len(server.log)
        if reply.status == DROP:
            return  # and where nothing else is left to ask, the endpoint cannot be told from a dead one
        complete(tmp_path, server.url, requests(12)[10:] + requests(10), endpoint={"concurrency": 1})
        paid_and_final = reply.status == 200 and not found[-1].unanswered
        assert (len(server.log) == before) is paid_and_final


def test_a_transport_failure_is_tried_again_and_costs_nothing(tmp_path: Path) -> None:
    with Endpoint(lambda _body: Reply(500, "oops") if len(server.log) < 3 else Reply(200, chat("yes"))) as server:
        (found,) = complete(tmp_path, server.url, requests(1), endpoint={"attempts": 3})
        assert found.text == "yes"
        assert len(server.log) == 3
    assert rows(tmp_path) == [("answered", 0.0, 0)]


def test_retry_after_is_waited_for(tmp_path: Path) -> None:
    def limited(_body: dict[str, Any]) -> Reply:
        return Reply(429, "slow", 0, {"Retry-After": "0.4"}) if len(server.log) == 1 else Reply(200, chat("yes"))

    with Endpoint(limited) as server:
        complete(tmp_path, server.url, requests(1))
        assert server.log[1].at - server.log[0].at >= 0.4


@pytest.mark.parametrize(
    ("script", "hint"),
    [
        (lambda _body: Reply(401, {"error": {"message": "no"}}, 0.02), "refused the key: HTTP 401"),
        (lambda _body: Reply(403, {"error": {"message": "no"}}), "refused the key: HTTP 403"),
        (lambda _body: Reply(404, {"error": {"message": "no"}}), "knows no model 'm'"),
        (lambda _body: Reply(DROP), "cannot be reached after 2 attempts"),
    ],
)
def test_a_failure_that_all_calls_share_ends_the_stage_and_leaves_no_claim(
    tmp_path: Path, script: Script, hint: str
) -> None:
    with Endpoint(script) as server, pytest.raises(EndpointError, match=hint) as found:
        complete(tmp_path, server.url, requests(200), endpoint={"concurrency": 64})
    assert "'e'" in str(found.value)
    left = rows(tmp_path)
    assert {status for status, _, _ in left} == {"unanswered"}
    assert {reserved for _, reserved, _ in left} == {0.0}
    # what was sent and got no reply may have been paid and stays charged; what was refused or not sent does not
    lost = sum(lost for _, _, lost in left)
    assert lost == (len(server.log) if hint.startswith("cannot be reached") else 0)
    assert charged(tmp_path) <= lost * worst_case_usd(request_body("m", requests(200)[-1]), Price(**PRICE)) + 1e-12


def test_a_spent_budget_ends_the_stage_and_keeps_what_was_paid(tmp_path: Path) -> None:
    body = request_body("m", requests(1)[0])
    worst = worst_case_usd(body, Price(**PRICE))
    # (bytes of the body as it is sent + 64 for the template) at 2, 5 tokens at 8 US$ per million
    sent = json.dumps(body, separators=(",", ":"))
    assert worst == pytest.approx(((len(sent) + 64) * 2 + 5 * 8) / 1e6)
    # each costs (180 * 2 + 5 * 8) / 1e6 = .0004: after three, 3.5 worst cases leave no room for a fourth
    assert 3 * 0.0004 + worst > 3.5 * worst > 2 * 0.0004 + worst
    with Endpoint(lambda body: Reply(200, chat(echo(body), usage=(180, 0, 5)))) as server:
        with pytest.raises(BudgetError, match=r"raise budget\.usd and run the same command again"):
            complete(tmp_path, server.url, requests(9), budget={"usd": 3.5 * worst}, endpoint={"concurrency": 1})
        paid = len(server.log)
        assert paid == 3
        assert charged(tmp_path) <= 3.5 * worst
        complete(tmp_path, server.url, requests(9), budget={"usd": 99})
        assert len(server.log) == 9


def test_what_is_in_flight_when_the_budget_ends_is_answered_and_kept(tmp_path: Path) -> None:
    """Of 40 calls at once only some fit; a reservation that was settled makes room for the next."""
    worst = worst_case_usd(request_body("m", requests(40)[-1]), Price(**PRICE))
    # Each costs (60 * 2 + 5 * 8) / 1e6 = .00016, some third of its worst case: 8 worst cases pay for more than 8 calls,
    # and the last one was refused when nothing was in flight any more, so less than one worst case is left.
    limit = 8 * worst
    with Endpoint(lambda body: Reply(200, chat(echo(body), usage=(60, 0, 5)), 0.02)) as server:
        with pytest.raises(BudgetError, match="raise budget"):
            complete(tmp_path, server.url, requests(100), budget={"usd": limit}, endpoint={"concurrency": 40})
        assert {status for status, _, _ in rows(tmp_path)} == {"answered"}
        assert len(rows(tmp_path)) == len(server.log) > 8
        assert limit - worst < charged(tmp_path) == pytest.approx(len(server.log) * 0.00016)
        complete(tmp_path, server.url, requests(100), budget={"usd": 99}, endpoint={"concurrency": 40})
        assert len(server.log) == 100


def test_a_missing_key_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("A_KEY", raising=False)
    with Endpoint(echo, key="secret") as server:
        with pytest.raises(ConfigError, match=r"takes its key from A_KEY, which is not set; export it"):
            complete(tmp_path, server.url, requests(1), endpoint={"api_key_env": "A_KEY"})
        monkeypatch.setenv("A_KEY", "wrong")
        with pytest.raises(EndpointError, match="set A_KEY to a valid key"):
            complete(tmp_path, server.url, requests(1), endpoint={"api_key_env": "A_KEY"})
        monkeypatch.setenv("A_KEY", "secret")
        assert complete(tmp_path, server.url, requests(1), endpoint={"api_key_env": "A_KEY"})[0].text == "Q0"
    assert b"secret" not in (tmp_path / "run/ledger.sqlite").read_bytes()


def test_equal_requests_are_sent_once(tmp_path: Path) -> None:
    with Endpoint(lambda _body: Reply(200, chat("yes"), 0.05)) as server:
        found = complete(tmp_path, server.url, requests(1) * 5)
        assert [one.text for one in found] == ["yes"] * 5
        assert len({one.call.call_key for one in found}) == 1
        assert len(server.log) == 1


def test_two_models_at_one_endpoint_share_its_limiter(tmp_path: Path) -> None:
    settings = {"endpoints": {name: {"base_url": "http://127.0.0.1:1", "concurrency": 3} for name in ("e", "f")}}
    models = [{"model": model, "endpoint": place} for model, place in (("m", "e"), ("n", "e"), ("m", "f"))]
    with bench(tmp_path, **settings, generators=models) as run:
        one, two, other = (run.engine(options).limiter for options in run.config.generators)
        assert one is two
        assert one is not other
        assert one.limit == 3


def test_calls_that_wait_when_the_stage_ends_were_not_paid(tmp_path: Path) -> None:
    """One call ends the stage while all others wait for the time that the endpoint asked for: nothing is in flight."""

    def script(body: dict[str, Any]) -> Reply:
        if echo(body) == "Q0":
            return Reply(401, {"error": {"message": "no"}}, 0.5)
        return Reply(429, "slow", 0, {"Retry-After": "60"})

    with Endpoint(script) as server, pytest.raises(EndpointError, match="refused the key"):
        complete(tmp_path, server.url, requests(20), endpoint={"concurrency": 20})
    assert {status for status, _, _ in rows(tmp_path)} == {"unanswered"}
    assert sum(lost for _, _, lost in rows(tmp_path)) == 0
    assert charged(tmp_path) == pytest.approx(0)


def test_an_outage_ends_by_itself_and_the_next_run_asks_for_the_rest(tmp_path: Path) -> None:
    up = True

    def script(body: dict[str, Any]) -> Reply:
        nonlocal up
        up = up and len(server.log) < 20
        return Reply(200, chat(echo(body))) if up else Reply(DROP)

    with Endpoint(script) as server:
        found = complete(tmp_path, server.url, requests(200), endpoint={"timeout_s": 1e5}, clock=Clock(speed=500))
        answered = [one for one in found if one.text is not None]
        assert 0 < len(answered) < 20
        assert {one.reason for one in found if one.text is None} == {"unanswered"}
        # it is not asked two hundred times over: ten failures open the circuit, and a handful of looks end it
        assert len(server.log) < 20 + 8 + 10 + 10
        # whom it hung up on may have been paid: each such request stays charged at its worst case
        dropped = len(server.log) - len(answered)
        assert sum(lost for _, _, lost in rows(tmp_path)) == dropped
        least, most = (worst_case_usd(request_body("m", requests(200)[at]), Price(**PRICE)) for at in (0, -1))
        paid = sum(one.call.cost_usd for one in answered)
        assert paid + dropped * least <= charged(tmp_path) <= paid + dropped * most
        asked = len(server.log)
        server.answer = lambda body: Reply(200, chat(echo(body)))
        again = complete(tmp_path, server.url, requests(200))
        assert [one.text for one in again] == [f"Q{at}" for at in range(200)]
        assert len(server.log) == asked + 200 - len(answered)


def test_a_call_that_was_taken_over_is_answered_by_whoever_took_it(tmp_path: Path) -> None:
    """This process was held up for so long that another passed it for dead, made the call and was paid for."""
    (request,) = requests(1)

    def script(body: dict[str, Any]) -> Reply:
        key = call_key(server.url, body, request)
        other = Ledger(tmp_path / "run/ledger.sqlite")
        with other.engine.begin() as db:
            db.execute(OWNERS.update().where(OWNERS.c.owner != other.owner).values(host="elsewhere", beat=0.0))
        assert ledgers.claim(other, key, body, 0.0) == Claimed()
        ledgers.answer(other, key, chat("theirs"), 0.0, 1.0)
        other.close()
        return Reply(200, chat("ours"))

    with Endpoint(script) as server:
        (found,) = complete(tmp_path, server.url, [request])
        assert len(server.log) == 1
    assert found.text == "theirs"
    assert rows(tmp_path) == [("answered", 0.0, 1)]


@pytest.mark.parametrize(
    ("reply", "paid"),
    [
        (Reply(200, chat("yes"), 30.0), True),
        (Reply(200, chat("yes"), cut=True), True),
        (Reply(200, '{"choices": [{"message": {"content": "ye'), True),
        (Reply(DROP), True),
        (Reply(504, "late"), True),
        (Reply(408, "late"), True),
        (Reply(503, "down"), False),
        (Reply(429, "slow"), False),
        (Reply(500, "oops"), False),
    ],
)
def test_what_may_have_been_made_is_charged_each_time(tmp_path: Path, reply: Reply, paid: bool) -> None:
    """By hand: the first attempt got no whole reply; the second costs (10 * 2 + 5 * 8) / 1e6."""
    worst = worst_case_usd(request_body("m", requests(1)[0]), Price(**PRICE))
    with Endpoint(lambda _body: reply if len(server.log) == 1 else Reply(200, chat("yes"))) as server:
        (found,) = complete(tmp_path, server.url, requests(1), endpoint={"timeout_s": 1.0})
        assert (found.text, len(server.log)) == ("yes", 2)
    assert rows(tmp_path) == [("answered", 0.0, int(paid))]
    assert charged(tmp_path) == pytest.approx(60e-6 + paid * worst)


def test_a_second_try_needs_a_reservation_of_its_own(tmp_path: Path) -> None:
    """The budget bears one and a half worst cases: after one that may have been paid there is no second."""
    worst = worst_case_usd(request_body("m", requests(1)[0]), Price(**PRICE))
    with Endpoint(lambda _body: Reply(DROP)) as server:
        with pytest.raises(BudgetError, match="raise budget"):
            complete(tmp_path, server.url, requests(1), budget={"usd": 1.5 * worst}, endpoint={"attempts": 5})
        assert len(server.log) == 1
    assert charged(tmp_path) == pytest.approx(worst)


def test_nothing_that_never_went_out_is_charged(tmp_path: Path) -> None:
    with pytest.raises(EndpointError, match="cannot be reached"):
        complete(tmp_path, "http://127.0.0.1:1/v1", requests(3))
    assert charged(tmp_path) == pytest.approx(0)


def test_a_vendor_that_bills_more_than_was_asked_for_is_reckoned_with(tmp_path: Path) -> None:
    """Each reply says three times its worst case: the second is claimed at what the first one cost."""
    worst = worst_case_usd(request_body("m", requests(1)[0]), Price(**PRICE))
    tokens = round(3 * worst * 1e6 / PRICE["output"])
    with Endpoint(lambda body: Reply(200, chat(echo(body), usage=(1, 0, tokens)))) as server:
        with pytest.raises(BudgetError, match="raise budget"):
            complete(tmp_path, server.url, requests(9), budget={"usd": 8 * worst}, endpoint={"concurrency": 1})
        # 3 + 3 worst cases are charged, and a third call does not fit into the 2 that are left
        assert len(server.log) == 2
    assert charged(tmp_path) == pytest.approx(2 * (tokens * PRICE["output"] + PRICE["input"]) / 1e6)


def test_when_one_call_ends_the_stage_what_is_in_flight_is_kept(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Reply:
        bad = echo(body) == "Q0"
        return Reply(401, {"error": {"message": "no"}}, 0.1) if bad else Reply(200, chat(echo(body)), 0.6)

    with Endpoint(script) as server:
        with pytest.raises(EndpointError, match="refused the key"):
            complete(tmp_path, server.url, requests(40), endpoint={"concurrency": 8})
        assert len(server.log) == 8
    assert sorted(rows(tmp_path)) == [("answered", 0.0, 0)] * 7 + [("unanswered", 0.0, 0)]


def test_requests_are_taken_as_they_are_needed(tmp_path: Path) -> None:
    """No more are taken than there are calls in flight and answers in."""
    taken = 0

    def lazily() -> Iterator[Request]:
        nonlocal taken
        for request in requests(60):
            taken += 1
            yield request

    def script(body: dict[str, Any]) -> Reply:
        assert taken <= len(server.log) + 4
        return Reply(200, chat(echo(body)))

    with Endpoint(script) as server:
        found = complete(tmp_path, server.url, lazily(), endpoint={"concurrency": 4})
    assert [one.text for one in found] == [f"Q{at}" for at in range(60)]


def test_costs_by_hand() -> None:
    price = Price(input=1, output=10, cached_input=0.5)
    # 60 fresh at 1, 40 cached at .5, 7 at 10 US$ per million
    assert charge(chat("x", usage=(100, 40, 7)), 1.0, price).cost_usd == pytest.approx((60 + 20 + 70) / 1e6)
    assert worst_case_usd(request_body("m", requests(1)[0]), None) == 0.0


def test_logprobs_are_read_from_the_first_token() -> None:
    found = read_answer("k", chat("A", logprobs={"A": -0.1, "B": -2.0}), 0.0, 1.0)
    assert found.choice_logprobs == {"A": -0.1, "B": -2.0}
    assert found.logprob == pytest.approx(-0.1)
    assert read_answer("k", chat("A"), 0.0, 1.0).choice_logprobs is None


def test_the_key_ignores_the_order_of_the_bodys_fields() -> None:
    one = request_body("m", requests(1)[0])
    assert call_key("http://h", dict(reversed(one.items())), requests(1)[0]) == call_key(
        "http://h", one, requests(1)[0]
    )
