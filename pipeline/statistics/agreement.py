"""How often judges and people agree, with each other and among themselves, and how surely. Pure.

Accuracy is counted on pairs where the people's mean is not exactly a tie; a verdict of exactly one half counts one
half. The prompt is the unit of the interval: pairs of one prompt are not independent.

`table` makes the frame ``agreement``: all that it says comes from (3, 3) counts of what two raters say of the same
pairs (a, tie, b), summed by prompt. Beside what judges reach stand the ceiling (one person against another) and the
floor (preferring the longer answer).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import polars as pl

from pipeline import ids, schemas
from pipeline.aggregation.votes import Votes
from pipeline.arrays import Array, Integers, Mask
from pipeline.schemas import ANY, LONGER, PANEL, PEOPLE
from pipeline.statistics import intervals as bootstrap
from pipeline.statistics import kappa
from pipeline.statistics.raters import ABSENT, Raters, Sides, counts_of, sides_of

MOST_RATER_PAIRS = 300
"""Raters, or pairs of raters, of a kind listed one by one, those with most labels first; `*` covers all."""
ONE_BY_ONE = frozenset({"accuracy", "same", "cohen_kappa"})

Key = tuple[str, str, str, str]
"""between, rater_1, rater_2, subset."""
Row = dict[str, object]
Measured = dict[str, tuple[Array, Array]]
"""Measure -> its value and how many comparisons are behind it."""


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
    _, prompt = np.unique(np.array(prompts)[counted], return_inverse=True)
    sums = bootstrap.prompt_sums(prompt.astype(np.int64), np.column_stack([right, np.ones(len(right))]))
    low, high = cluster_interval(sums[:, 0], sums[:, 1], ids.seed_from(seed, "agreement"))
    return Agreement(float(right.mean()), low, high, int(counted.sum()))


def cluster_interval(hits: Array, sizes: Array, seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap interval of sum(hits) / sum(sizes) when whole clusters are drawn.

    Args:
        hits: (clusters,) successes in each.
        sizes: (clusters,) trials in each, at least one.
        seed: of the resampling.
    """
    drawn = bootstrap.resampled(np.column_stack([hits, sizes]), seed)
    return bootstrap.interval(drawn[:, 0] / drawn[:, 1])


def panel_agreement(
    votes: Votes, human: dict[str, float], prompt_of: dict[str, str], seed: int
) -> dict[str, Agreement]:
    """Agreement of every judge of *votes*, by name."""
    keys = sorted(human)
    rows = votes.rows(keys)
    told = [key for key, row in zip(keys, rows, strict=True) if row >= 0]
    target = np.array([human[key] for key in told])
    prompts = [prompt_of[key] for key in told]
    columns = votes.votes[rows[rows >= 0]]
    return {judge: agreement(columns[:, at], target, prompts, seed) for at, judge in enumerate(votes.judges)}


def table(raters: Raters, verdicts: pl.DataFrame, certify: pl.Series, decide_by: str, seed: int) -> pl.DataFrame:
    """The frame ``agreement``.

    Args:
        raters: who said what (``pipeline.statistics.raters.raters_of``).
        verdicts: the frame ``verdicts``.
        certify: pair ids whose labels fitted nothing; the panel is compared with people on these alone.
        decide_by: ``p_a`` or ``p_a_lc``: the probability that decides the panel's side.
        seed: of the resampling.
    """
    told, seed = raters.labelled, ids.seed_from(seed, "agreement")
    everyone, labelled = raters.prompt, raters.prompt[raters.labelled]
    judges = {name: sides_of(judge.mean) for name, judge in raters.judges.items()}
    panel = _panel_sides(raters, verdicts, decide_by, certify)
    against = {("judge", name): sides[told] for name, sides in judges.items()}
    against |= {("length", LONGER): np.sign(raters.length[told]).astype(np.int8), ("panel", PANEL): panel[told]}
    counts, mean = raters.counts, sides_of(raters.human)[told]
    rows: list[dict[str, object]] = []
    for subset, inside in raters.subsets.items():
        here = inside[told]
        for (kind, name), sides in against.items():
            rows += _two((f"{kind}_people", name, PEOPLE, subset), sides, _only(mean, here), labelled, seed)
            rows += _anyone((f"{kind}_person", name, ANY, subset), sides, counts * here[:, None], labelled, seed)
        for one, other in _listed(judges):
            key = ("judge_judge", one, other, subset)
            rows += _two(key, judges[one], _only(judges[other], inside), everyone, seed)
        for between, several, where, prompt in (
            ("judge_judge", judges, inside, everyone),
            ("person_person", raters.people, here, labelled),
        ):
            some = {name: sides[where] for name, sides in several.items()}
            rows += _many((between, ANY, ANY, subset), some, prompt[where], seed)
    for person in _busiest(raters.people)[:MOST_RATER_PAIRS]:
        sides = raters.people[person]
        rows += _anyone(("person_person", person, ANY, "all"), sides, counts - counts_of([sides]), labelled, seed)
    each = [(name, person) for person in _busiest(raters.people) for name in judges]
    for name, person in each[:MOST_RATER_PAIRS]:
        key = ("judge_person", name, person, "all")
        rows += _two(key, judges[name][told], raters.people[person], labelled, seed)
    for one, other in _listed(raters.people):
        key = ("person_person", one, other, "all")
        rows += _two(key, raters.people[one], raters.people[other], labelled, seed)
    return schemas.frame("agreement", rows)


def _only(sides: Sides, where: Mask) -> Sides:
    return np.where(where, sides, ABSENT).astype(np.int8)


def _panel_sides(raters: Raters, verdicts: pl.DataFrame, decide_by: str, certify: pl.Series) -> Sides:
    """(pairs,) the panel's sides on the pairs *certify*; ABSENT elsewhere."""
    place = pl.DataFrame({"pair_id": raters.pair_ids}).join(
        verdicts.select("pair_id", p=decide_by), on="pair_id", how="left", maintain_order="left"
    )
    p = place["p"].fill_null(float("nan")).to_numpy()
    sides = sides_of(np.where(raters.flipped, 1 - p, p))
    return _only(sides, raters.pair_ids.is_in(certify.implode()).to_numpy())


def _busiest(people: Mapping[str, Sides]) -> list[str]:
    """Names of the people, those with most labels first."""
    return sorted(people, key=lambda name: (-int((people[name] != ABSENT).sum()), name))


def _listed(raters: Mapping[str, Sides]) -> list[tuple[str, str]]:
    """At most MOST_RATER_PAIRS pairs of raters that have something in common, those with most first."""
    names = sorted(raters)
    if not names:
        return []
    present = np.stack([raters[name] != ABSENT for name in names]).astype(np.float32)
    shared = present @ present.T
    pairs = [pair for pair in combinations(range(len(names)), 2) if shared[pair] > 0]
    pairs.sort(key=lambda pair: (-shared[pair], pair))
    return [(names[one], names[other]) for one, other in pairs[:MOST_RATER_PAIRS]]


def _cells(first: Sides, second: Sides, block: Integers, blocks: int) -> Array:
    """(blocks, 9) how many of the pairs both judged are in each of the 3 x 3 cells (a, tie, b)."""
    both = np.flatnonzero((first != ABSENT) & (second != ABSENT))
    cell = 9 * block[both] + 3 * (1 - first[both].astype(np.int64)) + (1 - second[both])
    return np.bincount(cell, minlength=9 * blocks).reshape(blocks, 9).astype(np.float64)


def _two(key: Key, first: Sides, second: Sides, prompt: Integers, seed: int) -> list[Row]:
    """Two raters on the pairs both judged; (pairs,) sides and prompts."""
    both = np.flatnonzero((first != ABSENT) & (second != ABSENT))
    if not both.size:
        return []
    block = bootstrap.blocks_of(prompt[both])
    sums = _cells(first[both], second[both], block, int(block.max()) + 1)
    return _estimates(key, sums, _of_cells, prompt[both], seed)


def _anyone(key: Key, sides: Sides, counts: Array, prompt: Integers, seed: int) -> list[Row]:
    """A rater against each of the people that *counts* (pairs, 3) counts, taken together."""
    both = np.flatnonzero((sides != ABSENT) & (counts.sum(axis=1) > 0))
    if not both.size:
        return []
    columns = [(sides[both] == side)[:, None] * counts[both] for side in (1, 0, -1)]
    sums = bootstrap.prompt_sums(prompt[both], np.concatenate(columns, axis=1))

    def measures(totals: Array) -> Measured:
        # The same pair comes once for each person, so what treats comparisons as items of their own is left out.
        return {name: value for name, value in _of_cells(totals).items() if name in ONE_BY_ONE}

    return _estimates(key, sums, measures, prompt[both], seed)


def _many(key: Key, raters: Mapping[str, Sides], prompt: Integers, seed: int) -> list[Row]:
    """All raters among themselves: the coefficients for many, and Cohen's kappa as the mean over pairs of raters."""
    counts = counts_of(list(raters.values()))
    used = np.flatnonzero(counts.sum(axis=1) > 0) if raters else np.empty(0, dtype=np.int64)
    if not (counts[used].sum(axis=1) > 1).any():
        return []
    counts, prompt = counts[used], prompt[used]
    block = bootstrap.blocks_of(prompt)
    blocks = int(block.max()) + 1
    # Ordered pairs of different raters: n_c * n_d, less each rater with itself.
    ordered = (counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(3)).reshape(-1, 9)
    terms = bootstrap.prompt_sums(prompt, np.column_stack([ordered, kappa.item_sums(counts)]))
    listed = [_cells(raters[one][used], raters[other][used], block, blocks) for one, other in _listed(raters)]

    def measures(sums: Array) -> Measured:
        pairs = sums[..., terms.shape[1] :].reshape(*sums.shape[:-1], len(listed), 3, 3)
        cohen = kappa.of_two(pairs)["cohen_kappa"]
        defined = (~np.isnan(cohen)).sum(axis=-1).astype(np.float64)
        light = bootstrap.ratio(np.nan_to_num(cohen).sum(axis=-1), defined)
        found = {**kappa.of_many(sums[..., 9 : terms.shape[1]]), "cohen_kappa": light}
        accuracy, decided = _accuracy(sums[..., :9].reshape(*sums.shape[:-1], 3, 3))
        several = sums[..., 10]
        return {"accuracy": (accuracy, decided), **{name: (value, several) for name, value in found.items()}}

    return _estimates(key, np.concatenate([terms, *listed], axis=1), measures, prompt, seed)


def _of_cells(sums: Array) -> Measured:
    """Every measure from (..., 9) totals of the cells of two raters."""
    cells = sums.reshape(*sums.shape[:-1], 3, 3)
    n = sums.sum(axis=-1)
    return {"accuracy": _accuracy(cells), **{name: (value, n) for name, value in kappa.of_two(cells).items()}}


def _accuracy(cells: Array) -> tuple[Array, Array]:
    """(how often the first sides with the second where that is no tie, its own ties one half; how many those are)."""
    decided = cells[..., 0].sum(axis=-1) + cells[..., 2].sum(axis=-1)
    right = cells[..., 0, 0] + cells[..., 2, 2] + (cells[..., 1, 0] + cells[..., 1, 2]) / 2
    return bootstrap.ratio(right, decided), decided


def _estimates(key: Key, sums: Array, measures: Callable[[Array], Measured], prompt: Integers, seed: int) -> list[Row]:
    """Rows of the frame from (blocks, d) sums: each measure with its interval."""
    between, one, other, subset = key
    found, drawn = measures(sums.sum(axis=0)), measures(bootstrap.resampled(sums, seed))
    truth = between not in {"judge_judge", "person_person"} or other == ANY
    rows: list[Row] = []
    for measure, (value, n) in found.items():
        if measure == "accuracy" and (not truth or between == "judge_judge"):
            continue  # neither of two judges is the other's truth
        low, high = bootstrap.interval(drawn[measure][0])
        rows.append(
            {
                "between": between,
                "rater_1": one,
                "rater_2": other,
                "subset": subset,
                "measure": measure,
                "value": _or_null(float(value)),
                "low": _or_null(low),
                "high": _or_null(high),
                "n": round(float(n)),
                "prompts": bootstrap.distinct(prompt),
            }
        )
    return rows


def _or_null(value: float) -> float | None:
    return None if np.isnan(value) else value
