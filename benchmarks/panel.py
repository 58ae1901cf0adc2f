"""What a panel's verdicts are worth on pairs that people judged too. Reads a set's folder; writes nothing.

    python benchmarks/panel.py SET_DIR [--mode M] [--k 100] [--splits 60] [--gate-splits 500] [--json]

SET_DIR holds ``pairs.jsonl`` (pair_id, prompt, response_a, response_b, group), ``human.jsonl`` (pair_id, annotator,
label: a, b, tie) and ``judgments.jsonl`` (pair_id, judge, mode, order, preference: a, b, tie or null). Judgments of one
judge in several modes are members ``judge/mode`` of the panel; ``--mode`` takes one.

Protocol. Prompts (``group``) are shuffled; the first k pairs are labelled and fitted, the pairs of all other prompts
are scored. People's verdict is the majority of their labels, ties dropped; an undecided verdict counts one half. Every
row of the table is scored on the same splits; no judge is dropped (`labels.judge_floor` plays no part):

  majority        mean vote, no labels
  accuracy_k0     weighed by swap consistency, no labels (aggregation/consistency.py)
  ridge_stack     logistic on 3 x mean vote (ridge .05) and each judge's vote (ridge 3): the figure to beat
  accuracy        the calibrated panel without length (aggregation/calibrated.py)
  accuracy_with_length   the same with length learned
  adaptive        the panel stops asking when the full panel's verdict would hardly change (pipeline/adaptive.py);
                  adaptive_calls counts the calls on scored pairs, the k labelled ones having been judged by all
  gate            .4 k labels fit, .6 k are drawn uniformly from the pool (the pairs of all other prompts) and certify
                  at delta .1; coverage is the share of the pool kept (0 when refused), a miss is a certificate whose
                  kept pairs agree with people less than promised on the pool
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.aggregation import adaptive, calibrated
from pipeline.aggregation.base import mean_vote
from pipeline.aggregation.consistency import prior_weights
from pipeline.aggregation.expectation import call_model, matrix, reference
from pipeline.aggregation.votes import Votes, votes_of
from pipeline.arrays import Array, Integers
from pipeline.config import AggregateConfig
from pipeline.stages import gate

TARGETS = (0.8, 0.85, 0.9)
DELTA = 0.1
FIT_FRACTION = 0.4
DIGITS = 9
"""Scores are rounded, so that a tie is a tie whatever the order of summation."""


@dataclass(frozen=True)
class JudgedSet:
    """Votes on pairs with a majority of people, and that majority."""

    votes: Votes
    people: Array
    """(pairs,) 1 for a, 0 for b; NaN where people tie or were not asked."""


def load(folder: Path, mode: str | None) -> JudgedSet:
    """The set in *folder*, all modes or one."""
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    sides = ("a", "b")
    texts = [(row["group"], str(row[f"response_{side}"])) for row in rows for side in sides]
    number = {text: f"{at}" for at, text in enumerate(dict.fromkeys(texts))}
    samples = pl.DataFrame({"sample_id": list(number.values()), "characters": [len(text) for _, text in number]})
    pairs = pl.DataFrame(
        {"pair_id": [row["pair_id"] for row in rows], "prompt_id": [row["group"] for row in rows]}
        | {f"sample_{side}": [number[row["group"], str(row[f"response_{side}"])] for row in rows] for side in sides}
    )
    found = pl.read_ndjson(folder / "judgments.jsonl")
    if mode is not None:
        found = found.filter(pl.col("mode") == mode)
        if found.is_empty():
            raise SystemExit(f"{folder}: no judgments in mode {mode!r}")
    several = found["mode"].n_unique() > 1
    name = pl.concat_str("judge", pl.lit("/"), "mode") if several else pl.col("judge")
    values = {"a": 1.0, "b": 0.0, "tie": 0.5}
    judgments = found.select(
        "pair_id", name.alias("judge"), "order", pl.col("preference").replace_strict(values, default=None)
    )
    votes = votes_of(judgments, pairs, samples)
    human = (
        pl.read_ndjson(folder / "human.jsonl")
        .group_by("pair_id")
        .agg(((pl.col("label") == "a").sum() - (pl.col("label") == "b").cast(pl.Int64).sum()).sign().alias("side"))
    )
    side = dict(human.iter_rows())
    people = np.array([{1: 1.0, -1: 0.0}.get(side.get(key, 0), np.nan) for key in votes.pair_ids])
    return JudgedSet(votes, people)


@dataclass(frozen=True)
class Split:
    """Row numbers: labelled and fitted, and all decided pairs of the other prompts."""

    fit: Integers
    rest: Integers


def splits(data: JudgedSet, k: int, count: int, seed: int) -> Iterator[Split]:
    """*count* random splits by prompt; k labels fit, or all but a fifth of the pairs where there are fewer."""
    decided = np.flatnonzero(~np.isnan(data.people))
    prompts = data.votes.prompts
    for number in range(count):
        draw = np.random.default_rng([seed, number])
        rank = draw.permutation(int(prompts.max()) + 1)
        shuffled = decided[np.lexsort((draw.random(len(decided)), rank[prompts[decided]]))]
        fit = shuffled[: min(k, len(decided) * 4 // 5)]
        rest = shuffled[len(fit) :]
        yield Split(fit, rest[~np.isin(prompts[rest], prompts[fit])])


def accuracy(score: Array, people: Array) -> float:
    """Share of pairs on which the sign of *score* is people's, 0 one half."""
    return float(((1 + np.sign(np.round(score, DIGITS)) * (2 * people - 1)) / 2).mean())


def ridge_stack(votes: Votes, fit: Integers, people: Array) -> Array:
    """The peer: its logit on every pair."""
    own = np.nan_to_num(votes.votes)
    features = np.column_stack([3 * own.mean(axis=1), own])
    ridge = np.array([0.05, *[3.0] * own.shape[1]])
    return features @ calibrated.fit_logistic(features[fit], people[fit], ridge).coefficients


class Panel:
    """A set with what does not depend on the labels worked out once."""

    def __init__(self, data: JudgedSet) -> None:
        self.data = data
        seen = reference(data.votes)
        self.prior = prior_weights(seen)
        self.whole = call_model(seen).completed(data.votes)

    def labelled(self, fit: Integers) -> dict[str, float]:
        """What people said of the rows *fit*."""
        return {self.data.votes.pair_ids[int(row)]: float(self.data.people[row]) for row in fit}

    def logit(self, fit: Integers, *, length: bool) -> Array:
        """(pairs,) the full panel's logit, from the labels of the rows *fit*."""
        found = calibrated.fit(self.whole, self.labelled(fit), self.prior, learn_length=length)
        return found.neutral_logit(self.whole.votes, self.whole.answers) + found.length_logit(self.whole.length)

    def adaptive(self, fit: Integers, tolerance: float, *, length: bool) -> tuple[Array, Integers]:
        """(logit, calls made) of every pair when asking stops early; the rows *fit* are judged by all."""
        votes, labels = self.data.votes, self.labelled(fit)
        seen = matrix(votes)
        start = np.full_like(seen, np.nan)
        start[fit] = seen[fit]
        ab, ba = np.hsplit(start, 2)
        begun = replace(votes, ab=ab, ba=ba)
        policy = adaptive.learn(begun, labels, np.ones(len(votes.judges)), learn_length=length)
        if policy is None:
            raise SystemExit("too few labelled pairs for an adaptive panel")
        made = np.zeros(len(seen), dtype=np.int64)
        made[fit] = len(policy.sequence)
        asked = made.copy()

        def ask(call: int, rows: Integers) -> Array:
            asked[rows] += 1
            return seen[rows, call]

        known = adaptive.judged(begun, policy, made, tolerance, ask)
        fitted = calibrated.CalibratedAggregation(AggregateConfig(learn_length=length)).fit_predict(known, labels)
        return np.log(fitted.p_a / (1 - fitted.p_a)), asked


def agreement_figures(panel: Panel, args: argparse.Namespace) -> dict[str, float]:
    """Means over the splits."""
    data = panel.data
    votes, people = panel.whole, data.people
    plain = {"majority": mean_vote(votes.votes), "accuracy_k0": mean_vote(votes.votes, prior_weights(votes))}
    rows: list[dict[str, float]] = []
    for split in splits(data, args.k, args.splits, args.seed):
        told = people[split.rest]
        row = {name: accuracy(score[split.rest], told) for name, score in plain.items()}
        row["ridge_stack"] = accuracy(ridge_stack(data.votes, split.fit, people)[split.rest], told)
        for name, length, tolerance in (("", False, args.tolerance), ("_with_length", True, args.length_tolerance)):
            row[f"accuracy{name}"] = accuracy(panel.logit(split.fit, length=length)[split.rest], told)
            logit, calls = panel.adaptive(split.fit, tolerance, length=length)
            row[f"adaptive_accuracy{name}"] = accuracy(logit[split.rest], told)
            row[f"adaptive_calls{name}"] = float(calls[split.rest].mean())
        rows.append(row)
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def gate_figures(panel: Panel, args: argparse.Namespace, *, length: bool) -> dict[str, dict[str, float]]:
    """Per target: share of splits with a false certificate, and mean coverage."""
    data = panel.data
    found: dict[float, list[tuple[bool, float]]] = {target: [] for target in TARGETS}
    fitting = round(FIT_FRACTION * args.k)
    for number, split in enumerate(splits(data, fitting, args.gate_splits, args.seed)):
        logit = panel.logit(split.fit, length=length)
        pool = split.rest
        draw = np.random.default_rng([args.seed, 1, number])
        audited = np.zeros(len(pool), dtype=bool)
        audited[draw.permutation(len(pool))[: args.k - fitting]] = True
        side = np.sign(np.round(logit[pool], DIGITS))
        agree = (1 + side * (2 * data.people[pool] - 1)) / 2
        names = data.votes.pair_ids.gather(pool)
        margin = np.round(np.abs(np.tanh(logit[pool] / 2)), DIGITS)  # abs(2 p - 1)
        table = pl.DataFrame({"pair_id": names, "prompt_id": names, "margin": margin, "a_chosen": side > 0})
        table = table.filter(pl.Series(side != 0))
        human = data.people[pool][audited]
        told = pl.DataFrame({"pair_id": names.filter(pl.Series(audited)), "human": human, "for_a": human})
        told = told.with_columns(for_b=1 - pl.col("human"), annotators=1, inclusion_prob=1.0)
        for target in TARGETS:
            found_here = gate.certify(table, told, target=target, delta=DELTA, unit="pair")
            kept = (margin >= (found_here["threshold"] if found_here["certified"] else np.inf)) & (side != 0)
            miss = bool(kept.any()) and float(agree[kept].mean()) < target - 1e-12
            found[target].append((miss, float(kept.mean())))
    return {
        str(target): {
            "miss_rate": float(np.mean([miss for miss, _ in rows])),
            "coverage": float(np.mean([coverage for _, coverage in rows])),
        }
        for target, rows in found.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set_dir", type=Path)
    parser.add_argument("--mode")
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--splits", type=int, default=60)
    parser.add_argument("--gate-splits", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tolerance", type=float, default=0.006)
    parser.add_argument("--length-tolerance", type=float, default=0.05)
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    args = parser.parse_args()
    panel = Panel(load(args.set_dir, args.mode))
    figures: dict[str, Any] = agreement_figures(panel, args)
    figures["gate"] = gate_figures(panel, args, length=False)
    figures["gate_with_length"] = gate_figures(panel, args, length=True)
    for name, value in figures.items():
        if not isinstance(value, dict):
            print(f"{name:24s} {value:.4f}")
    for name in ("gate", "gate_with_length"):
        for target, row in figures[name].items():
            print(f"{name:18s} {target:5s} coverage {row['coverage']:.3f}  misses {row['miss_rate']:.3f}")
    if args.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
