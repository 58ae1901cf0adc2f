"""A simulated panel with known truth: is what is said of judges, probabilities and certificates true? Writes nothing.

    python benchmarks/synthetic_panel.py [--repetitions 1000] [--json]

Everything is simulated. 2,500 prompts with 5 answers each, 4 pairs a prompt, 6 judges in both orders. An answer has a
quality, a style and a length. People prefer a with probability logistic(h (1.6 quality + .5 length)), where h is the
prompt's own sharpness (so that the pairs of a prompt agree with people together or not). Judges see quality with noise
of their own, share a bias for style that people do not have, and lean towards the slot they see first. 3,000 labels,
one person each, are drawn as 750 whole prompts or as 3,000 single pairs; .4 of the labelled prompts fit, the others
certify.

Per repetition everything is drawn again. ``judge_error`` is the largest difference between a judge's accuracy on the
3,000 labels and its true accuracy (the mean, over all pairs, of the probability that a person sides with it), in the
first repetition; ``ece`` the expected calibration error of p_a on pairs of prompts without labels (10 bins), mean of
the first ten repetitions; ``false`` the share of repetitions whose certificate is untrue of the true probabilities of
all kept pairs (per target: where the panel is far from a target no certificate can be false).
"""

import argparse
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from pipeline.aggregation.calibrated import CalibratedAggregation
from pipeline.aggregation.votes import Votes, swap_consistency
from pipeline.arrays import Array, Integers
from pipeline.config import AuditUnit
from pipeline.stages import gate

PROMPTS, ANSWERS, LABELS, DELTA = 2500, 5, 3000, 0.1
PAIRS_OF_A_PROMPT = np.array([[0, 1], [1, 2], [2, 3], [0, 4]])
JUDGES = ("a1", "a2", "b1", "b2", "c1", "c2")
SKILL = np.array([2.0, 1.5, 1.2, 1.0, 0.8, 0.6])
SHARED = np.array([0.3, 0.5, 0.8, 0.8, 1.0, 1.0])
POSITION = np.array([0.0, 0.2, 0.6, -0.4, 1.2, 0.8])
TARGETS = (0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
FIT_FRACTION = 0.4


@dataclass(frozen=True)
class World:
    """One draw of everything."""

    votes: Votes
    chance: Array
    """(pairs,) probability that a person prefers a."""
    label: Array
    """(pairs,) what one person says of each pair: 1 for a, 0 for b."""


def world(random: np.random.Generator) -> World:
    """One draw of everything."""
    quality, style, length = random.normal(size=(3, PROMPTS, ANSWERS))
    first, second = PAIRS_OF_A_PROMPT.T
    count = PROMPTS * len(PAIRS_OF_A_PROMPT)

    def difference(trait: Array) -> Array:
        return (trait[:, first] - trait[:, second]).ravel()

    sharp = np.repeat(random.gamma(2.0, 0.5, PROMPTS), len(PAIRS_OF_A_PROMPT))
    chance = 1 / (1 + np.exp(-sharp * (1.6 * difference(quality) + 0.5 * difference(length))))
    seen = difference(quality)[:, None] * SKILL + difference(style)[:, None] * SHARED
    own = random.normal(size=(count, len(JUDGES))) * 1.2
    orders = [np.sign(seen + own + side * POSITION + random.normal(size=own.shape) * 0.5) for side in (1, -1)]
    answers = (np.arange(PROMPTS)[:, None, None] * ANSWERS + PAIRS_OF_A_PROMPT).reshape(-1, 2)
    votes = Votes(
        pair_ids=pl.Series("pair_id", [f"{at:06d}" for at in range(count)]),
        prompt_ids=pl.Series(np.repeat(np.arange(PROMPTS), len(PAIRS_OF_A_PROMPT))).cast(pl.String),
        answers=answers,
        judges=list(JUDGES),
        ab=orders[0],
        ba=orders[1],
        length=difference(length),
        calls=np.full(count, 2 * len(JUDGES)),
        consistency=swap_consistency(JUDGES, *orders),
    )
    return World(votes, chance, (random.random(count) < chance).astype(float))


@dataclass(frozen=True)
class Audit:
    """Rows whose labels are known, by what they are for."""

    fit: Integers
    certify: Integers


def audit(made: World, unit: AuditUnit, random: np.random.Generator) -> Audit:
    """3,000 labels, drawn as whole prompts or as single pairs, split by prompt."""
    prompts = made.votes.prompts
    if unit == "prompt":
        drawn = random.permutation(PROMPTS)[: LABELS // len(PAIRS_OF_A_PROMPT)]
        labelled = np.flatnonzero(np.isin(prompts, drawn))
    else:
        labelled = np.sort(random.permutation(len(prompts))[:LABELS])
    fits = random.random(PROMPTS) < FIT_FRACTION
    return Audit(labelled[fits[prompts[labelled]]], labelled[~fits[prompts[labelled]]])


def certificates(made: World, p_a: Array, known: Audit, unit: AuditUnit) -> dict[float, dict[str, Any]]:
    """Per target: whether it was certified, whether that is untrue, and the share of pairs kept."""
    frame = pl.DataFrame(
        {
            "pair_id": made.votes.pair_ids,
            "prompt_id": made.votes.prompts.astype(str),
            "margin": np.abs(2 * p_a - 1),
            "a_chosen": p_a > 1 / 2,
        }
    )
    # The rule is certified for the pairs of prompts that did not fit.
    fitted = np.isin(made.votes.prompts, made.votes.prompts[known.fit])
    pool = frame.filter(pl.Series(~fitted))
    told = pl.DataFrame({"pair_id": made.votes.pair_ids.gather(known.certify), "human": made.label[known.certify]})
    told = told.with_columns(for_a="human", for_b=1 - pl.col("human"), annotators=1, inclusion_prob=1.0)
    agree = np.where(p_a > 1 / 2, made.chance, 1 - made.chance)[~fitted]
    prompts = made.votes.prompts[~fitted]
    found: dict[float, dict[str, Any]] = {}
    for target in TARGETS:
        certificate = gate.certify(pool, told, target=target, delta=DELTA, unit=unit)
        kept = pool["margin"].to_numpy() >= (certificate["threshold"] if certificate["certified"] else np.inf)
        truth = _mean(agree[kept], prompts[kept], unit) if kept.any() else 1.0
        found[target] = {"certified": certificate["certified"], "false": truth < target, "kept": float(kept.mean())}
    return found


def _mean(agree: Array, prompts: Integers, unit: AuditUnit) -> float:
    if unit == "pair":
        return float(agree.mean())
    _, at = np.unique(prompts, return_inverse=True)
    return float((np.bincount(at, agree) / np.bincount(at)).mean())


def calibration_error(p: Array, label: Array, bins: int = 10) -> float:
    """Expected calibration error: mean over equally wide bins of abs(mean label - mean p), weighed by their size."""
    at = np.minimum((p * bins).astype(int), bins - 1)
    size, said, meant = (np.bincount(at, weights, bins) for weights in (np.ones(len(p)), label, p))
    return float(np.abs(said - meant).sum() / size.sum())


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    args = parser.parse_args()
    units: tuple[AuditUnit, ...] = ("prompt", "pair")
    outcomes: dict[str, list[dict[float, dict[str, Any]]]] = {unit: [] for unit in units}
    errors: list[float] = []
    calibration: list[float] = []
    for repetition in range(args.repetitions):
        random = np.random.default_rng([17, repetition])
        made = world(random)
        for unit in units:
            known = audit(made, unit, random)
            labelled = {made.votes.pair_ids[int(row)]: float(made.label[row]) for row in known.fit}
            p_a = CalibratedAggregation().fit_predict(made.votes, labelled).p_a
            outcomes[unit].append(certificates(made, p_a, known, unit))
            if repetition == 0:
                rows = np.concatenate([known.fit, known.certify])
                side = (1 + np.sign(made.votes.votes)) / 2
                right = side * made.chance[:, None] + (1 - side) * (1 - made.chance[:, None])
                seen = side * made.label[:, None] + (1 - side) * (1 - made.label[:, None])
                errors += [float(each) for each in np.abs(seen[rows].mean(axis=0) - right.mean(axis=0))]
            if repetition < 10 and unit == "prompt":
                held = ~np.isin(made.votes.prompts, made.votes.prompts[np.concatenate([known.fit, known.certify])])
                calibration.append(calibration_error(p_a[held], made.label[held]))
    figures: dict[str, Any] = {
        "repetitions": args.repetitions,
        "judge_error": max(errors),
        "ece": float(np.mean(calibration)),
        "false": {
            unit: {str(target): float(np.mean([row[target]["false"] for row in rows])) for target in TARGETS}
            for unit, rows in outcomes.items()
        },
        "certified": {
            unit: {str(target): float(np.mean([row[target]["certified"] for row in rows])) for target in TARGETS}
            for unit, rows in outcomes.items()
        },
        "kept": {
            unit: {str(target): float(np.mean([row[target]["kept"] for row in rows])) for target in TARGETS}
            for unit, rows in outcomes.items()
        },
    }
    print(f"judge accuracy: largest error {figures['judge_error']:.4f}; ECE {figures['ece']:.4f}")
    for unit in units:
        for target in TARGETS:
            row = [figures[name][unit][str(target)] for name in ("certified", "false", "kept")]
            print(f"{unit:6s} {target:.2f}  certified {row[0]:.3f}  false {row[1]:.3f}  kept {row[2]:.3f}")
    if args.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
