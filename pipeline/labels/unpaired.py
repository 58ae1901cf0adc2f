"""Answers that were called good or bad one by one: rows for formats of single answers, such as KTO's. Pure."""

import polars as pl

from pipeline.labels.splits import is_test
from pipeline.schemas import THUMB


def unpaired_rows(
    ratings: pl.LazyFrame,
    samples: pl.LazyFrame,
    prompts: pl.LazyFrame,
    kept: pl.DataFrame,
    *,
    seed: int,
    test_fraction: float,
) -> pl.DataFrame:
    """One row for each answer with feedback that no kept pair holds, sorted by ``pair_id``.

    Args:
        ratings: the frame ``ratings``; of several opinions of one answer the most count, and halves cancel out.
        samples: the frame ``samples``.
        prompts: the frame ``prompts``.
        kept: the frame ``kept``.
        seed: of the split.
        test_fraction: share of prompts in the split `test`, as of pairs.

    Returns:
        Columns of ``pipeline.stages.export.dataset_rows`` that tell of one answer: a good one is ``chosen`` and nothing
        ``rejected``, a bad one the other way round; its ``pair_id`` is the sample's id.
    """
    used = pl.concat([kept["chosen_id"], kept["rejected_id"]]).unique().to_frame("sample_id")
    good = pl.col("score") > 1 / 2
    texts = samples.select("sample_id", "prompt_id", "completion", "model", "temperature").unique("sample_id")
    told = (
        ratings.filter(pl.col("aspect") == THUMB)
        .group_by("sample_id")
        .agg(pl.col("score").mean())
        .filter(pl.col("score") != 1 / 2)
        .join(used.lazy(), on="sample_id", how="anti")
        .join(texts, on="sample_id")
        .join(prompts.select("prompt_id", "messages", "whole"), on="prompt_id")
        .with_columns(
            pl.when(side).then("completion").alias(name) for side, name in ((good, "chosen"), (~good, "rejected"))
        )
        .with_columns(
            pl.when(side).then(column).alias(f"{name}_{column}")
            for side, name in ((good, "chosen"), (~good, "rejected"))
            for column in ("model", "temperature")
        )
        .collect(engine="streaming")
    )
    tests = pl.Series([is_test(key, seed, test_fraction) for key in told["prompt_id"]], dtype=pl.Boolean)
    split = pl.when(tests).then(pl.lit("test")).otherwise(pl.lit("train"))
    made = told.rename({"sample_id": "pair_id"}).with_columns(split=split)
    return made.drop("score", "completion", "model", "temperature").sort("pair_id")
