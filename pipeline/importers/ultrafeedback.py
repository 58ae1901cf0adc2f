"""OpenBMB's UltraFeedback: an ``instruction`` with four rated ``completions``, and Argilla's curated one. Pure.

The mark of an answer is the mean of its aspects' ratings (1 to 5), else ``fine-grained_score``, else ``overall_score``
(1 to 10): some two thousand of the worst answers carry an overall score of 10 that was meant to be 1
(OpenBMB/UltraFeedback issue 8), and their aspects say so.
"""

from statistics import fmean
from typing import Any, cast

from pipeline.importers.base import Asked, Batch, Kind, Row, Table, Unusable, columns_in, each
from pipeline.importers.reading.conversations import asked
from pipeline.importers.reading.ratings import Rated, compare, scaled
from pipeline.importers.reading.values import number_of, objects, plain, text_fault

ASPECTS = (1.0, 5.0)
OVERALL = (1.0, 10.0)


def fits(row: Row, kind: Kind) -> int:
    """See ``pipeline.importers.base``."""
    del kind
    told = objects(row.get("completions"))
    return columns_in(row, "instruction", "completions") + 1 if told and "response" in told[0] else 0


def read(table: Table, asked: Asked) -> Batch:
    """See ``pipeline.importers.base``."""
    batch = Batch(needs=("instruction", "completions"))
    return each(table, lambda row, where: _row(batch, row, where, asked), batch)


def _row(batch: Batch, row: Row, where: str, wanted: Asked) -> None:
    prompt = asked(row.get("instruction"), row, where, "instruction")
    told = objects(row.get("completions"))
    if not told:
        raise Unusable("completions_missing")
    answers = [_rated(one, where) for one in told if not text_fault(one.get("response"))]
    compare(batch, wanted, prompt, answers)


def _rated(one: Row, where: str) -> Rated:
    given = one.get("annotations")
    annotations = cast("dict[str, Any]", given) if isinstance(given, dict) else {}
    aspects = {
        name: mark
        for name, told in annotations.items()
        if isinstance(told, dict) and (mark := number_of(cast("Row", told).get("Rating"))) is not None
    }
    fine, overall = (number_of(one.get(name)) for name in ("fine-grained_score", "overall_score"))
    mean = fmean(aspects.values()) if aspects else fine
    share = scaled(overall, *OVERALL) if mean is None else scaled(mean, *ASPECTS)
    known = {**aspects, **({"overall": overall} if overall is not None else {})}
    critique = one.get("critique")
    words = plain(critique) if isinstance(critique, str) else None
    model = plain(one.get("model") or "imported")
    return Rated(where, one["response"], model, share, tuple(sorted(known.items())), words)
