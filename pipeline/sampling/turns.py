"""Conversations whose earlier answers are frozen before the question that counts. Touches models through engines."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from pipeline.engines.base import Answer
from pipeline.importers.base import Conversation, Refused

Respond = Callable[[list[Conversation]], list[Answer]]


def frozen_turns(
    conversations: Sequence[Conversation], respond: Respond
) -> tuple[list[Conversation], Refused, list[Answer], dict[str, str]]:
    """Every turn as a conversation of its own, the answers before it frozen in.

    Returns:
        The conversations; the turns that are refused; every answer; what was said of those that are refused.

    An answer that is not whole is no turn of a conversation: what would follow it is left out.
    """
    done = list(conversations)
    refused, answers = Refused(), list[Answer]()
    details: dict[str, str] = {}
    open_ = [item for item in conversations if item.later_turns]
    turn = 1
    while open_:
        turn += 1
        following: list[Conversation] = []
        for item, answer in zip(open_, respond(open_), strict=True):
            answers.append(answer)
            if answer.text is None or answer.finish_reason == "length":
                cut_off = answer.text is not None or answer.reason == "cut_off"
                refused.add(f"{item.where}#turn{turn}", "turn_cut_off" if cut_off else "turn_unanswered")
                details[f"{item.where}#turn{turn}"] = answer.error or "cut off at max_tokens; raise it"
                continue
            messages = (*item.messages, ("assistant", answer.text), ("user", item.later_turns[0]))
            following.append(replace(item, messages=messages, later_turns=item.later_turns[1:]))
        numbered = [replace(item, where=f"{item.where.split('#')[0]}#turn{turn}") for item in following]
        done.extend(numbered)
        open_ = [item for item in numbered if item.later_turns]
    return done, refused, answers, details


def with_system(messages: tuple[tuple[str, str], ...], system: str | None) -> tuple[tuple[str, str], ...]:
    """*messages* with the generator's system message, unless they have one of their own."""
    return messages if system is None or messages[0][0] in {"system", "developer"} else (("system", system), *messages)
