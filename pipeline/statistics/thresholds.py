"""A rule's margin thresholds and what people said of the pairs that each keeps, tested in a fixed order. Pure.

Thresholds go from strict to loose and testing stops at the first failure (fixed-sequence testing, Maurer et al. 1995;
Angelopoulos et al. 2021, "Learn then Test"). The sequence starts where the test is most likely to pass if the panel's
own probabilities are right. Order and start depend on margins and on which pairs were audited, never on what people
said of them, so that they are fixed before the test. The tests are pipeline/statistics/bounds.py's.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from pipeline.arrays import Array, Integers
from pipeline.config import AuditUnit
from pipeline.frames import unit_of
from pipeline.statistics import bounds

UNIFORM = 1e-9
COVERAGES = tuple(step / 20 for step in range(1, 21))
FEW_LABELS = 4
"""Labels a unit, on average, up to which drawing one of them loses less than betting on their mean."""


@dataclass(frozen=True)
class Audit:
    """The audited pairs that a rule keeps without a threshold; rows are pairs."""

    unit: Integers
    """(pairs,) number of what the audit drew: the pair's prompt, or the pair."""
    margin: Array
    outcome: Array
    """(pairs,) people's share for the chosen side, a tie one half."""
    strict: Array
    """(pairs,) the same, a tie counting nothing."""
    weight: Array
    """(pairs,) one over the probability with which the pair was drawn."""
    labels: Integers
    """(pairs,) people asked."""

    @classmethod
    def of(cls, selected: pl.DataFrame, told: pl.DataFrame, unit: AuditUnit) -> "Audit":
        """What people said of the kept pairs.

        Args:
            selected: kept pairs with ``pair_id``, ``prompt_id``, ``margin`` and ``a_chosen``.
            told: ``pipeline.frames.people`` of the certify labels.
            unit: what the audit drew at random.
        """
        found = selected.join(told, on="pair_id").sort("prompt_id", "pair_id")
        chosen = found["a_chosen"].to_numpy()
        human = found["human"].to_numpy()
        number = found.select(unit_of(unit).rank("dense").cast(pl.Int64) - 1).to_series()
        return cls(
            unit=number.to_numpy(),
            margin=found["margin"].to_numpy(),
            outcome=np.where(chosen, human, 1 - human),
            strict=np.where(chosen, found["for_a"].to_numpy(), found["for_b"].to_numpy()),
            weight=1 / found["inclusion_prob"].to_numpy(),
            labels=found["annotators"].cast(pl.Int64).to_numpy(),
        )

    def units(self, threshold: float) -> bounds.Outcomes:
        """Means over the units that keep an audited pair at *threshold*."""
        kept = self.margin >= threshold
        _, at = np.unique(self.unit[kept], return_inverse=True)
        pairs = np.bincount(at)
        value, strict, weight = (
            np.bincount(at, column[kept]) / pairs for column in (self.outcome, self.strict, self.weight)
        )
        labels = np.bincount(at, self.labels[kept])
        # How many labels a unit has and how it was drawn are the audit's design; what the labels say plays no part.
        if len(weight) and weight.max() - weight.min() > UNIFORM * weight.max():
            kind: bounds.Kind = "betting"
        elif (labels == 1).all():
            kind = "exact"
        else:
            kind = "drawn" if labels.mean() <= FEW_LABELS else "betting"
        return bounds.Outcomes(value, strict, weight, kind)


@dataclass(frozen=True)
class Step:
    """A margin threshold, what it keeps and what people said of that."""

    threshold: float
    coverage: float
    """Share of the pairs kept without a threshold."""
    expected: float
    """Mean of max(p, 1 - p) over the pairs kept: the agreement that the panel itself expects."""
    outcomes: bounds.Outcomes

    @property
    def units(self) -> int:
        """Audited units among the kept."""
        return len(self.outcomes.value)

    @cached_property
    def agreement(self) -> float | None:
        """Mean outcome, weighted; None without a unit."""
        return float(np.average(self.outcomes.value, weights=self.outcomes.weight)) if self.units else None

    @cached_property
    def strict_agreement(self) -> float | None:
        """The same, a tie counting nothing."""
        return float(np.average(self.outcomes.strict, weights=self.outcomes.weight)) if self.units else None

    def passes(self, target: float, delta: float) -> bool:
        """Whether people's agreement is shown to be at least *target*."""
        return self.outcomes.p_value(target) <= delta


@dataclass(frozen=True)
class Curve:
    """A rule at every threshold, strictest first."""

    steps: tuple[Step, ...]
    units: int
    """Audited units among the pairs kept without a threshold."""

    @classmethod
    def of(cls, table: pl.DataFrame, told: pl.DataFrame, unit: AuditUnit) -> "Curve":
        """The rule that keeps *table*.

        Args:
            table: pairs kept without a threshold: ``pair_id``, ``prompt_id``, ``margin`` (abs(2 p - 1)), ``a_chosen``.
            told: ``pipeline.frames.people`` of the certify labels.
            unit: what the audit drew at random.
        """
        audit = Audit.of(table, told, unit)
        margins = np.sort(table["margin"].to_numpy())[::-1]
        steps: list[Step] = []
        for threshold in _thresholds(margins):
            kept = margins[margins >= threshold]
            # margin = abs(2 p - 1), so (1 + margin) / 2 is max(p, 1 - p).
            expected = float((1 + kept).mean() / 2)
            steps.append(Step(threshold, len(kept) / len(margins), expected, audit.units(threshold)))
        return cls(tuple(steps), len(np.unique(audit.unit)))

    def tested(self, target: float, delta: float) -> list[Step]:
        """The steps tested, in order, up to the first that fails or the last; none where labels are too few."""
        fewest = bounds.fewest(target, delta)
        enough = [step for step in self.steps if step.units >= fewest]
        powers = [step.outcomes.power(step.expected, target, delta) for step in enough]
        start = max(range(len(enough)), key=lambda at: (powers[at], -at), default=0)
        tested: list[Step] = []
        for step in enough[start:]:
            tested.append(step)
            if not step.passes(target, delta):
                break
        return tested

    def needed(self, tested: list[Step], target: float, delta: float) -> int | None:
        """Audited units more among the kept that *target* asks for where *tested* did not pass; None: none does."""
        if not tested:
            return bounds.fewest(target, delta) - self.units
        wanted = bounds.needed(tested[0].agreement or 0.0, target, delta)
        return None if wanted is None else max(wanted - tested[0].units, 1)


def passed(tested: list[Step], target: float, delta: float) -> Step | None:
    """The loosest of the *tested* steps that passed."""
    return next((step for step in reversed(tested) if step.passes(target, delta)), None)


def _thresholds(margins: Array) -> list[float]:
    """Margins that keep about 5 %, 10 %, ... 100 % of the pairs, strictest first, from all margins in falling order."""
    cut = [float(margins[max(math.ceil(share * len(margins)), 1) - 1]) for share in COVERAGES]
    return sorted(set(cut), reverse=True)
