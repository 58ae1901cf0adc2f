"""aggregate: judgments and `fit` labels -> verdicts, and panel.json (weights, who left the panel and why). Pure.

Drop reasons: ``no_judgment`` (no judge of the panel gave a verdict on the pair).
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

import polars as pl

from pipeline import discovery
from pipeline.aggregation.base import Aggregation, Fitted
from pipeline.aggregation.votes import Votes, verdict_frame, votes_of
from pipeline.arrays import one_blas_thread
from pipeline.config import Config
from pipeline.errors import StageError
from pipeline.frames import given_by_people, people
from pipeline.labels.splits import split_labels
from pipeline.stages.base import Result, Shard, Stage, dropped_frame
from pipeline.statistics.agreement import panel_agreement
from pipeline.workbench import Workbench


def floor(votes: Votes, fit: Mapping[str, float], prompt_of: dict[str, str], level: float, seed: int) -> dict[str, str]:
    """Judges that leave the panel -> why. Looks at `fit` labels only; the best judge always stays."""
    found = panel_agreement(votes, dict(fit), prompt_of, seed)
    rates = {judge: one.rate for judge, one in found.items() if one.rate is not None}
    if not rates:
        return {}
    best = max(sorted(rates), key=lambda judge: rates[judge])
    return {
        judge: f"agrees with people on {rate:.1%} of {found[judge].n} fit pairs, below judge_floor {level:.1%}"
        for judge, rate in rates.items()
        if rate < level and judge != best
    }


def aggregate(
    frames: Mapping[str, pl.DataFrame | pl.LazyFrame], config: Config, method: Aggregation, fallback: Aggregation
) -> tuple[pl.DataFrame, list[str], dict[str, Any]]:
    """(verdicts, pairs without a verdict, panel.json) from pairs, samples, judgments and labels, eager or lazy.

    Raises:
        StageError: no judge gave a single readable verdict.
    """
    judgments = frames["judgments"]
    pairs = frames["pairs"].lazy().select("pair_id", "prompt_id", "sample_a", "sample_b").collect(engine="streaming")
    labels = frames["labels"].lazy().collect()
    everyone = replace(votes_of(judgments, pairs, frames["samples"]), models=config.models())
    if not everyone.judges:
        raise StageError(_nothing_readable(judgments.lazy()))
    fit, certify = split_labels(labels, pairs, config.seed, config.labels.fit_fraction)
    fit_human = dict(people(fit).select("pair_id", "human").iter_rows())
    told = pairs.filter(pl.col("pair_id").is_in(labels["pair_id"].unique().implode()))
    prompt_of = dict(told.select("pair_id", "prompt_id").iter_rows())
    left = floor(everyone, fit_human, prompt_of, config.labels.judge_floor, config.seed)
    votes = everyone.of([judge for judge in everyone.judges if judge not in left])
    there = votes.rows(list(fit_human)) >= 0
    judged = {key: human for (key, human), known in zip(fit_human.items(), there, strict=True) if known}
    chosen = fallback if method.needs_labels and not judged else method
    fitted = chosen.fit_predict(votes, judged)
    with ThreadPoolExecutor(1) as beside:
        about = beside.submit(_judges, everyone, people(labels), prompt_of, fitted, left, config.seed)
        made, silent = verdict_frame(votes, fitted.p_a, fitted.p_a_lc, config.aggregate.decide_by)
    panel = {
        "method": config.aggregate.fallback if chosen is not method else config.aggregate.method,
        "validated": chosen.needs_labels,
        "decide_by": config.aggregate.decide_by,
        "weights": fitted.weights,
        "parameters": fitted.parameters,
        "labels": {
            "fit_pairs": len(judged),
            "certify_pairs": certify["pair_id"].n_unique(),
            "annotators": given_by_people(labels)["annotator"].n_unique(),
            "simulated": config.labels.simulated is not None,
        },
        "judges": about.result(),
    }
    return made, silent.to_list(), panel


def _judges(
    votes: Votes,
    told: pl.DataFrame,
    prompt_of: dict[str, str],
    fitted: Fitted,
    left: Mapping[str, str],
    seed: int,
) -> dict[str, Any]:
    human = dict(told.select("pair_id", "human").iter_rows())
    agreements = panel_agreement(votes, human, prompt_of, seed)
    slots = votes.first_slot()
    table: dict[str, Any] = {}
    for judge, total in votes.judgments.items():
        failed = votes.failures[judge]
        found = asdict(agreements[judge]) if judge in agreements else {"rate": None, "low": None, "high": None, "n": 0}
        reason = left.get(judge) or (None if judge in votes.judges else f"all {failed} judgments failed")
        table[judge] = {
            "agreement": found.pop("rate"),
            **found,
            "weight": fitted.weights.get(judge, 0.0),
            "in_panel": judge in fitted.weights,
            "reason": reason,
            "swap_consistency": votes.consistency.get(judge),
            "first_slot_rate": slots.get(judge),
            "judgments": total,
            "failures": failed,
        }
    return table


def _nothing_readable(judgments: pl.LazyFrame) -> str:
    failed = judgments.group_by("judge", "error").len().sort("len", "judge", descending=[True, False]).collect()
    if failed.is_empty():
        return "there are no judgments; add judges to the config or run `jurybox import judgments FILE`"
    worst = "; ".join(f"{judge}: {count} x {error}" for judge, error, count in failed.head(5).iter_rows())
    return f"none of {failed['len'].sum()} judgments has a readable verdict ({worst}); mend the judges, then run again"


def _run(shard: Shard, config: Config, bench: Workbench) -> Result:
    def find(kind: str) -> Aggregation:
        return discovery.find("pipeline.aggregation", kind, "{Kind}Aggregation", bench.base)(config.aggregate)

    # Judgments and texts are scanned: there may be more of them than fit into memory.
    scanned = {name: bench.folder.scan(name) for name in ("judgments", "samples", "pairs")}
    frames = {"labels": shard.frames["labels"], **scanned}
    # Found first: it loads SciPy, whose BLAS is another one.
    method, fallback = find(config.aggregate.method), find(config.aggregate.fallback)
    with one_blas_thread():
        made, silent, panel = aggregate(frames, config, method, fallback)
    reasons = dict.fromkeys(silent, "no_judgment")
    return Result({"verdicts": made, "dropped": dropped_frame("aggregate", reasons)}, artefacts={"panel.json": panel})


STAGE = Stage(
    name="aggregate",
    inputs=("pairs", "samples", "judgments", "labels"),
    outputs=("verdicts",),
    artefacts_out=("panel.json",),
    run=_run,
    reads=lambda config: [
        config.aggregate.model_dump(mode="json"),
        config.labels.model_dump(mode="json", include={"fit_fraction", "judge_floor", "simulated"}),
        config.models(),
        config.seed,
    ],
    version=2,
)
