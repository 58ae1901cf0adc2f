"""Argilla 2: records to be compared there, and labels from its JSON export. Reads and writes the user's file.

A record's id is the pair's; its fields are the conversation and two answers, `left` and `right`; its metadata say which
of them is a, in canonical order, and keep queue and inclusion probability. Nothing tells who wrote an answer or what
judges say. The question `preferred` takes left, right or tie. docs/labelling.md has the settings.

``dataset.records(query).to_json(path)`` writes no status, so drafts are kept out by the query; where a response has a
`status` that is not `submitted`, it is refused by that name. Other reasons: `choice_unknown`, `annotator_missing`;
whole records: `pair_id_missing`, `left_is_unknown`, `queue_unknown`, `inclusion_prob_unknown`.
"""

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pipeline.importers.base import Asked, Batch, Kind, LabelRow, Refused, Row, Table
from pipeline.importers.label_studio import OTHER, json_list, left_of, objects, placed, side_label
from pipeline.importers.reading.values import plain, text_fault
from pipeline.store import whole

QUESTION = "preferred"
Json = dict[str, Any]


def fits(row: Row, kind: Kind) -> int:
    """See ``pipeline.importers.base``."""
    return len(("fields", "metadata", "responses")) * (kind == "labels" and {"fields", "responses"} <= row.keys())


def read(table: Table, asked: Asked) -> Batch:
    """See ``pipeline.importers.base``: labels of the file that ``records.to_json`` wrote."""
    del asked
    labels, refused = _labels(table.rows)
    return Batch(labels=labels, refused=refused, needs=("id", "metadata", "responses"))


def read_labels(path: Path) -> tuple[list[LabelRow], Refused]:
    """Labels of the file that ``records.to_json`` wrote.

    Raises:
        DataError: the file is no JSON list.
    """
    return _labels((f"{path.name}:{number}", record) for number, record in enumerate(json_list(path), 1))


def _labels(records: Iterable[tuple[str, Json]]) -> tuple[list[LabelRow], Refused]:
    refused = Refused()
    found: list[LabelRow] = []
    for place, record in records:
        number = place.rpartition(":")[2]
        pair = record.get("id")
        kept = _object(record.get("metadata"))
        left, queue, probability = kept.get("left_is"), kept.get("queue"), kept.get("inclusion_prob")
        fault = "pair_id_missing" if text_fault(pair) else placed(left, queue, probability)
        if fault:
            refused.add(place, fault)
            continue
        for response in objects(_object(record.get("responses")).get(QUESTION)):
            person, status = response.get("user_id"), response.get("status", "submitted")
            label = side_label(plain(response.get("value")), str(left))
            if text_fault(person):
                refused.add(f"{pair}:{number}", "annotator_missing", place)
            elif status != "submitted":
                refused.add(f"{pair}:{plain(person)}", plain(status), place)
            elif label == "choice_unknown":
                refused.add(f"{pair}:{plain(person)}", label, place)
            else:
                share = float(cast("float", probability))
                found.append(
                    LabelRow(
                        plain(pair), plain(person), label, str(queue), share, None, None, f"{place}:{plain(person)}"
                    )
                )
    return found, refused


def write_queue(rows: Sequence[Mapping[str, object]], path: Path) -> None:
    """Write records for ``dataset.records.from_json(path)``: rows as ``pipeline.labels.queues.queue`` gives them.

    Those with a label become responses. Argilla knows people by a UUID: a name that is none becomes one, always the
    same for the same name.
    """
    records: dict[str, Json] = {}
    for row in rows:
        key = str(row["pair_id"])
        left = left_of(key)
        if key not in records:
            turns = cast("list[dict[str, str]]", row["messages"])
            records[key] = {
                "id": key,
                "fields": {
                    "conversation": "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns),
                    "left": row[f"response_{left}"],
                    "right": row[f"response_{OTHER[left]}"],
                },
                "metadata": {"left_is": left, "queue": row["queue"], "inclusion_prob": row["inclusion_prob"]},
                "suggestions": {},
                "responses": {},
                "vectors": {},
            }
        if row.get("label"):
            label = row["label"]
            side = "tie" if label == "tie" else "left" if label == left else "right"
            response = {"value": side, "user_id": _user(str(row["annotator"])), "status": "submitted"}
            records[key]["responses"].setdefault(QUESTION, []).append(response)
    with whole(path) as file:
        file.write_text(json.dumps(list(records.values()), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _object(value: object) -> Json:
    return cast("Json", value) if isinstance(value, dict) else {}


def _user(name: str) -> str:
    try:
        return str(uuid.UUID(name))
    except ValueError:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"jurybox:{name}"))
