"""pair: samples -> pairs of different answers to one prompt. Pure.

Which answers are compared is the pairing's choice among answers with different words. Drop reasons: ``identical`` (an
answer with the same words as another, which is compared in its place), ``single_answer`` (a prompt with fewer than two
different answers).
"""

from collections.abc import Mapping

import polars as pl

from pipeline import discovery, ids, schemas
from pipeline.config import Config
from pipeline.pairing.base import Pairing
from pipeline.stages.base import Result, Shard, Stage, dropped_frame
from pipeline.workbench import Workbench


def pairs(
    samples: pl.DataFrame, imported: pl.DataFrame, pairing: Pairing, seed: int
) -> tuple[pl.DataFrame, dict[str, str]]:
    """The frame ``pairs`` for the samples of prompts that no imported pair covers, and the drops (id -> reason)."""
    rows: list[dict[str, object]] = []
    reasons: dict[str, str] = {}
    own = samples.join(imported.select("prompt_id").unique(), on="prompt_id", how="anti")
    grouped = own.sort("sample_id").group_by("prompt_id").agg("sample_id", "completion").sort("prompt_id")
    for prompt, keys, texts in grouped.iter_rows():
        speaker: dict[str, str] = {}
        for key, text in zip(keys, texts, strict=True):
            if speaker.setdefault(text, key) != key:
                reasons[key] = "identical"
        if len(speaker) == 1:
            reasons[prompt] = "single_answer"
        for two in pairing.pairs(list(speaker.values()), ids.seed_from(seed, "pair", prompt)):
            a, b = sorted(two)
            rows.append(_row(ids.pair_id(a, b), prompt, a, b))
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
    pairing = discovery.find("pipeline.pairing", config.pairing.strategy, "{Kind}Pairing", bench.base)(config.pairing)
    imported = shard.frames["pairs"].filter(pl.col("external_id").is_not_null())
    made, reasons = pairs(shard.frames["samples"], imported, pairing, config.seed)
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
    version=2,
)
