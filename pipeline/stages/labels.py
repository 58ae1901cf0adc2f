"""labels: what people said of the run's pairs. Reads the labels file or asks the simulated people, then the label book.

The book is what `jurybox label` writes (``pipeline.labels.book``); of it only the labels count, not whose turn a
pair is, so the stage runs again when a label came or went.

Drop reasons: what the importer says of a row (``label_unknown``, ...), ``unknown_pair``, ``repeated`` (the same
person labelled the pair before, or the label was imported).
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import cast

import polars as pl

from pipeline import discovery, ids, schemas
from pipeline.comparison import SWAPPED, Names, People, orientation
from pipeline.config import Config, LabelsConfig, SimulatedConfig
from pipeline.errors import DataError
from pipeline.frames import conversation, with_texts
from pipeline.importers.base import LabelRow, Refused
from pipeline.importers.reading.seat import read, why_nothing
from pipeline.importers.reading.tables import Source
from pipeline.labels import book as labelbook
from pipeline.stages.base import Result, Shard, Stage, dropped_frame
from pipeline.store import slice_digest
from pipeline.workbench import Workbench

SHARD = "all"


def labels(
    rows: Sequence[LabelRow], known: Names | pl.DataFrame, there: Collection[tuple[str, str]] = ()
) -> tuple[pl.DataFrame, Refused]:
    """The frame ``labels`` in canonical order, and the rows that are none of it.

    Args:
        rows: what a file says.
        known: :func:`orientation` of the run's pairs, or the frame ``pairs``.
        there: (pair, annotator) of labels that the run has from elsewhere.

    Drop reasons: ``unknown_pair``, ``repeated`` (the same person labelled the pair before).
    """
    named = orientation(known) if isinstance(known, pl.DataFrame) else known
    made: dict[tuple[str, str], dict[str, object]] = {}
    refused = Refused()
    for row in rows:
        name = f"{row.pair}:{row.annotator}"
        if row.pair not in named:
            refused.add(name, "unknown_pair", row.where)
            continue
        key, flipped = named[row.pair]
        if (key, row.annotator) in made or (key, row.annotator) in there:
            refused.add(name, "repeated", row.where)
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
    return schemas.frame("labels", list(made.values())), refused


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
        made, refused = from_file(settings, orientation(frames["pairs"], frames["aliases"]), bench.base)
        reasons = refused.rows
    elif settings.simulated is not None:
        people = discovery.find("judges", settings.simulated.kind, "", bench.base)()
        texts = with_texts(frames["pairs"], frames["samples"], frames["prompts"])
        made = simulated(texts, settings.simulated, people, config.seed)
    book = labelbook.rows_of(bench.folder.local(labelbook.FILE), config.seed)
    if book is not None:
        added, more = from_book(book, frames["pairs"], pl.concat([made, _imported(bench)]))
        made, reasons = pl.concat([made, added]), reasons | more
    return Result({"labels": made, "dropped": dropped_frame("labels", reasons)})


def from_file(settings: LabelsConfig, known: Names, base: Path) -> tuple[pl.DataFrame, Refused]:
    """The labels of ``labels.path``, and the rows that are none.

    Raises:
        DataError: there is no usable row, or none is for a pair of the run.
    """
    source = Source(cast("Path", settings.path), columns=settings.columns)
    batch = read(source, settings.format, "labels", None, base)
    made, unknown = labels(batch.labels, known)
    if not batch.labels:
        raise DataError(f"{source.path}: {why_nothing(batch.refused, batch.needs, batch.columns)}")
    if made.is_empty():
        raise DataError(
            f"{source.path}: none of its {len(batch.labels)} labels is for a pair of this run; its pair_id must be a "
            "pair id of the run, or the id of an imported pair"
        )
    for row, reason in unknown.rows.items():
        batch.refused.add(row, reason)
    return made, batch.refused


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
    read = {"simulated", "format", "columns"}
    path = config.labels.path
    content = None if path is None else Source(path).digest()
    return {**config.labels.model_dump(mode="json", include=read), "seed": config.seed, "content": content}


STAGE = Stage(
    name="labels",
    inputs=("prompts", "samples", "pairs", "aliases"),
    outputs=("labels",),
    run=_run,
    reads=_reads,
    shards=_shards,
    beside=("labels", labelbook.FILE),
)
