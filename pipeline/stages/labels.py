"""labels: what people said of the run's pairs. Reads the labels file or asks the simulated people, then the label book.

The book is what `jurybox label` writes (``pipeline.labels.book``); of it only the labels count, not whose turn a
pair is, so the stage runs again when a label came or went.

Drop reasons: what the importer says of a row (``label_unknown``, ...), ``unknown_pair``, ``repeated`` (the same
person labelled the pair before, or the label was imported).
"""

from collections.abc import Mapping, Sequence

import polars as pl

from pipeline import discovery, ids, schemas
from pipeline.comparison import SWAPPED, People, orientation
from pipeline.config import Config, SimulatedConfig
from pipeline.errors import DataError
from pipeline.frames import conversation, with_texts
from pipeline.importers import jsonl
from pipeline.importers.jsonl import LabelRow
from pipeline.labels import book as labelbook
from pipeline.stages.base import Result, Shard, Stage, dropped_frame
from pipeline.store import slice_digest
from pipeline.workbench import Workbench

SHARD = "all"


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
    made, reasons = bench.empty("labels"), dict[str, str]()
    if settings.path is not None:
        rows, refused = jsonl.read_labels(settings.path)
        made, reasons = labels(rows, frames["pairs"])
        if made.is_empty():
            raise DataError(
                f"{settings.path}: none of its {len(rows)} labels is for a pair of this run; its pair_id must be a "
                "pair id of the run, or the id of an imported pair"
            )
        reasons = refused.rows | reasons
    elif settings.simulated is not None:
        people = discovery.find("judges", settings.simulated.kind, "", bench.base)()
        texts = with_texts(frames["pairs"], frames["samples"], frames["prompts"])
        made = simulated(texts, settings.simulated, people, config.seed)
    book = labelbook.rows_of(bench.folder.local(labelbook.FILE), config.seed)
    if book is not None:
        added, more = from_book(book, frames["pairs"], pl.concat([made, _imported(bench)]))
        made, reasons = pl.concat([made, added]), reasons | more
    return Result({"labels": made, "dropped": dropped_frame("labels", reasons)})


def from_book(book: pl.DataFrame, pairs: pl.DataFrame, known: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, str]]:
    """The rows of the label book that are for a pair of the run and not *known*, and the drops (id -> reason)."""
    keys = ["pair_id", "annotator"]
    there = book.join(pairs, on="pair_id", how="semi")
    fresh = there.join(known, on=keys, how="anti")
    gone = {
        f"{pair}:{name}": reason
        for rows, reason in (
            (book.join(there, on=keys, how="anti"), "unknown_pair"),
            (there.join(fresh, on=keys, how="anti"), "repeated"),
        )
        for pair, name in rows.select(keys).iter_rows()
    }
    return fresh, gone


def _imported(bench: Workbench) -> pl.DataFrame:
    """Labels that `jurybox import labels` brought: parts of the frame that are not this stage's."""
    return bench.folder.others("labels", "labels")


def _shards(frames: Mapping[str, pl.DataFrame], config: Config, bench: Workbench) -> list[Shard]:
    """One; the labels of the book and what was imported beside them are read too."""
    book = labelbook.digest_of(labelbook.rows_of(bench.folder.local(labelbook.FILE), config.seed))
    reads = None if book is None else [book, slice_digest({"labels": _imported(bench)})]
    return [Shard(SHARD, frames, reads)]


def _reads(config: Config) -> Mapping[str, object]:
    return {**config.labels.model_dump(mode="json", include={"simulated"}), "seed": config.seed}


STAGE = Stage(
    name="labels",
    inputs=("prompts", "samples", "pairs"),
    outputs=("labels",),
    run=_run,
    reads=_reads,
    shards=_shards,
    files=lambda config: [config.labels.path] if config.labels.path else [],
    beside=("labels", labelbook.FILE),
)
