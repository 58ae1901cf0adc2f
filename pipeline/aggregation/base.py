"""What aggregations speak, and the votes they work on. Pure.

A vote is a judge's mean preference for a over the orders it answered, stretched to [-1, 1]; swapping a and b
negates it exactly. An aggregation kind is one file in this folder that defines ``<Kind>Aggregation``.
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Votes:
    """Votes of a panel; rows are pairs in ``pair_ids`` order, columns are judges."""

    pair_ids: list[str]
    judges: list[str]
    votes: Array
    """(pairs, judges) in [-1, 1]; NaN where the judge gave none."""
    length: Array
    """(pairs,) log((1 + characters of a) / (1 + characters of b))."""
    consistency: dict[str, float] = field(default_factory=dict[str, float])
    """Per judge: share of pairs judged in both orders whose two verdicts agree; absent where unknown."""

    def of(self, judges: list[str]) -> "Votes":
        """The same pairs with these judges only."""
        columns = [self.judges.index(judge) for judge in judges]
        return Votes(self.pair_ids, judges, self.votes[:, columns], self.length, self.consistency)


@dataclass(frozen=True)
class Fitted:
    """What an aggregation says of every pair."""

    p_a: Array
    """(pairs,) P(a person prefers a), people as they are."""
    p_a_lc: Array
    """(pairs,) the same with the length difference held at zero."""
    weights: dict[str, float]
    """What each judge counts, for the report; the unit is the method's."""
    parameters: dict[str, float] = field(default_factory=dict[str, float])


class Aggregation(Protocol):
    """Turns votes into probabilities."""

    needs_labels: bool

    def fit_predict(self, votes: Votes, labelled: dict[str, float]) -> Fitted:
        """Probabilities for every pair.

        Args:
            votes: votes on every pair.
            labelled: pair_id -> people's mean preference for a in [0, 1], `fit` labels only.
        """
        ...


def votes_of(judgments: pl.DataFrame, pairs: pl.DataFrame, samples: pl.DataFrame) -> Votes:
    """Votes from the frames ``judgments``, ``pairs`` and ``samples`` (for lengths)."""
    answered = judgments.filter(pl.col("preference").is_not_null())
    mean = answered.group_by("pair_id", "judge").agg((2 * pl.col("preference").mean() - 1).alias("vote"))
    judges = sorted(mean["judge"].unique())
    lengths = samples.select("sample_id", pl.col("completion").str.len_chars().alias("length"))
    rows = (
        pairs.select("pair_id", "sample_a", "sample_b")
        .join(lengths.rename({"sample_id": "sample_a", "length": "length_a"}), on="sample_a")
        .join(lengths.rename({"sample_id": "sample_b", "length": "length_b"}), on="sample_b")
        .sort("pair_id")
    )
    wide = mean.pivot(on="judge", index="pair_id", values="vote") if judges else mean.select("pair_id")
    table = rows.join(wide, on="pair_id", how="left").sort("pair_id")
    matrix = table.select(judges).to_numpy().astype(np.float64) if judges else np.empty((table.height, 0))
    ratio = table.select(((1 + pl.col("length_a")) / (1 + pl.col("length_b"))).log()).to_series().to_numpy()
    return Votes(table["pair_id"].to_list(), judges, matrix, ratio.astype(np.float64), swap_consistency(judgments))


def swap_consistency(judgments: pl.DataFrame) -> dict[str, float]:
    """Per judge: share of pairs judged in both orders on which both name the same winner (a tie is its own)."""
    side = (pl.col("preference") - 0.5).sign()
    both = (
        judgments.filter(pl.col("preference").is_not_null())
        .group_by("judge", "pair_id")
        .agg(pl.col("order").n_unique().alias("orders"), side.n_unique().alias("sides"))
        .filter(pl.col("orders") == 2)  # noqa: PLR2004  there are two orders
        .group_by("judge")
        .agg((pl.col("sides") == 1).mean().alias("consistency"))
    )
    return dict(both.sort("judge").iter_rows())


def mean_vote(votes: Array, weights: Array | None = None) -> Array:
    """Weighted mean over the judges that voted; 0 where none did."""
    used = np.ones(votes.shape[1]) if weights is None else weights
    present = ~np.isnan(votes) * used
    total = present.sum(axis=1)
    return np.divide((np.nan_to_num(votes) * present).sum(axis=1), total, out=np.zeros(len(votes)), where=total > 0)
