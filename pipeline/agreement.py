"""How often judges agree with people, and how surely. Pure.

Agreement is counted on pairs where the people's mean is not exactly a tie; a verdict of exactly one half counts one
half. The prompt is the unit of the interval: pairs of one prompt are not independent.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from pipeline import ids
from pipeline.aggregation.base import Array, Votes

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Agreement:
    """Share of pairs on which a judge sides with people, with a 95 % interval; n pairs."""

    rate: float | None
    low: float | None
    high: float | None
    n: int


def agreement(vote: Array, human: Array, prompts: list[str], seed: int) -> Agreement:
    """Agreement of one judge.

    Args:
        vote: (pairs,) in [-1, 1], NaN where there is none.
        human: (pairs,) people's mean preference for a, in [0, 1].
        prompts: prompt of each pair; whole prompts are resampled (percentile cluster bootstrap, Field & Welsh 2007).
        seed: of the resampling.
    """
    counted = ~np.isnan(vote) & (human != 1 / 2)
    if not counted.any():
        return Agreement(None, None, None, 0)
    right = (1 + np.sign(vote[counted]) * np.sign(human[counted] - 1 / 2)) / 2
    keys, cluster = np.unique(np.array(prompts)[counted], return_inverse=True)
    hits, sizes = np.bincount(cluster, right).astype(np.float64), np.bincount(cluster).astype(np.float64)
    low, high = cluster_interval(hits, sizes, ids.seed_from(seed, "agreement", len(keys)))
    return Agreement(float(right.mean()), low, high, int(counted.sum()))


def cluster_interval(hits: Array, sizes: Array, seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap interval of sum(hits) / sum(sizes) when whole clusters are drawn.

    Args:
        hits: (clusters,) successes in each.
        sizes: (clusters,) trials in each.
        seed: of the resampling.
    """
    draws = np.random.default_rng(seed).multinomial(len(hits), np.full(len(hits), 1 / len(hits)), RESAMPLES)
    rates = (draws @ hits) / (draws @ sizes)
    low, high = np.quantile(rates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def panel_agreement(
    votes: Votes, human: dict[str, float], prompt_of: dict[str, str], seed: int
) -> dict[str, Agreement]:
    """Agreement of every judge of *votes*, by name."""
    told = [row for row, key in enumerate(votes.pair_ids) if key in human]
    target = np.array([human[votes.pair_ids[row]] for row in told])
    prompts = [prompt_of[votes.pair_ids[row]] for row in told]
    columns = votes.votes[told]
    return {judge: agreement(columns[:, at], target, prompts, seed) for at, judge in enumerate(votes.judges)}


def first_slot_rate(judgments: pl.DataFrame) -> dict[str, float]:
    """Per judge: how often the answer shown first won, ties one half; .5 is what no position bias would show.

    Only pairs judged in both orders count, so that the answers' quality cancels out.
    """
    first = pl.when(pl.col("order").cast(pl.String) == "ab").then("preference").otherwise(1 - pl.col("preference"))
    won = ((first - 0.5).sign() + 1) / 2
    rates = (
        judgments.filter(pl.col("preference").is_not_null())
        .filter(pl.col("order").n_unique().over("judge", "pair_id") == 2)  # noqa: PLR2004  two orders
        .group_by("judge")
        .agg(won.mean().alias("rate"))
    )
    return dict(rates.sort("judge").iter_rows())
