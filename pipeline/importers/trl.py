"""TRL's preference data, paired and unpaired (huggingface.co/docs/trl/dataset_formats). Pure.

Paired: ``chosen`` and ``rejected`` with an explicit ``prompt``, or implicit: both then begin with it. Each is a text,
or messages; LLaMA-Factory's single messages beside ``conversations`` are read too. What was chosen is the label of the
annotator named in the command, else a judgment; marks (``score_chosen`` of UltraFeedback binarized, ``chosen_rating``
of distilabel) are judgments of a judge named after the file.

Unpaired (thumbs): ``completion`` and ``label``, good or bad. The good and the bad answers to one prompt make pairs; an
answer without a counterpart is refused as a pair (``no_counterpart``). Imported as samples, all of them are in the
dataset for KTO.
"""

from collections.abc import Sequence
from typing import cast

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
    first_of,
)
from pipeline.importers.reading.conversations import (
    Message,
    answer_of,
    answered,
    asked,
    conversation,
    messages_of,
    text_of,
    turns_of,
)
from pipeline.importers.reading.ratings import Rated, at_row, by_prompt
from pipeline.importers.reading.values import THUMBS, found, listed, name_of, number_of, plain, thumb_of
from pipeline.schemas import THUMB as ASPECT

SIDES = ("chosen", "rejected")
MARKS = (
    ("score_chosen", "score_rejected"),
    ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_score", "rejected_score"),
)
MODELS = (("chosen_model", "rejected_model"), ("chosen-model", "rejected-model"))
THUMB = ("label", "thumbs", "thumb", "feedback")
SINGLE = "import them as samples: `export: [kto]` takes single answers"
ANSWER = ("completion", "response", "answer")
CHAT = ("conversations", "conversation", "messages")


def fits(row: Row, kind: Kind) -> int:
    """See ``pipeline.importers.base``."""
    del kind
    paired = columns_in(row, "chosen", "rejected")
    if paired:
        return paired + ("prompt" in row)
    thumb = first_of(row, THUMB)
    if thumb is None or thumb_of(thumb) is None or "pair_id" in row:
        return 0
    if first_of(row, ANSWER) is not None and "prompt" in row:
        return len(("prompt", "completion", "label"))
    return 2 * (first_of(row, CHAT) is not None)


def read(table: Table, asked: Asked) -> Batch:
    """See ``pipeline.importers.base``."""
    if any("chosen" in row or "rejected" in row for _, row in table.rows):
        batch = Batch(needs=("chosen", "rejected"))
        return each(table, lambda row, where: _paired(batch, row, where, asked), batch)
    batch = Batch(needs=("prompt|messages|conversations", "completion|response", "label|thumbs|feedback"))
    rows: list[tuple[Conversation, Rated]] = []
    each(table, lambda row, where: _unpaired(rows, row, where, asked), batch)
    batch.samples += [SampleRow(prompt, one.text, one.model, None, one.scores) for prompt, one in rows]
    for prompt, answers in by_prompt(rows):
        _feedback(batch, asked, prompt, answers)
    return batch


def _paired(batch: Batch, row: Row, where: str, wanted: Asked) -> None:
    implicit = "prompt" not in row and first_of(row, CHAT) is None
    prompt, chosen, rejected = _implicit(row, where) if implicit else _explicit(row, where)
    names = next((pair for pair in MODELS if pair[0] in row), MODELS[0])
    pair = PairRow(prompt, None, chosen, rejected, *(plain(row.get(name, "imported")) for name in names))
    told = next((names for names in MARKS if columns_in(row, *names)), None)
    better, worse = (None, None) if told is None else (number_of(row[name]) for name in told)
    if better is None or worse is None:
        batch.vote(wanted, pair, "a")
        return
    preference = ((better > worse) - (better < worse) + 1) / 2
    batch.judgments.append(JudgmentRow(pair.name, wanted.source, None, preference, None, where))
    if wanted.by_people() is None:
        batch.pairs.append(pair)  # the choice follows from the marks
    else:
        batch.vote(wanted, pair, "a")


def _explicit(row: Row, where: str) -> tuple[Conversation, str, str]:
    given = row["prompt"] if "prompt" in row else first_of(row, CHAT)
    prompt = asked(given, row, where, system=first_of(row, ("system", "system_prompt")))
    return prompt, _answer(prompt, row, "chosen"), _answer(prompt, row, "rejected")


def _answer(prompt: Conversation, row: Row, name: str) -> str:
    """One of the two answers; of a chat that begins with the prompt, as in UltraFeedback binarized, its end."""
    value = listed(row.get(name))
    if not isinstance(value, list) or len(cast("list[object]", value)) < len(("asked", "answered")):
        return answer_of(row.get(name), name)
    chat = messages_of(cast("object", value))
    before, known = (
        [turn for turn in turns if turn[0] != "system"] for turns in (turns_of(chat[:-1]), prompt.messages)
    )
    if before != known:
        raise Unusable(f"{name}_of_several_turns")
    return answer_of(chat[-1:], name)


def _implicit(row: Row, where: str) -> tuple[Conversation, str, str]:
    """What both answers begin with is the prompt (TRL's ``extract_prompt``)."""
    values = [listed(row.get(name)) for name in SIDES]
    if all(isinstance(value, list) for value in values):
        return _common_turns(messages_of(values[0]), messages_of(values[1]), row, where)
    one, other = (text_of(row.get(name), name) for name in SIDES)
    at = _apart(one, other)
    # A word that both answers begin with alike is not the prompt's.
    at = max(one.rfind(" ", 0, at), one.rfind("\n", 0, at), 0)
    answers = (text_of(text[at:].lstrip(), name) for text, name in zip((one, other), SIDES, strict=True))
    return asked(one[:at], row, where), *answers  # pyright: ignore[reportReturnType]  two of them


def _common_turns(one: list[Message], other: list[Message], row: Row, where: str) -> tuple[Conversation, str, str]:
    at = _apart(one, other)
    if (len(one) - at, len(other) - at) != (1, 1):
        raise Unusable("answers_of_several_turns")
    return conversation(one[:at], row, where), answer_of(one[at:], "chosen"), answer_of(other[at:], "rejected")


def _apart(one: Sequence[object], other: Sequence[object]) -> int:
    """Where the two begin to differ."""
    if one == other:
        raise Unusable("identical")
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _unpaired(rows: list[tuple[Conversation, Rated]], row: Row, where: str, wanted: Asked) -> None:
    wanted.by_people()
    value = first_of(row, THUMB)
    good = thumb_of(value)
    if good is None:
        raise Unusable("label_unknown", found(value, THUMBS))
    text, chat = first_of(row, ANSWER), first_of(row, CHAT)
    if text is None and chat is not None:
        prompt, answer = answered(messages_of(chat), row, where)
    else:
        prompt, answer = asked(row.get("prompt"), row, where), answer_of(text, "completion")
    model = name_of(row.get("model")) or "imported"
    rows.append((prompt, Rated(where, answer, model, float(good), ((ASPECT, float(good)),))))


def _feedback(batch: Batch, wanted: Asked, prompt: Conversation, answers: list[Rated]) -> None:
    """Each good answer beside each bad one."""
    sides = {share: [one for one in answers if one.share == share] for share in (1.0, 0.0)}
    same = {one.text for one in sides[1.0]} & {one.text for one in sides[0.0]}
    for one in answers:
        others = [other for other in sides[1.0 - (one.share or 0.0)] if other.text != one.text]
        if not others and wanted.kind not in {"prompts", "samples"}:
            reason = "contradictory" if one.text in same else "no_counterpart"
            batch.refused.add(one.where, reason, one.where, SINGLE)
        elif one.share:
            for other in others:
                where = f"{one.where}#{other.where.rpartition(':')[2]}"
                pair = PairRow(at_row(prompt, where), None, one.text, other.text, one.model, other.model)
                batch.vote(wanted, pair, "a")
