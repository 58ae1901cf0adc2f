"""measure: how far judges, people and the panel agree, what biases the judges, whether they drift, who wins. Pure.

Reads the folders of other runs of the same config name beside this one, for the trend, and nothing else outside.
Drops nothing.
"""

from collections.abc import Mapping
from datetime import UTC, datetime

import polars as pl

from pipeline import schemas
from pipeline.arrays import one_blas_thread
from pipeline.config import Config
from pipeline.frames import people
from pipeline.ids import digest
from pipeline.labels.splits import split_labels
from pipeline.stages.base import Frames, Result, Shard, Stage
from pipeline.statistics import agreement, annotators, bias, calibration, trend
from pipeline.statistics import warnings as warning
from pipeline.statistics import win_rates as winning
from pipeline.statistics.raters import Raters, Rows, raters_of
from pipeline.workbench import Workbench


def measured(
    frames: Mapping[str, pl.DataFrame], judgments: Rows, samples: Rows, config: Config
) -> dict[str, pl.DataFrame]:
    """Frames ``agreement``, ``bias``, ``annotators``, ``calibration`` and ``win_rates``.

    Args:
        frames: prompts, pairs, labels and verdicts.
        judgments: frame ``judgments``.
        samples: frame ``samples``.
        config: the run's.
    """
    pairs, labels = frames["pairs"], frames["labels"]
    raters = raters_of(judgments, labels, pairs, samples, frames["prompts"])
    _, certify = split_labels(labels, pairs, config.seed, config.labels.fit_fraction)
    found = agreement.table(
        raters, frames["verdicts"], certify["pair_id"].unique(), config.aggregate.decide_by, config.seed
    )
    return {
        "agreement": found,
        "bias": bias.table(raters, models(config, raters), config.seed),
        "annotators": annotators.table(labels, found),
        "calibration": calibration.table(
            frames["verdicts"], people(certify), pairs, config.aggregate.decide_by, config.seed
        ),
        "win_rates": winning.table(frames["verdicts"], pairs, samples, config.aggregate.decide_by, config.seed),
    }


def models(config: Config, raters: Raters) -> dict[str, str]:
    """Judge -> its model: the config's, or for imported judgments the judge's name up to a slash."""
    configured = config.models()
    return {name: configured.get(name, name.split("/", maxsplit=1)[0]) for name in raters.judges}


def history(bench: Workbench) -> pl.DataFrame:
    """The frame ``trend`` of this run and of the runs of the same config name beside it."""
    found = [bench.folder.read("trend"), *bench.past("trend")]
    return schemas.frame("trend", pl.concat(found).unique(["snapshot", "judge", "measure"]))


def _shards(frames: Frames, _config: Config, bench: Workbench) -> list[Shard]:
    """One; what the runs beside this one have measured is read too."""
    seen = pl.concat([bench.empty("trend"), *bench.past("trend")])["snapshot"].unique().sort()
    return [Shard("all", frames, seen.to_list())]


def _run(shard: Shard, config: Config, bench: Workbench) -> Result:
    # Judgments and texts are scanned: there may be more of them than fit into memory.
    with one_blas_thread():
        made = measured(shard.frames, bench.folder.scan("judgments"), bench.folder.scan("samples"), config)
    snapshot = digest([bench.folder.digest(name) for name in ("judgments", "labels")])
    now = datetime.now(UTC).isoformat(timespec="seconds")
    before = history(bench)
    made["trend"] = trend.extended(before, made["agreement"], made["bias"], snapshot, now)
    made["warnings"] = warning.table(
        made["agreement"], made["bias"], made["annotators"], made["trend"], config.gate.target_agreement
    )
    return Result(made)


STAGE = Stage(
    name="measure",
    inputs=("prompts", "samples", "pairs", "judgments", "labels", "verdicts"),
    outputs=("agreement", "bias", "annotators", "calibration", "win_rates", "trend", "warnings"),
    run=_run,
    reads=lambda config: [
        config.aggregate.decide_by,
        config.labels.fit_fraction,
        config.gate.target_agreement,
        config.models(),
        config.seed,
    ],
    shards=_shards,
    beside=("trend",),
    version=4,
)
