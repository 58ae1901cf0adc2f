"""distilabel's distisets: an ``instruction`` with ``generations`` and their ``ratings``. Pure.

Ratings are 1 to 5, where one is higher 1 to 10; one that could not be parsed is null and says nothing. Rows that were
made binary (``chosen``, ``rejected``) have the shape ``trl``.
"""

from typing import cast

from pipeline.importers.base import Asked, Batch, Kind, Row, Table, Unusable, columns_in, each, first_of
from pipeline.importers.reading.conversations import asked
from pipeline.importers.reading.ratings import Rated, compare, scaled
from pipeline.importers.reading.values import listed, number_of, plain, text_fault

PROMPT = ("instruction", "prompt", "input")
MODELS = ("generation_models", "model_names", "generation_model")
RATIONALES = ("rationales", "rationales-for-ratings", "rationale")
SCALE, LONG_SCALE = 5.0, 10.0


def fits(row: Row, kind: Kind) -> int:
    """See ``pipeline.importers.base``."""
    del kind
    if first_of(row, PROMPT) is None or not isinstance(listed(row.get("generations")), list):
        return 0
    return columns_in(row, "generations") + 1 + ("ratings" in row)


def read(table: Table, asked: Asked) -> Batch:
    """See ``pipeline.importers.base``."""
    batch = Batch(needs=("|".join(PROMPT), "generations"))
    marks = [mark for _, row in table.rows for one in _list(row.get("ratings")) if (mark := number_of(one)) is not None]
    top = LONG_SCALE if max(marks, default=0) > SCALE else SCALE
    return each(table, lambda row, where: _row(batch, row, where, asked, top), batch)


def _row(batch: Batch, row: Row, where: str, wanted: Asked, top: float) -> None:
    prompt = asked(first_of(row, PROMPT), row, where, "instruction", row.get("system_prompt"))
    texts, marks = _list(row.get("generations")), _list(row.get("ratings"))
    if marks and len(marks) != len(texts):
        raise Unusable("ratings_of_other_length")
    models = first_of(row, MODELS)
    names = _list(models) if isinstance(listed(models), list) else [models] * len(texts)
    words = _list(first_of(row, RATIONALES))
    answers = [
        Rated(
            where,
            cast("str", text),
            plain(_at(names, at) or "imported"),
            scaled(mark := number_of(_at(marks, at)), 1.0, top),
            () if mark is None else (("overall", mark),),
            cast("str | None", _at(words, at)) if isinstance(_at(words, at), str) else None,
        )
        for at, text in enumerate(texts)
        if not text_fault(text)
    ]
    compare(batch, wanted, prompt, answers)


def _list(value: object) -> list[object]:
    given = listed(value)
    return cast("list[object]", given) if isinstance(given, list) else []


def _at(values: list[object], at: int) -> object:
    return values[at] if at < len(values) else None
