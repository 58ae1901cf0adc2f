"""judge: pairs -> judgments, by every judge of the panel. Touches models through engines only.

A shard is one judge on one bucket of prompts, judge by judge, so that one model is loaded at a time, a new judge
runs alone and an edited one runs again alone. A failed opinion is a row with ``error``; it is never dropped here.
"""

from collections.abc import Sequence

import polars as pl

from judges.base import Comparison, Judge, Judgment, Labelled, Rating
from pipeline import discovery, schemas
from pipeline.config import Config, JudgeConfig
from pipeline.errors import StageError
from pipeline.frames import bucketed, conversation, people, with_texts
from pipeline.runner import Frames, Result, Shard, Stage
from pipeline.splits import split_labels
from pipeline.stages.load import calls_frame
from pipeline.store import file_digest
from pipeline.workbench import Workbench


def comparisons(texts: pl.DataFrame) -> list[Comparison]:
    """Pairs with their texts (``pipeline.frames.with_texts``) as comparisons.

    Ordered so that calls which share a prompt and a first answer stand next to each other.
    """
    columns = ("pair_id", "prompt_id", "reference", "sample_a", "sample_b", "completion_a", "completion_b")
    return [
        Comparison(messages=conversation(row["messages"]), **{name: row[name] for name in columns})
        for row in texts.sort("prompt_id", "sample_a", "sample_b").iter_rows(named=True)
    ]


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
                "error": one.error,
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


def _shards(frames: Frames, config: Config, bench: Workbench) -> list[Shard]:
    pairs, samples, prompts = frames["pairs"], frames["samples"], frames["prompts"]
    if config.judges and pairs.is_empty():
        raise StageError("there are no pairs to judge: every prompt has fewer than two different answers; see dropped/")
    fit, _ = split_labels(frames["labels"], pairs, config.seed, config.labels.fit_fraction)
    labelled = pairs.join(fit.select("pair_id").unique(), on="pair_id")
    shards: list[Shard] = []
    for options in config.judges:
        reads = {
            "judge": options.model_dump(mode="json", exclude={"price"}),
            "files": {file.name: file_digest(file) for file in options.files(bench.base) if file.is_file()},
            "base_url": config.base_url(options),
            "seed": config.seed,
        }
        learns = options.wants_labels
        orders = 2 if getattr(options, "order", None) == "both" else 1
        for bucket, rows in bucketed(pairs):
            needed = pl.concat([rows, labelled]).unique() if learns else rows
            keys = pl.concat([needed["sample_a"], needed["sample_b"]]).unique()
            slices = {
                "pairs": rows,
                "samples": samples.filter(pl.col("sample_id").is_in(keys.implode())),
                "prompts": prompts.join(needed.select("prompt_id").unique(), on="prompt_id"),
            }
            learning = {"labels": fit} if learns else {}
            shards.append(Shard(f"{options.name}-{bucket}", slices | learning, reads, rows.height * orders))
    return shards


def _run(shard: Shard, config: Config, bench: Workbench) -> Result:
    options = next(judge for judge in config.judges if shard.name.rpartition("-")[0] == judge.name)
    frames = shard.frames
    judge = make(options, bench)
    if options.wants_labels:
        judge.fit(_labelled(frames, bench))
    opinions = judge.judge(comparisons(with_texts(frames["pairs"], frames["samples"], frames["prompts"])))
    calls = calls_frame(opinions.calls, options.name)
    return Result(
        {
            "judgments": judgments(opinions.judgments, options.name),
            "ratings": ratings(opinions.ratings, options.name),
            "calls": calls,
        },
        complete=not any((one.error or "").startswith("unanswered") for one in opinions.judgments),
    )


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
)
