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
    models: dict[str, str] = field(default_factory=dict[str, str])
    """Judge -> the model behind it, where that is not its name up to a slash: modes of one model err together."""

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
        mean = (self.ab + self.ba) / 2
        gaps = np.isnan(mean)
        if gaps.any():
            one, other = self.ab[gaps], self.ba[gaps]
            mean[gaps] = np.where(np.isnan(one), other, one)
        return mean

    def of(self, judges: list[str]) -> "Votes":
        """The same pairs with these judges only."""
        if judges == self.judges:
            return self
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
        counted = both.sum(axis=0)
        first = (both & (self.ab > 0)).sum(axis=0) + (both & (self.ba < 0)).sum(axis=0)
        second = (both & (self.ab < 0)).sum(axis=0) + (both & (self.ba > 0)).sum(axis=0)
        return {
            judge: float(1 / 2 + (first[column] - second[column]) / (4 * counted[column]))
            for column, judge in enumerate(self.judges)
            if counted[column]
        }


def votes_of(judgments: Rows, pairs: Rows, samples: Rows) -> Votes:
    """Votes from the frames ``judgments``, ``pairs`` and ``samples`` (for lengths), eager or lazy.

    A judge without a readable verdict is no column. Judgments of pairs that are not in *pairs* are left out, and so
    are pairs one of whose answers is not in *samples*.
    """
    table = _with_lengths(pairs, samples)
    found = (
        judgments.lazy()
        .select("pair_id", pl.col("judge").cast(pl.Categorical), pl.col("order").cast(pl.Enum(ORDERS)), "preference")
        .collect(engine="streaming")
    )
    judges, judge = _judges(found["judge"])
    slot = len(ORDERS) * judge + found["order"].to_physical().to_numpy().astype(np.int16)
    failed = found["preference"].is_null()
    made = np.bincount(judge, minlength=len(judges))
    failures = np.bincount(judge[failed.to_numpy()], minlength=len(judges))
    vote = 2 * found["preference"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    vote -= 1
    calls, cells = matrix_of(found["pair_id"], table["pair_id"], slot, vote, len(judges) * len(ORDERS))
    answered = np.flatnonzero(failures < made)
    cells = cells.reshape(table.height, len(judges), len(ORDERS))
    cells = cells if len(answered) == len(judges) else cells[:, answered]
    ab, ba = cells[:, :, 0], cells[:, :, 1]
    names = [name for name, all_of_it, bad in zip(judges, made, failures, strict=True) if bad < all_of_it]
    return Votes(
        pair_ids=table["pair_id"],
        prompts=table["prompt"].to_numpy(),
        answers=table.select("answer_a", "answer_b").to_numpy(),
        judges=names,
        ab=ab,
        ba=ba,
        length=table["length"].to_numpy(),
        calls=calls,
        consistency=swap_consistency(names, ab, ba),
        judgments=dict(zip(judges, made.tolist(), strict=True)),
        failures=dict(zip(judges, failures.tolist(), strict=True)),
    )


def _judges(names: pl.Series) -> tuple[list[str], npt.NDArray[np.int16]]:
    """The judges by name, and the place of each row's among them, of a categorical column."""
    named = names.unique()
    spelt = named.cast(pl.String)
    order = spelt.arg_sort()
    judges = spelt.gather(order).to_list()
    used, codes = named.to_physical().gather(order).to_numpy().astype(np.int64), names.to_physical().to_numpy()
    if len(used) and (used == used[0] + np.arange(len(used))).all():
        return judges, codes.astype(np.int16) - np.int16(used[0])
    place = np.zeros(1 + used.max(initial=0), np.int16)
    place[used] = np.arange(len(used), dtype=np.int16)
    return judges, place.take(codes)


def matrix_of(
    ids: pl.Series, known: pl.Series, slot: npt.NDArray[np.int16], vote: Array, slots: int
) -> tuple[Integers, Array]:
    """(pairs,) judgments of each pair, and the matrix (pairs, slots) of votes: NaN where there is none.

    NaN stands for a failed judgment as for one that was never made: neither is a vote.

    Args:
        ids: (judgments,) pairs, in any order; in parts sorted by pair most repeat the one before.
        known: (pairs,) the pairs that count.
        slot: (judgments,) column.
        vote: (judgments,)
        slots: columns.
    """
    starts = ids.ne_missing(ids.shift(1)).to_numpy() if len(ids) else np.empty(0, bool)
    heads = np.flatnonzero(starts)
    row = positions(ids.gather(heads), known)
    # What belongs to no pair goes to a row that is cut off.
    row = np.where(row < 0, len(known), row)
    sizes = np.diff(heads, append=len(ids))
    calls = np.bincount(row, sizes, minlength=len(known) + 1)[:-1].astype(np.int64)
    if len(heads) and (sizes == slots).all():
        # Where every pair was judged by all, in one order of judges, rows are the matrix already.
        block = slot.reshape(-1, slots)
        if len(set(block[0].tolist())) == slots and (block == block[0]).all():
            matrix = vote.reshape(-1, slots)
            if (block[0] != np.arange(slots)).any():
                matrix = matrix.take(np.argsort(block[0]), axis=1)
            if np.array_equal(row, np.arange(len(known))):
                return calls, matrix
    cells = np.full((len(known) + 1, slots), np.nan)
    cells.reshape(-1)[np.repeat(row * slots, sizes) + slot] = vote
    return calls, cells[:-1]


def swap_consistency(judges: Sequence[str], ab: Array, ba: Array) -> dict[str, float]:
    """Per judge: share of pairs judged in both orders on which both name the same winner (a tie is its own).

    Args:
        judges: names of the columns.
        ab: (pairs, judges) votes of judges that saw a first; NaN where there is none.
        ba: (pairs, judges) the same of judges that saw b first.
    """
    both = ~np.isnan(ab) & ~np.isnan(ba)
    same = (both & ((ab > 0) == (ba > 0)) & ((ab < 0) == (ba < 0))).sum(axis=0)
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
    given, towards = votes.votes, np.sign(p - 1 / 2)
    present = ~np.isnan(given)
    voted, sided = np.zeros(len(p), np.int64), np.zeros(len(p), np.int64)
    for judge in range(len(votes.judges)):
        voted += present[:, judge]
        sided += np.sign(given[:, judge]) == towards
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
    spoken = made.filter(~silent) if silent.any() else made
    return schemas.frame("verdicts", spoken), votes.pair_ids.filter(silent)


def _with_lengths(pairs: Rows, samples: Rows) -> pl.DataFrame:
    """``pair_id``, numbers of prompt and answers, ``length`` (log ratio) of pairs whose answers are there, by id."""
    told = lengths(samples)
    table = pairs.lazy().select("pair_id", "prompt_id", "sample_a", "sample_b").collect(engine="streaming")
    if not table["pair_id"].is_sorted():
        table = table.sort("pair_id")
    at = positions(pl.concat([table["sample_a"], table["sample_b"]]), told["sample_id"])
    there: Mask = np.logical_and(*(at >= 0).reshape(2, -1))
    characters = np.append(told["length"].to_numpy(), 0).take(at)
    a, b = (1 + characters).reshape(2, -1)
    made = pl.DataFrame(
        {
            "pair_id": table["pair_id"],
            "prompt": numbered(table["prompt_id"]),
            "answer_a": at[: len(there)],
            "answer_b": at[len(there) :],
            "length": np.log(a / b),
        }
    )
    return made if there.all() else made.filter(pl.Series(there))


def _named(present: Mask, judges: Sequence[str]) -> pl.Series:
    """(pairs,) lists of the judges that are *present*; each of the few patterns is spelt once."""
    if not judges:
        return pl.Series("judges", [list[str]()] * len(present), dtype=pl.List(pl.String))
    if present.all():
        return pl.Series("judges", [list(judges)], dtype=pl.List(pl.String)).new_from_index(0, len(present))
    packed = pl.DataFrame(np.packbits(present, axis=1))
    patterns = packed.unique()
    bits = np.unpackbits(patterns.to_numpy().astype(np.uint8), axis=1, count=len(judges)).astype(bool)
    named = [[judge for judge, there in zip(judges, row, strict=True) if there] for row in bits]
    spelt = patterns.with_columns(pl.Series("judges", named, dtype=pl.List(pl.String)))
    return packed.join(spelt, on=packed.columns, how="left", maintain_order="left")["judges"]
