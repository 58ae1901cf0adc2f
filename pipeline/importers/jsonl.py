"""jurybox's own rows, and files of real pairs in the same shape. Pure.

prompts    {"prompt": str} or {"messages": [{role, content}]} or {"turns": [str]}, optional reference, tags, tools
samples    a prompt as above, "completion", optional "model", "id"
pairs      a prompt as above, "pair_id", "response_a", "response_b", optional "subset", "model_a", "model_b"
judgments  "pair_id", "judge", optional "mode", "order" (ab, ba: what the judge saw), "preference" (a, b, tie,
           a number P(a preferred), or null: no verdict could be read); it names the file's own a and b
labels     "pair_id", "annotator", "label" (a, b, tie), optional "queue" (audit, active, gold), "inclusion_prob",
           "seconds", "labelled_at"; the annotator gold in the queue gold is a known answer

A row that is JSON but unusable is refused by id with a reason and the rest goes on; a line that is no JSON stops
the import, because then the file is broken.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

from pipeline.importers.base import (
    PREFERENCES,
    Asked,
    Batch,
    Conversation,
    JudgmentRow,
    Kind,
    LabelRow,
    PairRow,
    Refused,
    Row,
    SampleRow,
    Table,
    Unusable,
    each,
)
from pipeline.importers.reading.conversations import answer_of, asked, conversation, messages_of, text_of
from pipeline.importers.reading.tables import Source, table
from pipeline.importers.reading.values import (
    ALLOWED,
    found,
    listed,
    moment_of,
    name_of,
    number_of,
    plain,
    side_of,
)
from pipeline.store import whole

LONGEST_S = 1e9
ORDERS, QUEUES = ("ab", "ba"), ("audit", "active", "gold")
PROMPT = ("prompt", "messages", "turns")
NEEDS: dict[Kind, tuple[str, ...]] = {
    "prompts": ("prompt|messages|turns",),
    "samples": ("prompt|messages|turns", "completion"),
    "pairs": ("prompt|messages|turns", "pair_id", "response_a", "response_b"),
    "judgments": ("pair_id", "judge", "preference"),
    "labels": ("pair_id", "annotator", "label"),
}


def fits(row: Row, kind: Kind) -> int:
    """See ``pipeline.importers.base``."""
    return sum(any(name in row for name in need.split("|")) for need in NEEDS[kind])


def read(rows: Table, asked: Asked) -> Batch:
    """See ``pipeline.importers.base``."""
    batch = Batch(needs=NEEDS[asked.kind])
    return each(rows, partial(READERS[asked.kind], batch, asked), batch)


def read_prompts(path: Path) -> tuple[list[Conversation], Refused]:
    """Prompts of a file."""
    batch = _read(path, "prompts")
    return batch.prompts, batch.refused


def read_samples(path: Path) -> tuple[list[SampleRow], Refused]:
    """Answers of a file."""
    batch = _read(path, "samples")
    return batch.samples, batch.refused


def read_pairs(path: Path) -> tuple[list[PairRow], Refused]:
    """Pairs of a file; responses that are empty or no text are refused by the pair's id."""
    batch = _read(path, "pairs")
    return batch.pairs, batch.refused


def read_judgments(path: Path) -> tuple[list[JudgmentRow], Refused]:
    """Judges' opinions of a file. The judge's name is ``judge`` or, with a mode, ``judge/mode``."""
    batch = _read(path, "judgments")
    return batch.judgments, batch.refused


def read_labels(path: Path) -> tuple[list[LabelRow], Refused]:
    """People's labels of a file."""
    batch = _read(path, "labels")
    return batch.labels, batch.refused


def write_queue(rows: Sequence[Mapping[str, object]], path: Path) -> None:
    """Write rows to be labelled, or labels, one JSON object a line; :func:`read_labels` reads them back."""
    with whole(path) as file:
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _read(path: Path, kind: Kind) -> Batch:
    source = Source(path)
    return read(table(source), Asked(kind, source.name))


def _named(name: str, fault: Unusable) -> Unusable:
    return Unusable(fault.reason, fault.detail, name)


def _prompt(batch: Batch, _asked: Asked, row: Row, where: str) -> None:
    batch.prompts.append(prompt_of(row, where))


def _sample(batch: Batch, _asked: Asked, row: Row, where: str) -> None:
    given = name_of(row.get("id"))
    try:
        prompt, text = prompt_of(row, where), answer_of(row.get("completion"), "completion")
    except Unusable as fault:
        raise _named(given or where, fault) from fault
    batch.samples.append(SampleRow(prompt, text, plain(row.get("model", "imported")), given))


def _pair(batch: Batch, _asked: Asked, row: Row, where: str) -> None:
    name = name_of(row.get("pair_id"))
    if name is None:
        raise Unusable("pair_id_missing")
    if name in batch.named:
        raise Unusable("pair_id_repeated")
    try:
        prompt = prompt_of(row, where)
        a, b = (answer_of(row.get(key), key) for key in ("response_a", "response_b"))
    except Unusable as fault:
        raise _named(name, fault) from fault
    if prompt.later_turns:
        raise Unusable("turns_not_allowed", name=name)
    batch.named.add(name)
    models = plain(row.get("model_a", "imported")), plain(row.get("model_b", "imported"))
    batch.pairs.append(PairRow(prompt, name, a, b, *models))


def _judgment(batch: Batch, _asked: Asked, row: Row, where: str) -> None:
    pair, judge = _name(row, "pair_id"), _name(row, "judge")
    given = row.get("preference")
    preference = _preference(given)
    if given is not None and preference is None:
        raise Unusable("preference_unknown", found(given, f"{ALLOWED}, or a number from 0 to 1: P(a preferred)"))
    spelt = row.get("order", "ab")
    order = spelt.strip().lower() if isinstance(spelt, str) else ""
    if order not in ORDERS:
        raise Unusable("order_unknown", found(spelt, ", ".join(ORDERS)))
    named = f"{judge}/{plain(row['mode'])}" if row.get("mode") else judge
    rationale = row.get("rationale")
    words = plain(rationale) if isinstance(rationale, str) else None
    batch.judgments.append(JudgmentRow(pair, named, order, preference, words, where))


def _name(row: Row, column: str, otherwise: str | None = None) -> str:
    name = name_of(row.get(column)) or otherwise
    if name is None:
        raise Unusable(f"{column}_missing")
    return name


def _preference(given: object) -> float | None:
    side, number = side_of(given), number_of(given)
    if side is not None:
        return PREFERENCES[side]
    return number if number is not None and 0 <= number <= 1 else None


def _label(batch: Batch, asked: Asked, row: Row, where: str) -> None:
    pair, person = _name(row, "pair_id"), _name(row, "annotator", asked.annotator)
    side = side_of(row.get("label"))
    if side is None:
        raise Unusable("label_unknown", found(row.get("label"), ALLOWED))
    queue = row.get("queue", "audit")
    if queue not in QUEUES:
        raise Unusable("queue_unknown", found(queue, ", ".join(QUEUES)))
    probability = number_of(row.get("inclusion_prob", 1.0))
    if probability is None or not 0 < probability <= 1:
        raise Unusable("inclusion_prob_unknown", found(row.get("inclusion_prob"), "a number above 0, up to 1"))
    seconds = number_of(row.get("seconds"))
    duration = seconds if seconds is not None and 0 <= seconds < LONGEST_S else None
    when = moment_of(row.get("labelled_at"))
    batch.labels.append(LabelRow(pair, person, side, queue, probability, duration, when, where))


def prompt_of(row: Row, where: str) -> Conversation:
    """The prompt of a row with ``messages``, ``turns`` or ``prompt``."""
    if "messages" in row:
        return conversation(messages_of(row["messages"]), row, where)
    if "turns" not in row:
        return asked(row.get("prompt"), row, where)
    given = listed(row["turns"])
    if not isinstance(given, list) or not given:
        raise Unusable("turns_not_a_list")
    first, *later = (text_of(text, "turn") for text in cast("list[object]", given))
    return replace(conversation([{"role": "user", "content": first}], row, where), later_turns=tuple(later))


READERS: dict[Kind, Callable[[Batch, Asked, Row, str], None]] = {
    "prompts": _prompt,
    "samples": _sample,
    "pairs": _pair,
    "judgments": _judgment,
    "labels": _label,
}
