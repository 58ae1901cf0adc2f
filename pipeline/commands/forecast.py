"""From requests to what they will cost: calls, tokens, US$ and hours. Reads the ledger, and runs models for the pilot.

What the ledger has answered is free, and what it was charged for corrects the estimate of tokens. Nothing is sent to an
endpoint. docs/methods.md has the formulas.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.calls import tokens
from pipeline.calls.usage import Usage, cost_usd, read_usage
from pipeline.config import EndpointConfig, GeneratorConfig, ModelConfig, Price
from pipeline.engines.base import Answer, Request
from pipeline.engines.chat import call_key, request_body, worst_case_usd
from pipeline.errors import ConfigError
from pipeline.progress import Silent
from pipeline.workbench import Workbench

ENOUGH = 8
"""Prompts with answers, or answered calls, from which others are inferred."""
ANSWER_TOKENS = 256
VERDICT_TOKENS = {"json": 60, "text": 90}
"""Assumed length of what nobody has said yet, before ``max_tokens`` cuts it: an answer, one or two sentences and a
verdict in JSON, a brief explanation and a last line."""
LETTERS_A_TOKEN = 4
RECORDED = 5000
"""Answered calls of the ledger that are read, at most."""
SECONDS_AN_HOUR = 3600


@dataclass(frozen=True)
class Row:
    """What one model will do in one stage; expected, and at most."""

    stage: str
    who: str
    """The judge's name, or ``generate:`` and the model."""
    model: str
    calls: int
    calls_most: int
    answered: int
    """Calls that the ledger answers for free."""
    prompt_tokens: int
    completion_tokens: int
    usd: float
    usd_most: float
    """Every call at the ledger's reservation: a token a byte, answers as long as allowed, every attempt used."""
    hours: float | None
    """None where nothing is known of how long a call takes."""
    basis: str
    """Where answers and their lengths come from: ``counted``, ``observed``, ``pilot`` or ``assumed``."""


@dataclass
class Seen:
    """What calls of one kind took."""

    calls: int = 0
    estimated: int = 0
    """Tokens of their prompts by the estimate."""
    prompt: int = 0
    cached: int = 0
    completion: int = 0
    latency: float = 0.0
    """Seconds, summed over calls that have one."""
    timed: int = 0
    wall: float = 0.0
    """Seconds all of them took together, where they ran in this process."""

    def add(self, other: "Seen") -> None:
        """Count the calls of *other* as well."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass(frozen=True)
class Asked:
    """What one model is asked in one stage."""

    stage: str
    who: str
    options: ModelConfig
    requests: Sequence[Request]
    scale: float = 1.0
    """Calls that are expected for each of the requests."""
    most: float | None = None
    """Calls at most, each at its first attempt; None: as many as requests."""
    basis: str = "counted"
    weight: float = 1.0
    """Requests that each of these stands for, where only a part was rendered."""


class Forecast:
    """What calls of a run will take, by what calls like these took: in the ledger, or tried by the pilot."""

    def __init__(self, bench: Workbench) -> None:
        self.bench, self.config = bench, bench.config
        self.charged_usd = 0.0
        self.answered: set[str] = set()
        self.seen: dict[str, Seen] = {}
        self.tried: dict[str, Seen] = {}
        self._read_ledger()

    def _read_ledger(self) -> None:
        records = self.bench.records()
        if records is None:
            return
        with records:
            self.charged_usd = records.money().charged_usd
            self.answered = records.answered()
            some = records.some(RECORDED)
        for one in some:
            turns = [(str(turn["role"]), str(turn["content"])) for turn in one.request["messages"]]
            self.seen.setdefault(_kind(one.request), Seen()).add(_charged(turns, one.response, one.latency_s))

    def try_out(self, options: ModelConfig, requests: Sequence[Request]) -> list[Answer]:
        """What a model in this process answers; how long it took is remembered."""
        engine = self.bench.engine(options)
        started = time.monotonic()
        answers = engine.complete(requests, Silent().advance)
        seen = self.tried.setdefault(self.place(options), Seen())
        seen.wall += time.monotonic() - started
        for request, answer in zip(requests, answers, strict=True):
            seen.calls += 1
            seen.estimated += tokens.of_messages(request.messages)
            seen.prompt += answer.call.prompt_tokens or 0
            seen.completion += answer.call.completion_tokens or 0
        return answers

    def row(self, asked: Asked) -> Row:
        """What the calls will take."""
        options = asked.options
        todo, free = self._unpaid(asked)
        seen = self._seen(options, todo)
        estimated = sum(tokens.of_messages(request.messages) for request in todo)
        each = asked.scale * asked.weight
        calls = len(todo) * each
        right = seen.prompt / seen.estimated if seen.estimated and seen.prompt else 1.0
        prompt = estimated * right * each
        completion = self._completion(options, todo, seen) * each
        cached = prompt * seen.cached / seen.prompt if seen.prompt else 0.0
        price = self.price(options)
        usage = {"prompt_tokens": round(prompt), "completion_tokens": round(completion)}
        usd = 0.0 if price is None else cost_usd(Usage(round(prompt), round(cached), round(completion)), price)
        most = len(todo) * asked.weight if asked.most is None else max(asked.most - free * asked.weight, 0)
        worst = sum(worst_case_usd(self._body(options, request), price) for request in todo)
        attempts = int(getattr(options, "max_attempts", 1))
        basis = asked.basis
        if basis == "counted" and todo and not seen.calls and not todo[0].choices:
            basis = "assumed"
        return Row(
            stage=asked.stage,
            who=asked.who,
            model=options.label,
            calls=round(calls),
            calls_most=round(most) * attempts,
            answered=round(free * asked.weight),
            **usage,
            usd=round(usd, 6),
            usd_most=round(worst / len(todo) * most * attempts if todo else 0.0, 6),
            hours=self._hours(options, calls, seen),
            basis=basis if basis != "counted" or not seen.calls else "observed" if options.endpoint else "pilot",
        )

    def _unpaid(self, asked: Asked) -> tuple[list[Request], int]:
        """Requests that will be sent, equal ones once, and how many the ledger has answered."""
        options = asked.options
        if options.endpoint is None:
            return list(asked.requests), 0
        base_url = self.endpoint(options).base_url
        named = {call_key(base_url, self._body(options, one), one): one for one in asked.requests}
        left = [request for key, request in named.items() if key not in self.answered]
        return left, len(named) - len(left)

    def _seen(self, options: ModelConfig, todo: Iterable[Request]) -> Seen:
        """What calls like these took before."""
        if options.endpoint is None:
            return self.tried.get(self.place(options), Seen())
        found = Seen()
        for kind in {_kind(self._body(options, request)) for request in todo}:
            found.add(self.seen.get(kind, Seen()))
        return found if found.calls >= ENOUGH else Seen()

    def _completion(self, options: ModelConfig, todo: Sequence[Request], seen: Seen) -> float:
        if seen.calls and seen.completion:
            return len(todo) * seen.completion / seen.calls
        verdict = str(getattr(options, "verdict", ""))
        assumed = VERDICT_TOKENS.get(verdict, ANSWER_TOKENS)
        return float(sum(1 if one.choices else min(assumed, one.max_tokens) for one in todo))

    def length(self, options: GeneratorConfig | None) -> int:
        """Tokens of an answer that is not there yet."""
        if options is None:
            return ANSWER_TOKENS
        tried = self.tried.get(self.place(options), Seen())
        body = self._body(options, Request((), options.max_tokens, options.temperatures[0], options.top_p))
        seen = tried if tried.calls else self.seen.get(_kind(body), Seen())
        if seen.calls >= ENOUGH:
            return round(seen.completion / seen.calls)
        return min(ANSWER_TOKENS, options.max_tokens)

    def _hours(self, options: ModelConfig, calls: float, seen: Seen) -> float | None:
        if not calls:
            return 0.0
        if options.endpoint is None:
            return calls * seen.wall / seen.calls / SECONDS_AN_HOUR if seen.wall else None
        if not seen.timed or options.batch is not None:
            return None
        endpoint = self.endpoint(options)
        at_once = min(endpoint.concurrency, max(calls, 1))
        seconds = calls * seen.latency / seen.timed / at_once
        paced = calls * 60 / endpoint.requests_per_minute if endpoint.requests_per_minute else 0.0
        return max(seconds, paced) / SECONDS_AN_HOUR

    def price(self, options: ModelConfig) -> Price | None:
        """US$ per million tokens, by the config or the vendor's list."""
        return options.price if options.endpoint is None else self.endpoint(options).price_of(options)

    def _body(self, options: ModelConfig, request: Request) -> dict[str, Any]:
        """The request as it is sent, as far as no endpoint refuses a part of it."""
        plain = request_body(options.model, request)
        return plain if options.endpoint is None else self.bench.dialect(options).body(plain)

    def endpoint(self, options: ModelConfig) -> EndpointConfig:
        """Where the model is asked."""
        if options.endpoint is None:
            raise ConfigError(f"model {options.model!r} is at no endpoint")
        return self.config.endpoints[options.endpoint]

    @staticmethod
    def place(options: ModelConfig) -> str:
        """What calls of a model in this process must share to tell of each other."""
        return options.model_dump_json(include={"model", "engine", "engine_args"})


def _kind(body: Mapping[str, Any]) -> str:
    """What calls must share to tell of each other: all of the body but its words and seed."""
    return json.dumps({key: value for key, value in body.items() if key not in {"messages", "seed"}}, sort_keys=True)


def _charged(turns: Sequence[tuple[str, str]], response: Mapping[str, Any], latency: float | None) -> Seen:
    used = read_usage(response)
    if used.fault:
        return Seen()
    return Seen(
        calls=1,
        estimated=tokens.of_messages(turns),
        prompt=used.prompt_tokens or 0,
        cached=used.cached_tokens or 0,
        completion=used.completion_tokens or 0,
        latency=latency or 0.0,
        timed=0 if latency is None else 1,
    )


def stand_in(number: int, length: int) -> str:
    """Words of about *length* tokens that no other number gives."""
    words = (f"w{digit}" for digit in str(number))
    text = " ".join([*words, *["word"] * max(length - 2 * len(str(number)), 1)])
    return text[: max(length, 1) * LETTERS_A_TOKEN + 2 * len(str(number))]
