"""jurybox import: rows of a user's file become parts of the run's frames. Reads that file, writes the run's folder.

Everything is mapped to the canonical order together: where a file's response_a is our sample_b, its judgments and
labels are turned over with it, so swapping the two responses in a file changes nothing in the dataset.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from pipeline import discovery, ids, schemas
from pipeline.comparison import OTHER_ORDER, orientation
from pipeline.config import Config, PromptsConfig
from pipeline.contents import file_digest
from pipeline.errors import ConfigError, DataError, InputError
from pipeline.importers.base import Conversation
from pipeline.importers.jsonl import JudgmentRow, PairRow, SampleRow
from pipeline.stages import load
from pipeline.stages.base import dropped_frame
from pipeline.stages.labels import labels
from pipeline.workbench import Workbench

KINDS = ("prompts", "samples", "pairs", "judgments", "labels")


def run(bench: Workbench, kind: str, path: Path, fmt: str = "jsonl") -> tuple[dict[str, int], dict[str, str]]:
    """Import *path* into the run.

    Args:
        bench: the opened run.
        kind: one of :data:`KINDS`.
        path: the file.
        fmt: importer, or ``./file.py`` of your own.

    Returns:
        rows written by frame, and the rows that were not: id -> reason (also in ``dropped/``).

    Raises:
        InputError: the file is missing, broken, or holds no usable row; or the kind is unknown.
    """
    if kind not in KINDS:
        raise InputError(f"cannot import {kind!r}; allowed: {', '.join(KINDS)}")
    if not path.is_file():
        raise DataError(f"{path}: does not exist; give a file of one JSON object a line")
    frames, reasons = _read(bench, kind, path, fmt)
    made = {name: rows.height for name, rows in frames.items()}
    if not any(made.values()):
        common = ", ".join(sorted(set(reasons.values())))
        raise DataError(f"{path}: none of {len(reasons)} rows can be imported ({common})")
    shard = f"{kind}-{file_digest(path)[:12]}"
    with bench.writing():
        for name, rows in frames.items():
            fresh = _without_known(bench, name, rows, shard)
            bench.folder.write_part(name, "import", shard, fresh, {"source": path.name})
        bench.folder.write_part("dropped", "import", shard, dropped_frame("import", reasons), {"source": path.name})
        written = [bench.folder.part(name, "import", shard) for name in (*frames, "dropped")]
        bench.folder.record(written, written)
    return made, reasons


def _read(bench: Workbench, kind: str, path: Path, fmt: str) -> tuple[dict[str, pl.DataFrame], dict[str, str]]:
    if kind == "prompts":
        conversations, refused = load.read_file(PromptsConfig(path=path, format=fmt), bench.base)
        if any(item.later_turns for item in conversations):
            raise InputError(
                f"{path}: second turns need answers to the first; name the file as prompts.path in the config instead"
            )
        made, repeated = load.prompts(conversations, path.name)
        return {"prompts": made}, refused.rows | repeated
    rows, refused = discovery.find("pipeline.importers", fmt, f"read_{kind}", bench.base)(path)
    if kind == "samples":
        return samples(rows, path.name), refused.rows
    if kind == "pairs":
        frames, reasons = pairs(rows, path.name, orientation(bench.folder.read("pairs")))
        return frames, refused.rows | reasons
    known = bench.folder.read("pairs")
    if known.is_empty():
        raise InputError(f"the run has no pairs that {path} could refer to; import or make pairs first")
    if kind == "judgments":
        made, reasons = judgments(rows, known)
        refuse_shared_names(bench.config, made["judge"], str(path))
        return {"judgments": made}, refused.rows | reasons
    made, reasons = labels(rows, known)
    return {"labels": made}, refused.rows | reasons


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


def samples(rows: Sequence[SampleRow], source: str) -> dict[str, pl.DataFrame]:
    """Frames ``prompts`` and ``samples`` of imported answers."""
    prompts, _ = load.prompts([row.conversation for row in rows], source)
    made = [_sample(row.conversation, row.model, row.completion, row.external_id) for row in rows]
    return {"prompts": prompts, "samples": _unique("samples", made)}


def pairs(
    rows: Sequence[PairRow], source: str, known: Mapping[str, tuple[str, bool]] | None = None
) -> tuple[dict[str, pl.DataFrame], dict[str, str]]:
    """Frames ``prompts``, ``samples`` and ``pairs`` of imported pairs, and the drops (external id -> reason).

    Drop reasons: ``identical`` (both responses have the same words), ``duplicate`` (the file has the pair already,
    under another id), ``id_taken`` (by *known*, external id -> pair_id and whether it is flipped, the run has another
    pair of that id, or this one the other way round, so its labels could not be told apart).
    """
    prompts, _ = load.prompts(_merged([row.conversation for row in rows]), source)
    reasons: dict[str, str] = {}
    texts: list[dict[str, object]] = []
    made: dict[str, dict[str, object]] = {}
    for row in rows:
        a = _sample(row.conversation, row.model_a, row.response_a, None)
        b = _sample(row.conversation, row.model_b, row.response_b, None)
        first, second = str(a["sample_id"]), str(b["sample_id"])
        key = ids.pair_id(first, second)
        if row.response_a == row.response_b:
            reasons[row.external_id] = "identical"
        elif key in made:
            reasons[row.external_id] = "duplicate"
        elif (known or {}).get(row.external_id, (key, first > second)) != (key, first > second):
            reasons[row.external_id] = "id_taken"
        else:
            texts += [a, b]
            made[key] = {
                "pair_id": key,
                "prompt_id": a["prompt_id"],
                "sample_a": min(first, second),
                "sample_b": max(first, second),
                "external_id": row.external_id,
                "external_flipped": first > second,
            }
    frames = {
        "prompts": prompts,
        "samples": _unique("samples", texts),
        "pairs": schemas.frame("pairs", list(made.values())),
    }
    return frames, reasons


def judgments(rows: Sequence[JudgmentRow], known: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, str]]:
    """The frame ``judgments`` in canonical order, and the drops (id -> reason).

    Drop reasons: ``unknown_pair``, ``repeated`` (the judge's second verdict on the same pair in the same order).
    """
    named = orientation(known)
    made: dict[tuple[str, str, str], dict[str, object]] = {}
    reasons: dict[str, str] = {}
    for row in rows:
        where = f"{row.pair}:{row.judge}:{row.order}"
        if row.pair not in named:
            reasons[where] = "unknown_pair"
            continue
        key, flipped = named[row.pair]
        order = OTHER_ORDER[row.order] if flipped else row.order
        if (key, row.judge, order) in made:
            reasons[where] = "repeated"
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
    return schemas.frame("judgments", list(made.values())), reasons


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


def _merged(conversations: Sequence[Conversation]) -> list[Conversation]:
    """One conversation per prompt, with the tags of all of them: a prompt stands in many pairs of a file."""
    merged: dict[tuple[object, ...], Conversation] = {}
    for item in conversations:
        key = (item.messages, item.reference)
        known = merged.get(key)
        tags = tuple(sorted({*item.tags, *(known.tags if known else ())}))
        merged[key] = Conversation(known.where if known else item.where, item.messages, (), item.reference, tags)
    return list(merged.values())


def _unique(frame: str, rows: list[dict[str, object]]) -> pl.DataFrame:
    return schemas.frame(frame, rows).unique(schemas.FRAMES[frame].primary_key(), keep="first", maintain_order=True)


def _without_known(bench: Workbench, frame: str, rows: pl.DataFrame, shard: str) -> pl.DataFrame:
    """*rows* less those that other parts of the frame hold, so that importing twice adds nothing."""
    own = bench.folder.part(frame, "import", shard)
    others = [part for part in bench.folder.parts(frame) if part != own]
    keys = schemas.FRAMES[frame].primary_key()
    known = [pl.read_parquet(part).select(pl.col(key).cast(rows.schema[key]) for key in keys) for part in others]
    return rows.join(pl.concat(known), on=keys, how="anti") if known else rows
