"""jurybox import: rows of a user's file become parts of the run's frames. Reads that file, writes the run's folder.

Everything is mapped to the canonical order together: where a file's response_a is our sample_b, its judgments and
labels are turned over with it, so swapping the two responses in a file changes nothing in the dataset. Every row of a
file is in a frame or in ``dropped`` with one reason.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import cast

import polars as pl

from pipeline import ids, schemas
from pipeline.comparison import OTHER_ORDER, Names, orientation
from pipeline.config import Config
from pipeline.errors import ConfigError, DataError, InputError
from pipeline.importers.base import Batch, Conversation, JudgmentRow, Kind, PairRow, Refused, SampleRow
from pipeline.importers.reading.seat import read, why_nothing
from pipeline.importers.reading.tables import Source
from pipeline.stages import load
from pipeline.stages.base import dropped_frame
from pipeline.stages.labels import labels
from pipeline.workbench import Workbench

KINDS = ("prompts", "samples", "pairs", "judgments", "labels")
Frames = dict[str, pl.DataFrame]


def run(
    bench: Workbench,
    kind: str,
    path: Path,
    fmt: str | None = None,
    *,
    annotator: str | None = None,
    split: str | None = None,
    subset: str | None = None,
) -> tuple[dict[str, int], Refused]:
    """Import *path* into the run.

    Args:
        bench: the opened run.
        kind: one of :data:`KINDS`.
        path: a file, a saved dataset, or the name of one on the Hub.
        fmt: importer, or ``./file.py:Name`` of your own; None finds it by the columns.
        annotator: whose choices the file holds (``chosen`` and ``rejected``, votes without a voter).
        split: of a saved dataset or one on the Hub.
        subset: of one on the Hub.

    Returns:
        rows written by frame, and the rows that were not (also in ``dropped/``).

    Raises:
        InputError: the file is missing, broken, or holds no usable row; or the kind is unknown.
    """
    if kind not in KINDS:
        raise InputError(f"cannot import {kind!r}; allowed: {', '.join(KINDS)}")
    source = Source(path, split, subset, bench.config.columns)
    batch = read(source, fmt, kind, annotator, bench.base)
    shard = f"{kind}-{ids.content_hash(source.digest(), annotator)[:12]}"
    with bench.writing():
        frames, refused = _frames(_Run(bench, shard), kind, batch, path)
        made = {name: rows.height for name, rows in frames.items()}
        if not any(made.values()) and not refused.rows:
            there = [name for name in KINDS if vars(batch)[name]]
            raise DataError(
                f"{path}: holds no {kind}; import it as {' or '.join(there) or 'what it is, with --format'}"
            )
        if not any(made.values()) and not _known_only(refused):
            raise DataError(f"{path}: {why_nothing(refused, batch.needs, batch.columns)}")
        notes = {"source": path.name}
        frames = {**frames, "dropped": dropped_frame("import", refused.rows)}
        for name, rows in frames.items():
            bench.folder.write_part(name, "import", shard, rows, notes)
        written = [bench.folder.part(name, "import", shard) for name in frames]
        bench.folder.record(written, written)
    return made, refused


def _known_only(refused: Refused) -> bool:
    """Nothing is wrong with the file: the run has all of it."""
    return set(refused.rows.values()) == {"known"}


class _Run:
    """What the run holds besides the part that is about to be written, so that importing twice adds nothing."""

    def __init__(self, bench: Workbench, shard: str) -> None:
        self.folder, self.shard, self.config = bench.folder, shard, bench.config
        there = self.rows("pairs", ("pair_id", "external_id", "external_flipped"))
        self.has_pairs = not there.is_empty()
        self.names: Names = orientation(there, self.rows("aliases", ("external_id", "pair_id", "flipped")))

    def rows(self, frame: str, columns: Sequence[str]) -> pl.DataFrame:
        """These columns of the other parts of *frame*."""
        own = self.folder.part(frame, "import", self.shard)
        empty = schemas.frame(frame, []).select(columns)
        found: list[pl.DataFrame] = []
        for part in self.folder.parts(frame):
            if part != own:
                told = pl.read_parquet(part, columns=list(columns), glob=False)
                found.append(told.select(pl.col(name).cast(kind) for name, kind in empty.schema.items()))
        return pl.concat([empty, *found])

    def keys(self, frame: str) -> set[tuple[str, ...]]:
        """Their primary keys."""
        return set(self.rows(frame, schemas.FRAMES[frame].primary_key()).iter_rows())

    def fresh(self, frame: str, rows: pl.DataFrame) -> pl.DataFrame:
        """*rows* less those that they hold."""
        keys = schemas.FRAMES[frame].primary_key()
        return rows.join(self.rows(frame, keys), on=keys, how="anti")


def _frames(known: _Run, kind: Kind, batch: Batch, path: Path) -> tuple[Frames, Refused]:
    """The frames that an import of *kind* adds to the run, and the rows it leaves out."""
    refused = batch.refused
    if kind == "prompts":
        return _prompts(known, batch, path), refused
    if kind == "samples":
        return samples(_answers(batch), path.name, refused, known), refused
    if (batch.judgments or batch.labels) and not (batch.pairs or known.has_pairs):
        raise InputError(f"the run has no pairs that {path} could refer to; import or make pairs first")
    frames: Frames = {}
    names = dict(known.names)
    if batch.pairs:
        voiced = {row.pair for row in (*batch.judgments, *batch.labels)}
        made, _ = pairs(batch.pairs, path.name, known.names, refused=refused, local=names, voiced=voiced)
        frames = {name: known.fresh(name, rows) for name, rows in made.items()}
    batch = _of_usable(batch, kind)
    if batch.pairs and kind != "pairs" and not (batch.judgments or batch.labels):
        raise DataError(f"{path}: holds pairs and no usable {kind}; import it as pairs")
    if batch.judgments:
        there = cast("set[tuple[str, str, str]]", known.keys("judgments"))
        frames["judgments"], unusable = judgments(batch.judgments, names, there)
        refuse_shared_names(known.config, frames["judgments"]["judge"], str(path))
        _note(refused, unusable)
    if batch.labels:
        frames["labels"], unusable = labels(batch.labels, names, cast("set[tuple[str, str]]", known.keys("labels")))
        _note(refused, unusable)
    return frames, refused


def refuse_shared_names(config: Config, imported: pl.Series, where: str) -> None:
    """A name is one judge: the votes of two would be counted as one judge's, and its second vote on a pair lost.

    Raises:
        ConfigError: a judge of the config has the name of one whose judgments are *imported* from *where*.
    """
    shared = sorted({judge.name for judge in config.judges} & set(imported.unique()))
    if shared:
        names = ", ".join(repr(name) for name in shared)
        raise ConfigError(
            f"{where} holds judgments of {names}, and the config has a judge of that name; give the config's another "
            "name, or leave it out where the imported judgments are to count"
        )


def refuse_judges_of_two_kinds(bench: Workbench) -> None:
    """Look for judges of the config among those whose judgments were imported before.

    Raises:
        ConfigError: see :func:`refuse_shared_names`.
    """
    parts = bench.folder.path.joinpath("judgments").glob("part-import-*.parquet") if bench.config.judges else ()
    for part in sorted(parts):
        names = pl.scan_parquet(part).select(pl.col("judge").unique()).collect(engine="streaming")["judge"]
        notes = bench.folder.notes("judgments", "import", part.stem.removeprefix("part-import-"))
        refuse_shared_names(bench.config, names, f"the imported file {notes.get('source', part.name)}")


def _of_usable(batch: Batch, kind: Kind) -> Batch:
    """*batch* with the opinions that are asked for, less those on pairs whose row is refused: one row, one reason."""
    told = {
        "judgments": [row for row in batch.judgments if not (row.where and row.where in batch.refused.rows)],
        "labels": [row for row in batch.labels if not (row.where and row.where in batch.refused.rows)],
    }
    if kind in told:
        (other,) = told.keys() - {kind}
        said = {row.where for row in told[kind]}
        for where in sorted({row.where for row in told[other]} - said):
            batch.refused.add(where, f"no_{kind.removesuffix('s')}", where, f"it holds one of the {other}")
        told[other] = []
    return replace(batch, judgments=told["judgments"], labels=told["labels"])


def _note(refused: Refused, more: Refused) -> None:
    for row, reason in more.rows.items():
        refused.add(row, reason)


def _prompts(known: _Run, batch: Batch, path: Path) -> Frames:
    conversations = batch.conversations()
    if any(item.later_turns for item in conversations):
        raise InputError(
            f"{path}: second turns need answers to the first; name the file as prompts.path in the config instead"
        )
    made, repeated = load.prompts(conversations, path.name)
    for row, reason in repeated.items():
        batch.refused.add(row, reason)
    there = {key for (key,) in known.keys("prompts")}
    for item in conversations:
        if ids.prompt_id(item.messages, item.reference) in there and item.where not in repeated:
            batch.refused.add(item.where, "known")
    return {"prompts": known.fresh("prompts", made)}


def _answers(batch: Batch) -> list[SampleRow]:
    """The answers of samples, and of pairs those that no sample gives."""
    sides = [
        SampleRow(row.conversation, text, model, None)
        for row in batch.pairs
        for text, model in ((row.response_a, row.model_a), (row.response_b, row.model_b))
    ]
    return batch.samples or sides


def samples(
    rows: Sequence[SampleRow], source: str, refused: Refused | None = None, known: _Run | None = None
) -> Frames:
    """Frames ``prompts``, ``samples`` and ``ratings`` of imported answers.

    Several marks of one answer are their mean. Reasons: ``duplicate`` (the file has the answer already; its mark
    counts), ``known`` (the run has).
    """
    refused = refused or Refused()
    there = {key for (key,) in known.keys("samples")} if known else set[str]()
    made: dict[str, dict[str, object]] = {}
    marks: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        sample = _sample(row.conversation, row.model, row.completion, row.external_id)
        key, where = str(sample["sample_id"]), row.conversation.where
        for aspect, score in row.scores:
            marks.setdefault((key, aspect), []).append(score)
        if key in made or key in there:
            refused.add(row.external_id or where, "duplicate" if key in made else "known", where)
        else:
            made[key] = sample
    frames = {
        "prompts": _of_conversations([row.conversation for row in rows], source, known),
        "samples": schemas.frame("samples", list(made.values())),
    }
    judge = Source(Path(source)).name
    told: list[dict[str, object]] = [
        {"sample_id": key, "judge": judge, "aspect": aspect, "score": fmean(scores), "call_keys": []}
        for (key, aspect), scores in marks.items()
    ]
    return {**frames, "ratings": schemas.frame("ratings", told)} if told else frames


def _of_conversations(rows: Iterable[Conversation], source: str, known: _Run | None) -> pl.DataFrame:
    made, _ = load.prompts(_merged(rows), source)
    return known.fresh("prompts", made) if known else made


def pairs(
    rows: Sequence[PairRow],
    source: str,
    known: Names | None = None,
    *,
    refused: Refused | None = None,
    local: dict[str, tuple[str, bool]] | None = None,
    voiced: Collection[str] = (),
) -> tuple[Frames, dict[str, str]]:
    """Frames ``prompts``, ``samples``, ``pairs`` and ``aliases`` of imported pairs, and the drops (id -> reason).

    Rows on the same two answers, the sides swapped or not, are one pair: its further ids are aliases, each with its
    orientation.

    Args:
        rows: what a file says.
        source: the file's name.
        known: every name of a pair of the run -> pair_id and whether it is flipped.
        refused: takes note of the rows left out.
        local: takes note of what the opinions of the same file call the pairs.
        voiced: what those opinions are about: a row without an id that says no more than an earlier one is refused.

    Drop reasons: ``identical`` (both responses have the same words), ``id_taken`` (by *known* or by the file the id
    names another pair, or this one the other way round, so its labels could not be told apart), ``known`` (the run has
    the pair under this id), ``duplicate`` (a row without an id repeats a pair and has no opinion of it).
    """
    known, refused, local = known or {}, refused or Refused(), {} if local is None else local
    texts: list[dict[str, object]] = []
    made: dict[str, dict[str, object]] = {}
    others: dict[str, dict[str, object]] = {}
    there = {key for key, _ in known.values()}
    taken = dict(known)
    for row in rows:
        a, b = (_sample(row.conversation, model, text, None) for model, text in _sides(row))
        first, second = str(a["sample_id"]), str(b["sample_id"])
        key, flipped = ids.pair_id(first, second), first > second
        where = row.conversation.where
        name = _name(row, key, flipped, taken)
        if row.response_a == row.response_b:
            refused.add(row.name, "identical", where)
        elif taken.get(name, (key, flipped)) != (key, flipped):
            refused.add(row.name, "id_taken", where)
        else:
            local[row.name] = taken[name] = (key, flipped)
            if key in made or key in there:
                if name in known:
                    refused.add(row.name, "known", where)
                elif row.external_id is not None:
                    others[name] = {"external_id": name, "pair_id": key, "flipped": flipped}
                elif row.name not in voiced:
                    refused.add(row.name, "duplicate", where)
                continue
            texts += [a, b]
            made[key] = {
                "pair_id": key,
                "prompt_id": a["prompt_id"],
                "sample_a": min(first, second),
                "sample_b": max(first, second),
                "external_id": name,
                "external_flipped": flipped,
            }
    frames = {
        "prompts": _of_conversations([row.conversation for row in rows], source, None),
        "samples": _unique("samples", texts),
        "pairs": schemas.frame("pairs", list(made.values())),
    }
    if others:
        frames["aliases"] = schemas.frame("aliases", list(others.values()))
    return frames, refused.rows


def _sides(row: PairRow) -> tuple[tuple[str, str], tuple[str, str]]:
    return (row.model_a, row.response_a), (row.model_b, row.response_b)


def _name(row: PairRow, key: str, flipped: bool, taken: Names) -> str:
    """The pair's external id; that of a row without one is where it stands, which another file may have used."""
    if row.external_id is not None or taken.get(row.name, (key, flipped)) == (key, flipped):
        return row.name
    return f"{row.name}~{key[:6]}{'-' if flipped else ''}"


def judgments(
    rows: Sequence[JudgmentRow], known: Names | pl.DataFrame, there: Collection[tuple[str, str, str]] = ()
) -> tuple[pl.DataFrame, Refused]:
    """The frame ``judgments`` in canonical order, and the rows that are none of it.

    Args:
        rows: what a file says.
        known: every name of a pair -> pair_id and whether it is flipped, or the frame ``pairs``.
        there: (pair, judge, order) of judgments that the run has from elsewhere.

    Drop reasons: ``unknown_pair``, ``repeated`` (the judge's second verdict on the same pair in the same order).
    """
    named: Mapping[str, tuple[str, bool]] = orientation(known) if isinstance(known, pl.DataFrame) else known
    made: dict[tuple[str, str, str], dict[str, object]] = {}
    refused = Refused()
    for row in rows:
        name = f"{row.pair}:{row.judge}:{row.order}" if row.order else f"{row.pair}:{row.judge}"
        if row.pair not in named:
            refused.add(name, "unknown_pair", row.where)
            continue
        key, flipped = named[row.pair]
        # Answers that were judged one by one were seen in no order.
        order = "ab" if row.order is None else OTHER_ORDER[row.order] if flipped else row.order
        if (key, row.judge, order) in made or (key, row.judge, order) in there:
            refused.add(name, "repeated", row.where)
            continue
        preference = row.preference if row.preference is None or not flipped else 1 - row.preference
        made[key, row.judge, order] = {
            "pair_id": key,
            "judge": row.judge,
            "order": order,
            "preference": preference,
            "rationale": row.rationale,
            "error": "no verdict could be read" if preference is None else None,
            "call_keys": [],
        }
    return schemas.frame("judgments", list(made.values())), refused


def _sample(conversation: Conversation, model: str, completion: str, external_id: str | None) -> dict[str, object]:
    prompt = ids.prompt_id(conversation.messages, conversation.reference)
    return {
        "sample_id": ids.sample_id(prompt, model, None, None, completion),
        "prompt_id": prompt,
        "model": model,
        "temperature": None,
        "sample_index": 0,
        "seed": None,
        "completion": completion,
        "characters": len(completion),
        "finish_reason": None,
        "completion_tokens": None,
        "logprob": None,
        "external_id": external_id,
    }


def _merged(conversations: Iterable[Conversation]) -> list[Conversation]:
    """One conversation per prompt, with the tags of all of them: a prompt stands in many pairs of a file."""
    merged: dict[tuple[object, ...], Conversation] = {}
    for item in conversations:
        key = (item.messages, item.reference)
        known = merged.get(key, item)
        merged[key] = replace(known, later_turns=(), tags=tuple(sorted({*item.tags, *known.tags})))
    return list(merged.values())


def _unique(frame: str, rows: list[dict[str, object]]) -> pl.DataFrame:
    return schemas.frame(frame, rows).unique(schemas.FRAMES[frame].primary_key(), keep="first", maintain_order=True)
