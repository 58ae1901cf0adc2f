"""gate: verdicts and `certify` labels -> certificate.json. Pure but for that file.

Certifies the whole rule (panel, selection, filters, margin threshold): with confidence 1 - delta, the kept pairs agree
with people at least `target_agreement` of the time. The prompt is the unit: each certify prompt gives one outcome in
[0, 1], the mean over its kept and audited pairs of the people's share for the chosen answer's side (a tie one half).

Outcomes that are not 0 or 1 are rounded by a coin seeded from the prompt; this keeps the mean, so that the outcomes
are independent Bernoulli draws and the exact binomial test is valid. Thresholds are tested in a fixed order, from the
strictest that has enough labels to looser ones, stopping at the first failure (fixed-sequence testing, Maurer et al.
1995; Angelopoulos et al. 2021, "Learn then Test"): the order depends on margins alone, never on labels' values.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import scipy.stats

from pipeline import ids
from pipeline.config import Config
from pipeline.frames import people
from pipeline.runner import Result, Shard, Stage, digest
from pipeline.splits import split_labels
from pipeline.stages import select
from pipeline.workbench import Workbench

STATISTICS: Any = scipy.stats
COVERAGES = tuple(step / 20 for step in range(1, 21))
POWER = 0.8
MOST_LABELS, BLOCK = 20_000, 500
START_SHARE = 0.4


def p_value(successes: int, n: int, target: float) -> float:
    """P(at least so many successes in n) when the agreement is exactly *target*: the exact one-sided test."""
    return float(STATISTICS.binom.sf(successes - 1, n, target))


def lower_bound(successes: int, n: int, delta: float) -> float:
    """Exact one-sided lower confidence bound (Clopper & Pearson 1934) at confidence 1 - delta."""
    return 0.0 if successes == 0 else float(STATISTICS.beta.ppf(delta, successes, n - successes + 1))


def labels_needed(agreement: float, target: float, delta: float) -> int | None:
    """Audited prompts among the kept with which the test passes with probability .8 if the truth is *agreement*.

    None when the agreement does not exceed the target, or more than 20,000 would be needed.
    """
    if agreement <= target:
        return None
    # The power is a saw in n, so n is looked for one by one, in blocks, and not by halving.
    for start in range(1, MOST_LABELS + 1, BLOCK):
        n = np.arange(start, start + BLOCK)
        # The test passes with more successes than this.
        critical = STATISTICS.binom.isf(delta, n, target)
        enough = np.flatnonzero(STATISTICS.binom.sf(critical, n, agreement) >= POWER)
        if enough.size:
            return int(n[enough[0]])
    return None


def outcomes(selected: pl.DataFrame, told: pl.DataFrame, seed: int) -> pl.DataFrame:
    """One row per audited prompt: ``prompt_id``, ``outcome``, ``strict`` (a tie counts nothing), ``hit`` (0 or 1).

    Args:
        selected: kept pairs with ``pair_id``, ``prompt_id`` and ``a_chosen``.
        told: ``pipeline.frames.people`` of the certify labels.
        seed: of the coins.
    """
    share = pl.when("a_chosen").then("human").otherwise(1 - pl.col("human"))
    strict = pl.when("a_chosen").then("for_a").otherwise("for_b")
    per_prompt = (
        selected.join(told, on="pair_id")
        .group_by("prompt_id")
        .agg(share.mean().alias("outcome"), strict.mean().alias("strict"))
        .sort("prompt_id")
    )
    coins = [ids.uniform_from(seed, "gate-coin", key) for key in per_prompt["prompt_id"]]
    return per_prompt.with_columns((pl.Series(coins, dtype=pl.Float64) < pl.col("outcome")).cast(pl.Int64).alias("hit"))


def certify(table: pl.DataFrame, told: pl.DataFrame, *, target: float, delta: float, seed: int) -> dict[str, Any]:
    """The certificate's findings for a rule.

    Args:
        table: pairs the rule keeps without a margin threshold: ``pair_id``, ``prompt_id``, ``margin``, ``a_chosen``.
        told: ``pipeline.frames.people`` of the certify labels.
        target: agreement wanted.
        delta: allowed probability of a false certificate.
        seed: the run's seed.
    """
    refusal = _refusal(table, told)
    if refusal:
        return _refused(refusal, None, None)
    fewest = math.ceil(math.log(delta) / math.log(target))
    start = max(fewest, _starting_labels(outcomes(table, told, seed).height, target, delta))
    best: dict[str, Any] | None = None
    first: dict[str, Any] | None = None
    for threshold in _thresholds(table):
        kept = table.filter(pl.col("margin") >= threshold)
        found = outcomes(kept, told, seed)
        if found.height < start:
            continue
        tested = _tested(found, kept.height / table.height, threshold, target, delta)
        first = first or tested
        if tested["p_value"] > delta:
            break
        best = tested
    if best is not None:
        reason = f"agreement of at least {target:.0%} is certified at confidence {1 - delta:.0%}"
        return {"certified": True, "reason": reason, "labels_needed": 0, **best}
    if first is None:
        n = outcomes(table, told, seed).height
        text = f"{n} audited prompts among the kept; {fewest} are needed even if people agreed on every one"
        return _refused(text, None, fewest - n)
    needed = labels_needed(first["agreement"], target, delta)
    text = (
        f"people agree on {first['agreement']:.1%} of {first['n_prompts']} audited prompts at the first threshold; "
        + (
            f"about {needed} would certify {target:.0%}"
            if needed
            else f"that cannot show {target:.0%}; lower the target"
        )
    )
    return _refused(text, first, None if needed is None else max(needed - first["n_prompts"], 1))


def _starting_labels(available: int, target: float, delta: float) -> int:
    """Audited prompts with which the sequence starts: enough to pass if the truth lies midway to 1, or 40 % of them.

    Counts labels and never looks at their values, so the order of the tests stays fixed before them.
    """
    enough = labels_needed((1 + target) / 2, target, delta) or MOST_LABELS
    return min(enough, math.ceil(START_SHARE * available))


def _refusal(table: pl.DataFrame, told: pl.DataFrame) -> str | None:
    if told.is_empty():
        return "there are no audit labels outside the fit split; the kept pairs are not validated by people"
    if table.is_empty():
        return "the selection keeps no pair"
    if told["inclusion_prob"].n_unique() > 1:
        return "audit labels have different inclusion probabilities; this bound needs a uniform sample"
    return None


def _thresholds(table: pl.DataFrame) -> list[float]:
    """Margins that keep about 5 %, 10 %, ... 100 % of the pairs, strictest first."""
    margins = np.sort(table["margin"].to_numpy())[::-1]
    cut = [float(margins[max(math.ceil(share * len(margins)), 1) - 1]) for share in COVERAGES]
    return sorted(set(cut), reverse=True)


def _tested(found: pl.DataFrame, coverage: float, threshold: float, target: float, delta: float) -> dict[str, Any]:
    n, hits = found.height, int(found["hit"].sum())
    return {
        "threshold": threshold,
        "coverage": coverage,
        "n_prompts": n,
        "successes": hits,
        "agreement": float(found["outcome"].mean()),  # type: ignore[arg-type]
        "strict_agreement": float(found["strict"].mean()),  # type: ignore[arg-type]
        "lower_bound": lower_bound(hits, n, delta),
        "p_value": p_value(hits, n, target),
    }


def _refused(reason: str, found: Mapping[str, Any] | None, needed: int | None) -> dict[str, Any]:
    keys = ("agreement", "strict_agreement", "lower_bound", "successes", "p_value")
    seen = {key: None if found is None else found[key] for key in keys}
    n = 0 if found is None else found["n_prompts"]
    return {
        "certified": False,
        "reason": reason,
        "labels_needed": needed,
        "threshold": None,
        "coverage": None,
        "n_prompts": n,
        **seen,
    }


def _run(shard: Shard, config: Config, bench: Workbench) -> Result:
    frames = shard.frames
    _, audit = split_labels(frames["labels"], frames["pairs"], config.seed, config.labels.fit_fraction)
    side = config.aggregate.decide_by
    decided = select.decide(frames["verdicts"], frames["pairs"], frames["samples"], config.select, side, None)
    candidates = decided.filter(pl.col("reason").is_null()).with_columns((pl.col(side) > 1 / 2).alias("a_chosen"))
    gate = config.gate
    found = certify(candidates, people(audit), target=gate.target_agreement, delta=gate.delta, seed=config.seed)
    rule = {"select": select.reads(config), "verdicts": bench.folder.digest("verdicts")}
    certificate = {
        **found,
        "target_agreement": gate.target_agreement,
        "delta": gate.delta,
        "unit": "prompt",
        "method": "exact binomial test, fixed sequence of margin thresholds, ties one half by a seeded coin",
        "simulated": config.labels.simulated is not None,
        "rule": {**rule, "digest": digest(rule)},
    }
    bench.folder.write_json("certificate.json", certificate)
    return Result({})


STAGE = Stage(
    name="gate",
    inputs=("verdicts", "pairs", "samples", "labels"),
    outputs=(),
    artefacts_out=("certificate.json",),
    run=_run,
    reads=lambda config: [
        config.gate.model_dump(mode="json", exclude={"required"}),
        config.labels.model_dump(mode="json", include={"fit_fraction", "simulated"}),
        select.reads(config),
        config.seed,
    ],
)
