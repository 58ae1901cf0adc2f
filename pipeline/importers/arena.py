"""Votes on two models' answers: Chatbot Arena in its releases, and MT-Bench's human judgments. Pure.

``winner`` is model_a, model_b, tie, or that both are bad, which is a tie; the release of 55,000 votes has three columns
for it and its turns as JSON lists. ``judge`` is the voter. Of a chat of several turns the answer to turn ``turn`` (else
the last) is what was voted on; where the answers before it differ, the two have no prompt in common and the row is
refused (``earlier_answers_differ``).
"""

import re
from dataclasses import replace
from typing import cast

from pipeline.importers.base import Asked, Batch, Kind, PairRow, Row, Table, Unusable, columns_in, each
from pipeline.importers.reading.conversations import Message, answer_of, conversation, messages_of, text_of, turns_of
from pipeline.importers.reading.values import found, listed, name_of, number_of, plain, side_of

SIDES = ("a", "b")
WON = ("winner_model_a", "winner_model_b", "winner_tie")
ALLOWED = "model_a, model_b, tie, tie (bothbad)"
MODEL = re.compile(r"(?i)^gpt")
"""Voters of this name are judges: MT-Bench's `gpt4_pair`."""


def fits(row: Row, kind: Kind) -> int:
    """See ``pipeline.importers.base``."""
    del kind
    if "pair_id" in row:
        return 0
    voted = columns_in(row, "model_a", "model_b", "winner", "conversation_a", "conversation_b")
    answers = ("prompt", "response_a", "response_b")
    return voted or columns_in(row, *answers, *WON) or columns_in(row, *answers, "winner")


def read(table: Table, asked: Asked) -> Batch:
    """See ``pipeline.importers.base``."""
    batch = Batch(needs=("winner|winner_model_a", "conversation_a|response_a", "conversation_b|response_b"))
    return each(table, lambda row, where: _row(batch, row, where, asked), batch)


def _row(batch: Batch, row: Row, where: str, asked: Asked) -> None:
    label = _winner(row)
    if label is None:
        raise Unusable("winner_unknown", found(row.get("winner"), ALLOWED))
    one, other = (_chat(row, side) for side in SIDES)
    if turns_of(one[:-1]) != turns_of(other[:-1]):
        raise Unusable("earlier_answers_differ")
    answers = (answer_of(chat[-1:], f"answer_{side}") for chat, side in zip((one, other), SIDES, strict=True))
    models = (plain(row.get(f"model_{side}") or "imported") for side in SIDES)
    pair = PairRow(conversation(one[:-1], row, where), None, *answers, *models)
    who = name_of(row.get("judge"))
    by_model = who is not None and MODEL.match(who) is not None
    batch.vote(replace(asked, kind="judgments") if by_model else asked, pair, label, who)


def _winner(row: Row) -> str | None:
    if "winner" in row:
        return side_of(row["winner"])
    won = [number_of(row.get(name)) or float(row.get(name) is True or row.get(name) == "True") for name in WON]
    return (*SIDES, "tie")[won.index(1.0)] if sorted(won) == [0.0, 0.0, 1.0] else None


def _chat(row: Row, side: str) -> list[Message]:
    """One side's chat up to the answer that was voted on."""
    chat = messages_of(row[f"conversation_{side}"]) if f"conversation_{side}" in row else _turns(row, side)
    answers = [at for at, message in enumerate(chat) if message["role"] == "assistant"]
    turn = number_of(row.get("turn"))
    number = len(answers) if turn is None else int(turn)
    if not 0 < number <= len(answers):
        raise Unusable(f"conversation_{side}_without_answer")
    return chat[: answers[number - 1] + 1]


def _turns(row: Row, side: str) -> list[Message]:
    """The chat of a row whose prompts and responses are lists, or single texts."""
    columns = [listed(row.get(name)) for name in ("prompt", f"response_{side}")]
    asked, said = (cast("list[object]", one) if isinstance(one, list) else [one] for one in columns)
    turns = zip(asked, said, strict=False)
    return [
        {"role": role, "content": text_of(text, name)}
        for question, answer in turns
        for role, text, name in (("user", question, "prompt"), ("assistant", answer, f"response_{side}"))
    ]
