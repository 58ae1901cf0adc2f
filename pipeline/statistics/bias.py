"""What moves a judge besides the answers' quality: place, length, its own model; ties and failures. Pure.

Length and self-preference are measured against people's majority on the same pairs, for the longer answer, or a
judge's own, may well be the better one. A win counts 1 and a tie one half, in each judgment and in the majority.
Every interval resamples whole prompts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from pipeline import ids, schemas
from pipeline.arrays import Array, Integers, Mask
from pipeline.frames import LONGEST_RATIO
from pipeline.statistics import intervals as bootstrap
from pipeline.statistics.raters import ABSENT, JudgeRater, Raters, sides_of

Row = dict[str, object]


def table(raters: Raters, models: Mapping[str, str], seed: int) -> pl.DataFrame:
    """The frame ``bias``.

    Args:
        raters: who said what (``pipeline.statistics.raters.raters_of``).
        models: judge -> its model, as samples name theirs; judges without one show no self-preference.
        seed: of the resampling.
    """
    seed = ids.seed_from(seed, "bias")
    rows: list[Row] = []
    for name, judge in raters.judges.items():
        seen = _Seen.of(raters, judge, models.get(name))
        for subset, inside in raters.subsets.items():
            for measure, found in _measures(seen, inside).items():
                rows += found.rows({"judge": name, "subset": subset, "measure": measure}, raters.prompt, seed)
    return schemas.frame("bias", rows)


@dataclass(frozen=True)
class _Seen:
    """A judge's opinions beside what they are measured against; (pairs,) each."""

    judge: JudgeRater
    side: Array
    """Mean over its judgments of 1 a, 0 tie, -1 b; NaN where there is none."""
    vote: Array
    """2 * mean P(a) - 1."""
    people: Array
    """People's majority: 1 a, 0 tie, -1 b; NaN where there is no label."""
    people_vote: Array
    """2 * people's mean - 1."""
    people_tie: Array
    """Share of the people who said tie; NaN where there is no label."""
    length: Array
    """log length ratio of a to b, cut at LONGEST_RATIO."""
    own: Array
    """1 where a alone is by the judge's model, -1 where b alone is, 0 elsewhere."""

    @classmethod
    def of(cls, raters: Raters, judge: JudgeRater, model: str | None) -> "_Seen":
        ab, ba = _sign(judge.ab), _sign(judge.ba)
        answered = (~np.isnan(ab)).astype(np.float64) + ~np.isnan(ba)
        tie = np.full(len(ab), np.nan)
        counts = raters.counts
        tie[raters.labelled] = counts[:, 1] / counts.sum(axis=1)
        a, b = ((column == model).to_numpy().astype(np.float64) for column in (raters.model_a, raters.model_b))
        return cls(
            judge=judge,
            side=bootstrap.ratio(np.nan_to_num(ab) + np.nan_to_num(ba), answered),
            vote=2 * judge.mean - 1,
            people=_sign(raters.human),
            people_vote=2 * raters.human - 1,
            people_tie=tie,
            length=np.clip(raters.length, -LONGEST_RATIO, LONGEST_RATIO),
            own=np.zeros(len(ab)) if model is None else a - b,
        )


@dataclass(frozen=True)
class _Found:
    """A statistic: terms of some pairs, and what their sums make."""

    pairs: Integers
    """Which pairs, by row."""
    columns: Array
    """(pairs, d) terms."""
    value: Callable[[Array], Array]
    """(..., d) sums -> the statistic."""
    reference: float | None
    n: int

    def rows(self, key: Row, prompt: Integers, seed: int) -> list[Row]:
        if not self.pairs.size:
            return []
        where = prompt[self.pairs]
        sums = bootstrap.prompt_sums(where, self.columns)
        value = float(self.value(sums.sum(axis=0)))
        if np.isnan(value):
            return []
        low, high = bootstrap.interval(self.value(bootstrap.resampled(sums, seed)))
        ends = {"low": None, "high": None} if np.isnan(low) else {"low": low, "high": high}
        made = {"value": value, **ends, "reference": self.reference, "n": self.n, "prompts": bootstrap.distinct(where)}
        return [{**key, **made}]


def _share(where: Mask, over: Array, under: Array | None = None, reference: float | None = None) -> _Found:
    """Sum of *over* / sum of *under* (of 1) on the pairs *where*; (pairs,) each."""
    pairs = np.flatnonzero(where)
    divisor = np.ones(len(pairs)) if under is None else under[pairs]
    return _Found(
        pairs,
        np.column_stack([over[pairs], divisor]),
        lambda sums: bootstrap.ratio(sums[..., 0], sums[..., 1]),
        reference,
        round(float(divisor.sum())),
    )


def _mean(values: Array) -> float | None:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else None


def _measures(seen: _Seen, inside: Mask) -> dict[str, _Found]:
    judge = seen.judge
    told = inside & ~np.isnan(seen.people)
    return {
        **_place(judge, inside),
        "tie_rate": _share(
            inside,
            np.equal(_sign(judge.ab), 0) + np.equal(_sign(judge.ba), 0.0),
            (~np.isnan(judge.ab)).astype(np.float64) + ~np.isnan(judge.ba),
            _mean(seen.people_tie[told]),
        ),
        "failure_rate": _share(inside, judge.failed.astype(np.float64), judge.asked.astype(np.float64)),
        **_length(seen, inside),
        **_own(seen, inside),
    }


def _place(judge: JudgeRater, inside: Mask) -> dict[str, _Found]:
    """How often the answer shown first won, ties one half, and how often the other order changes nothing."""
    both = inside & ~np.isnan(judge.ab) & ~np.isnan(judge.ba)
    ab, ba = _sign(judge.ab), _sign(judge.ba)
    return {
        "first_slot_rate": _share(both, (1 + ab) / 2 + (1 - ba) / 2, np.full(len(both), 2.0), 1 / 2),
        "swap_consistency": _share(both, (ab == ba).astype(np.float64)),
    }


def _length(seen: _Seen, inside: Mask) -> dict[str, _Found]:
    """How often the longer answer wins, ties one half; how much more often than with people; slopes on length."""
    longer = np.sign(seen.length)
    judged = inside & ~np.isnan(seen.side)
    differ, told = judged & (longer != 0), ~np.isnan(seen.people)
    judges, people = (1 + seen.side * longer) / 2, (1 + seen.people * longer) / 2
    x, h, v = seen.length, seen.people_vote, seen.vote
    fitted, all_pairs = np.flatnonzero(judged & told), np.flatnonzero(judged)
    terms = np.column_stack([x * x, x * h, h * h, x * v, h * v])[fitted]
    return {
        "longer_rate": _share(differ, judges, None, _mean(people[inside & told & (longer != 0)])),
        "length_bias": _share(differ & told, judges - people, None, 0.0),
        "length_slope": _Found(
            all_pairs,
            np.column_stack([x * v, x * x])[all_pairs],
            lambda sums: bootstrap.ratio(sums[..., 0], sums[..., 1]),
            _mean(bootstrap.ratio((x * h)[fitted].sum(), (x * x)[fitted].sum())) if fitted.size else None,
            all_pairs.size,
        ),
        "length_slope_given_people": _Found(fitted, terms, _partial_slope, 0.0, fitted.size),
    }


def _partial_slope(sums: Array) -> Array:
    """Least squares of the vote on length and people's preference, no intercept: the coefficient of length."""
    xx, xh, hh, xv, hv = (sums[..., at] for at in range(5))
    return bootstrap.ratio(xv * hh - hv * xh, xx * hh - xh * xh)


def _own(seen: _Seen, inside: Mask) -> dict[str, _Found]:
    """How often the judge's own model wins, against people on the same pairs."""
    both = inside & (seen.own != 0) & ~np.isnan(seen.side) & ~np.isnan(seen.people)
    if not both.any():
        return {}
    judges, people = (1 + seen.side * seen.own) / 2, (1 + seen.people * seen.own) / 2
    return {
        "own_win_rate": _share(both, judges, None, _mean(people[both])),
        "self_preference": _share(both, judges - people, None, 0.0),
    }


def _sign(preference: Array) -> Array:
    """1, 0, -1 as a wins, neither, b; NaN for NaN."""
    sides = sides_of(preference)
    return np.where(sides == ABSENT, np.nan, sides.astype(np.float64))
