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
from pipeline.arrays import PIECE, Array, Integers, Mask, in_blocks, numbered, positions, together
from pipeline.frames import lengths

Slots = npt.NDArray[np.int16]
Rows = pl.DataFrame | pl.LazyFrame
ORDERS = ("ab", "ba")
MARGIN_DIGITS = 12
"""Margins are rounded, so that a pair and its mirror image have one margin and no threshold falls between them."""


@dataclass(frozen=True)
class Votes:
    """Votes of a panel on every pair, one matrix for each order in which the answers were shown."""

    pair_ids: pl.Series
    """(pairs,) ids, in row order."""
    prompt_ids: pl.Series
    """(pairs,) the pair's prompt."""
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
            prompt_ids=pl.Series("prompt_id", pair_ids, dtype=pl.String),
            answers=np.arange(2 * len(pair_ids), dtype=np.int64).reshape(-1, 2),
            judges=judges,
            ab=votes,
            ba=votes,
            length=length,
            calls=2 * (~np.isnan(votes)).sum(axis=1),
            consistency=dict(consistency or {}),
        )

    @cached_property
    def prompts(self) -> Integers:
        """(pairs,) number of the pair's prompt: equal numbers are one prompt, and nothing else is meant by them."""
        return numbered(self.prompt_ids)

    @cached_property
    def complete(self) -> bool:
        """Whether every judge's vote is there on every pair in both orders."""
        return not any(in_blocks(len(self.ab), lambda at: np.isnan(self.ab[at]).any() or np.isnan(self.ba[at]).any()))

    @cached_property
    def votes(self) -> Array:
        """(pairs, judges) mean over the orders answered, in [-1, 1]; NaN where there is none."""
        mean = np.empty_like(self.ab)

        def averaged(at: slice) -> None:
            one, other = self.ab[at], self.ba[at]
            mean[at] = (one + other) / 2
            if not self.complete:
                np.copyto(mean[at], np.where(np.isnan(one), other, one), where=np.isnan(mean[at]))

        in_blocks(len(mean), averaged)
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
            prompt_ids=self.prompt_ids.gather(kept),
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

        def counts(at: slice) -> Integers:
            ab, ba = self.ab[at], self.ba[at]
            both = ~np.isnan(ab) & ~np.isnan(ba)
            first = (both & (ab > 0)).sum(axis=0) + (both & (ba < 0)).sum(axis=0)
            second = (both & (ab < 0)).sum(axis=0) + (both & (ba > 0)).sum(axis=0)
            return np.array([both.sum(axis=0), first, second])

        counted, first, second = _total(in_blocks(len(self.ab), counts), (3, len(self.judges)))
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
    table, runs = together(lambda: _with_lengths(pairs, samples), lambda: runs_of(judgments.lazy()))
    said = Said.of(judgments.lazy(), runs, table["pair_id"])
    answered = [at for at, judge in enumerate(said.judges) if said.failures[judge] < said.made[judge]]
    names = [said.judges[at] for at in answered]
    ab, ba = (said.cells[:, at :: len(ORDERS)] for at in range(len(ORDERS)))
    if len(names) < len(said.judges):
        ab, ba = ab[:, answered], ba[:, answered]
    return Votes(
        pair_ids=table["pair_id"],
        prompt_ids=table["prompt_id"],
        answers=table.select("answer_a", "answer_b").to_numpy(),
        judges=names,
        ab=ab,
        ba=ba,
        length=table["length"].to_numpy(),
        calls=said.calls,
        consistency=swap_consistency(names, ab, ba),
        judgments=said.made,
        failures=said.failures,
    )


def runs_of(judgments: pl.LazyFrame) -> pl.DataFrame:
    """``pair_id`` and ``len`` of the runs of judgments that name the same pair one after the other.

    In parts sorted by pair there are far fewer of them than judgments: only where it changes is an id looked up.
    """
    # Polars' own run lengths (2.1) crash its streaming engine on frames of several chunks.
    changes = pl.col("pair_id").ne_missing(pl.col("pair_id").shift(1))
    heads = judgments.select("pair_id").with_row_index("start").filter(changes).collect(engine="streaming")
    rows = judgments.select(pl.len()).collect(engine="streaming").item()
    sizes = np.diff(heads["start"].to_numpy().astype(np.int64), append=rows)
    return heads.select("pair_id", len=pl.Series(sizes))


@dataclass(frozen=True)
class Said:
    """The judgments as a matrix."""

    judges: list[str]
    """Names, sorted."""
    cells: Array
    """(pairs, 2 judges) votes, the judges' orders side by side and each column in one piece of memory; NaN where there
    is none, be it that the judgment failed or that it was never made."""
    calls: Integers
    """(pairs,) judgments made, failed ones included."""
    made: dict[str, int]
    """Per judge: judgments of pairs that count or not."""
    failures: dict[str, int]
    """Per judge: those that failed."""

    @classmethod
    def of(cls, judgments: pl.LazyFrame, runs: pl.DataFrame, pairs: pl.Series) -> "Said":
        """The matrix.

        Args:
            judgments: the frame of that name.
            runs: ``pair_id`` and ``len`` of the runs in it (:func:`runs_of`).
            pairs: the pairs that count, sorted.
        """
        row, sizes = positions(runs["pair_id"], pairs), runs["len"].to_numpy()
        slots = int(sizes.max(initial=0))
        if len(row) == len(pairs) and (sizes == slots).all() and np.array_equal(row, np.arange(len(pairs))):
            judges = _repeated(judgments, slots)
            if judges is not None:
                return cls._of_blocks(judgments, judges, len(pairs))
        return cls._of_any(judgments, np.repeat(row, sizes), len(pairs))

    @classmethod
    def _of_blocks(cls, judgments: pl.LazyFrame, judges: list[str], pairs: int) -> "Said":
        """Where every judge judged every pair in both orders and rows stand by pair, judge and order: the matrix."""
        told = judgments.select(pl.col("preference").cast(pl.Float64)).collect(engine="streaming").to_series()
        slots = len(judges) * len(ORDERS)
        cells = np.empty((slots, pairs))

        def turned(at: slice) -> Integers:
            block = told.slice(at.start * slots, (at.stop - at.start) * slots)
            np.multiply(block.to_numpy().reshape(-1, slots).T, 2, out=cells[:, at])
            cells[:, at] -= 1
            return np.isnan(cells[:, at]).sum(axis=1) if block.null_count() else np.zeros(slots, np.int64)

        lost = _total(in_blocks(pairs, turned), (slots,))
        made = dict.fromkeys(judges, len(ORDERS) * pairs)
        return cls(judges, cells.T, np.full(pairs, slots), made, _by_judge(lost, judges))

    @classmethod
    def _of_any(cls, judgments: pl.LazyFrame, row: Integers, pairs: int) -> "Said":
        """Rows in any order, *row* (judgments,) the pair of each or -1."""
        found = judgments.select(
            pl.col("judge").cast(pl.Categorical),
            pl.col("order").cast(pl.Enum(ORDERS)).to_physical(),
            pl.col("preference").cast(pl.Float64),
        ).collect(engine="streaming")
        judges, column = _columns(found["judge"])
        judge, order, preference = (found[name].to_physical().to_numpy() for name in found.columns)
        slots = len(judges) * len(ORDERS)
        slot, vote = np.empty(len(row), np.int16), np.empty(len(row))

        def told(at: slice) -> Integers:
            slot[at] = column[judge[at]] + order[at]
            vote[at] = 2 * preference[at] - 1
            return np.stack([np.bincount(some, minlength=slots) for some in (slot[at], slot[at][np.isnan(vote[at])])])

        made, failures = _total(in_blocks(len(row), told), (2, slots))
        # What belongs to no pair goes to a last row that is cut off, as numbers below zero count from the end.
        cells = np.full((slots, pairs + 1), np.nan)
        # In the rows' order: of two judgments of one judge on one pair in one order, the last one counts.
        cells[slot, row] = vote
        calls = np.bincount(row + 1, minlength=pairs + 1)[1:]
        return cls(judges, cells.T[:-1], calls, _by_judge(made, judges), _by_judge(failures, judges))


def _repeated(judgments: pl.LazyFrame, slots: int) -> list[str] | None:
    """The judges, sorted, where every *slots* judgments are by all of them in both orders, sorted; else None."""
    key = pl.col("judge"), pl.col("order").cast(pl.Enum(ORDERS)).to_physical()
    first = judgments.head(slots).select("judge", pl.col("order").cast(pl.String)).collect()
    judges = first["judge"].unique().sort().to_list()
    if first.rows() != [(judge, order) for judge in judges for order in ORDERS]:
        return None
    alike = judgments.select(pl.all_horizontal((one == one.shift(slots)).all() for one in key))
    return judges if alike.collect(engine="streaming").item() else None


def _columns(judge: pl.Series) -> tuple[list[str], Slots]:
    """The judges by name, and by the code of each in (judgments,) *judge* its first column: two each, as in ORDERS."""
    named = judge.unique()
    spelt = named.cast(pl.String)
    by_name = spelt.arg_sort()
    used = named.to_physical().gather(by_name).to_numpy()
    column = np.zeros(1 + used.max(initial=0), np.int16)
    column[used] = len(ORDERS) * np.arange(len(used), dtype=np.int16)
    return spelt.gather(by_name).to_list(), column


def _by_judge(of_slot: Integers, judges: Sequence[str]) -> dict[str, int]:
    """Per judge: the sum of what is counted in its columns."""
    return dict(zip(judges, of_slot.reshape(len(judges), len(ORDERS)).sum(axis=1).tolist(), strict=True))


def _total(counts: Sequence[Integers], shape: tuple[int, ...]) -> Integers:
    """The sum of the *counts* of blocks; zeros where there is no block."""
    return sum(counts, np.zeros(shape, np.int64))


def swap_consistency(judges: Sequence[str], ab: Array, ba: Array) -> dict[str, float]:
    """Per judge: share of pairs judged in both orders on which both name the same winner (a tie is its own).

    Args:
        judges: names of the columns.
        ab: (pairs, judges) votes of judges that saw a first; NaN where there is none.
        ba: (pairs, judges) the same of judges that saw b first.
    """

    def counts(at: slice) -> Integers:
        one, other = ab[at], ba[at]
        both = ~np.isnan(one) & ~np.isnan(other)
        same = both & ((one > 0) == (other > 0)) & ((one < 0) == (other < 0))
        return np.array([same.sum(axis=0), both.sum(axis=0)])

    same, counted = _total(in_blocks(len(ab), counts), (2, len(judges)))
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
    voted = np.full(len(p), len(votes.judges))
    margin, agreement = np.empty(len(p)), np.empty(len(p))

    def told(at: slice) -> None:
        margin[at] = np.round(np.abs(2 * p[at] - 1), MARGIN_DIGITS)
        if not votes.complete:
            voted[at] = (~np.isnan(given[at])).sum(axis=1)
        sided = (np.sign(given[at]) == np.sign(p[at] - 1 / 2)[:, None]).sum(axis=1)
        agreement[at] = sided / np.maximum(voted[at], 1)

    in_blocks(len(p), told)
    made = pl.DataFrame(
        {
            "pair_id": votes.pair_ids,
            "p_a": p_a,
            "p_a_lc": p_a_lc,
            "margin": margin,
            "judges": _named(votes),
            "calls": votes.calls,
            "agreement": agreement,
        }
    )
    silent = pl.Series(voted == 0)
    spoken = made.filter(~silent) if silent.any() else made
    return schemas.frame("verdicts", spoken), votes.pair_ids.filter(silent)


def _with_lengths(pairs: Rows, samples: Rows) -> pl.DataFrame:
    """``pair_id``, ``prompt_id``, answers' numbers, ``length`` (log ratio) of pairs whose answers are there, by id."""
    told = lengths(samples)
    table = pairs.lazy().select("pair_id", "prompt_id", "sample_a", "sample_b").collect(engine="streaming")
    if not table["pair_id"].is_sorted():
        table = table.sort("pair_id")
    at = positions(pl.concat([table["sample_a"], table["sample_b"]]), told["sample_id"])
    a, b = at.reshape(2, -1)
    there: Mask = (a >= 0) & (b >= 0)
    size = np.log(1 + np.append(told["characters"].to_numpy(), 0))
    made = pl.DataFrame(
        {
            "pair_id": table["pair_id"],
            "prompt_id": table["prompt_id"],
            "answer_a": a,
            "answer_b": b,
            "length": size[a] - size[b],
        }
    )
    return made if there.all() else made.filter(pl.Series(there))


def _named(votes: Votes) -> pl.Series:
    """(pairs,) lists of the judges whose vote is there; each of the few patterns is spelt once."""
    judges, pairs = votes.judges, len(votes.pair_ids)
    if not judges:
        return pl.Series("judges", [list[str]()], dtype=pl.List(pl.String)).new_from_index(0, pairs)
    if votes.complete:
        # One piece of lists stands for all: to repeat a list for every pair takes a tenth of the stage's time.
        block = pl.Series("judges", [judges], dtype=pl.List(pl.String)).new_from_index(0, min(pairs, PIECE))
        return pl.concat([block] * (pairs // PIECE) + [block.head(pairs % PIECE)], rechunk=False)
    packed = pl.DataFrame(np.packbits(~np.isnan(votes.votes), axis=1))
    patterns = packed.unique()
    bits = np.unpackbits(patterns.to_numpy().astype(np.uint8), axis=1, count=len(judges)).astype(bool)
    named = [[judge for judge, there in zip(judges, row, strict=True) if there] for row in bits]
    spelt = patterns.with_columns(pl.Series("judges", named, dtype=pl.List(pl.String)))
    return packed.join(spelt, on=packed.columns, how="left", maintain_order="left")["judges"]
