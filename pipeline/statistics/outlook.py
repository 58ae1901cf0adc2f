"""What other targets, and more labels, would leave: plans beside the certificate, which certify nothing. Pure.

A target picked after looking at what it leaves is not certified: the guarantee is that of the target named before.
"""

from typing import Any

import polars as pl

from pipeline.config import AuditUnit
from pipeline.statistics import bounds
from pipeline.statistics.thresholds import Curve, Step, passed

TARGETS = tuple(percent / 100 for percent in range(51, 100))
MORE = (50, 100, 200, 400, 800)
PRIOR_UNITS = 10
"""Units' worth of what the panel expects, beside the agreement seen."""


def outlook(
    table: pl.DataFrame, told: pl.DataFrame, drawn: int, *, target: float, delta: float, unit: AuditUnit
) -> dict[str, Any]:
    """``targets`` and ``more_labels`` of certificate.json; lists of rows, empty where nothing was audited.

    Args:
        table: as in ``pipeline.stages.gate.certify``.
        told: likewise.
        drawn: units that the audit drew in all, those that fit and those of which nothing is kept included.
        target: the config's.
        delta: allowed probability of a false certificate.
        unit: what the audit drew at random.
    """
    if table.is_empty() or told.is_empty():
        return {"targets": [], "more_labels": []}
    curve = Curve.of(table, told, unit)
    return {
        "targets": [at_target(curve, other, delta) for other in TARGETS],
        "more_labels": [foretold(curve, drawn, more, target, delta) for more in MORE],
    }


def at_target(curve: Curve, target: float, delta: float) -> dict[str, Any]:
    """What *target* would leave, decided by the gate's own sequence of tests.

    Returns:
        ``target``, ``certified``, ``threshold`` and ``coverage`` (None where nothing is certified), ``n_units``,
        ``agreement`` and ``lower_bound`` there or at the first threshold tested, ``labels_needed`` (units more; None
        where no number would do).
    """
    tested = curve.tested(target, delta)
    loosest = passed(tested, target, delta)
    shown = loosest or (tested[0] if tested else None)
    return {
        "target": target,
        "certified": loosest is not None,
        "threshold": None if loosest is None else loosest.threshold,
        "coverage": None if loosest is None else loosest.coverage,
        "n_units": 0 if shown is None else shown.units,
        "agreement": None if shown is None else shown.agreement,
        "lower_bound": None if shown is None else shown.outcomes.lower_bound(delta),
        "labels_needed": 0 if loosest is not None else curve.needed(tested, target, delta),
    }


def foretold(curve: Curve, drawn: int, more: int, target: float, delta: float) -> dict[str, Any]:
    """What *more* audited units would leave certified, very likely.

    Of the units drawn so far, the share that is among the kept at a threshold is expected of the next too, and people
    to agree as they did, PRIOR_UNITS units' worth of what the panel expects added. The sequence starts where it would
    then, and goes on while a test passes with probability .8, as ``labels_needed`` asks too.

    Returns:
        ``labels`` (units more), ``chance`` that anything is certified, ``coverage`` and ``threshold`` of the loosest
        step that is so likely to pass, None where not even the first is.
    """
    reached: Step | None = None
    chances: list[float] = []
    for step, units in _sequence(curve, 1 + more / drawn, target, delta):
        seen = float(step.outcomes.value.sum()) + PRIOR_UNITS * step.expected
        chances.append(_power(step, units, seen / (step.units + PRIOR_UNITS), target, delta))
        if chances[-1] < bounds.POWER:
            break
        reached = step
    return {
        "labels": more,
        "chance": chances[0] if chances else 0.0,
        "coverage": None if reached is None else reached.coverage,
        "threshold": None if reached is None else reached.threshold,
    }


def _sequence(curve: Curve, growth: float, target: float, delta: float) -> list[tuple[Step, int]]:
    """The steps in the order of testing, each with its units, when every step has *growth* times as many."""
    grown = [(step, round(step.units * growth)) for step in curve.steps]
    enough = [(step, units) for step, units in grown if units >= bounds.fewest(target, delta)]
    powers = [_power(step, units, step.expected, target, delta) for step, units in enough]
    return enough[max(range(len(enough)), key=lambda at: (powers[at], -at), default=0) :]


def _power(step: Step, units: int, agreement: float, target: float, delta: float) -> float:
    return bounds.power(units, agreement, target, delta / bounds.PRICE[step.outcomes.kind])
