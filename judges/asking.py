"""What every LM judge does: ask, read, ask again what could not be read. Touches models through the engine it is given.

Requests go out sorted by their words, so calls that share a prefix (rubric, prompt, first answer) stand next to each
other and a server's prefix cache or a vendor's prompt cache still holds what they share. Those that are many are
written when their turn comes (:class:`Later`): the first is on its way before the last is written.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, TypeVar, overload

from judges.parsing import UnreadableError
from judges.sealing import unsealed
from pipeline.engines.base import Advance, Answer, Call, Engine, Request
from pipeline.ids import seed_from
from pipeline.progress import Silent

FINAL = ("unanswered", "rejected", "too_long", "content_filter")
"""Reasons for which asking again in the same run cannot help."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Heard(Generic[T]):
    """What came of one request: a value, or the error that says why there is none."""

    value: T | None
    error: str | None
    text: str | None
    """The reply as it came; None when there was none."""
    call_keys: tuple[str, ...]
    """The calls behind it, one an attempt."""
    reason: str | None = None
    """Of the error: that of the answer, or of what could not be read."""


class Later(Sequence[Request]):
    """Requests that are written when they are first asked for."""

    def __init__(self, count: int, write: Callable[[int], Request]) -> None:
        """*count* of them; *write* gets the position."""
        self._made: list[Request | None] = [None] * count
        self._write = write

    def __len__(self) -> int:
        return len(self._made)

    @overload
    def __getitem__(self, at: int) -> Request: ...
    @overload
    def __getitem__(self, at: slice) -> list[Request]: ...
    def __getitem__(self, at: int | slice) -> Request | list[Request]:
        if isinstance(at, slice):
            return [self[one] for one in range(len(self))[at]]
        found = self._made[at]
        if found is None:
            found = self._made[at] = self._write(at)
        return found


def ask(
    engine: Engine,
    requests: Sequence[Request],
    read: Callable[[int, Answer], T],
    attempts: int,
    advance: Advance,
    *,
    near: Sequence[tuple[str, ...]] | None = None,
) -> tuple[list[Heard[T]], list[Call]]:
    """(what came of each request, in the order given; every call made).

    Args:
        engine: answers the requests.
        requests: at their first attempt.
        read: (position of the request, reply) -> value; raises UnreadableError for a reply that is not in the
            documented shape.
        attempts: how often one request may be asked.
        advance: told of first attempts only; further ones are not progress.
        near: what the requests are sorted by instead of their words, for those that are not written yet.

    Raises:
        JobError: nothing can be asked at all.
    """
    heard: dict[int, Heard[T]] = {}
    calls: dict[str, Call] = {}
    todo = sorted(range(len(requests)), key=lambda at: requests[at].messages if near is None else near[at])
    for attempt in range(attempts):
        asked = Later(len(todo), partial(_turn, requests, todo, attempt))
        answers = engine.complete(asked, advance if attempt == 0 else Silent().advance)
        again: list[int] = []
        for at, answer in zip(todo, answers, strict=True):
            calls[answer.call.call_key] = answer.call
            earlier = heard[at].call_keys if at in heard else ()
            heard[at] = _heard(requests[at], answer, partial(read, at), (*earlier, answer.call.call_key))
            if heard[at].error is not None and answer.reason not in FINAL:
                again.append(at)
        todo = again
        if not todo:
            break
    return [heard[at] for at in range(len(requests))], list(calls.values())


def words(answer: Answer) -> str:
    """The whole text of a reply.

    Raises:
        UnreadableError: there is none, or it was cut off.
    """
    if answer.text is None:
        raise UnreadableError(answer.error or "no answer")
    if answer.finish_reason == "length":
        raise UnreadableError("the reply was cut off at max_tokens; raise it", "cut_off")
    return answer.text


def logprobs(answer: Answer) -> dict[str, float]:
    """Token -> log-probability at the reply's first position, nats.

    Raises:
        UnreadableError: there are none.
    """
    if answer.text is None:
        raise UnreadableError(answer.error or "no answer")
    if answer.choice_logprobs is None:
        raise UnreadableError("the endpoint returned no logprobs; use `verdict: json` or `text`")
    return dict(answer.choice_logprobs)


def spread(advance: Advance, requests: int, judgments: int) -> Advance:
    """Progress in judgments, told by an engine that counts requests: *requests* of them make *judgments*."""
    done = 0

    def step(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        advance(done * judgments // requests - before * judgments // requests)

    return step


def _turn(requests: Sequence[Request], todo: Sequence[int], attempt: int, at: int) -> Request:
    """Another attempt is another draw; at temperature 0 only an endpoint's own noise can change the reply."""
    request = requests[todo[at]]
    if not attempt:
        return request
    return replace(request, attempt=attempt, seed=attempt_seed(request.seed, attempt))


def attempt_seed(seed: int, attempt: int) -> int:
    """The seed of an attempt, the first of which has the request's own."""
    return seed_from(seed, "attempt", attempt) if attempt else seed


def _heard(request: Request, answer: Answer, read: Callable[[Answer], T], keys: tuple[str, ...]) -> Heard[T]:
    try:
        shaped = answer
        if answer.text is not None and answer.finish_reason != "length":
            shaped = replace(answer, text=unsealed(request, answer.text))
        return Heard(read(shaped), None, answer.text, keys)
    except UnreadableError as error:
        return Heard(None, str(error), answer.text, keys, answer.reason or error.reason)
