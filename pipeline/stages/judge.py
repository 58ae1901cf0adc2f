"""judge: pairs -> judgments, by every judge of the panel. Touches models through engines only.

A shard is one judge on one bucket of prompts, judge by judge, so that one model is loaded at a time, a new judge
runs alone and an edited one runs again alone. A failed opinion is a row with ``error``; it is never dropped here.

An adaptive panel judges the pairs with `fit` labels as a whole; then shards ``_adaptive`` ask about the other pairs
call by call, as pipeline/aggregation/adaptive.py says. Judges that cannot be asked for one order of one pair
(verifiers, reward models, judges of single answers or of lists) judge every pair in either mode.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from judges.base import Judge, Judgment, Labelled, Opinions, Rating
from pipeline import discovery, schemas
from pipeline.aggregation import adaptive
from pipeline.aggregation.votes import Votes, votes_of
from pipeline.arrays import Array, Integers
from pipeline.comparison import comparisons
from pipeline.config import Config, JudgeConfig, ModelConfig
from pipeline.contents import file_digest
from pipeline.errors import BudgetError, StageError, UnreachableError
from pipeline.frames import SHARD_PROMPTS, bucketed, people, with_texts
from pipeline.labels.splits import split_labels
from pipeline.stages.base import Frames, Result, Shard, Stage, calls_frame
from pipeline.workbench import Workbench


def judgments(made: Sequence[Judgment], judge: str) -> pl.DataFrame:
    """The frame ``judgments`` of one judge."""
    return schemas.frame(
        "judgments",
        [
            {
                "pair_id": one.pair_id,
                "judge": judge,
                "order": one.order,
                "preference": one.preference,
                "rationale": one.rationale,
                "error": one.fault,
                "call_keys": list(one.call_keys),
            }
            for one in made
        ],
    )


def ratings(made: Sequence[Rating], judge: str) -> pl.DataFrame:
    """The frame ``ratings`` of one judge."""
    return schemas.frame(
        "ratings",
        [
            {
                "sample_id": one.sample_id,
                "judge": judge,
                "aspect": one.aspect,
                "score": one.score,
                "call_keys": list(one.call_keys),
            }
            for one in made
        ],
    )


def make(options: JudgeConfig, bench: Workbench) -> Judge:
    """The judge that *options* describe."""
    return discovery.find("judges", options.kind, "{Kind}Judge", bench.base)(options, bench)


WAVES = 4
"""Calls of a shard, as a multiple of those that an endpoint gets at once."""
MANY_BATCHES = 2
"""Judges by batch, from which on their batches are sent together."""
ADAPTIVE = "_adaptive"
"""Shards of an adaptive panel; no judge's name starts with an underscore."""


def _shards(frames: Frames, config: Config, bench: Workbench) -> list[Shard]:
    pairs = frames["pairs"]
    if config.judges and pairs.is_empty():
        raise StageError("there are no pairs to judge: every prompt has fewer than two different answers; see dropped/")
    fit, _ = split_labels(frames["labels"], pairs, config.seed, config.labels.fit_fraction)
    labelled = pairs.join(fit.select("pair_id").unique(), on="pair_id")
    stopping = [options.name for options in config.judges if _stops_early(options, config) and not labelled.is_empty()]
    shards: list[Shard] = []
    for options in config.judges:
        learning = {"labels": fit} if options.wants_labels else {}
        orders = 2 if getattr(options, "order", None) == "both" else 1
        wanted = labelled if options.name in stopping else pairs
        # Batches may take a day each: all of a judge's calls wait together.
        batch = getattr(options, "batch", None) is not None
        for bucket, rows in [("all", wanted)] if batch else bucketed(wanted, _prompts(options, wanted, orders, config)):
            slices = _slices(frames, rows, labelled if options.wants_labels else None)
            reads = _reads(options, config, bench)
            size, endpoints = rows.height * orders, config.endpoints_of(options)
            shards.append(Shard(f"{options.name}-{bucket}", slices | learning, reads, size, endpoints))
    if stopping:
        shards += _adaptive_shards(frames, labelled, fit, config, bench)
    return shards


def _prompts(options: JudgeConfig, wanted: pl.DataFrame, orders: int, config: Config) -> float | None:
    """Prompts in a shard: more than usual where these would not keep the endpoint busy for WAVES round trips.

    Between two shards nothing is in flight, and what the ledger holds of a larger one is not lost with it.
    """
    calls = wanted.height * orders / max(wanted["prompt_id"].n_unique(), 1)
    busy = max((config.endpoints[name].concurrency for name in config.endpoints_of(options)), default=0)
    return max(SHARD_PROMPTS, WAVES * busy / max(calls, 1)) if busy else None


def _adaptive_shards(
    frames: Frames, labelled: pl.DataFrame, fit: pl.DataFrame, config: Config, bench: Workbench
) -> list[Shard]:
    """The pairs without `fit` labels, in buckets; all together where models would be loaded anew for every bucket."""
    rest = frames["pairs"].join(labelled.select("pair_id"), on="pair_id", how="anti")
    local = any(getattr(options, "engine", None) for options in config.judges if _stops_early(options, config))
    reads = {
        "panel": config.panel.model_dump(mode="json"),
        "learn_length": config.aggregate.learn_length,
        "judges": [_reads(options, config, bench) for options in config.judges],
    }
    return [
        Shard(
            f"{ADAPTIVE}-{bucket}",
            {**_slices(frames, pl.concat([rows, labelled]), None), "labels": fit},
            reads,
            rows.height,
            # Which call comes next depends on what every judge said.
            config.endpoints_of(*config.judges),
        )
        for bucket, rows in ([("all", rest)] if local else bucketed(rest))
        if not rows.is_empty()
    ]


def _stops_early(options: JudgeConfig, config: Config) -> bool:
    return config.panel.mode == "adaptive" and options.asked_by_order


def _reads(options: JudgeConfig, config: Config, bench: Workbench) -> dict[str, object]:
    return {
        "judge": options.model_dump(mode="json", exclude={"price"}),
        "files": {file.name: file_digest(file) for file in options.files(bench.base) if file.is_file()},
        "base_url": config.base_url(options),
        "seed": config.seed,
    }


def _slices(frames: Frames, rows: pl.DataFrame, also: pl.DataFrame | None) -> dict[str, pl.DataFrame]:
    """The pairs *rows*, with samples and prompts of these and of the pairs *also*."""
    needed = rows if also is None else pl.concat([rows, also]).unique()
    keys = pl.concat([needed["sample_a"], needed["sample_b"]]).unique()
    return {
        "pairs": rows,
        "samples": frames["samples"].filter(pl.col("sample_id").is_in(keys.implode())),
        "prompts": frames["prompts"].join(needed.select("prompt_id").unique(), on="prompt_id"),
    }


def _begin(shards: Sequence[Shard], config: Config, bench: Workbench) -> None:
    """Send the batches of all judges before the first is waited for: each may take a day.

    What does not fit the budget, or cannot be sent now, is told when its own judge's turn comes.
    """
    judges = {options.name: options for options in config.judges}
    asked = [(judges.get(shard.name.rpartition("-")[0]), shard) for shard in shards]
    batched = [(one, shard) for one, shard in asked if isinstance(one, ModelConfig) and one.batch and one.endpoint]
    if len(batched) < MANY_BATCHES:
        return
    from pipeline.engines.batch import BatchEngine

    for options, shard in batched:
        engine, judge = bench.engine(options), make(options, bench)
        if isinstance(engine, BatchEngine) and not options.wants_labels:
            frames = shard.frames
            items = comparisons(with_texts(frames["pairs"], frames["samples"], frames["prompts"]))
            with contextlib.suppress(BudgetError, UnreachableError):
                engine.submit(judge.requests(items))


def _run(shard: Shard, config: Config, bench: Workbench) -> Result:
    if shard.name.startswith(ADAPTIVE):
        return _run_adaptive(shard, config, bench)
    options = next(judge for judge in config.judges if shard.name.rpartition("-")[0] == judge.name)
    frames = shard.frames
    judge = make(options, bench)
    if options.wants_labels:
        judge.fit(_labelled(frames, bench))
    items = comparisons(with_texts(frames["pairs"], frames["samples"], frames["prompts"]))
    return _result({options.name: [judge.judge(items)]})


def _result(made: Mapping[str, Sequence[Opinions]]) -> Result:
    """What judges said, as frames; incomplete where a call was not answered."""
    said = [(name, opinions) for name, several in made.items() for opinions in several]
    frames = {
        "judgments": [judgments(opinions.judgments, name) for name, opinions in said],
        "ratings": [ratings(opinions.ratings, name) for name, opinions in said],
        "calls": [calls_frame(opinions.calls, name) for name, opinions in said],
    }
    return Result(
        {name: schemas.frame(name, pl.concat(parts)) for name, parts in frames.items() if parts},
        complete=not any(one.unanswered for _, each in said for one in each.judgments),
    )


def _run_adaptive(shard: Shard, config: Config, bench: Workbench) -> Result:
    frames = shard.frames
    stopping = {options.name: options for options in config.judges if _stops_early(options, config)}
    judges = {name: make(options, bench) for name, options in stopping.items()}
    open_ = frames["pairs"].join(frames["labels"], on="pair_id", how="anti")
    texts = comparisons(with_texts(open_, frames["samples"], frames["prompts"]))
    made: dict[str, list[Opinions]] = {name: [] for name in judges}
    begun = _begun(frames, open_["pair_id"], list(stopping), bench)
    policy = None
    if begun.judges:
        human = dict(people(frames["labels"]).select("pair_id", "human").iter_rows())
        given = np.tile([name not in stopping for name in begun.judges], 2)
        price = np.array([_price(name, bench) for name in begun.judges])
        policy = adaptive.learn(begun, human, price, given, learn_length=config.aggregate.learn_length)
    if policy is None:
        for name, judge in judges.items():
            made[name].append(judge.judge(texts))
        return _result(made)
    item = {one.pair_id: one for one in texts}

    def ask(call: int, rows: Integers) -> Array:
        order, name = ("ab", "ba")[call // len(begun.judges)], begun.judges[call % len(begun.judges)]
        asked = begun.pair_ids.gather(rows).to_list()
        opinions = judges[name].judge([replace(item[key], orders=(order,)) for key in asked])
        made[name].append(opinions)
        said = {one.pair_id: 2 * one.preference - 1 for one in opinions.judgments if one.preference is not None}
        return np.array([said.get(key, np.nan) for key in asked], dtype=np.float64)

    done = np.full(len(begun.pair_ids), len(policy.sequence))
    done[begun.rows(list(item))] = sum(
        begun.judges[call % len(begun.judges)] not in stopping for call in policy.sequence
    )
    adaptive.judged(begun, policy, done, config.panel.tolerance, ask)
    return _result(made)


def _begun(frames: Frames, open_: pl.Series, stopping: Sequence[str], bench: Workbench) -> Votes:
    """What is known before the first question: the panel on the `fit` pairs, the other judges on all."""
    early = pl.col("judge").is_in(list(stopping)) & pl.col("pair_id").is_in(open_.implode())
    known = bench.folder.read("judgments").join(frames["pairs"].select("pair_id"), on="pair_id").filter(~early)
    return replace(votes_of(known, frames["pairs"], frames["samples"]), models=bench.config.models())


def _price(judge: str, bench: Workbench) -> float:
    """US$ of one call of the judge, on the mean of those it made."""
    cost = bench.folder.read("calls").filter(pl.col("judge") == judge)["cost_usd"].mean()
    return float(cost) if isinstance(cost, float) else 0.0


def _labelled(frames: Frames, bench: Workbench) -> list[Labelled]:
    """The `fit` labels with their texts; the pairs may lie outside the shard."""
    told = people(frames["labels"])
    pairs = bench.folder.read("pairs").join(told.select("pair_id"), on="pair_id")
    texts = with_texts(pairs, frames["samples"], frames["prompts"])
    human = dict(told.select("pair_id", "human").iter_rows())
    return [Labelled(item, human[item.pair_id]) for item in comparisons(texts)]


STAGE = Stage(
    name="judge",
    inputs=("prompts", "samples", "pairs", "labels"),
    outputs=("judgments", "ratings", "calls"),
    run=_run,
    reads=lambda _config: None,
    shards=_shards,
    # An adaptive panel goes on from what was judged so far; `fit` pairs may lie outside a shard.
    beside=("judgments", "calls"),
    begin=_begin,
)
