"""AlpacaEval: model outputs, and annotations of which of two outputs is preferred. Pure.

``preference`` is 1 for output_1, 2 for output_2, 1.5 (in older files 0) for a draw, and may lie between; null where the
annotator failed. ``annotator`` is a judge; AlpacaFarm's people are known by ``annotator_index``.
"""

from pipeline.importers.base import (
    Asked,
    Batch,
    Conversation,
    JudgmentRow,
    Kind,
    PairRow,
    Row,
    SampleRow,
    Table,
    Unusable,
    columns_in,
    each,
)
from pipeline.importers.reading.conversations import asked, text_of
from pipeline.importers.reading.values import found, name_of, number_of, plain, text_fault

FIRST, SECOND = 1.0, 2.0
OUTPUTS = ("output_1", "output_2")


def fits(row: Row, kind: Kind) -> int:
    """See ``pipeline.importers.base``."""
    del kind
    annotated = columns_in(row, "instruction", *OUTPUTS)
    if annotated:
        return annotated + ("preference" in row) + ("annotator" in row)
    return columns_in(row, "instruction", "output", "generator")


def read(table: Table, asked: Asked) -> Batch:
    """See ``pipeline.importers.base``."""
    if any("output_1" in row for _, row in table.rows):
        batch = Batch(needs=("instruction", *OUTPUTS, "preference"))
        return each(table, lambda row, where: _annotation(batch, row, where, asked), batch)
    batch = Batch(needs=("instruction", "output"))
    return each(table, lambda row, where: _output(batch, row, where), batch)


def prompt_of(row: Row, where: str) -> Conversation:
    """The instruction, and below it the input where there is one."""
    instruction, given = row.get("instruction"), row.get("input")
    if text_fault(instruction) is None and isinstance(given, str) and given.strip():
        instruction = f"{instruction}\n\n{given}"
    return asked(instruction, row, where, "instruction", row.get("system"))


def _output(batch: Batch, row: Row, where: str) -> None:
    prompt, answer = prompt_of(row, where), text_of(row.get("output"), "output")
    batch.samples.append(SampleRow(prompt, answer, plain(row.get("generator") or "imported"), None))


def _annotation(batch: Batch, row: Row, where: str, wanted: Asked) -> None:
    prompt = prompt_of(row, where)
    answers = [text_of(row.get(name), name) for name in OUTPUTS]
    given = row.get("preference")
    number = number_of(given)
    if given is not None and (number is None or not (number == 0 or FIRST <= number <= SECOND)):
        raise Unusable("preference_unknown", found(given, "1 to 2, or 0 for a draw"))
    models = [plain(row.get(name) or "imported") for name in ("generator_1", "generator_2")]
    pair = PairRow(prompt, None, *answers, *models)
    share = None if number is None else SECOND - number if number else 1 / 2
    index = name_of(row.get("annotator_index"))
    person = wanted.by_people(None if index is None else f"annotator-{index}")
    if person is not None and share is not None:
        batch.vote(wanted, pair, "a" if share > 1 / 2 else "b" if share < 1 / 2 else "tie", person)
    else:
        judge = name_of(row.get("annotator")) or wanted.source
        batch.pairs.append(pair)
        batch.judgments.append(JudgmentRow(pair.name, judge, None, share, None, where))
