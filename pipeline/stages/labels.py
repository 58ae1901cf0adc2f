"""labels: what people said of the run's pairs. Reads the labels file, or asks the simulated people.

Drop reasons: what the importer says of a row (``label_unknown``, ...), ``unknown_pair``, ``repeated`` (the same
person labelled the pair before).
"""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import polars as pl

from pipeline import discovery, ids, schemas
from pipeline.config import Config, SimulatedConfig
from pipeline.errors import DataError
from pipeline.frames import conversation, with_texts
from pipeline.importers import jsonl
from pipeline.importers.jsonl import LabelRow
from pipeline.runner import Result, Shard, Stage
from pipeline.stages.load import dropped_frame
from pipeline.workbench import Workbench

SWAPPED = {"a": "b", "b": "a", "tie": "tie"}


def orientation(pairs: pl.DataFrame) -> dict[str, tuple[str, bool]]:
    """Every name of a pair -> (pair_id, whether its a is our b): its id, and its id in the imported file."""
    named = {key: (key, False) for key in pairs["pair_id"]}
    external = pairs.filter(pl.col("external_id").is_not_null())
    columns = external.select("external_id", "pair_id", "external_flipped").iter_rows()
    return named | {name: (key, flipped) for name, key, flipped in columns}


def labels(rows: Sequence[LabelRow], pairs: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, str]]:
    """The frame ``labels`` in canonical order, and the drops (id -> reason)."""
    known = orientation(pairs)
    made: dict[tuple[str, str], dict[str, object]] = {}
    reasons: dict[str, str] = {}
    for row in rows:
        if row.pair not in known:
            reasons[f"{row.pair}:{row.annotator}"] = "unknown_pair"
            continue
        key, flipped = known[row.pair]
        if (key, row.annotator) in made:
            reasons[f"{row.pair}:{row.annotator}"] = "repeated"
            continue
        made[key, row.annotator] = {
            "pair_id": key,
            "annotator": row.annotator,
            "label": SWAPPED[row.label] if flipped else row.label,
            "queue": row.queue,
            "inclusion_prob": row.inclusion_prob,
            "seconds": row.seconds,
            "labelled_at": row.labelled_at,
        }
    return schemas.frame("labels", list(made.values())), reasons


class People(Protocol):
    """Simulated annotators."""

    names: tuple[str, ...]

    def label(
        self,
        *,
        annotator: str,
        messages: Sequence[tuple[str, str]],
        reference: str | None,
        answer_a: str,
        answer_b: str,
        seed: int,
    ) -> Literal["a", "b", "tie"]:
        """``a``, ``b`` or ``tie``; swapping the answers swaps the label."""
        ...


def simulated(texts: pl.DataFrame, config: SimulatedConfig, people: People, seed: int) -> pl.DataFrame:
    """Labels of simulated people on every pair of ``config.prompts`` prompts drawn uniformly.

    Args:
        texts: pairs with their texts (``pipeline.frames.with_texts``).
        config: how many prompts.
        people: an object with ``names`` and ``label(...)``.
        seed: the run's seed.
    """
    everyone = sorted(texts["prompt_id"].unique(), key=lambda key: ids.uniform_from(seed, "labelled", key))
    drawn = set(everyone[: config.prompts])
    probability = len(drawn) / len(everyone) if everyone else 1.0
    rows: list[dict[str, object]] = []
    for row in texts.filter(pl.col("prompt_id").is_in(sorted(drawn))).iter_rows(named=True):
        for name in people.names:
            label = people.label(
                annotator=name,
                messages=conversation(row["messages"]),
                reference=row["reference"],
                answer_a=row["completion_a"],
                answer_b=row["completion_b"],
                seed=ids.seed_from(seed, "label", row["pair_id"], name),
            )
            rows.append(
                {
                    "pair_id": row["pair_id"],
                    "annotator": name,
                    "label": label,
                    "queue": "audit",
                    "inclusion_prob": probability,
                    "seconds": None,
                    "labelled_at": None,
                }
            )
    return schemas.frame("labels", rows)


def _run(shard: Shard, config: Config, bench: Workbench) -> Result:
    settings, frames = config.labels, shard.frames
    if settings.path is not None:
        rows, refused = jsonl.read_labels(settings.path)
        made, reasons = labels(rows, frames["pairs"])
        if made.is_empty():
            raise DataError(
                f"{settings.path}: none of its {len(rows)} labels is for a pair of this run; its pair_id must be a "
                "pair id of the run, or the id of an imported pair"
            )
        return Result({"labels": made, "dropped": dropped_frame("labels", refused.rows | reasons)})
    if settings.simulated is not None:
        people = discovery.find("judges", settings.simulated.kind, "", bench.base)()
        texts = with_texts(frames["pairs"], frames["samples"], frames["prompts"])
        return Result({"labels": simulated(texts, settings.simulated, people, config.seed)})
    return Result({})


def _reads(config: Config) -> Mapping[str, object]:
    return {**config.labels.model_dump(mode="json", include={"simulated"}), "seed": config.seed}


STAGE = Stage(
    name="labels",
    inputs=("prompts", "samples", "pairs"),
    outputs=("labels",),
    run=_run,
    reads=_reads,
    files=lambda config: [config.labels.path] if config.labels.path else [],
)
