"""Pins down the batch API over real HTTP: nothing paid twice and nothing lost, wherever a process dies; half the price.

The stand-in's own count of what it would charge for is the witness.
"""

import json
import math
import signal
import subprocess
import threading
from collections.abc import Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from pipeline.calls.tables import ACCOUNT, CALLS, database_url
from pipeline.commands import batches
from pipeline.config import Price
from pipeline.engines import batch as batch_engine
from pipeline.engines.base import Answer, Request
from pipeline.engines.chat import request_body, worst_case_usd
from pipeline.errors import BudgetError, ConfigError, EndpointError, InputError, StageError
from pipeline.runner import run_stage
from pipeline.store import RunFolder
from tests import forked
from tests.batch_endpoint import BatchEndpoint, Fate
from tests.endpoints import Body, Endpoint, Reply, chat
from tests.recorded_endpoint import PATIENCE_S, command, jurybox_here
from tests.worlds import bench, world

PAIRS = 6
CALLS_IN_ALL = 2 * PAIRS
PRICE = {"input": 1.0, "output": 2.0}
USAGE = (400, 100, 20)
DIRECT_USD = (400 * 1.0 + 20 * 2.0) / 1e6
"""No price for cached tokens is given: they cost as much as the others."""
BATCH_USD = DIRECT_USD / 2
POLL_S = 0.02
Place = Path | str


def verdict(_body: Body) -> Reply:
    return Reply(200, chat(json.dumps({"rationale": "said", "verdict": "A"}), usage=USAGE))


def echo(body: Body) -> Reply:
    return Reply(200, chat(str(body["messages"][-1]["content"]), usage=USAGE))


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_engine, "BACKOFF_S", 0.0)


@pytest.fixture
def server() -> Iterator[BatchEndpoint]:
    with BatchEndpoint(echo) as running:
        yield running


# The engine.


def requests(count: int) -> list[Request]:
    return [Request((("user", f"Q{at:03d}"),), 50) for at in range(count)]


def complete(
    folder: Path, url: str, count: int, *, batch: object = None, steps: list[int] | None = None, **config: Any
) -> list[Answer]:
    how = {"poll_s": POLL_S, **(batch if isinstance(batch, dict) else {})}
    settings = {
        "endpoints": {"e": {"base_url": url, "attempts": 3}},
        "generators": [{"model": "m", "endpoint": "e", "price": PRICE, "batch": how if batch is not False else False}],
        **config,
    }
    with bench(folder, **settings) as run:
        engine = run.engine(run.config.generators[0])
        try:
            return engine.complete(requests(count), (steps if steps is not None else []).append)
        finally:
            run.close_engines()


def texts(answers: list[Answer]) -> list[str | None]:
    return [one.text for one in answers]


def words(count: int) -> list[str]:
    return [f"Q{at:03d}" for at in range(count)]


def accounts(place: Place) -> tuple[float, float, int]:
    """(charged, sum of costs, calls possibly paid)."""
    engine = sa.create_engine(database_url(place), poolclass=sa.NullPool)
    with engine.connect() as db:
        charged = float(db.execute(sa.select(sa.func.sum(ACCOUNT.c.charged_usd))).scalar_one())
        cost, lost = db.execute(sa.select(sa.func.sum(CALLS.c.cost_usd), sa.func.sum(CALLS.c.lost_claims))).one()
    engine.dispose()
    return charged, float(cost), int(lost)


def test_answers_come_in_the_order_of_the_requests_at_half_the_price(tmp_path: Path, server: BatchEndpoint) -> None:
    steps: list[int] = []
    found = complete(tmp_path, server.url, 40, steps=steps)
    assert texts(found) == words(40)
    assert [one.call.cost_usd for one in found] == pytest.approx([BATCH_USD] * 40)
    assert sum(steps) == 40
    assert len(steps) > 1, "the vendor's counts are shown while it works"
    assert all(step > 0 for step in steps)
    assert accounts(tmp_path / "run/ledger.sqlite") == pytest.approx((40 * BATCH_USD, 40 * BATCH_USD, 0))
    assert set(server.charged.values()) == {1}
    assert set(server.charged) == {one.call.call_key for one in found}
    assert server.log == [], "nothing goes out directly"


def test_what_one_way_has_answered_the_other_never_asks_again(tmp_path: Path, server: BatchEndpoint) -> None:
    first = complete(tmp_path, server.url, 10, batch=False)
    assert len(server.log) == 10
    both = complete(tmp_path, server.url, 25)
    assert texts(both) == words(25)
    assert len(server.log) == 10
    assert sum(server.charged.values()) == 15
    assert not set(server.charged) & {one.call.call_key for one in first}
    again = complete(tmp_path, server.url, 25, batch=False)
    assert texts(again) == words(25)
    assert len(server.log) == 10
    costs = [DIRECT_USD] * 10 + [BATCH_USD] * 15
    assert [one.call.cost_usd for one in again] == pytest.approx(costs)


@pytest.mark.parametrize("left_out", [False, True], ids=["in the error file", "in no file"])
@pytest.mark.parametrize("status", ["expired", "cancelled", "completed"])
def test_what_a_batch_leaves_out_goes_into_the_next(
    tmp_path: Path, server: BatchEndpoint, status: str, left_out: bool
) -> None:
    server.fates = [Fate(status, answered=7, left_out=left_out), Fate("expired", answered=0, left_out=left_out)]
    assert texts(complete(tmp_path, server.url, 20)) == words(20)
    assert [held.total for held in server.batches.values()] == [20, 13, 13]
    assert set(server.charged.values()) == {1}
    assert accounts(tmp_path / "run/ledger.sqlite") == pytest.approx((20 * BATCH_USD, 20 * BATCH_USD, 0))


def test_what_no_batch_answers_is_unanswered_after_the_attempts_and_asked_by_the_next_run(
    tmp_path: Path, server: BatchEndpoint
) -> None:
    server.fates = [Fate("expired", answered=2)] + [Fate("expired", answered=0)] * 2
    found = complete(tmp_path, server.url, 5)
    assert len(server.batches) == 3
    assert sum(one.unanswered for one in found) == 3
    assert "left out of 3 batches; the last one is expired" in str(found[-1].error)
    assert "could not be executed before the completion window expired" in str(found[-1].error)
    assert accounts(tmp_path / "run/ledger.sqlite")[0] == pytest.approx(2 * BATCH_USD)
    assert texts(complete(tmp_path, server.url, 5)) == words(5)
    assert set(server.charged.values()) == {1}


def test_a_refused_line_is_a_failed_answer_and_a_failed_one_is_sent_again(
    tmp_path: Path, server: BatchEndpoint
) -> None:
    too_long = {"error": {"message": "maximum context length is 8192 tokens", "code": "context_length_exceeded"}}
    bad = {"error": {"message": "Invalid value", "code": "invalid"}}
    busy = {"error": {"message": "try later"}}
    server.fates = [Fate(refused={0: (400, too_long), 1: (400, bad), 2: (500, busy), 3: (429, busy)})]
    found = complete(tmp_path, server.url, 6)
    assert [one.text for one in found] == [None, None, *words(6)[2:]]
    assert (found[0].reason, str(found[0].error)[:8]) == ("too_long", "HTTP 400")
    assert (found[1].reason, str(found[1].error)[:8]) == ("rejected", "HTTP 400")
    assert [held.total for held in server.batches.values()] == [6, 2]
    assert set(server.charged.values()) == {1}


def test_a_batch_that_fails_validation_says_what_the_vendor_said(tmp_path: Path, server: BatchEndpoint) -> None:
    server.fates = [Fate("failed", errors=(("model_not_found", "The model `m` does not exist"), ("x", "y")))]
    with pytest.raises(
        EndpointError, match=r"did not take batch batch_0: model_not_found: The model `m` .* and 1 more"
    ):
        complete(tmp_path, server.url, 4)
    assert accounts(tmp_path / "run/ledger.sqlite") == pytest.approx((0, 0, 0), abs=1e-12)
    assert texts(complete(tmp_path, server.url, 4)) == words(4)


def test_files_hold_no_more_than_allowed_and_are_always_the_same(tmp_path: Path, server: BatchEndpoint) -> None:
    assert texts(complete(tmp_path / "a", server.url, 25, batch={"max_requests": 10})) == words(25)
    assert [held.total for held in server.batches.values()] == [10, 10, 5]
    length = len(server.uploads[0].splitlines()[0]) + 1
    limit = 4 * length + length // 2
    files = len(server.uploads)
    assert texts(complete(tmp_path / "b", server.url, 10, batch={"max_bytes": limit})) == words(10)
    assert [content.count(b"\n") for content in server.uploads[files:]] == [4, 4, 2]
    assert all(len(content) <= limit for content in server.uploads[files:])
    complete(tmp_path / "c", server.url, 25, batch={"max_requests": 10})
    assert server.uploads[files + 3 :] == server.uploads[:files]


def test_a_full_queue_is_waited_for_with_smaller_batches(tmp_path: Path, server: BatchEndpoint) -> None:
    full = Fate("failed", errors=(("token_limit_exceeded", "Enqueued token limit reached for m"),))
    server.fates = [Fate(looks=3), full, Fate(), Fate()]
    assert texts(complete(tmp_path, server.url, 16, batch={"max_requests": 8})) == words(16)
    assert [held.total for held in server.batches.values()] == [8, 8, 4, 4]
    assert set(server.charged.values()) == {1}
    server.fates = [full] * 20
    with pytest.raises(EndpointError, match="takes no batch, however small: Enqueued token limit reached"):
        complete(tmp_path / "other", server.url, 4)
    assert accounts(tmp_path / "other/run/ledger.sqlite")[0] == pytest.approx(0, abs=1e-12)


def test_a_reply_lost_on_the_way_creates_no_second_batch(tmp_path: Path, server: BatchEndpoint) -> None:
    server.trouble = {
        "upload": [Reply(500, {"error": {"message": "down"}}), Reply(0)],
        "create": [Reply(0), Reply(503, {"error": {"message": "down"}})],
        "retrieve": [Reply(502, {}), Reply(0)],
        "content": [Reply(0), Reply(500, {})],
    }
    assert texts(complete(tmp_path, server.url, 9)) == words(9)
    assert len(server.batches) == 1
    assert set(server.charged.values()) == {1}


def test_an_unreachable_vendor_leaves_the_batch_to_the_next_run(tmp_path: Path, server: BatchEndpoint) -> None:
    server.trouble = {"retrieve": [Reply(503, {"error": {"message": "down"}})] * 3}
    with pytest.raises(EndpointError, match=r"could not be reached .* the same command fetches their answers"):
        complete(tmp_path, server.url, 9)
    assert texts(complete(tmp_path, server.url, 9)) == words(9)
    assert len(server.batches) == 1
    assert set(server.charged.values()) == {1}


def test_the_budget_reserves_half_and_batches_are_as_large_as_it_allows(tmp_path: Path, server: BatchEndpoint) -> None:
    body = request_body("m", requests(1)[0])
    # (bytes + 64) tokens at 1 and 50 tokens at 2 US$ per million, half of it.
    worst = ((len(json.dumps(body, separators=(",", ":"))) + 64) * 1.0 + 50 * 2.0) / 1e6 / 2
    with pytest.raises(BudgetError, match=r"raise budget.usd"):
        complete(tmp_path, server.url, 20, budget={"usd": 0.9 * worst})
    assert server.events == []
    # (10 + 2 * 5) millionths, half of it; all twenty leave room for one reservation more.
    server.answer = lambda body: Reply(200, chat(str(body["messages"][-1]["content"]), usage=(10, 0, 5)))
    paid = 10e-6
    assert 20 * paid + worst < 3.5 * worst
    assert texts(complete(tmp_path, server.url, 20, budget={"usd": 3.5 * worst})) == words(20)
    sizes = [held.total for held in server.batches.values()]
    assert sizes[0] == 3
    assert max(sizes) == 3
    assert set(server.charged.values()) == {1}
    assert accounts(tmp_path / "run/ledger.sqlite")[0] == pytest.approx(20 * paid)


def test_batch_needs_an_endpoint(tmp_path: Path) -> None:
    with pytest.raises((ConfigError, ValueError), match="`batch` is an endpoint's API"):
        bench(tmp_path, generators=[{"model": "m", "engine": "transformers", "batch": True}])


def test_an_endpoint_without_a_batch_api_is_told(tmp_path: Path) -> None:
    with Endpoint(echo) as plain, pytest.raises(EndpointError, match="it may have no batch API"):
        complete(tmp_path, plain.url, 2)
    assert accounts(tmp_path / "run/ledger.sqlite") == pytest.approx((0, 0, 0), abs=1e-12)


def test_ctrl_c_says_that_the_batch_goes_on_and_the_next_run_fetches_it(
    tmp_path: Path, server: BatchEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.fates = [Fate(looks=5)]

    def pressed(_vendor: object, _batch_id: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(batch_engine.Vendor, "retrieve", pressed)
        with pytest.raises(StageError, match=r"1 batches go on at endpoint 'e' \(batch_0\): run the same command"):
            complete(tmp_path, server.url, 5)
    with pytest.raises(StageError, match="with `batch` on this model"):
        complete(tmp_path, server.url, 5, batch=False)
    assert server.log == []
    assert texts(complete(tmp_path, server.url, 5)) == words(5)
    assert len(server.batches) == 1


# What vendors say otherwise.


RESERVED_USD = worst_case_usd(request_body("m", requests(1)[0]), Price(input=0.5, output=1.0))
"""Half the price."""


def paid_once(server: BatchEndpoint, count: int) -> bool:
    """The vendor charged for each call once, in one batch."""
    return len(server.batches) == 1 and len(server.charged) == count and set(server.charged.values()) == {1}


@pytest.mark.parametrize("status", ["queued", "IN_PROGRESS", "PENDING", "pre_processing", "", None, 7, ["x"]])
def test_a_state_that_nobody_knows_is_looked_at_again(tmp_path: Path, server: BatchEndpoint, status: object) -> None:
    server.shown = lambda told, looks: {**told, "status": status} if looks < 5 else told
    assert texts(complete(tmp_path, server.url, 10)) == words(10)
    assert paid_once(server, 10)


@pytest.mark.parametrize("status", ["COMPLETED", "Completed", "succeeded", "ended"])
def test_a_batch_is_over_in_other_words_too(tmp_path: Path, server: BatchEndpoint, status: str) -> None:
    server.shown = lambda told, _looks: {**told, "status": status} if told["status"] == "completed" else told
    assert texts(complete(tmp_path, server.url, 10)) == words(10)
    assert paid_once(server, 10)


def late(told: dict[str, Any]) -> dict[str, Any]:
    return {**told, "output_file_id": None}


@pytest.mark.parametrize("counted", [True, False])
def test_a_file_that_comes_late_is_waited_for(tmp_path: Path, server: BatchEndpoint, counted: bool) -> None:
    def shown(told: dict[str, Any], looks: int) -> dict[str, Any]:
        told = told if counted else {**told, "request_counts": None}
        return late(told) if looks < 6 else told

    server.shown = shown
    assert texts(complete(tmp_path, server.url, 10)) == words(10)
    assert paid_once(server, 10)


SPOILT = {
    "cut": lambda content: content[: 2 * len(content) // 3],
    "three bytes short": lambda content: content[:-4],
    "html": lambda _content: b"<html><body>Bad gateway</body></html>",
    "empty": lambda _content: b"",
    "no utf-8": lambda content: content.replace(b"Q", b"\xff"),
    "nothing": lambda _content: b"null\n[]\n{}\n",
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_file_that_came_broken_is_fetched_again(tmp_path: Path, server: BatchEndpoint, how: str) -> None:
    server.spoilt = lambda content, times: SPOILT[how](content) if times < 4 else content
    assert texts(complete(tmp_path, server.url, 10)) == words(10)
    assert paid_once(server, 10)
    assert accounts(tmp_path / "run" / "ledger.sqlite") == pytest.approx((10 * BATCH_USD, 10 * BATCH_USD, 0))


@pytest.mark.parametrize("how", ["cut", "html", "empty"])
def test_a_file_that_stays_broken_is_told_and_nothing_is_sent_again(
    tmp_path: Path, server: BatchEndpoint, how: str
) -> None:
    server.spoilt = lambda content, _times: SPOILT[how](content)
    for _ in range(2):
        with pytest.raises(EndpointError, match=r"batch_0 is completed and its files lack \d+ of its calls") as told:
            complete(tmp_path, server.url, 10)
        assert "--give-up ID" in str(told.value)
        assert paid_once(server, 10)
    # what could be read is kept at its price, and the rest at its reservation
    charged, costs, _ = accounts(tmp_path / "run" / "ledger.sqlite")
    kept = round(costs / BATCH_USD)
    assert charged == pytest.approx(kept * BATCH_USD + (10 - kept) * RESERVED_USD)
    server.spoilt = lambda content, _times: content
    assert texts(complete(tmp_path, server.url, 10)) == words(10)
    assert paid_once(server, 10)


def test_what_is_no_utf_8_for_good_is_read_with_question_marks(tmp_path: Path, server: BatchEndpoint) -> None:
    server.spoilt = lambda content, _times: SPOILT["no utf-8"](content)
    found = complete(tmp_path, server.url, 3)
    assert [(one.text or "")[-3:] for one in found] == ["000", "001", "002"]
    assert paid_once(server, 3)


def test_an_expired_batch_of_which_nothing_is_known_is_charged_and_made_again(
    tmp_path: Path, server: BatchEndpoint
) -> None:
    """Expired, no file, no counts: three of ten may have been made; all ten stay charged, and are asked again."""
    server.fates = [Fate("expired", answered=3)]
    server.shown = lambda told, _looks: (
        {**late(told), "error_file_id": None, "request_counts": None} if told["status"] == "expired" else told
    )
    assert texts(complete(tmp_path, server.url, 10)) == words(10)
    assert len(server.batches) == 2
    charged, costs, lost = accounts(tmp_path / "run" / "ledger.sqlite")
    assert (costs, lost) == (pytest.approx(10 * BATCH_USD), 10)
    assert charged == pytest.approx(10 * BATCH_USD + 10 * RESERVED_USD)


def test_a_batch_that_failed_half_way_is_read(tmp_path: Path, server: BatchEndpoint) -> None:
    """Some vendors call a batch failed whose requests failed: what its files hold is kept."""
    server.fates = [Fate("expired", answered=4)]
    server.shown = lambda told, _looks: {**told, "status": "FAILED"} if told["status"] == "expired" else told
    assert texts(complete(tmp_path, server.url, 10)) == words(10)
    assert set(server.charged.values()) == {1}


def test_a_vendor_that_keeps_no_tag_has_its_batch_found_by_its_file(tmp_path: Path, server: BatchEndpoint) -> None:
    """The reply to its creation is lost, and what the vendor lists has neither metadata nor a number for a date."""
    server.trouble = {"create": [Reply(0)]}
    seen = server._seen

    def shown(held: Any) -> dict[str, Any]:
        return {**seen(held), "metadata": None, "created_at": "2026-11-28T12:00:00Z"}

    server._seen = shown  # type: ignore[method-assign]
    assert texts(complete(tmp_path, server.url, 4)) == words(4)
    assert paid_once(server, 4)


def test_a_request_that_timed_out_may_have_been_made(tmp_path: Path, server: BatchEndpoint) -> None:
    server.fates = [Fate(refused={1: (504, {"error": {"message": "late"}})})]
    assert texts(complete(tmp_path, server.url, 4)) == words(4)
    assert accounts(tmp_path / "run" / "ledger.sqlite")[2] == 1


def opened(folder: Path, url: str) -> Any:
    how = {"model": "m", "endpoint": "e", "price": PRICE, "batch": {"poll_s": POLL_S}}
    return bench(folder, endpoints={"e": {"base_url": url, "attempts": 3}}, generators=[how])


def test_batches_are_listed_and_given_up(tmp_path: Path, server: BatchEndpoint) -> None:
    """Four of ten are done when the batch is cancelled: they are kept, the others are free and made again."""
    server.fates = [Fate(answered=4, looks=10_000)]
    with opened(tmp_path, server.url) as run:
        run.engine(run.config.generators[0]).submit(requests(10))
    with opened(tmp_path, server.url) as run:
        (row,) = batches.listed(run)
        assert (row["batch"], row["calls"], row["model"], row["endpoint"]) == ("batch_0", 10, "m", "e")
        assert row["status"] == "in_progress"
        assert "batch_0 is cancelled" in batches.give_up(run, "batch_0")
        assert batches.listed(run) == []
        with pytest.raises(InputError, match="no open batch 'batch_0'"):
            batches.give_up(run, "batch_0")
    charged, _, lost = accounts(tmp_path / "run" / "ledger.sqlite")
    assert (charged, lost) == (pytest.approx(4 * BATCH_USD), 0)
    assert texts(complete(tmp_path, server.url, 10)) == words(10)
    assert set(server.charged.values()) == {1}


@pytest.mark.parametrize("now", [True, False])
def test_a_batch_that_is_gone_stays_charged_when_it_is_given_up(
    tmp_path: Path, server: BatchEndpoint, now: bool
) -> None:
    server.fates = [Fate(looks=10_000)]
    with opened(tmp_path, server.url) as run:
        run.engine(run.config.generators[0]).submit(requests(3))
    if not now:
        server.batches.clear()
    with opened(tmp_path, server.url) as run:
        assert "3 calls stay charged" in batches.give_up(run, "batch_0", now=now)
    charged, _, lost = accounts(tmp_path / "run" / "ledger.sqlite")
    assert (charged, lost) == (pytest.approx(3 * RESERVED_USD), 3)
    assert texts(complete(tmp_path, server.url, 3)) == words(3)


def test_batches_of_several_judges_are_sent_side_by_side(tmp_path: Path) -> None:
    """Both lie at the vendor's before the first is looked at, each is paid once, and the next run asks nothing."""
    world_of = {"first": ["yes", "no"], "second": ["one", "two"]}
    with BatchEndpoint(verdict) as server:
        judge = {"kind": "pairwise", "endpoint": "e", "max_tokens": 60, "price": PRICE, "batch": {"poll_s": POLL_S}}
        settings: dict[str, Any] = {
            "endpoints": {"e": {"base_url": server.url, "attempts": 3}},
            "judges": [{"name": name, "model": name, **judge} for name in ("one", "two")],
        }
        with bench(tmp_path, world(world_of), **settings) as run:
            run_stage(run, "judge")
            judged = run.folder.read("judgments")
        assert judged.height == 2 * 2 * 2
        assert judged["error"].null_count() == judged.height
        steps = [event for event in server.events if event in ("create", "retrieve")]
        assert steps[:2] == ["create", "create"]
        assert steps.count("create") == 2
        assert set(server.charged.values()) == {1}


# The whole job, and processes that die.


class Project:
    """A config and its imported pairs, judged by processes that may be killed."""

    def __init__(self, folder: Path, server: BatchEndpoint, ledger: Place) -> None:
        self.folder, self.server = folder, server
        self.ledger: Place = ledger if isinstance(ledger, str) else folder / "run" / "ledger.sqlite"
        judge = {"name": "one", "kind": "pairwise", "endpoint": "local", "model": "judge", "max_tokens": 60}
        config: dict[str, Any] = {
            "name": "batched",
            "endpoints": {"local": {"base_url": server.url, "attempts": 3}},
            "judges": [{**judge, "price": PRICE, "batch": {"poll_s": POLL_S}}],
            "budget": {"usd": 1.0},
        }
        if isinstance(ledger, str):
            config["ledger"] = ledger
        (folder / "c.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        rows = [
            {"prompt": f"Question {at}?", "pair_id": str(at), "response_a": "yes", "response_b": "no"}
            for at in range(PAIRS)
        ]
        (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        done = jurybox_here("import", "pairs", "pairs.jsonl", "--config", "c.yaml", "--run-dir", "run", cwd=folder)
        assert done.returncode == 0, done.stderr

    def start(self) -> ForkServerProcess:
        return forked.start(["judge", "c.yaml", "--run-dir", "run"], self.folder, self.folder / "said")

    def ended(self, process: ForkServerProcess) -> int | None:
        process.join(PATIENCE_S)
        return process.exitcode

    @property
    def said(self) -> str:
        return (self.folder / "said").read_text(encoding="utf-8")

    def assert_whole(self) -> None:
        """Every judgment once; every call paid once, at half the price; in `calls` too."""
        run = RunFolder(self.folder / "run")
        judgments, calls = run.read("judgments"), run.read("calls")
        assert judgments.height == judgments.select("pair_id", "order").n_unique() == CALLS_IN_ALL
        assert judgments["error"].null_count() == CALLS_IN_ALL
        assert set(calls["call_key"]) == set(self.server.charged)
        assert calls["cost_usd"].to_list() == pytest.approx([BATCH_USD] * CALLS_IN_ALL)
        assert set(self.server.charged.values()) == {1}
        total = CALLS_IN_ALL * BATCH_USD
        assert accounts(self.ledger) == pytest.approx((total, total, 0))
        assert math.isclose(json.loads((run.path / "manifest.json").read_text())["stages"]["judge"]["cost_usd"], total)


@pytest.fixture
def project(tmp_path: Path, server: BatchEndpoint, ledger_place: Place) -> Project:
    server.answer = verdict
    return Project(tmp_path, server, ledger_place)


MOMENTS = {
    "before upload": "the calls are claimed",
    "after upload": "the file lies there, its id is not recorded",
    "before create": "the file's id is recorded",
    "after create": "the batch is there, its id is not recorded",
    "before retrieve": "the batch runs",
    "before content": "the batch is over, nothing is committed",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment_nothing_is_paid_twice_and_nothing_is_lost(project: Project, moment: str) -> None:
    pid: list[int] = []
    started = threading.Event()

    def victim() -> int:
        started.wait(PATIENCE_S)
        return pid[0]

    project.server.kills(moment, victim)
    process = project.start()
    assert process.pid is not None
    pid.append(process.pid)
    started.set()
    assert project.ended(process) == -signal.SIGKILL, project.said
    assert project.ended(project.start()) == 0, project.said
    assert len(project.server.batches) == 1
    project.assert_whole()
    events = len(project.server.events)
    assert project.ended(project.start()) == 0
    assert len(project.server.events) == events, "all is done: nothing is asked"


@pytest.mark.parametrize("survived", [0, 2, 4])
def test_killed_half_way_through_committing(project: Project, survived: int) -> None:
    """Of four transactions of three answers each, so many are done."""
    first = (
        "import os, pipeline.engines.batch as b; b.COMMIT_AT_ONCE = 3; done = []; commit = b.Batches.commit; "
        "b.Batches.commit = lambda *a: "
        f"os.kill(os.getpid(), 9) if len(done) == {survived} else (done.append(1), commit(*a))[1]"
    )
    killed = subprocess.run(
        command("judge", "c.yaml", "--run-dir", "run", first=first),
        cwd=project.folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert accounts(project.ledger)[1] == pytest.approx(min(3 * survived, CALLS_IN_ALL) * BATCH_USD)
    assert project.ended(project.start()) == 0, project.said
    assert len(project.server.batches) == 1
    project.assert_whole()


def test_two_processes_share_one_batch_and_the_survivor_takes_it_over(project: Project) -> None:
    project.server.fates = [Fate(looks=10_000)]
    keeper = project.start()
    while "retrieve" not in project.server.events:
        assert keeper.is_alive(), project.said
    other = project.start()
    keeper.kill()
    project.ended(keeper)
    held = next(iter(project.server.batches.values()))
    held.fate.looks = 0
    assert project.ended(other) == 0, project.said
    assert len(project.server.batches) == 1
    project.assert_whole()
