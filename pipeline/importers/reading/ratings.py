"""Answers with marks become pairs with judgments, and good and bad ones pairs with a choice. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.importers.base import Asked, Batch, Conversation, JudgmentRow, PairRow, SampleRow, Unusable


@dataclass(frozen=True, slots=True)
class Rated:
    """One answer of several to a prompt."""

    where: str
    """The row it stands in."""
    text: str
    model: str = "imported"
    share: float | None = None
    """Its mark from 0, the bottom of the scale, to 1, its top; of ranks only the order counts. None: not rated."""
    scores: tuple[tuple[str, float], ...] = ()
    """(aspect, mark) in the file's own unit."""
    rationale: str | None = None


def scaled(mark: float | None, low: float, high: float) -> float | None:
    """*mark* as a share of the scale from *low* to *high*; None where it lies outside."""
    return None if mark is None or not low <= mark <= high else (mark - low) / (high - low)


def compare(
    batch: Batch, wanted: Asked, prompt: Conversation, answers: Sequence[Rated], *, ranks: bool = False
) -> None:
    """Every two different answers as a pair; where both have a mark, with the judgment of the file's own judge.

    The preference is half of 1 plus the difference of the shares, as of a pointwise judge; of *ranks* it is 0, 1/2, 1.

    Raises:
        Unusable: there are no answers, or for an import of pairs no two that differ.
    """
    if not answers:
        raise Unusable("answers_missing")
    if wanted.kind not in {"prompts", "samples"} and len({one.text for one in answers}) == 1:
        raise Unusable("single_answer")
    for at, one in enumerate(answers):
        batch.samples.append(SampleRow(prompt, one.text, one.model, None, one.scores))
        for number, other in enumerate(answers[:at]):
            if other.text == one.text:
                continue
            where = f"{one.where}#{number + 1}-{at + 1}"
            pair = PairRow(at_row(prompt, where), None, other.text, one.text, other.model, one.model)
            batch.pairs.append(pair)
            if one.share is not None and other.share is not None:
                gap = other.share - one.share
                preference = ((gap > 0) - (gap < 0) + 1) / 2 if ranks else (1 + gap) / 2
                words = "\n".join(text for text in (other.rationale, one.rationale) if text) or None
                batch.judgments.append(JudgmentRow(pair.name, wanted.source, None, preference, words, where))


def at_row(prompt: Conversation, where: str) -> Conversation:
    """The same prompt, as it stands in another row."""
    return Conversation(where, prompt.messages, prompt.later_turns, prompt.reference, prompt.tags, prompt.whole)


def by_prompt(rows: Sequence[tuple[Conversation, Rated]]) -> list[tuple[Conversation, list[Rated]]]:
    """Answers that stand in rows of their own, together by prompt, in the file's order."""
    found: dict[tuple[object, ...], tuple[Conversation, list[Rated]]] = {}
    for prompt, answer in rows:
        found.setdefault((prompt.messages, prompt.reference), (prompt, []))[1].append(answer)
    return list(found.values())
