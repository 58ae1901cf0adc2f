"""Is the budget hard? The true bill of servers that misreport what was used, or say nothing, against the budget.

    python benchmarks/budget.py [--calls 60] [--budget 1.5] [--sqlite-only] [--json]

Each server is real HTTP on loopback and answers every call with 40 prompt tokens and 40 output tokens (55 where it
reasons apart) at US$ .001 and .002 a token; it writes down what it did, so its bill is its own log's, whatever it told
the client: work whose reply was late, cut, dropped or garbled counts. A model is asked for more than the budget bears,
twice over the same ledger, as a user would after the error. ``over_usd`` is the bill less the budget, 0 where it is
within; ``calls`` is how many the server did. The last server does all of it in turn, at once, for twenty times as many
calls and as much money. On SQLite and on a real PostgreSQL (Debian's package). The last line is JSON; the bar:
``worst_over_budget_usd`` is 0.
"""

import argparse
import json
import logging
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PRICE = {"input": 1000.0, "output": 2000.0}
PROMPT, OUTPUT, REASONING = 40, 40, 15
MAX_TOKENS = 64
TEXT = "An answer of some ten words with a reason or two in it."
COUNTED = {"prompt_tokens": PROMPT, "completion_tokens": OUTPUT, "total_tokens": PROMPT + OUTPUT}
TIMEOUT_S = 0.6
LATE_S = 1.5
TURNS = "all in turn"


def usages() -> dict[str, object]:
    """Server -> what it says was used, of a call that cost 40 and 40 tokens."""
    return {
        "honest": COUNTED,
        "null": None,
        "nulls": dict.fromkeys(COUNTED),
        "empty": {},
        "list": [COUNTED],
        "text": "eighty",
        "floats": {name: float(value) for name, value in COUNTED.items()},
        "strings": {name: str(value) for name, value in COUNTED.items()},
        "negative": {name: -value for name, value in COUNTED.items()},
        "true": dict.fromkeys(COUNTED, True),
        "above 2^53": dict.fromkeys(COUNTED, 2**53 + 1),
        "400 digits": dict.fromkeys(COUNTED, 10**400),
        "zeros": dict.fromkeys(COUNTED, 0),
        "no prompt": {**COUNTED, "prompt_tokens": 0},
        "no output": {**COUNTED, "completion_tokens": 0, "total_tokens": PROMPT},
        "output null": {**COUNTED, "completion_tokens": None},
        "total wrong": {**COUNTED, "total_tokens": -80},
        "cached above prompt": {**COUNTED, "prompt_tokens_details": {"cached_tokens": 11_000}},
        "cached negative": {**COUNTED, "prompt_tokens_details": {"cached_tokens": -5}},
        "cached null": {**COUNTED, "prompt_tokens_details": {"cached_tokens": None}},
        "cached a list": {**COUNTED, "prompt_tokens_details": [40]},
        "reasoning odd": {**COUNTED, "completion_tokens_details": {"reasoning_tokens": "much"}},
    }


def servers() -> dict[str, Callable[[], tuple[int, Any]]]:
    """Server -> (output tokens of a call, its reply as ``tests.endpoints.Reply``)."""
    from tests.endpoints import DROP, Reply

    def chat(usage: object, text: str | None = TEXT, finish: str = "stop") -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
        return {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}

    apart = OUTPUT + REASONING
    total = {**COUNTED, "total_tokens": PROMPT + apart}
    beside = {**COUNTED, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": apart - 5}}
    left_out = {name: value for name, value in chat(COUNTED).items() if name != "usage"}
    replies: dict[str, tuple[int, Any]] = {
        **{name: (OUTPUT, Reply(200, chat(said))) for name, said in usages().items()},
        "no usage": (OUTPUT, Reply(200, left_out)),
        "reasoning in the total alone": (apart, Reply(200, chat(total))),
        "reasoning beside the output": (apart, Reply(200, chat(beside))),
        "late": (OUTPUT, Reply(200, chat(COUNTED), LATE_S)),
        "cut": (OUTPUT, Reply(200, chat(COUNTED), cut=True)),
        "three bytes short": (OUTPUT, Reply(200, json.dumps(chat(COUNTED))[:-3])),
        "hangs up": (OUTPUT, Reply(DROP)),
        "a page of HTML": (OUTPUT, Reply(200, "<html>gateway</html>")),
        "504 after the work": (OUTPUT, Reply(504, "late")),
        "502 after the work": (OUTPUT, Reply(502, "late")),
        "error in a 200": (OUTPUT, Reply(200, {"error": {"message": "Provider returned error", "code": 502}})),
        "choices null": (OUTPUT, Reply(200, {**chat(None), "choices": None})),
        "empty content": (OUTPUT, Reply(200, chat(None, ""))),
        "half an answer": (OUTPUT, Reply(200, chat(None, TEXT[:20], "error"))),
        "busy": (-PROMPT, Reply(503, "busy")),
    }
    made: dict[str, Callable[[], tuple[int, Any]]] = {
        name: partial(lambda reply: reply, reply) for name, reply in replies.items()
    }
    turns, kinds = count(), list(replies.values())
    made[TURNS] = lambda: kinds[next(turns) % len(kinds)]
    return made


@dataclass
class Log:
    """What a server did."""

    calls: int = 0
    usd: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, output: int) -> None:
        """One call; without work where the tokens are none."""
        usd = (PROMPT * PRICE["input"] + output * PRICE["output"]) / 1e6
        with self.lock:
            self.calls += output > 0
            self.usd += usd if output > 0 else 0.0


@dataclass(frozen=True)
class Row:
    """One server on one kind of ledger."""

    server: str
    ledger: str
    calls: int
    bill_usd: float
    charged_usd: float
    reported_usd: float
    over_usd: float


def run(server: str, calls: int, budget: float, ledger: str | None) -> Row:
    """Ask one server for *calls* answers, twice, within the budget."""
    from pipeline.config import Config
    from pipeline.engines.base import Request
    from pipeline.errors import JobError
    from pipeline.workbench import Workbench
    from tests.endpoints import Endpoint

    log, behave = Log(), servers()[server]

    def answer(_body: dict[str, Any]) -> Any:
        output, reply = behave()
        log.add(output)
        return reply

    if server == TURNS:
        calls, budget = 20 * calls, 20 * budget
    with Endpoint(answer) as endpoint, tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {
            "name": "budget",
            "endpoints": {"e": {"base_url": endpoint.url, "attempts": 2, "concurrency": 8, "timeout_s": TIMEOUT_S}},
            "generators": [{"model": "m", "endpoint": "e", "price": PRICE, "max_tokens": MAX_TOKENS}],
            "budget": {"usd": budget},
            **({} if ledger is None else {"ledger": {"url": ledger}}),
        }
        wanted = [Request((("user", f"Question number {at}, please?"),), MAX_TOKENS) for at in range(calls)]
        for _ in range(2):
            config = Config.model_validate(settings, context={"base": Path(folder)})
            with Workbench(config, Path(folder) / "run", Path(folder)) as bench:
                try:
                    bench.engine(config.generators[0]).complete(wanted, lambda _done: None)
                except JobError as stopped:
                    logging.getLogger("budget").info("%s: %s", server, stopped)
                with bench.ledger.records() as records:
                    money = records.money()
    return Row(
        server,
        "SQLite" if ledger is None else "PostgreSQL",
        log.calls,
        round(log.usd, 6),
        round(money.charged_usd, 6),
        round(money.reported_usd, 6),
        max(0.0, round(log.usd - budget, 6)),
    )


@contextmanager
def postgres() -> Iterator[Callable[[], str] | None]:
    """URLs of new databases of a real server; None where there is none."""
    from tests.postgres import Postgres, binaries

    place = binaries()
    if place is None:
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="jurybox-postgres-"))
    server = Postgres(place, folder)
    try:
        server.start()
        yield server.database
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def rows(calls: int, budget: float, *, sqlite_only: bool) -> Iterator[Row]:
    """Every server on every kind of ledger."""
    names = list(servers())
    yield from (run(name, calls, budget, None) for name in names)
    if sqlite_only:
        return
    with postgres() as database:
        if database is not None:
            yield from (run(name, calls, budget, database()) for name in names)


def summary(found: list[Row]) -> Mapping[str, object]:
    """The last line."""
    return {
        "worst_over_budget_usd": max((row.over_usd for row in found), default=0.0),
        "servers": len({row.server for row in found}),
        "ledgers": sorted({row.ledger for row in found}),
        "closest_usd": max((row.bill_usd for row in found), default=0.0),
        "charged_below_bill": sorted({row.server for row in found if row.charged_usd < row.bill_usd - 1e-9}),
    }


def main() -> None:
    """Run all servers; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=60, help="answers asked for, more than the budget bears")
    parser.add_argument("--budget", type=float, default=1.5, help="US$")
    parser.add_argument("--sqlite-only", action="store_true")
    parser.add_argument("--json", action="store_true", help="the last line alone")
    given = parser.parse_args()
    logging.getLogger("jurybox").setLevel(logging.ERROR)
    found: list[Row] = []
    for row in rows(given.calls, given.budget, sqlite_only=given.sqlite_only):
        found.append(row)
        if not given.json:
            print(
                f"{row.ledger:<10} {row.server:<28} {row.calls:>3} calls; bill US$ {row.bill_usd:.4f}, charged "
                f"{row.charged_usd:.4f}, reported {row.reported_usd:.4f}, over {row.over_usd:.4f}",
                flush=True,
            )
    print(json.dumps(summary(found)))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
