"""controls: what answers may do to the judges. Touches models through engines only. Drops nothing.

Two things apart from the data: every LM judge compares constant answers with real ones (frame ``controls``, never
among ``judgments``; a shard a judge), and answers that look written for the judge are marked (frame ``flags``; a shard
a bucket of prompts).
"""

import polars as pl

from judges import controls
from judges.suspicion import mark
from pipeline import schemas
from pipeline.config import Config, ModelConfig
from pipeline.frames import bucketed
from pipeline.runner import Frames, Result, Shard, Stage
from pipeline.stages.judge import make
from pipeline.stages.load import calls_frame
from pipeline.store import file_digest
from pipeline.workbench import Workbench


def flags(samples: pl.DataFrame) -> pl.DataFrame:
    """The frame ``flags`` of the frame ``samples``."""
    marks = [(key, mark(text)) for key, text in samples.select("sample_id", "completion").iter_rows()]
    return schemas.frame("flags", [{"sample_id": key, "flag": flag} for key, flag in marks if flag is not None])


def drawn(frames: Frames, config: Config) -> list[controls.Control]:
    """The comparisons that every LM judge is asked besides its pairs, from prompts, samples and pairs."""
    pairs = frames["pairs"]
    prompts = frames["prompts"].join(pairs.select("prompt_id").unique(), on="prompt_id", how="semi")
    count = controls.number(config.controls.number, config.controls.share, pairs.height, prompts.height)
    return controls.drawn(prompts, frames["samples"], config.seed, count)


def _shards(frames: Frames, config: Config, bench: Workbench) -> list[Shard]:
    shards = [Shard(f"flags-{bucket}", {"samples": rows}) for bucket, rows in bucketed(frames["samples"])]
    lm_judges = [options for options in config.judges if isinstance(options, ModelConfig)]
    chosen = drawn(frames, config) if lm_judges else []
    if not chosen:
        return shards
    keys = pl.Series([one.comparison.prompt_id for one in chosen]).unique().implode()
    slices = {name: frames[name].filter(pl.col("prompt_id").is_in(keys)) for name in ("prompts", "samples")}
    for options in lm_judges:
        reads = {
            "judge": options.model_dump(mode="json", exclude={"price"}),
            "files": {file.name: file_digest(file) for file in options.files(bench.base) if file.is_file()},
            "base_url": config.base_url(options),
            "seed": config.seed,
            "count": len(chosen),
            "answers": dict(controls.ANSWERS),
        }
        orders = 2 if getattr(options, "order", None) == "both" else 1
        size = len(chosen) * orders
        shards.append(Shard(f"{options.name}-all", slices, reads, size, config.endpoints_of(options)))
    return shards


def _run(shard: Shard, config: Config, bench: Workbench) -> Result:
    if "prompts" not in shard.frames:
        return Result({"flags": flags(shard.frames["samples"])})
    options = next(judge for judge in config.judges if shard.name == f"{judge.name}-all")
    count = int(shard.reads["count"])  # type: ignore[index]  what _shards put there
    chosen = controls.drawn(shard.frames["prompts"], shard.frames["samples"], config.seed, count)
    opinions = make(options, bench).judge([one.comparison for one in chosen])
    found = schemas.frame("controls", list(controls.rows(chosen, opinions, options.name)))
    return Result(
        {"controls": found, "calls": calls_frame(opinions.calls, options.name)},
        complete=not any(one.unanswered for one in opinions.judgments),
    )


STAGE = Stage(
    name="controls",
    inputs=("prompts", "samples", "pairs"),
    outputs=("controls", "flags", "calls"),
    run=_run,
    reads=lambda _config: None,
    shards=_shards,
)
