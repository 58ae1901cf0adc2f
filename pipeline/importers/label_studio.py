"""Label Studio: tasks to be compared there, and labels from its JSON export. Reads and writes the user's file.

A task holds the conversation and two answers, `left` and `right`; which of them is a, in canonical order, stands in
`data.left_is`, drawn by the pair's id. Nothing tells who wrote an answer or what judges say. `meta` keeps queue and
inclusion probability. The labelling config for such tasks is :data:`CONFIG`.

An annotation counts when it chose by `Pairwise` (`selected`: left, right) or `Choices` (left, right, tie). One that is
marked as ground truth is a known answer. Refused with a reason: `cancelled`, `draft`, `no_choice`, `contradictory`,
`choice_unknown`, `annotator_missing`; whole tasks: `pair_id_missing`, `left_is_unknown`, `queue_unknown`,
`inclusion_prob_unknown`, `not_a_task`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pipeline import ids
from pipeline.errors import DataError
from pipeline.importers.base import Asked, Batch, Kind, LabelRow, Refused, Row, Table
from pipeline.importers.jsonl import LONGEST_S, QUEUES
from pipeline.importers.reading.values import plain, text_fault
from pipeline.schemas import GOLD
from pipeline.store import whole

CONFIG = """\
<View>
  <Paragraphs name="conversation" value="$messages" layout="dialogue" nameKey="role" textKey="content"/>
  <Pairwise name="preferred" toName="left,right"/>
  <View style="display: flex; gap: 1em">
    <View style="flex: 1"><Text name="left" value="$left"/></View>
    <View style="flex: 1"><Text name="right" value="$right"/></View>
  </View>
  <Choices name="tie" toName="left" choice="single" showInline="true"><Choice value="tie" hotkey="t"/></Choices>
</View>
"""
"""The labelling interface: click an answer, or `tie`."""
OTHER = {"a": "b", "b": "a"}
Json = dict[str, Any]


def fits(row: Row, kind: Kind) -> int:
    """See ``pipeline.importers.base``."""
    return len(("data", "annotations")) * (
        kind == "labels" and "data" in row and bool({"annotations", "drafts"} & row.keys())
    )


def read(table: Table, asked: Asked) -> Batch:
    """See ``pipeline.importers.base``: labels of an export ("JSON", not "JSON-MIN")."""
    del asked
    labels, refused = _labels(table.rows)
    return Batch(labels=labels, refused=refused, needs=("data", "annotations"))


def read_labels(path: Path) -> tuple[list[LabelRow], Refused]:
    """Labels of an export.

    Raises:
        DataError: the file is no JSON list.
    """
    return _labels((f"{path.name}:{number}", task) for number, task in enumerate(json_list(path), 1))


def _labels(tasks: Iterable[tuple[str, Json]]) -> tuple[list[LabelRow], Refused]:
    refused = Refused()
    found: list[LabelRow] = []
    for where, task in tasks:
        told = _task(task)
        if isinstance(told, str):
            refused.add(where, told)
            continue
        pair, left, queue, probability = told
        for draft in objects(task.get("drafts")):
            refused.add(f"{pair}:{_person(draft.get('user')) or 'draft'}", "draft", where)
        for given in objects(task.get("annotations")):
            person = GOLD if given.get("ground_truth") is True else _person(given.get("completed_by"))
            label = _label(given, left)
            if person is None:
                refused.add(f"{pair}:{plain(given.get('id'))}", "annotator_missing", where)
            elif label in ("a", "b", "tie"):
                place = (GOLD, 1.0) if person == GOLD else (queue, probability)
                seconds, when = given.get("lead_time"), given.get("created_at")
                found.append(LabelRow(pair, person, label, *place, duration(seconds), _time(when), f"{where}:{person}"))
            else:
                refused.add(f"{pair}:{person}", label, where)
    return found, refused


def write_queue(rows: Sequence[Mapping[str, object]], path: Path) -> None:
    """Write tasks for "Import": rows as ``labels.queues.queue`` gives them; those with a label as annotations."""
    tasks: dict[str, Json] = {}
    for row in rows:
        key = str(row["pair_id"])
        left = left_of(key)
        if key not in tasks:
            tasks[key] = {
                "data": {
                    "pair_id": key,
                    "left_is": left,
                    "messages": row["messages"],
                    "left": row[f"response_{left}"],
                    "right": row[f"response_{OTHER[left]}"],
                },
                "meta": {"queue": row["queue"], "inclusion_prob": row["inclusion_prob"]},
            }
        if row.get("label"):
            tasks[key].setdefault("annotations", []).append(_annotation(row, left))
    with whole(path) as file:
        file.write_text(json.dumps(list(tasks.values()), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def left_of(pair: str) -> str:
    """The answer that stands on the left for everybody: these tools show a task to all people alike."""
    return "a" if ids.uniform_from(0, "left", pair) < 1 / 2 else "b"


def json_list(path: Path) -> list[Json]:
    """The objects of a JSON list; what is no object becomes an empty one.

    Raises:
        DataError: it is missing, no UTF-8, or no JSON list.
    """
    try:
        value: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); give the file as it was exported") from error
    if not isinstance(value, list):
        raise DataError(f"{path}: expected a JSON list, found {type(value).__name__}; export as JSON")
    return [cast("Json", one) if isinstance(one, dict) else {} for one in cast("list[object]", value)]


def objects(value: object) -> list[Json]:
    """The objects in *value*, if it is a list."""
    return (
        [cast("Json", one) for one in cast("list[object]", value) if isinstance(one, dict)]
        if isinstance(value, list)
        else []
    )


def placed(left: object, queue: object, probability: object) -> str | None:
    """Why a task cannot be read: side, queue or inclusion probability; None when it can."""
    if left not in OTHER:
        return "left_is_unknown"
    if queue not in QUEUES:
        return "queue_unknown"
    if not isinstance(probability, int | float) or isinstance(probability, bool) or not 0 < probability <= 1:
        return "inclusion_prob_unknown"
    return None


def duration(value: object) -> float | None:
    """*value* as seconds, where it is some."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < LONGEST_S
    return float(cast("float", value)) if fits else None


def side_label(side: str, left: str) -> str:
    """The label in canonical order of the choice of ``left``, ``right`` or ``tie``."""
    return {"left": left, "right": OTHER[left], "tie": "tie"}.get(side, "choice_unknown")


def _task(task: Json) -> tuple[str, str, str, float] | str:
    """(pair, left, queue, inclusion probability), or why there is none."""
    data, meta = task.get("data"), task.get("meta")
    if not isinstance(data, dict):
        return "not_a_task"
    given, kept = cast("Json", data), cast("Json", meta if isinstance(meta, dict) else {})
    pair = given.get("pair_id")
    if text_fault(pair):
        return "pair_id_missing"
    left, queue, probability = given.get("left_is"), kept.get("queue"), kept.get("inclusion_prob")
    fault = placed(left, queue, probability)
    return fault or (plain(pair), str(left), str(queue), float(cast("float", probability)))


def _person(value: object) -> str | None:
    """Who annotated: an e-mail address where the export tells it, else the user's number."""
    user = cast("Json", value) if isinstance(value, dict) else {"id": value}
    email, number = user.get("email"), user.get("id")
    if not text_fault(email):
        return plain(email)
    return f"user-{number}" if isinstance(number, int) and not isinstance(number, bool) else None


def _label(given: Json, left: str) -> str:
    """The label of an annotation in canonical order, or why there is none."""
    if given.get("was_cancelled") is True:
        return "cancelled"
    chosen: set[str] = set()
    for one in objects(given.get("result")):
        value = one.get("value")
        told = cast("Json", value) if isinstance(value, dict) else {}
        if one.get("type") == "pairwise":
            chosen.add(plain(told.get("selected")).lower())
        elif one.get("type") == "choices" and isinstance(told.get("choices"), list):
            chosen |= {plain(name).lower() for name in told["choices"]}
    if not chosen:
        return "no_choice"
    return side_label(chosen.pop(), left) if len(chosen) == 1 else "contradictory"


def _time(value: object) -> str | None:
    return None if text_fault(value) else plain(value)


def _annotation(row: Mapping[str, object], left: str) -> Json:
    label = row["label"]
    result: Json = {"from_name": "tie", "to_name": "left", "type": "choices", "value": {"choices": ["tie"]}}
    if label != "tie":
        side = "left" if label == left else "right"
        result = {"from_name": "preferred", "to_name": "preferred", "type": "pairwise", "value": {"selected": side}}
    return {
        "completed_by": {"email": row["annotator"]},
        "created_at": row["labelled_at"],
        "lead_time": row["seconds"],
        "was_cancelled": False,
        "ground_truth": False,
        "result": [result],
    }
