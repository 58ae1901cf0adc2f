"""Pins down what becomes of every behaviour in docs/endpoints.md, each against a real HTTP server on loopback."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.commands.checks import check
from pipeline.engines import endpoint
from pipeline.engines.base import Answer, Request
from pipeline.errors import ConfigError, EndpointError
from pipeline.workbench import Workbench
from tests.endpoints import DROP, Endpoint, Reply, Script, chat
from tests.odd_endpoint import GOOD, ROWS, Row, error
from tests.worlds import bench

DOCS = Path(__file__).parents[2] / "docs" / "endpoints.md"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "BACKOFF_S", 0.0)


def asked(words: str) -> Request:
    return Request((("system", "Be brief."), ("user", words)), 64, 0.5, seed=7, response_schema={"type": "object"})


def complete(folder: Path, url: str, *words: str, **settings: Any) -> list[Answer]:
    given = {"attempts": 2, "concurrency": 1, **settings.pop("endpoint", {})}
    made = {
        "endpoints": {"e": {"base_url": url, **given}},
        "generators": [{"model": "m", "endpoint": "e", **settings}],
    }
    with bench(folder, **made) as run:
        return run.engine(run.config.generators[0]).complete([asked(one) for one in words], lambda _done: None)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.family}: {row.behaviour}")
def test_a_behaviour(tmp_path: Path, row: Row) -> None:
    with Endpoint(row.script) as server:
        found = complete(tmp_path, server.url, "first", "second")[1]
        assert (found.text, found.reason, found.reasoning) == (row.text, row.reason, row.reasoning)
        assert (found.reason is None) or found.error
        sent = server.bodies[-1]
        assert not set(row.without) & set(sent)
        assert {name: sent.get(name) for name in row.has} == dict(row.has)
        assert found.temperature_sent is ("temperature" in sent)
        assert found.unanswered is row.asked_again
        if row.asked_again:
            before = len(server.log)
            complete(tmp_path, server.url, "first", "second")
            assert len(server.log) > before


def test_the_page_has_these_rows_and_no_others() -> None:
    table = DOCS.read_text(encoding="utf-8").split("## One call")[1].split("## ")[0]
    shown = [
        line for line in table.splitlines() if line.startswith("| ") and not line.startswith(("| server", "| ---"))
    ]
    assert shown == [row.cells() for row in ROWS]


@pytest.mark.parametrize(
    ("reply", "hint"),
    [
        (error(402, "Insufficient Balance"), "is out of money, quota or credit: HTTP 402: Insufficient Balance; "),
        (error(429, "You exceeded your current quota", code="insufficient_quota"), "is out of money, quota or credit"),
        (error(200, "Insufficient credits", code=402), "is out of money, quota or credit"),
        (error(401, "Incorrect API key provided"), "refused the key: HTTP 401: Incorrect API key provided"),
        (error(404, 'model "m" not found, try pulling it first'), "knows no model 'm' or no such path: HTTP 404"),
        (Reply(200, {"error": "Unexpected endpoint or method. (POST /chat)"}), "knows no model 'm' or no"),
        (Reply(307, "", 0, {"Location": "http://127.0.0.1:9/v1?key=secret"}),
         "sends calls elsewhere: HTTP 307: it redirects to http://127.0.0.1:9/v1, and nothing was sent there"),
        (Reply(302, "", 0, {"Location": "/login"}), "sends calls elsewhere"),
        (Reply(DROP), "cannot be reached after 2 attempts"),
    ],
)  # fmt: skip
def test_what_every_call_shares_ends_the_stage_in_the_endpoints_words(tmp_path: Path, reply: Reply, hint: str) -> None:
    with Endpoint(lambda _body: reply) as server, pytest.raises(EndpointError) as found:
        complete(tmp_path, server.url, "first", "second")
    assert hint in str(found.value)
    assert "secret" not in str(found.value)
    with Endpoint(lambda _body: GOOD) as server:
        assert [one.text for one in complete(tmp_path, server.url, "first", "second")] == [GOOD, GOOD]


def test_money_that_ends_in_the_midst_of_a_run_ends_the_stage_and_the_next_run_goes_on(tmp_path: Path) -> None:
    words = [str(at) for at in range(12)]
    spent = error(402, "Insufficient Balance")
    with Endpoint(lambda _body: GOOD if len(server.log) <= 4 else spent) as server:
        with pytest.raises(EndpointError, match="Insufficient Balance"):
            complete(tmp_path, server.url, *words)
        # 4 were answered; 3 in a row were refused in each of their 2 attempts
        assert len(server.log) == 4 + 3 * 2
        server.answer = lambda _body: GOOD
        server.log.clear()
        assert [one.text for one in complete(tmp_path, server.url, *words)] == [GOOD] * 12
        assert len(server.log) == 8


def test_one_refused_call_among_others_is_that_calls_own(tmp_path: Path) -> None:
    blocked = Reply(403, "<html><title>Blocked</title>")
    with Endpoint(lambda body: blocked if body["messages"][-1]["content"] == "bad" else GOOD) as server:
        found = complete(tmp_path, server.url, "first", "bad", "third")
    assert [(one.text, one.reason) for one in found] == [(GOOD, None), (None, "unanswered"), (GOOD, None)]
    assert found[1].error == "HTTP 403: Blocked"


def test_a_redirect_to_the_same_origin_is_followed(tmp_path: Path) -> None:
    def script(_body: dict[str, Any]) -> Reply:
        there = f"{server.url}/chat/completions?here=1"
        return Reply(308, "", 0, {"Location": there}) if len(server.log) == 1 else Reply(200, chat(GOOD))

    with Endpoint(script) as server:
        assert complete(tmp_path, server.url, "first")[0].text == GOOD


def test_bodies_and_what_they_unpack_to_are_bounded(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Reply:
        if body["messages"][-1]["content"] == "first":
            return Reply(200, chat(GOOD))
        return Reply(200, json_of(9_000_000))

    def json_of(length: int) -> str:
        return '{"choices": [{"message": {"content": "' + "x" * length + '"}}]}'

    with Endpoint(script) as server:
        found = complete(tmp_path, server.url, "first", "second")
    # 64 tokens of 4 kB and one MiB for all else
    assert found[1].error == f"the reply is longer than {2**20 + 64 * 4096:,} bytes"
    assert found[1].reason == "unanswered"


def test_body_headers_and_query_of_the_config_are_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "secret-key")
    told: dict[str, Any] = {
        "body": {"max_tokens": None, "max_completion_tokens": 9, "top_k": 5},
        "headers": {"api-key": "${A_KEY}", "Authorization": None},
        "query": {"api-version": "2024-10-21"},
        "structured": "json_object",
    }
    with Endpoint(lambda _body: GOOD) as server:
        complete(tmp_path, server.url, "first", endpoint=told, body={"top_k": 6, "seed": None})
        (sent,) = server.log
    assert (sent.body["max_completion_tokens"], sent.body["top_k"]) == (9, 6)
    assert "max_tokens" not in sent.body
    assert "seed" not in sent.body
    assert sent.body["response_format"] == {"type": "json_object"}
    assert sent.headers["api-key"] == "secret-key"
    assert "Authorization" not in sent.headers
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"secret-key" not in file.read_bytes()


def test_a_key_in_a_header_of_the_config_is_refused_and_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "name: c\nendpoints: {e: {base_url: 'http://127.0.0.1:1/v1', headers: {api-key: azkey, x-team: azteam}}}\n"
        "generators: [{model: m, endpoint: e}]\n",
        encoding="utf-8",
    )
    with pytest.raises(ConfigError, match=r"c.yaml:2: .*api-key.*environment variable") as told:
        Workbench.open(tmp_path / "c.yaml", tmp_path / "run")
    assert "azkey" not in str(told.value)


def checked(folder: Path, url: str, **settings: Any) -> list[str]:
    judge = {"name": "j", "kind": "pairwise", "model": "m", "endpoint": "e", "max_tokens": 99, **settings}
    with bench(folder, endpoints={"e": {"base_url": url, "attempts": 1}}, judges=[judge]) as run:
        return check(run)


@pytest.mark.parametrize(
    ("script", "settings", "hint"),
    [
        (
            lambda _body: error(404, "no such path"),
            {},
            "or no such path: HTTP 404: no such path; check model, base_url",
        ),
        (lambda _body: error(400, "top_k is not a thing"), {"body": {"top_k": 5}}, "set what it names in `body`"),
        (
            lambda _body: "A",
            {"verdict": "logprob"},
            "returns no logprobs, which `verdict: logprob` reads; set verdict to",
        ),
        (lambda _body: error(402, "Insufficient Balance"), {}, "is out of money"),
        (lambda _body: Reply(503, "down"), {}, "HTTP 503: down"),
    ],
)
def test_a_check_finds_what_would_stop_the_run(
    tmp_path: Path, script: Script, settings: dict[str, Any], hint: str
) -> None:
    with Endpoint(script) as server, pytest.raises(EndpointError) as found:
        checked(tmp_path, server.url, **settings)
    assert hint in str(found.value)


def test_a_check_makes_one_small_call_per_model_and_says_what_was_refused(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Reply:
        return error(400, "'seed' is not supported", param="seed") if "seed" in body else Reply(200, chat("{}"))

    with Endpoint(script) as server:
        found = checked(tmp_path, server.url)
        assert found[-1].startswith(
            "model m at e: answers; `seed` refused: `seed` is not sent (HTTP 400: 'seed' is not"
        )
        assert [body["max_tokens"] for body in server.bodies] == [16, 16]
        assert "response_format" in server.bodies[-1]
        checked(tmp_path, server.url)
        # the refusal is learned again; the answer is in the ledger
        assert len(server.log) == 3
