"""gate: verdicts and `certify` labels -> certificate.json. Pure but for that file.

Certifies the whole rule (panel, selection, filters, margin threshold): with confidence 1 - delta, the kept pairs agree
with people at least `target_agreement` of the time. The unit is what the audit drew: prompts, whose outcome is the mean
over their kept and audited pairs of the people's share for the chosen side (a tie one half), or single pairs.

Thresholds are tested in a fixed order (pipeline/statistics/thresholds.py); what other targets and more labels would
leave stands beside (pipeline/statistics/outlook.py).
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from pipeline.config import AuditUnit, Config
from pipeline.frames import people, units
from pipeline.ids import digest
from pipeline.labels.splits import split_labels
from pipeline.stages import select
from pipeline.stages.base import Result, Shard, Stage
from pipeline.statistics import bounds
from pipeline.statistics.outlook import outlook
from pipeline.statistics.thresholds import Curve, Step, passed
from pipeline.workbench import Workbench


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
        return {**_refused(refusal, None, None), "curve": []}
    curve = Curve.of(table, told, unit)
    tested = curve.tested(target, delta)
    loosest = passed(tested, target, delta)
    found = _refusing(curve, tested, target, delta, unit) if loosest is None else _passing(loosest, target, delta)
    return {**found, "curve": [{**_row(step, target, delta), "tested": step in tested} for step in curve.steps]}


def _refusal(table: pl.DataFrame, told: pl.DataFrame) -> str | None:
    if told.is_empty():
        return "there are no audit labels outside the fit split; the kept pairs are not validated by people"
    if table.is_empty():
        return "the selection keeps no pair"
    return None


def _passing(step: Step, target: float, delta: float) -> dict[str, Any]:
    reason = f"agreement of at least {target:.0%} is certified at confidence {1 - delta:.0%}"
    return {"certified": True, "reason": reason, "labels_needed": 0, **_row(step, target, delta)}


def _refusing(curve: Curve, tested: list[Step], target: float, delta: float, unit: AuditUnit) -> dict[str, Any]:
    needed = curve.needed(tested, target, delta)
    if not tested:
        fewest = bounds.fewest(target, delta)
        text = f"{curve.units} audited {unit}s among the kept; {fewest} are needed even if people agreed on every one"
        return _refused(text, None, needed)
    first = tested[0]
    ask = (
        f"that cannot show {target:.0%}; lower the target"
        if needed is None
        else f"about {first.units + needed} would certify {target:.0%}"
    )
    seen = f"people agree on {first.agreement:.1%} of {first.units} audited {unit}s at the first threshold"
    return _refused(f"{seen}; {ask}", _row(first, target, delta), needed)


def _row(step: Step, target: float, delta: float) -> dict[str, Any]:
    return {
        "threshold": step.threshold,
        "coverage": step.coverage,
        "expected": step.expected,
        "power": step.outcomes.power(step.expected, target, delta),
        "n_units": step.units,
        "sum": float(step.outcomes.value.sum()),
        "agreement": step.agreement,
        "strict_agreement": step.strict_agreement,
        "lower_bound": step.outcomes.lower_bound(delta),
        "p_value": step.outcomes.p_value(target),
        "bound": step.outcomes.kind,
    }


def _refused(reason: str, found: Mapping[str, Any] | None, needed: int | None) -> dict[str, Any]:
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
        filters=select.filters_of(config.select, bench.base),
    )
    candidates = decided.filter(pl.col("reason").is_null()).with_columns((pl.col(side) > 1 / 2).alias("a_chosen"))
    told = people(audit)
    gate, unit = config.gate, config.labels.audit_unit
    drawn = frames["labels"].filter(pl.col("queue").cast(pl.String) == "audit").select("pair_id")
    audited = units(frames["pairs"].join(drawn, on="pair_id", how="semi"), unit)
    asked = {"target": gate.target_agreement, "delta": gate.delta}
    rule = {"select": select.reads(config), "verdicts": bench.folder.digest("verdicts")}
    certificate = {
        **certify(candidates, told, **asked, unit=unit),
        **outlook(candidates, told, audited, **asked, unit=unit),
        "candidates": candidates.height,
        "units": {"in_all": units(frames["pairs"], unit), "audited": audited},
        "target_agreement": gate.target_agreement,
        "delta": gate.delta,
        "unit": unit,
        "method": "fixed sequence of margin thresholds, from strict to loose; tests in docs/methods.md",
        "simulated": config.labels.simulated is not None,
        "rule": {**rule, "digest": digest(bench.by_content(rule))},
        "audited": _audited(candidates, told),
    }
    return Result({}, artefacts={"certificate.json": certificate})


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
    version=2,
)
