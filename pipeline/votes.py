"""What judges said of every pair, as arrays, and the verdicts made of them. Pure.

A vote is a judge's preference for a, stretched to [-1, 1]: v = 2 P(a preferred) - 1. Preferences are stored
un-swapped, so exchanging the names a and b negates every vote exactly and exchanges the two orders. Rows are pairs,
sorted by id; columns are judges, sorted by name. Nothing here goes row by row: ten million judgments are two matrices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline import schemas
from pipeline.frames import lengths, numbered, positions

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Rows = pl.DataFrame | pl.LazyFrame
ORDERS = ("ab", "ba")
MARGIN_DIGITS = 12
"""Margins are rounded, so that a pair and its mirror image have one margin and no threshold falls between them."""


@dataclass(frozen=True)
class Votes:
    """Votes of a panel on every pair, one matrix for each order in which the answers were shown."""

    pair_ids: pl.Series
    """(pairs,) ids, in row order."""
    prompts: Integers
    """(pairs,) number of the pair's prompt: equal numbers are one prompt, and nothing else is meant by them."""
    answers: Integers
    """(pairs, 2) numbers of the answers a and b: pairs that share an answer share its number."""
    judges: list[str]
    """(judges,) names, in column order."""
    ab: Array
    """(pairs, judges) votes of judges that saw a first, in [-1, 1]; NaN where there is none."""
    ba: Array
    """(pairs, judges) votes of judges that saw b first, in [-1, 1], positive for a; NaN where there is none."""
    length: Array
    """(pairs,) log((1 + characters of a) / (1 + characters of b))."""
    calls: Integers
    """(pairs,) judgments made by any judge, failed ones included."""
    consistency: dict[str, float] = field(default_factory=dict[str, float])
    """Per judge: share of pairs judged in both orders whose two verdicts agree; absent where unknown."""
    judgments: dict[str, int] = field(default_factory=dict[str, int])
    """Per judge, those that never gave a vote included: judgments made, failed ones included."""
    failures: dict[str, int] = field(default_factory=dict[str, int])
    """Per judge: judgments that failed."""

    @classmethod
    def level(
        cls,
        pair_ids: Sequence[str],
        judges: list[str],
        votes: Array,
        length: Array,
        consistency: Mapping[str, float] | None = None,
    ) -> "Votes":
        """Votes (pairs, judges) that are the same in both orders, each pair under a prompt of its own."""
        return cls(
            pair_ids=pl.Series("pair_id", pair_ids, dtype=pl.String),
            prompts=np.arange(len(pair_ids), dtype=np.int64),
            answers=np.arange(2 * len(pair_ids), dtype=np.int64).reshape(-1, 2),
            judges=judges,
            ab=votes,
            ba=votes,
            length=length,
            calls=2 * (~np.isnan(votes)).sum(axis=1),
            consistency=dict(consistency or {}),
        )

    @cached_property
    def votes(self) -> Array:
        """(pairs, judges) mean over the orders answered, in [-1, 1]; NaN where there is none."""
        both = (self.ab + self.ba) / 2
        return np.where(np.isnan(self.ab), self.ba, np.where(np.isnan(self.ba), self.ab, both))

    def of(self, judges: list[str]) -> "Votes":
        """The same pairs with these judges only."""
        columns = [self.judges.index(judge) for judge in judges]
        return replace(self, judges=judges, ab=self.ab[:, columns], ba=self.ba[:, columns])

    def at(self, rows: Integers | Mask) -> "Votes":
        """The same judges on these rows only, given by number or as a mask."""
        kept = np.arange(len(self.pair_ids))[rows]
        return replace(
            self,
            pair_ids=self.pair_ids.gather(kept),
            prompts=self.prompts[kept],
            answers=self.answers[kept],
            ab=self.ab[kept],
            ba=self.ba[kept],
            length=self.length[kept],
            calls=self.calls[kept],
        )

    def swapped(self) -> "Votes":
        """The same votes with the names a and b exchanged: who saw a first now saw b first, and every sign turns."""
        return replace(self, answers=self.answers[:, ::-1], ab=-self.ba, ba=-self.ab, length=-self.length)

    def rows(self, pair_ids: Sequence[str] | pl.Series) -> Integers:
        """Row number of each of *pair_ids*; -1 for a pair that is not here."""
        return positions(pl.Series("id", pair_ids, dtype=pl.String), self.pair_ids)

    def first_slot(self) -> dict[str, float]:
        """Per judge: how often the answer shown first won, ties one half; .5 is what no position bias would show.

        Only pairs judged in both orders count, so that the answers' quality cancels out.
        """
        both = ~np.isnan(self.ab) & ~np.isnan(self.ba)
        lean, counted = np.where(both, np.sign(self.ab) - np.sign(self.ba), 0).sum(axis=0), both.sum(axis=0)
        return {
            judge: float(1 / 2 + lean[column] / (4 * counted[column]))
            for column, judge in enumerate(self.judges)
            if counted[column]
        }


def votes_of(judgments: Rows, pairs: Rows, samples: Rows) -> Votes:
    """Votes from the frames ``judgments``, ``pairs`` and ``samples`` (for lengths), eager or lazy.

    A judge without a readable verdict is no column. Judgments of pairs that are not in *pairs* are left out, and so
    are pairs one of whose answers is not in *samples*.
    """
    table = _with_lengths(pairs, samples)
    opinions = judgments.lazy().select("pair_id", "judge", pl.col("order").cast(pl.Enum(ORDERS)), "preference")
    failed = pl.col("preference").is_null().sum().alias("failed")
    made = opinions.group_by("judge").agg(pl.len().alias("made"), failed).sort("judge").collect(engine="streaming")
    found = opinions.with_columns(
        pl.col("judge").cast(pl.Enum(made["judge"])).to_physical(), pl.col("order").to_physical()
    ).collect(engine="streaming")
    row = _rows_of_runs(found["pair_id"], table["pair_id"])
    # One cell for each pair, order and judge. NaN stands for a failed judgment as for one that was never made: neither
    # is a vote. What belongs to no pair goes to a row that is cut off.
    cells = np.full((table.height + 1, len(ORDERS), made.height), np.nan)
    place = (row * len(ORDERS) + found["order"].to_numpy()) * made.height + found["judge"].to_numpy()
    cells.reshape(-1)[place] = 2 * found["preference"].cast(pl.Float64).fill_null(np.nan).to_numpy() - 1
    answered = (made["failed"] < made["made"]).to_numpy()
    judges = made["judge"].filter(pl.Series(answered)).to_list()
    ab, ba = (cells[:-1, order][:, answered] for order in range(len(ORDERS)))
    return Votes(
        pair_ids=table["pair_id"],
        prompts=table["prompt"].to_numpy(),
        answers=table.select("answer_a", "answer_b").to_numpy(),
        judges=judges,
        ab=ab,
        ba=ba,
        length=table["length"].to_numpy(),
        calls=np.bincount(row, minlength=table.height + 1)[:-1],
        consistency=swap_consistency(judges, ab, ba),
        judgments=dict(made.select("judge", "made").iter_rows()),
        failures=dict(made.select("judge", "failed").iter_rows()),
    )


def swap_consistency(judges: Sequence[str], ab: Array, ba: Array) -> dict[str, float]:
    """Per judge: share of pairs judged in both orders on which both name the same winner (a tie is its own).

    Args:
        judges: names of the columns.
        ab: (pairs, judges) votes of judges that saw a first; NaN where there is none.
        ba: (pairs, judges) the same of judges that saw b first.
    """
    both = ~np.isnan(ab) & ~np.isnan(ba)
    same = (both & (np.sign(ab) == np.sign(ba))).sum(axis=0)
    counted = both.sum(axis=0)
    return {judge: float(same[at] / counted[at]) for at, judge in enumerate(judges) if counted[at]}


def verdict_frame(votes: Votes, p_a: Array, p_a_lc: Array, decide_by: str) -> tuple[pl.DataFrame, pl.Series]:
    """The frame ``verdicts`` for pairs with at least one vote, and the ids of those with none.

    Args:
        votes: the panel's votes.
        p_a: (pairs,) P(a person prefers a), people as they are.
        p_a_lc: (pairs,) the same with the length difference held at zero.
        decide_by: ``p_a`` or ``p_a_lc``: whose margin and side count.
    """
    p = p_a if decide_by == "p_a" else p_a_lc
    given = votes.votes
    present = ~np.isnan(given)
    voted = present.sum(axis=1)
    sided = (present & (np.sign(given) == np.sign(p - 1 / 2)[:, None])).sum(axis=1)
    made = pl.DataFrame(
        {
            "pair_id": votes.pair_ids,
            "p_a": p_a,
            "p_a_lc": p_a_lc,
            "margin": np.round(np.abs(2 * p - 1), MARGIN_DIGITS),
            "judges": _named(present, votes.judges),
            "calls": votes.calls,
            "agreement": sided / np.maximum(voted, 1),
        }
    )
    silent = pl.Series(voted == 0)
    return schemas.frame("verdicts", made.filter(~silent)), votes.pair_ids.filter(silent)


def _with_lengths(pairs: Rows, samples: Rows) -> pl.DataFrame:
    """``pair_id``, numbers of prompt and answers, ``length`` (log ratio) of pairs whose answers are there, by id."""
    told = lengths(samples)
    table = pairs.lazy().select("pair_id", "prompt_id", "sample_a", "sample_b").collect(engine="streaming")
    if not table["pair_id"].is_sorted():
        table = table.sort("pair_id")
    for side in ("a", "b"):
        at = positions(table[f"sample_{side}"], told["sample_id"])
        longer = np.append(told["length"].to_numpy(), -1)[at]
        table = table.with_columns(pl.Series(f"length_{side}", longer), pl.Series(f"answer_{side}", at))
    table = table.with_columns(pl.Series("prompt", numbered(table["prompt_id"])))
    return table.filter(pl.col("length_a") >= 0, pl.col("length_b") >= 0).select(
        "pair_id",
        "prompt",
        "answer_a",
        "answer_b",
        ((1 + pl.col("length_a")) / (1 + pl.col("length_b"))).log().alias("length"),
    )


def _rows_of_runs(ids: pl.Series, known: pl.Series) -> Integers:
    """Position in *known* of each of *ids*, one past the end where it has none; one look-up a run.

    In parts sorted by pair most ids repeat the one before.
    """
    frame = pl.DataFrame({"id": ids})
    starts = frame.select(pl.col("id").ne_missing(pl.col("id").shift(1))).to_series().to_numpy()
    heads = positions(ids.filter(pl.Series(starts)), known)
    heads = np.where(heads < 0, len(known), heads)
    return heads[np.cumsum(starts, dtype=np.int32) - 1] if len(ids) else heads


def _named(present: Mask, judges: Sequence[str]) -> pl.Series:
    """(pairs,) lists of the judges that are *present*; each of the few patterns is spelt once."""
    if not judges:
        return pl.Series("judges", [list[str]()] * len(present), dtype=pl.List(pl.String))
    packed = pl.DataFrame(np.packbits(present, axis=1))
    patterns = packed.unique()
    bits = np.unpackbits(patterns.to_numpy().astype(np.uint8), axis=1, count=len(judges)).astype(bool)
    named = [[judge for judge, there in zip(judges, row, strict=True) if there] for row in bits]
    spelt = patterns.with_columns(pl.Series("judges", named, dtype=pl.List(pl.String)))
    return packed.join(spelt, on=packed.columns, how="left", maintain_order="left")["judges"]
