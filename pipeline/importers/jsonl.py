"""jurybox's own JSON lines, and files of real pairs in the same shape. Reads the user's file and nothing else.

prompts    {"prompt": str} or {"messages": [{role, content}]} or {"turns": [str]}, optional reference, tags
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from pipeline.importers.base import Conversation, Refused, Turn, json_lines, plain, text_fault, turns_of
from pipeline.store import whole


@dataclass(frozen=True, slots=True)
class SampleRow:
    """An answer as a file gives it."""

    conversation: Conversation
    completion: str
    model: str
    external_id: str | None


@dataclass(frozen=True, slots=True)
class PairRow:
    """A pair as a file gives it, its own a first."""

    conversation: Conversation
    external_id: str
    response_a: str
    response_b: str
    model_a: str
    model_b: str


@dataclass(frozen=True, slots=True)
class JudgmentRow:
    """A judge's opinion in terms of the file's a and b."""

    pair: str
    judge: str
    order: str
    preference: float | None
    rationale: str | None


@dataclass(frozen=True, slots=True)
class LabelRow:
    """A person's opinion in terms of the file's a and b."""

    pair: str
    annotator: str
    label: str
    queue: str
    inclusion_prob: float
    seconds: float | None
    labelled_at: str | None


Row = TypeVar("Row")
PREFERENCES = {"a": 1.0, "b": 0.0, "tie": 0.5}
# Tuples, not sets: what a file holds may not be hashable.
LONGEST_S = 1e9
ORDERS, LABELS, QUEUES = ("ab", "ba"), ("a", "b", "tie"), ("audit", "active", "gold")


def read_prompts(path: Path) -> tuple[list[Conversation], Refused]:
    """Prompts of a file."""
    refused = Refused()
    found: list[Conversation] = []
    for number, row in json_lines(path):
        where = f"{path.name}:{number}"
        conversation = _conversation(row, where)
        if isinstance(conversation, str):
            refused.add(where, conversation)
        else:
            found.append(conversation)
    return found, refused


def read_samples(path: Path) -> tuple[list[SampleRow], Refused]:
    """Answers of a file."""
    refused = Refused()
    found: list[SampleRow] = []
    for number, row in json_lines(path):
        given = row.get("id")
        where = f"{path.name}:{number}" if given is None else plain(given)
        conversation = _conversation(row, where)
        if isinstance(conversation, str):
            refused.add(where, conversation)
        elif fault := text_fault(row.get("completion")):
            refused.add(where, f"completion_{fault}")
        else:
            model = plain(row.get("model", "imported"))
            found.append(SampleRow(conversation, row["completion"], model, None if given is None else where))
    return found, refused


def read_pairs(path: Path) -> tuple[list[PairRow], Refused]:
    """Pairs of a file; responses that are empty or no text are refused by the pair's id."""
    refused = Refused()
    found: dict[str, PairRow] = {}
    for number, row in json_lines(path):
        given = row.get("pair_id")
        where = f"{path.name}:{number}" if given is None else plain(given)
        conversation = _conversation(row, where)
        faults = {key: text_fault(row.get(key)) for key in ("response_a", "response_b")}
        fault = next((f"{key}_{why}" for key, why in faults.items() if why), None)
        if given is None:
            refused.add(where, "pair_id_missing")
        elif where in found:
            refused.add(f"{path.name}:{number}", "pair_id_repeated")
        elif isinstance(conversation, str):
            refused.add(where, conversation)
        elif conversation.later_turns:
            refused.add(where, "turns_not_allowed")
        elif fault:
            refused.add(where, fault)
        else:
            models = plain(row.get("model_a", "imported")), plain(row.get("model_b", "imported"))
            found[where] = PairRow(conversation, where, row["response_a"], row["response_b"], *models)
    return list(found.values()), refused


def read_judgments(path: Path) -> tuple[list[JudgmentRow], Refused]:
    """Judges' opinions of a file. The judge's name is ``judge`` or, with a mode, ``judge/mode``."""

    def one(row: dict[str, Any]) -> JudgmentRow | str:
        for key in ("pair_id", "judge"):
            if _nameless(row.get(key)):
                return f"{key}_missing"
        given = row.get("preference")
        preference = PREFERENCES.get(given) if isinstance(given, str) else None
        if isinstance(given, int | float) and not isinstance(given, bool):
            preference = float(given) if 0 <= given <= 1 else None
        if given is not None and preference is None:
            return "preference_unknown"
        order = row.get("order", "ab")
        if order not in ORDERS:
            return "order_unknown"
        judge = plain(f"{row['judge']}/{row['mode']}" if row.get("mode") else row["judge"])
        rationale = row.get("rationale")
        return JudgmentRow(
            plain(row["pair_id"]), judge, order, preference, plain(rationale) if isinstance(rationale, str) else None
        )

    return _each(path, one)


def read_labels(path: Path) -> tuple[list[LabelRow], Refused]:
    """People's labels of a file."""

    def one(row: dict[str, Any]) -> LabelRow | str:
        for key in ("pair_id", "annotator"):
            if _nameless(row.get(key)):
                return f"{key}_missing"
        if row.get("label") not in LABELS:
            return "label_unknown"
        queue, probability = row.get("queue", "audit"), row.get("inclusion_prob", 1.0)
        if queue not in QUEUES:
            return "queue_unknown"
        if not isinstance(probability, int | float) or isinstance(probability, bool) or not 0 < probability <= 1:
            return "inclusion_prob_unknown"
        seconds, when = row.get("seconds"), row.get("labelled_at")
        return LabelRow(
            plain(row["pair_id"]),
            plain(row["annotator"]),
            row["label"],
            queue,
            float(probability),
            float(seconds) if isinstance(seconds, int | float) and 0 <= seconds < LONGEST_S else None,
            plain(when) if isinstance(when, str) else None,
        )

    return _each(path, one)


def write_queue(rows: Sequence[Mapping[str, object]], path: Path) -> None:
    """Write rows to be labelled, or labels, one JSON object a line; :func:`read_labels` reads them back."""
    with whole(path) as file:
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _nameless(value: object) -> bool:
    """Whether *value* cannot name a pair, judge or person: names are text or whole numbers."""
    return isinstance(value, bool) or (not isinstance(value, int) and text_fault(value) is not None)


def _each(path: Path, one: Callable[[dict[str, Any]], Row | str]) -> tuple[list[Row], Refused]:
    refused = Refused()
    found: list[Row] = []
    for number, row in json_lines(path):
        made = one(row)
        if isinstance(made, str):
            refused.add(f"{path.name}:{number}", made)
        else:
            found.append(made)
    return found, refused


def _conversation(row: dict[str, Any], where: str) -> Conversation | str:
    turns = turns_of(row)
    if isinstance(turns, str):
        return turns
    reference = row.get("reference")
    if reference is not None and not isinstance(reference, str):
        reference = json.dumps(reference, sort_keys=True, ensure_ascii=False)
    if reference is not None and text_fault(reference) == "not_unicode":
        return "reference_not_unicode"
    given = cast("list[object]", row["tags"]) if isinstance(row.get("tags"), list) else []
    tags = [plain(tag) for tag in (*given, *([row["subset"]] if row.get("subset") else []))]
    messages: tuple[Turn, ...] = turns[0]
    return Conversation(where, messages, turns[1], reference, tuple(sorted(set(tags))))
