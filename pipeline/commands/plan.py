"""jurybox plan: calls, tokens, US$ and hours, before anything is spent. Reads the run's folder, its ledger and prices.

Nothing is sent to an endpoint. Requests are rendered as the stages render them; what the ledger has answered is free,
and what it was charged for corrects the estimate of tokens. Answers that do not exist yet are stood in for: a model in
this process answers a few prompts first (``pilot``), which costs nothing; for an endpoint's model they are assumed,
and the plan says so. docs/methods.md has the formulas.
"""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import polars as pl

from pipeline import ids, prices, schemas
from pipeline.commands.forecast import ANSWER_TOKENS, ENOUGH, VERDICT_TOKENS, Asked, Forecast, Row, Seen, stand_in
from pipeline.comparison import Comparison
from pipeline.config import GeneratorConfig, JudgeConfig, ModelConfig
from pipeline.engines.base import Answer, Call, Request
from pipeline.frames import conversation, with_texts
from pipeline.runner import is_done, stage
from pipeline.runner import plan as shards_of
from pipeline.stages import controls, evaluate, generate, judge, load
from pipeline.stages.base import Shard
from pipeline.workbench import Workbench

PILOT_PROMPTS = 64
PILOT_CALLS = 400
"""A judge in this process reads so many requests of the pilot, at most."""
MOST_PROMPTS = 2000
"""Prompts whose requests are rendered; more are inferred from these."""
STAND_IN_PROMPTS = 64
"""Prompts that get made-up answers where nothing better is known."""


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


class _Made:
    """What of the run is made already."""

    def __init__(self, bench: Workbench) -> None:
        self.bench, self.config = bench, bench.config

    def done(self, name: str) -> bool:
        """Whether the stage has nothing left to do."""
        what = stage(name)
        return all(
            is_done(self.bench.folder, what, shard.name, stamp) for shard, stamp in shards_of(self.bench, what).values()
        )

    def done_shards(self, name: str) -> set[str]:
        """Names of the shards of the stage that are done."""
        what = stage(name)
        shards = shards_of(self.bench, what).values()
        return {shard.name for shard, stamp in shards if is_done(self.bench.folder, what, shard.name, stamp)}

    def waiting(self, prompts: pl.DataFrame) -> dict[int, pl.DataFrame]:
        """Generator -> the prompts it has not answered yet, as far as the run's folder tells."""
        config = self.config
        if not config.generators:
            return {}
        if config.prompts is not None and not self.done("load"):
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

    def not_judged(self, options: JudgeConfig, real: Sequence[Comparison]) -> Sequence[Comparison]:
        """Those whose shard is not done; all of them while pairs may still change."""
        if not real or not self.done("pair"):
            return real
        done, keys = self.done_shards("judge"), set[str]()
        for name, (shard, _) in shards_of(self.bench, stage("judge")).items():
            owner, pairs = name.rpartition("-")[0], shard.frames["pairs"]
            if owner == judge.ADAPTIVE and options.asked_by_order:
                pairs = pairs.join(shard.frames["labels"], on="pair_id", how="anti")
            elif owner != options.name:
                continue
            if name not in done:
                keys |= set(pairs["pair_id"])
        return [item for item in real if item.pair_id in keys]

    def evaluated(self) -> bool:
        """Whether trained and untrained model have been compared."""
        return self.bench.folder.read_json("evaluation.json") is not None and self.done("evaluate")


class _Planner:
    """One plan in the making."""

    def __init__(self, bench: Workbench, pilot: int) -> None:
        self.bench, self.config, self.pilot = bench, bench.config, pilot
        self.made = Plan(budget_usd=bench.budget_usd)
        self.there, self.forecast = _Made(bench), Forecast(bench)
        self.made.charged_usd = self.forecast.charged_usd
        self.asked: list[Asked] = []
        self.alike = 0.0
        """Share of pairs of answers with the same words."""

    def plan(self) -> Plan:
        prompts = self._prompts()
        waiting = self.there.waiting(prompts)
        self._samples(prompts, waiting)
        if self.config.train:
            self._evaluate(prompts)
        self.bench.close_engines()
        self.made.rows = [row for asked in self.asked if (row := self.forecast.row(asked)).calls_most or row.answered]
        _remark(self.made, self.asked, self.forecast)
        return self.made

    def _prompts(self) -> pl.DataFrame:
        """The prompts there will be; later turns stand on made-up answers."""
        config = self.config
        if config.prompts is None or self.there.done("load"):
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
            return [Answer(Call("", "answered"), stand_in(0, self.forecast.length(first)), "stop") for _ in items]

        return load.frozen_turns(conversations, respond)[0], requests

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
        if there.height and self.there.done("pair"):
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
                length = self.forecast.length(generator)
                for number in range(len(generator.temperatures) * generator.samples):
                    text = stand_in(len(rows), length)
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
        requests = list(judging.requests(self.there.not_judged(options, real.comparisons)))
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
        drawn = controls.draw(base, known[-1].samples, self.config.seed, shown)
        done = (
            self.there.done_shards("controls") if not made_up.prompts.height and self.there.done("pair") else set[str]()
        )
        for options in self.config.judges:
            if isinstance(options, ModelConfig) and drawn and f"{options.name}-all" not in done:
                requests = list(judge.make(options, self.bench).requests([one.comparison for one in drawn]))
                basis = "counted" if not made_up.prompts.height else "pilot" if inferred else "assumed"
                self.asked.append(
                    Asked("controls", options.name, options, requests, basis=basis, weight=count / len(drawn))
                )

    def _evaluate(self, prompts: pl.DataFrame) -> None:
        """Two answers a held-out prompt, one more for the divergence, and the panel's opinion on the two."""
        config = self.config
        if self.there.evaluated():
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
            here, there = self.forecast.place(answering), self.forecast.place(first)
            self.forecast.tried.setdefault(here, Seen()).add(self.forecast.tried.get(there, Seen()))
        who = f"evaluate:{model.label}"
        self.asked.append(Asked("evaluate", who, answering, wanted, evaluate.ANSWERS, evaluate.ANSWERS * len(wanted)))
        duels = _duels(asked, self.forecast.length(answering))
        for options in config.judges:
            if isinstance(options, ModelConfig):
                requests = list(judge.make(options, self.bench).requests(duels))
                known = 1 - self.alike
                basis = "pilot" if self.alike else "assumed"
                self.asked.append(Asked("evaluate", options.name, options, requests, known, len(requests), basis))

    def _try_generators(self, prompts: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame] | None:
        """(samples, prompts) of some prompts answered by models in this process; None where some model is elsewhere."""
        generators = self.config.generators
        if not self.pilot or prompts.is_empty() or any(one.engine is None for one in generators):
            return None
        some = self._some(prompts, self.pilot)
        found: list[pl.DataFrame] = []
        for generator in generators:
            wanted = generate.requests(some, generator, self.config.seed)
            answers = self.forecast.try_out(generator, [request for *_, request in wanted])
            taken = [generate.taken(one, generator) for one in answers]
            found.append(generate.samples(wanted, taken, generator.label)[0])
        self.made.notes.append(f"{some.height} of {prompts.height} prompts were answered by models in this process")
        return pl.concat(found).unique("sample_id", keep="first", maintain_order=True), some

    def _try_judge(self, options: ModelConfig, requests: Sequence[Request]) -> None:
        if options.engine is not None:
            self.forecast.try_out(options, requests[:: -(-len(requests) // PILOT_CALLS)])

    def _some(self, prompts: pl.DataFrame, most: int) -> pl.DataFrame:
        """At most so many prompts, drawn by their ids."""
        drawn = sorted(prompts["prompt_id"], key=lambda key: ids.seed_from(self.config.seed, "plan", key))[:most]
        return prompts.filter(pl.col("prompt_id").is_in(drawn))


def _remark(made: Plan, planned: Sequence[Asked], forecast: Forecast) -> None:
    """Say what must be said beside the rows."""
    config, today = forecast.config, dt.datetime.now(dt.UTC).date()
    listed = {
        asked.options.model: row
        for asked in planned
        if asked.options.endpoint is not None
        and asked.options.price is None
        and (row := prices.listed(forecast.endpoint(asked.options).base_url, asked.options.model)) is not None
    }
    made.notes.append(f"list prices: table of {prices.table_date().isoformat()}")
    for model, row in sorted(listed.items()):
        made.notes.append(f"{model} has no `price`: list price as read on {row.checked.isoformat()} ({row.source})")
        if row.is_old(today):
            made.warnings.append(
                f"the list price of {model} is more than {prices.OLD_AFTER_DAYS} days old; compare {row.page} and "
                "set `price`"
            )
    free = {one.options.model for one in planned if one.options.endpoint and forecast.price(one.options) is None}
    made.warnings += [f"model {model} has no `price` and is counted as free" for model in sorted(free)]
    if any(row.basis == "assumed" for row in made.rows):
        lengths = f"{ANSWER_TOKENS} tokens, verdicts of {VERDICT_TOKENS['json']} (JSON) or {VERDICT_TOKENS['text']}"
        made.notes.append(
            f"assumed: answers of {lengths} (text), or as long as max_tokens allows, and no two answers alike; "
            "plan again once some calls are answered"
        )
    if any(asked.options.batch is not None for asked in planned):
        made.notes.append("calls by a batch API take as long as the vendor likes, a day at most")
    if any(row.hours is None for row in made.rows):
        made.notes.append("hours are not known before some calls have been timed")
    if config.panel.mode == "adaptive":
        made.notes.append("the panel is adaptive: the whole panel's calls are counted, and it asks fewer")
    if config.train:
        made.notes.append("training, and fitting reward models, are not counted")
    _against_budget(made)


def _against_budget(made: Plan) -> None:
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


def _together(parts: Iterable[pl.DataFrame], like: pl.DataFrame) -> pl.DataFrame:
    return pl.concat([like.clear(), *(part.select(like.columns) for part in parts)]).unique("prompt_id")


def _duels(prompts: pl.DataFrame, length: int) -> list[Comparison]:
    """A comparison of two made-up answers to each prompt."""
    found: list[Comparison] = []
    for at, row in enumerate(prompts.iter_rows(named=True)):
        one, other = stand_in(2 * at, length), stand_in(2 * at + 1, length)
        key = row["prompt_id"]
        found.append(
            Comparison(key, key, conversation(row["messages"]), row["reference"], f"{key}-a", f"{key}-b", one, other)
        )
    return found


def _cells(first: str, second: str, row: Mapping[str, Any], basis: str) -> tuple[str, ...]:
    hours = "?" if row["hours"] is None else f"{row['hours']:.2f}"
    counts = [f"{row[name]:,}" for name in ("calls", "calls_most", "prompt_tokens", "completion_tokens")]
    return (first, second, *counts, f"{row['usd']:.4f}", f"{row['usd_most']:.4f}", hours, basis)
