"""jurybox plan: calls, tokens, US$ and hours, before anything is spent. Reads the run's folder, its ledger and prices.

Nothing is sent to an endpoint. Requests are rendered as the stages render them; what the ledger has answered is free,
and what it was charged for corrects the estimate of tokens. Answers that do not exist yet are stood in for: a model in
this process answers a few prompts first (``pilot``), which costs nothing; for an endpoint's model they are assumed,
and the plan says so. docs/methods.md has the formulas.
"""

import datetime as dt
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import polars as pl
import sqlalchemy as sa

from judges import controls
from judges.base import Comparison
from pipeline import ids, prices, schemas, tokens
from pipeline.config import EndpointConfig, GeneratorConfig, JudgeConfig, ModelConfig, Price
from pipeline.engines.base import Answer, Call, Request
from pipeline.engines.endpoint import call_key, cost_usd, read_answer, request_body, worst_case_usd
from pipeline.errors import ConfigError
from pipeline.frames import conversation, with_texts
from pipeline.ledger import CALLS
from pipeline.runner import Shard, is_done, stage
from pipeline.runner import plan as shards_of
from pipeline.stages import evaluate, generate, judge, load
from pipeline.workbench import Workbench

PILOT_PROMPTS = 64
PILOT_CALLS = 400
"""A judge in this process reads so many requests of the pilot, at most."""
MOST_PROMPTS = 2000
"""Prompts whose requests are rendered; more are inferred from these."""
STAND_IN_PROMPTS = 64
"""Prompts that get made-up answers where nothing better is known."""
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


@dataclass(frozen=True)
class Known:
    """Prompts with answers, real or made up, and how many prompts each of them stands for."""

    prompts: pl.DataFrame
    samples: pl.DataFrame
    pairs: pl.DataFrame
    comparisons: Sequence[Comparison]
    weight: float

    @property
    def paired(self) -> pl.DataFrame:
        """The prompts that have a pair."""
        return self.prompts.join(self.pairs.select("prompt_id").unique(), on="prompt_id", how="semi")


@dataclass
class Plan:
    """Every row, and what must be said beside them."""

    rows: list[Row] = field(default_factory=list[Row])
    notes: list[str] = field(default_factory=list[str])
    warnings: list[str] = field(default_factory=list[str])
    budget_usd: float | None = None
    charged_usd: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """For a program."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "total": self.total(),
            "budget_usd": self.budget_usd,
            "charged_usd": self.charged_usd,
            "price_table": prices.table_date().isoformat(),
            "notes": self.notes,
            "warnings": self.warnings,
        }

    def total(self) -> dict[str, Any]:
        """Sums over the rows; hours are None where those of some row are not known."""
        names = ("calls", "calls_most", "answered", "prompt_tokens", "completion_tokens", "usd", "usd_most")
        hours = [row.hours for row in self.rows]
        known = [one for one in hours if one is not None]
        return {
            **{name: sum(getattr(row, name) for row in self.rows) for name in names},
            "hours": sum(known) if len(known) == len(hours) else None,
        }

    def lines(self) -> list[str]:
        """For a person."""
        heads = ("stage", "who", "calls", "at most", "prompt tokens", "completion", "US$", "at most", "hours", "basis")
        total = self.total()
        body = [_cells(row.stage, row.who, asdict(row), row.basis) for row in self.rows]
        table = [heads, *body, _cells("total", "", total, "")]
        widths = [max(len(line[at]) for line in table) for at in range(len(heads))]
        out = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table
        ]
        if total["answered"]:
            out.append(f"{total['answered']} calls are answered already and free")
        out += [f"note: {note}" for note in self.notes]
        return out + [f"warning: {warning}" for warning in self.warnings]


def plan(bench: Workbench, pilot: int = PILOT_PROMPTS) -> Plan:
    """What the run will still do.

    Args:
        bench: the opened run.
        pilot: prompts that models in this process answer first, so that answers' lengths and likeness need not be
            assumed; 0 loads no model.

    Raises:
        InputError: the config or a file it names is wrong.
        JobError: a model of the pilot cannot be run.
    """
    return _Planner(bench, pilot).plan()


class _Planner:
    """One plan in the making."""

    def __init__(self, bench: Workbench, pilot: int) -> None:
        self.bench, self.config, self.pilot = bench, bench.config, pilot
        self.made = Plan(budget_usd=bench.budget_usd)
        self.answered: set[str] = set()
        self.seen: dict[str, Seen] = {}
        self.tried: dict[str, Seen] = {}
        self.asked: list[Asked] = []
        self.alike = 0.0
        """Share of pairs of answers with the same words."""

    def plan(self) -> Plan:
        self._read_ledger()
        prompts = self._prompts()
        waiting = self._waiting(prompts)
        self._samples(prompts, waiting)
        if self.config.train:
            self._evaluate(prompts)
        self.bench.close_engines()
        self.made.rows = [row for asked in self.asked if (row := self._row(asked)).calls_most or row.answered]
        self._remarks()
        return self.made

    # What there is.

    def _read_ledger(self) -> None:
        if not self.bench.has_ledger:
            return
        ledger = self.bench.ledger
        self.made.charged_usd = ledger.charged_usd()
        done = sa.and_(CALLS.c.status == "answered")
        with ledger.engine.connect() as db:
            self.answered = set(db.execute(sa.select(CALLS.c.call_key).where(done)).scalars())
            rows = db.execute(
                sa.select(CALLS.c.request, CALLS.c.response, CALLS.c.latency_s).where(done).limit(RECORDED)
            ).all()
        for request, response, latency in rows:
            body = json.loads(request)
            turns = [(str(turn["role"]), str(turn["content"])) for turn in body["messages"]]
            self.seen.setdefault(_kind(body), Seen()).add(_charged(turns, json.loads(response), latency))

    def _done(self, name: str) -> bool:
        what = stage(name)
        return all(
            is_done(self.bench.folder, what, shard.name, stamp) for shard, stamp in shards_of(self.bench, what).values()
        )

    def _done_shards(self, name: str) -> set[str]:
        what = stage(name)
        shards = shards_of(self.bench, what).values()
        return {shard.name for shard, stamp in shards if is_done(self.bench.folder, what, shard.name, stamp)}

    def _prompts(self) -> pl.DataFrame:
        """The prompts there will be; later turns stand on made-up answers."""
        config = self.config
        if config.prompts is None or self._done("load"):
            return self.bench.folder.read("prompts")
        conversations, _ = load.read_file(config.prompts, self.bench.base)
        if any(item.later_turns for item in conversations):
            conversations, requests = self._later_turns(conversations)
            if config.generators:
                first = config.generators[0]
                self.asked.append(Asked("load", f"generate:{first.label}", first, requests, basis="assumed"))
        source, near = config.prompts.path.name, config.prompts.near_duplicates
        return load.prompts(conversations, source, near)[0]

    def _later_turns(self, conversations: list[Any]) -> tuple[list[Any], list[Request]]:
        first = self.config.generators[0] if self.config.generators else None
        requests: list[Request] = []

        def respond(items: list[Any]) -> list[Answer]:
            for item in items:
                turns = load.with_system(item.messages, first.system if first else None)
                requests.append(Request(turns, first.max_tokens if first else 1, temperature=0.0))
            return [Answer(Call("", "answered"), _stand_in(0, self._length(first))) for _ in items]

        return load.frozen_turns(conversations, respond)[0], requests

    def _waiting(self, prompts: pl.DataFrame) -> dict[int, pl.DataFrame]:
        """Generator -> the prompts it has not answered yet, as far as the run's folder tells."""
        config = self.config
        if not config.generators:
            return {}
        if config.prompts is not None and not self._done("load"):
            return dict.fromkeys(range(len(config.generators)), prompts)
        what = stage("generate")
        todo = [
            shard
            for shard, stamp in shards_of(self.bench, what).values()
            if not is_done(self.bench.folder, what, shard.name, stamp)
        ]
        found: dict[int, list[pl.DataFrame]] = {}
        for shard in todo:
            found.setdefault(int(shard.name.split("-")[0]), []).append(shard.frames["prompts"])
        return {number: pl.concat(parts) for number, parts in found.items()}

    # What will be asked.

    def _samples(self, prompts: pl.DataFrame, waiting: Mapping[int, pl.DataFrame]) -> None:
        for number, rows in waiting.items():
            generator = self.config.generators[number]
            some = self._some(rows, MOST_PROMPTS)
            requests = [request for *_, request in generate.requests(some, generator, self.config.seed)]
            weight = rows.height / some.height
            self.asked.append(Asked("generate", f"generate:{generator.label}", generator, requests, weight=weight))
        unanswered = _together(waiting.values(), prompts)
        answered = prompts.join(unanswered.select("prompt_id"), on="prompt_id", how="anti")
        count = answered.height
        answered = self._some(answered, MOST_PROMPTS)
        if answered.height < count:
            self.made.notes.append(f"counted on {answered.height} of {count} prompts that have answers")
        weight = count / answered.height if count else 1.0
        samples = self.bench.folder.read("samples").join(answered.select("prompt_id"), on="prompt_id", how="semi")
        tried = self._try_generators(unanswered)
        if tried is not None:
            samples, answered = pl.concat([samples, tried[0]]), pl.concat([answered, tried[1]])
            unanswered = unanswered.join(tried[1].select("prompt_id"), on="prompt_id", how="anti")
        real = self._known(answered, samples, weight)
        made_up = self._made_up(unanswered)
        for options in self.config.judges:
            if isinstance(options, ModelConfig):
                self._judge(options, real, made_up, tried is not None)
        self._controls(real, made_up)

    def _known(self, prompts: pl.DataFrame, samples: pl.DataFrame, weight: float) -> Known:
        """The pairs that the stage `pair` makes of these samples, or has made."""
        folder = self.bench.folder
        there = folder.read("pairs")
        if there.height and self._done("pair"):
            pairs = there
        else:
            imported = there.filter(pl.col("external_id").is_not_null())
            result = stage("pair").run(Shard("all", {"samples": samples, "pairs": imported}), self.config, self.bench)
            pairs = pl.concat([imported, result.frames["pairs"]])
            dropped = result.frames["dropped"].filter(pl.col("reason").cast(pl.String) == "identical").height
            self.alike = dropped / (pairs.height + dropped) if dropped else 0.0
        pairs = pairs.join(prompts.select("prompt_id"), on="prompt_id", how="semi")
        everything = pl.concat([samples, folder.read("samples")]).unique("sample_id")
        return Known(prompts, samples, pairs, judge.comparisons(with_texts(pairs, everything, prompts)), weight)

    def _made_up(self, prompts: pl.DataFrame) -> Known:
        """Made-up answers, all different, to some of *prompts*."""
        some = self._some(prompts, STAND_IN_PROMPTS)
        rows: list[dict[str, object]] = []
        for key in some["prompt_id"]:
            for generator in self.config.generators:
                length = self._length(generator)
                for number in range(len(generator.temperatures) * generator.samples):
                    text = _stand_in(len(rows), length)
                    row = {"sample_id": ids.sample_id(key, generator.label, 0.0, number, text), "prompt_id": key}
                    fixed = {"model": generator.label, "temperature": 0.0, "sample_index": number, "seed": number}
                    empty = dict.fromkeys(("completion_tokens", "logprob", "external_id"))
                    told = {"completion": text, "characters": len(text), "finish_reason": "stop"}
                    rows.append({**row, **fixed, **empty, **told})
        samples, pairs = schemas.frame("samples", rows), schemas.frame("pairs", [])
        if rows:
            frames = {"samples": samples, "pairs": pairs}
            pairs = stage("pair").run(Shard("all", frames), self.config, self.bench).frames["pairs"]
        comparisons = judge.comparisons(with_texts(pairs, samples, some))
        return Known(some, samples, pairs, comparisons, prompts.height / some.height if rows else 0.0)

    def _judge(self, options: JudgeConfig, real: Known, made_up: Known, tried: bool) -> None:
        """Rows of one judge: exact where there are answers, and inferred where there are none yet."""
        model = cast("ModelConfig", options)
        judging = judge.make(options, self.bench)
        requests = list(judging.requests(self._not_judged(options, real.comparisons)))
        invented = list(judging.requests(made_up.comparisons))
        rest = len(invented) * made_up.weight
        if not made_up.prompts.height:
            self.asked.append(Asked("judge", options.name, model, requests, weight=real.weight))
        elif real.prompts.height >= ENOUGH and requests:
            if tried:
                self._try_judge(model, requests)
            whole = real.prompts.height * real.weight
            scale = (whole + made_up.prompts.height * made_up.weight) / whole
            most = len(requests) * real.weight + rest
            basis = "pilot" if tried else "observed"
            self.asked.append(Asked("judge", options.name, model, requests, scale, most, basis, real.weight))
        else:
            if requests:
                self.asked.append(Asked("judge", options.name, model, requests, weight=real.weight))
            self.asked.append(Asked("judge", options.name, model, invented, basis="assumed", weight=made_up.weight))

    def _controls(self, real: Known, made_up: Known) -> None:
        """Constant answers against real ones, by every LM judge that has not been asked yet."""
        settings, inferred = self.config.controls, real.prompts.height >= ENOUGH
        known = [real] if not made_up.prompts.height else [made_up]
        grown = 1.0
        if made_up.prompts.height and inferred:
            known, whole = [real], real.prompts.height * real.weight
            grown = 1 + made_up.prompts.height * made_up.weight / whole
        elif made_up.prompts.height:
            known = [real, made_up]
        pairs = grown * sum(one.pairs.height * one.weight for one in known)
        prompts = grown * sum(one.paired.height * one.weight for one in known)
        count = controls.number(settings.number, settings.share, round(pairs), round(prompts))
        base = known[-1].paired
        shown = min(count, base.height * len(controls.ANSWERS))
        drawn = controls.drawn(base, known[-1].samples, self.config.seed, shown)
        done = self._done_shards("controls") if not made_up.prompts.height and self._done("pair") else set[str]()
        for options in self.config.judges:
            if isinstance(options, ModelConfig) and drawn and f"{options.name}-all" not in done:
                requests = list(judge.make(options, self.bench).requests([one.comparison for one in drawn]))
                basis = "counted" if not made_up.prompts.height else "pilot" if inferred else "assumed"
                self.asked.append(
                    Asked("controls", options.name, options, requests, basis=basis, weight=count / len(drawn))
                )

    def _not_judged(self, options: JudgeConfig, real: Sequence[Comparison]) -> Sequence[Comparison]:
        """Those whose shard is not done; all of them while pairs may still change."""
        if not real or not self._done("pair"):
            return real
        done, keys = self._done_shards("judge"), set[str]()
        for name, (shard, _) in shards_of(self.bench, stage("judge")).items():
            owner, pairs = name.rpartition("-")[0], shard.frames["pairs"]
            if owner == judge.ADAPTIVE and options.asked_by_order:
                pairs = pairs.join(shard.frames["labels"], on="pair_id", how="anti")
            elif owner != options.name:
                continue
            if name not in done:
                keys |= set(pairs["pair_id"])
        return [item for item in real if item.pair_id in keys]

    def _evaluate(self, prompts: pl.DataFrame) -> None:
        """Two answers a held-out prompt, one more for the divergence, and the panel's opinion on the two."""
        config = self.config
        if self._trained():
            return
        if config.evaluate.prompts is None:
            asked = prompts.filter(pl.Series([evaluate.in_test(key, config) for key in prompts["prompt_id"]]))
        else:
            conversations, _ = load.read_file(config.evaluate.prompts, self.bench.base)
            source, near = config.evaluate.prompts.path.name, config.evaluate.prompts.near_duplicates
            asked = load.prompts(self._later_turns(conversations)[0], source, near)[0]
        model = evaluate.untrained(config)
        first = config.generators[0] if config.generators else None
        shared = model.model_dump(include=set(ModelConfig.model_fields))
        system, temperatures = first.system if first else None, [config.evaluate.temperature]
        answering = GeneratorConfig.model_validate({**shared, "system": system, "temperatures": temperatures})
        wanted = [request for *_, request in generate.requests(asked, answering, config.seed)]
        if first is not None and first.engine == model.engine and first.model == model.model:
            self.tried.setdefault(self._place(answering), Seen()).add(self.tried.get(self._place(first), Seen()))
        who = f"evaluate:{model.label}"
        self.asked.append(Asked("evaluate", who, answering, wanted, evaluate.ANSWERS, evaluate.ANSWERS * len(wanted)))
        duels = _duels(asked, self._length(answering))
        for options in config.judges:
            if isinstance(options, ModelConfig):
                requests = list(judge.make(options, self.bench).requests(duels))
                known = 1 - self.alike
                basis = "pilot" if self.alike else "assumed"
                self.asked.append(Asked("evaluate", options.name, options, requests, known, len(requests), basis))

    def _trained(self) -> bool:
        return self.bench.folder.read_json("evaluation.json") is not None and self._done("evaluate")

    # The pilot.

    def _try_generators(self, prompts: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame] | None:
        """(samples, prompts) of some prompts answered by models in this process; None where some model is elsewhere."""
        generators = self.config.generators
        if not self.pilot or prompts.is_empty() or any(one.engine is None for one in generators):
            return None
        some = self._some(prompts, self.pilot)
        found: list[pl.DataFrame] = []
        for generator in generators:
            wanted = generate.requests(some, generator, self.config.seed)
            answers = self._try(generator, [request for *_, request in wanted])
            found.append(generate.samples(wanted, answers, generator.label)[0])
        self.made.notes.append(f"{some.height} of {prompts.height} prompts were answered by models in this process")
        return pl.concat(found).unique("sample_id", keep="first", maintain_order=True), some

    def _try_judge(self, options: ModelConfig, requests: Sequence[Request]) -> None:
        if options.engine is not None:
            self._try(options, requests[:: -(-len(requests) // PILOT_CALLS)])

    def _try(self, options: ModelConfig, requests: Sequence[Request]) -> list[Answer]:
        engine = self.bench.engine(options)
        started = time.monotonic()
        answers = engine.complete(requests, _unseen)
        seen = self.tried.setdefault(self._place(options), Seen())
        seen.wall += time.monotonic() - started
        for request, answer in zip(requests, answers, strict=True):
            seen.calls += 1
            seen.estimated += tokens.of_messages(request.messages)
            seen.prompt += answer.call.prompt_tokens or 0
            seen.completion += answer.call.completion_tokens or 0
        return answers

    def _some(self, prompts: pl.DataFrame, most: int) -> pl.DataFrame:
        """At most so many prompts, drawn by their ids."""
        drawn = sorted(prompts["prompt_id"], key=lambda key: ids.seed_from(self.config.seed, "plan", key))[:most]
        return prompts.filter(pl.col("prompt_id").is_in(drawn))

    # From requests to rows.

    def _row(self, asked: Asked) -> Row:
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
        price = self._price(options)
        usage = {"prompt_tokens": round(prompt), "completion_tokens": round(completion)}
        usd = cost_usd({"usage": {**usage, "prompt_tokens_details": {"cached_tokens": round(cached)}}}, price)
        most = len(todo) * asked.weight if asked.most is None else max(asked.most - free * asked.weight, 0)
        worst = sum(worst_case_usd(request_body(options.model, request), price) for request in todo)
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
        base_url = self._endpoint(options).base_url
        named = {call_key(base_url, request_body(options.model, one), one): one for one in asked.requests}
        left = [request for key, request in named.items() if key not in self.answered]
        return left, len(named) - len(left)

    def _seen(self, options: ModelConfig, todo: Iterable[Request]) -> Seen:
        """What calls like these took before."""
        if options.endpoint is None:
            return self.tried.get(self._place(options), Seen())
        found = Seen()
        for kind in {_kind(request_body(options.model, request)) for request in todo}:
            found.add(self.seen.get(kind, Seen()))
        return found if found.calls >= ENOUGH else Seen()

    def _completion(self, options: ModelConfig, todo: Sequence[Request], seen: Seen) -> float:
        if seen.calls and seen.completion:
            return len(todo) * seen.completion / seen.calls
        verdict = str(getattr(options, "verdict", ""))
        assumed = VERDICT_TOKENS.get(verdict, ANSWER_TOKENS)
        return float(sum(1 if one.choices else min(assumed, one.max_tokens) for one in todo))

    def _length(self, options: GeneratorConfig | None) -> int:
        """Tokens of an answer that is not there yet."""
        if options is None:
            return ANSWER_TOKENS
        tried = self.tried.get(self._place(options), Seen())
        body = request_body(options.model, Request((), options.max_tokens, options.temperatures[0], options.top_p))
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
        endpoint = self._endpoint(options)
        at_once = min(endpoint.concurrency, max(calls, 1))
        seconds = calls * seen.latency / seen.timed / at_once
        paced = calls * 60 / endpoint.requests_per_minute if endpoint.requests_per_minute else 0.0
        return max(seconds, paced) / SECONDS_AN_HOUR

    def _price(self, options: ModelConfig) -> Price | None:
        return options.price if options.endpoint is None else self._endpoint(options).price_of(options)

    def _endpoint(self, options: ModelConfig) -> EndpointConfig:
        if options.endpoint is None:
            raise ConfigError(f"model {options.model!r} is at no endpoint")
        return self.config.endpoints[options.endpoint]

    @staticmethod
    def _place(options: ModelConfig) -> str:
        return options.model_dump_json(include={"model", "engine", "engine_args"})

    # What must be said.

    def _remarks(self) -> None:
        made, today = self.made, dt.datetime.now(dt.UTC).date()
        listed = {
            asked.options.model: row
            for asked in self.asked
            if asked.options.endpoint is not None
            and asked.options.price is None
            and (row := prices.listed(self._endpoint(asked.options).base_url, asked.options.model)) is not None
        }
        made.notes.append(f"list prices: table of {prices.table_date().isoformat()}")
        for model, row in sorted(listed.items()):
            made.notes.append(f"{model} has no `price`: list price as read on {row.checked.isoformat()} ({row.source})")
            if row.is_old(today):
                made.warnings.append(
                    f"the list price of {model} is more than {prices.OLD_AFTER_DAYS} days old; compare {row.page} and "
                    "set `price`"
                )
        free = {one.options.model for one in self.asked if one.options.endpoint and self._price(one.options) is None}
        made.warnings += [f"model {model} has no `price` and is counted as free" for model in sorted(free)]
        if any(row.basis == "assumed" for row in made.rows):
            lengths = f"{ANSWER_TOKENS} tokens, verdicts of {VERDICT_TOKENS['json']} (JSON) or {VERDICT_TOKENS['text']}"
            made.notes.append(
                f"assumed: answers of {lengths} (text), or as long as max_tokens allows, and no two answers alike; "
                "plan again once some calls are answered"
            )
        if any(asked.options.batch is not None for asked in self.asked):
            made.notes.append("calls by a batch API take as long as the vendor likes, a day at most")
        if any(row.hours is None for row in made.rows):
            made.notes.append("hours are not known before some calls have been timed")
        if self.config.panel.mode == "adaptive":
            made.notes.append("the panel is adaptive: the whole panel's calls are counted, and it asks fewer")
        if self.config.train:
            made.notes.append("training, and fitting reward models, are not counted")
        self._against_budget()

    def _against_budget(self) -> None:
        made = self.made
        if made.budget_usd is None:
            return
        total, left = made.total(), made.budget_usd - made.charged_usd
        of = f"US$ {left:.2f} of the budget of US$ {made.budget_usd:.2f} are left"
        if total["usd"] > left:
            made.warnings.append(f"the run will stop before its end: {of}, US$ {total['usd']:.2f} are expected")
        elif total["usd_most"] > left:
            made.notes.append(f"{of}: enough for what is expected, not for the worst case")
        else:
            made.notes.append(f"{of}: enough for the worst case")


def _kind(body: Mapping[str, Any]) -> str:
    """What calls must share to tell of each other: all of the body but its words and seed."""
    return json.dumps({key: value for key, value in body.items() if key not in {"messages", "seed"}}, sort_keys=True)


def _charged(turns: Sequence[tuple[str, str]], response: Mapping[str, Any], latency: float | None) -> Seen:
    call = read_answer("", response, 0.0, latency).call
    if call.prompt_tokens is None:
        return Seen()
    return Seen(
        calls=1,
        estimated=tokens.of_messages(turns),
        prompt=call.prompt_tokens,
        cached=call.cached_tokens or 0,
        completion=call.completion_tokens or 0,
        latency=latency or 0.0,
        timed=0 if latency is None else 1,
    )


def _together(parts: Iterable[pl.DataFrame], like: pl.DataFrame) -> pl.DataFrame:
    return pl.concat([like.clear(), *(part.select(like.columns) for part in parts)]).unique("prompt_id")


def _stand_in(number: int, length: int) -> str:
    """Words of about *length* tokens that no other number gives."""
    words = (f"w{digit}" for digit in str(number))
    text = " ".join([*words, *["word"] * max(length - 2 * len(str(number)), 1)])
    return text[: max(length, 1) * LETTERS_A_TOKEN + 2 * len(str(number))]


def _duels(prompts: pl.DataFrame, length: int) -> list[Comparison]:
    """A comparison of two made-up answers to each prompt."""
    found: list[Comparison] = []
    for at, row in enumerate(prompts.iter_rows(named=True)):
        one, other = _stand_in(2 * at, length), _stand_in(2 * at + 1, length)
        key = row["prompt_id"]
        found.append(
            Comparison(key, key, conversation(row["messages"]), row["reference"], f"{key}-a", f"{key}-b", one, other)
        )
    return found


def _cells(first: str, second: str, row: Mapping[str, Any], basis: str) -> tuple[str, ...]:
    hours = "?" if row["hours"] is None else f"{row['hours']:.2f}"
    counts = [f"{row[name]:,}" for name in ("calls", "calls_most", "prompt_tokens", "completion_tokens")]
    return (first, second, *counts, f"{row['usd']:.4f}", f"{row['usd_most']:.4f}", hours, basis)


def _unseen(done: int) -> None:
    """A plan has no progress to tell."""
    del done
