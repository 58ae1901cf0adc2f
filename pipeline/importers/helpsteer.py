"""NVIDIA's HelpSteer 2 and 3: answers rated on five attributes, and preferences from -3 to 3. Pure.

Ratings (0 to 4; lists of them in the part with disagreements) stand in rows of their own, the two answers to a prompt
next to each other; helpfulness is the mark. A preference below 0 is for the first answer, above it for the second.
Prompts of several turns carry the markers ``<extra_id_1>Assistant`` and ``<extra_id_1>User``.
"""

import re
from statistics import fmean
from typing import Any, cast

from pipeline.importers.base import (
    Asked,
    Batch,
    Conversation,
    Kind,
    PairRow,
    Row,
    Table,
    Unusable,
    columns_in,
    each,
    first_of,
)
from pipeline.importers.reading.conversations import asked, conversation, text_of
from pipeline.importers.reading.ratings import Rated, by_prompt, compare, scaled
from pipeline.importers.reading.values import found, number_of

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
LOW, HIGH = 0.0, 4.0
STRONGEST = 3
STRENGTH = ("preference_strength", "overall_preference")
FIRST, SECOND = ("response_1", "response1"), ("response_2", "response2")
MARKER = re.compile(r"\n*<extra_id_1>(Assistant|User)\n")


def fits(row: Row, kind: Kind) -> int:
    """See ``pipeline.importers.base``."""
    del kind
    if columns_in(row, "prompt", "response", "helpfulness", "correctness"):
        return len(("prompt", "response", *ATTRIBUTES))
    paired = columns_in(row, "prompt", "response_1", "response_2", "preference_strength")
    return paired or columns_in(row, "context", "response1", "response2", "overall_preference")


def read(table: Table, asked: Asked) -> Batch:
    """See ``pipeline.importers.base``."""
    if any(first_of(row, STRENGTH) is not None for _, row in table.rows):
        batch = Batch(needs=("prompt|context", "response_1|response1", "response_2|response2", "|".join(STRENGTH)))
        return each(table, lambda row, where: _preferred(batch, row, where, asked), batch)
    batch = Batch(needs=("prompt", "response", "helpfulness"))
    rows: list[tuple[Conversation, Rated]] = []
    each(table, lambda row, where: _rated(rows, row, where), batch)
    for prompt, answers in by_prompt(rows):
        try:
            compare(batch, asked, prompt, answers)
        except Unusable as fault:
            for one in answers:
                batch.refused.add(one.where, fault.reason, one.where)
    return batch


def _prompt(row: Row, where: str) -> Conversation:
    given = first_of(row, ("context", "prompt"))
    if not isinstance(given, str) or MARKER.search(given) is None:
        return asked(given, row, where)
    first, *pieces = MARKER.split(given)
    roles = {"Assistant": "assistant", "User": "user"}
    later = [{"role": roles[role], "content": text} for role, text in zip(pieces[::2], pieces[1::2], strict=True)]
    return conversation([{"role": "user", "content": first}, *later], row, where)


def _rated(rows: list[tuple[Conversation, Rated]], row: Row, where: str) -> None:
    prompt, answer = _prompt(row, where), text_of(row.get("response"), "response")
    marks = {name: mark for name in ATTRIBUTES if (mark := _mean(row.get(name))) is not None}
    share = scaled(marks.get("helpfulness"), LOW, HIGH)
    if share is None:
        raise Unusable("helpfulness_unknown", found(row.get("helpfulness"), "0 to 4"))
    rows.append((prompt, Rated(where, answer, "imported", share, tuple(sorted(marks.items())))))


def _mean(value: Any) -> float | None:
    marks = [number_of(one) for one in (cast("list[Any]", value) if isinstance(value, list) else [value])]
    known = [mark for mark in marks if mark is not None]
    return fmean(known) if known else None


def _preferred(batch: Batch, row: Row, where: str, wanted: Asked) -> None:
    prompt = _prompt(row, where)
    first, second = (text_of(first_of(row, names), names[0]) for names in (FIRST, SECOND))
    given = first_of(row, STRENGTH)
    strength = number_of(given)
    if strength is None or abs(strength) > STRONGEST:
        raise Unusable("preference_unknown", found(given, "-3 (the first is much better) to 3 (the second is)"))
    label = "a" if strength < 0 else "b" if strength > 0 else "tie"
    batch.vote(wanted, PairRow(prompt, None, first, second, "imported", "imported"), label)
