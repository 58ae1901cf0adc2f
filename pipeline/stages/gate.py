"""gate: verdicts and `certify` labels -> certificate.json. Pure but for that file.

Certifies the whole rule (panel, selection, filters, margin threshold): with confidence 1 - delta, the kept pairs agree
with people at least `target_agreement` of the time. The unit is what the audit drew: prompts, whose outcome is the mean
over their kept and audited pairs of the people's share for the chosen side (a tie one half), or single pairs.

Thresholds are tested in a fixed order, from strict to loose, stopping at the first failure (fixed-sequence testing,
Maurer et al. 1995; Angelopoulos et al. 2021, "Learn then Test"). The sequence starts where the test is most likely to
pass if the panel's own probabilities are right. Order and start depend on margins and on which pairs were audited,
never on what people said of them, so that they are fixed before the test. The tests are pipeline/bounds.py's.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from pipeline import bounds
from pipeline.config import AuditUnit, Config
from pipeline.frames import people
from pipeline.runner import Result, Shard, Stage, digest
from pipeline.splits import split_labels
from pipeline.stages import select
from pipeline.votes import Array, Integers
from pipeline.workbench import Workbench

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
        number = found["prompt_id" if unit == "prompt" else "pair_id"].rank("dense").cast(pl.Int64) - 1
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


def certify(
    table: pl.DataFrame, told: pl.DataFrame, *, target: float, delta: float, unit: AuditUnit = "prompt"
) -> dict[str, Any]:
    """The certificate's findings for a rule.

    Args:
        table: pairs the rule keeps without a margin threshold: ``pair_id``, ``prompt_id``, ``margin`` (abs(2 p - 1)),
            ``a_chosen``.
        told: ``pipeline.frames.people`` of the certify labels.
        target: agreement wanted.
        delta: allowed probability of a false certificate.
        unit: what the audit drew at random.
    """
    refusal = _refusal(table, told)
    if refusal:
        return _refused(refusal, None, None, [])
    audit = Audit.of(table, told, unit)
    audited = len(np.unique(audit.unit))
    fewest = bounds.fewest(target, delta)
    margins = np.sort(table["margin"].to_numpy())[::-1]
    curve = [_tested(audit, threshold, margins, target, delta) for threshold in _thresholds(margins)]
    passed = _sequence([step for step in curve if step["n_units"] >= fewest], delta)
    if passed is not None:
        reason = f"agreement of at least {target:.0%} is certified at confidence {1 - delta:.0%}"
        found = {key: value for key, value in passed.items() if key != "tested"}
        return {"certified": True, "reason": reason, "labels_needed": 0, **found, "curve": curve}
    first = next((step for step in curve if step["tested"]), None)
    if first is None:
        text = f"{audited} audited {unit}s among the kept; {fewest} are needed even if people agreed on every one"
        return _refused(text, None, fewest - audited, curve)
    needed = bounds.needed(first["agreement"], target, delta)
    text = (
        f"people agree on {first['agreement']:.1%} of {first['n_units']} audited {unit}s at the first threshold; "
        + (
            f"about {needed} would certify {target:.0%}"
            if needed
            else f"that cannot show {target:.0%}; lower the target"
        )
    )
    return _refused(text, first, None if needed is None else max(needed - first["n_units"], 1), curve)


def _sequence(curve: list[dict[str, Any]], delta: float) -> dict[str, Any] | None:
    """The loosest threshold that passes in order; marks the steps that were tested."""
    best: dict[str, Any] | None = None
    start = max(range(len(curve)), key=lambda at: (curve[at]["power"], -at), default=0)
    for step in curve[start:]:
        step["tested"] = True
        if step["p_value"] > delta:
            break
        best = step
    return best


def _refusal(table: pl.DataFrame, told: pl.DataFrame) -> str | None:
    if told.is_empty():
        return "there are no audit labels outside the fit split; the kept pairs are not validated by people"
    if table.is_empty():
        return "the selection keeps no pair"
    return None


def _thresholds(margins: Array) -> list[float]:
    """Margins that keep about 5 %, 10 %, ... 100 % of the pairs, strictest first, from all margins in falling order."""
    cut = [float(margins[max(math.ceil(share * len(margins)), 1) - 1]) for share in COVERAGES]
    return sorted(set(cut), reverse=True)


def _tested(audit: Audit, threshold: float, margins: Array, target: float, delta: float) -> dict[str, Any]:
    found = audit.units(threshold)
    n = len(found.value)
    kept = margins[margins >= threshold]
    # margin = abs(2 p - 1), so that this is the mean of max(p, 1 - p): what the panel expects of people.
    expected = float((1 + kept).mean() / 2)
    return {
        "threshold": threshold,
        "coverage": len(kept) / len(margins),
        "expected": expected,
        "power": found.power(expected, target, delta),
        "n_units": n,
        "sum": float(found.value.sum()),
        "agreement": float(np.average(found.value, weights=found.weight)) if n else None,
        "strict_agreement": float(np.average(found.strict, weights=found.weight)) if n else None,
        "lower_bound": found.lower_bound(delta),
        "p_value": found.p_value(target),
        "bound": found.kind,
        "tested": False,
    }


def _refused(
    reason: str, found: Mapping[str, Any] | None, needed: int | None, curve: list[dict[str, Any]]
) -> dict[str, Any]:
    keys = ("agreement", "strict_agreement", "lower_bound", "sum", "p_value", "bound")
    seen = {key: None if found is None else found[key] for key in keys}
    return {
        "certified": False,
        "reason": reason,
        "labels_needed": needed,
        "threshold": None,
        "coverage": None,
        "n_units": 0 if found is None else found["n_units"],
        **seen,
        "curve": curve,
    }


def _run(shard: Shard, config: Config, bench: Workbench) -> Result:
    frames = shard.frames
    _, audit = split_labels(frames["labels"], frames["pairs"], config.seed, config.labels.fit_fraction)
    side = config.aggregate.decide_by
    decided = select.decide(
        frames["verdicts"],
        frames["pairs"],
        bench.folder.scan("samples"),
        config.select,
        side,
        None,
        prompts=bench.folder.scan("prompts"),
        seed=config.seed,
    )
    candidates = decided.filter(pl.col("reason").is_null()).with_columns((pl.col(side) > 1 / 2).alias("a_chosen"))
    told = people(audit)
    gate, unit = config.gate, config.labels.audit_unit
    found = certify(candidates, told, target=gate.target_agreement, delta=gate.delta, unit=unit)
    rule = {"select": select.reads(config), "verdicts": bench.folder.digest("verdicts")}
    certificate = {
        **found,
        "target_agreement": gate.target_agreement,
        "delta": gate.delta,
        "unit": unit,
        "method": "fixed sequence of margin thresholds, from strict to loose; tests in docs/methods.md",
        "simulated": config.labels.simulated is not None,
        "rule": {**rule, "digest": digest(rule)},
        "audited": _audited(candidates, told),
    }
    bench.folder.write_json("certificate.json", certificate)
    return Result({})


def _audited(candidates: pl.DataFrame, told: pl.DataFrame) -> list[dict[str, Any]]:
    """Every audited pair that the rule keeps without a threshold, so that each test can be done again by hand."""
    shown = ("pair_id", "prompt_id", "margin", "a_chosen", "human", "annotators", "inclusion_prob")
    return (
        candidates.join(told, on="pair_id").select(shown).sort("margin", "pair_id", descending=[True, False]).to_dicts()
    )


STAGE = Stage(
    name="gate",
    inputs=("verdicts", "pairs", "samples", "prompts", "labels"),
    outputs=(),
    artefacts_out=("certificate.json",),
    run=_run,
    reads=lambda config: [
        config.gate.model_dump(mode="json", exclude={"required"}),
        config.labels.model_dump(mode="json", include={"fit_fraction", "simulated", "audit_unit"}),
        select.reads(config),
        config.seed,
    ],
)
