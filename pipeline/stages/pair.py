"""pair: samples -> pairs of different answers to one prompt. Pure.

Drop reasons: ``identical`` (both answers have the same words), ``duplicate`` (another pair has the same two texts,
so its verdict would be paid twice), ``single_answer`` (a prompt with fewer than two different answers).
"""

from collections.abc import Callable, Mapping, Sequence

import polars as pl

from pipeline import discovery, ids, schemas
from pipeline.config import Config
from pipeline.runner import Result, Shard, Stage
from pipeline.stages.load import dropped_frame
from pipeline.workbench import Workbench

Strategy = Callable[[Sequence[str], int], list[tuple[str, str]]]
"""(sample ids of one prompt, seed) -> pairs of them."""


def pairs(
    samples: pl.DataFrame, imported: pl.DataFrame, strategy: Strategy, seed: int
) -> tuple[pl.DataFrame, dict[str, str]]:
    """The frame ``pairs`` for the samples of prompts that no imported pair covers, and the drops (id -> reason)."""
    rows: list[dict[str, object]] = []
    reasons: dict[str, str] = {}
    own = samples.join(imported.select("prompt_id").unique(), on="prompt_id", how="anti")
    grouped = own.sort("sample_id").group_by("prompt_id").agg("sample_id", "completion").sort("prompt_id")
    for prompt, keys, texts in grouped.iter_rows():
        text = dict(zip(keys, texts, strict=True))
        seen: dict[frozenset[str], str] = {}
        for first, second in strategy(keys, ids.seed_from(seed, "pair", prompt)):
            a, b = sorted((first, second))
            key, both = ids.pair_id(a, b), frozenset((text[a], text[b]))
            if len(both) == 1:
                reasons[key] = "identical"
            elif both in seen:
                reasons[key] = "duplicate"
            else:
                seen[both] = key
                rows.append(_row(key, prompt, a, b))
        if not seen:
            reasons[prompt] = "single_answer"
    return schemas.frame("pairs", rows), reasons


def _row(key: str, prompt: str, a: str, b: str) -> dict[str, object]:
    return {
        "pair_id": key,
        "prompt_id": prompt,
        "sample_a": a,
        "sample_b": b,
        "external_id": None,
        "external_flipped": False,
    }


def _run(shard: Shard, config: Config, bench: Workbench) -> Result:
    strategy = discovery.find("pipeline.pairing", config.pairing.strategy, "pairs", bench.base)
    imported = shard.frames["pairs"].filter(pl.col("external_id").is_not_null())
    made, reasons = pairs(shard.frames["samples"], imported, strategy, config.seed)
    return Result({"pairs": made, "dropped": dropped_frame("pair", reasons)})


def _shards(frames: Mapping[str, pl.DataFrame], config: Config, bench: Workbench) -> list[Shard]:
    del bench
    imported = frames["pairs"].filter(pl.col("external_id").is_not_null())
    return [Shard("all", {"samples": frames["samples"], "pairs": imported}, config.seed)]


STAGE = Stage(
    name="pair",
    inputs=("samples", "pairs"),
    outputs=("pairs",),
    run=_run,
    reads=lambda config: config.pairing.model_dump(mode="json"),
    shards=_shards,
)
