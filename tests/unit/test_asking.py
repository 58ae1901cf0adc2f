"""Pins down how judges ask: what shares a prefix goes out together, what cannot be read is asked again and no more."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judges.asking import Later, ask, spread, words
from judges.pairwise import PairwiseJudge
from judges.parsing import UnreadableError
from pipeline.engines.base import Advance, Answer, Request
from tests.worlds import Bench, Scripted, compared, said, world


def asked(text: str) -> Request:
    return Request((("user", text),), max_tokens=8)


def number(at: int, answer: Answer) -> int:
    text = words(answer)
    if not text.isdigit():
        raise UnreadableError(f"expected a number, found {text!r}")
    return int(text)


def silent(done: int) -> None:
    """Progress is not looked at."""


def test_requests_go_out_sorted_by_their_words_and_come_back_in_their_own_order() -> None:
    model = Scripted(lambda request: str(len(request.messages[0][1])))
    heard, calls = ask(model, [asked("ccc"), asked("a"), asked("bb")], number, 1, silent)
    assert [request.messages[0][1] for request in model.requests] == ["a", "bb", "ccc"]
    assert [one.value for one in heard] == [3, 1, 2]
    assert len(calls) == 3


def test_requests_that_wait_are_written_once_when_their_turn_comes() -> None:
    written: list[int] = []

    def write(at: int) -> Request:
        written.append(at)
        return asked("cab"[at])

    class Taking(Scripted):
        def complete(self, requests: Sequence[Request], advance: Advance) -> list[Answer]:
            assert (len(requests), written) == (3, []) or requests[0].attempt
            first = next(iter(requests))
            # c, a, b in the order of their own keys: a, which stands at 1, is the first and so far the only one.
            assert (first.messages[0][1], written) == ("a", [1]) or first.attempt
            return super().complete(requests, advance)

    later = Later(3, write)
    heard, _ = ask(Taking(lambda _request: "hm"), later, number, 2, silent, near=[("3",), ("1",), ("2",)])
    assert written == [1, 2, 0]
    assert [len(one.call_keys) for one in heard] == [2, 2, 2]
    assert [one.messages[0][1] for one in later[1:]] == ["a", "b"]


def test_what_cannot_be_read_is_asked_again_with_another_seed_and_what_can_is_not() -> None:
    model = Scripted(lambda request: "5" if request.attempt == 2 or "easy" in request.messages[0][1] else "hm")
    done: list[int] = []
    heard, _ = ask(model, [asked("hard"), asked("easy")], number, 4, done.append)
    assert [one.value for one in heard] == [5, 5]
    assert [(request.messages[0][1], request.attempt) for request in model.requests] == [
        ("easy", 0),
        ("hard", 0),
        ("hard", 1),
        ("hard", 2),
    ]
    assert len({request.seed for request in model.requests[1:]}) == 3
    assert sum(done) == 2, "further attempts are not progress"
    assert [len(one.call_keys) for one in heard] == [3, 1]


@pytest.mark.parametrize("reason", ["unanswered", "rejected", "too_long", "content_filter"])
def test_what_asking_again_cannot_mend_is_not_asked_again(reason: str) -> None:
    model = Scripted(lambda _request: said(None, reason=reason, error="HTTP 400: no"))
    heard, _ = ask(model, [asked("x")], number, 3, silent)
    assert len(model.requests) == 1
    assert (heard[0].value, heard[0].reason, heard[0].error, heard[0].text) == (None, reason, "HTTP 400: no", None)


@pytest.mark.parametrize(
    ("answer", "reason", "error", "text"),
    [
        (said("12", finish_reason="length"), "cut_off", "the reply was cut off at max_tokens; raise it", "12"),
        (said(None, reason="refused", error="I cannot"), "refused", "I cannot", None),
        (said("twelve"), "unreadable", "expected a number, found 'twelve'", "twelve"),
    ],
)
def test_a_failure_keeps_its_cause_and_the_raw_text(answer: Answer, reason: str, error: str, text: str | None) -> None:
    heard, _ = ask(Scripted(lambda _request: answer), [asked("x")], number, 1, silent)
    assert (heard[0].value, heard[0].reason, heard[0].error, heard[0].text) == (None, reason, error, text)


@pytest.mark.parametrize(("requests", "judgments"), [(4, 6), (6, 4), (3, 3), (7, 1)])
def test_progress_is_told_in_judgments_and_adds_up(requests: int, judgments: int) -> None:
    told: list[int] = []
    step = spread(told.append, requests, judgments)
    for _ in range(requests):
        step(1)
    assert sum(told) == judgments
    assert min(told) >= 0


def pairwise(toolbox: Bench, **options: object) -> PairwiseJudge:
    made = {"name": "j", "kind": "pairwise", "model": "m", "engine": "vllm", "verdict": "text", **options}
    return PairwiseJudge(PairwiseJudge.Options.model_validate(made), toolbox)


def test_calls_that_show_the_same_first_answer_stand_next_to_each_other() -> None:
    made = compared(world({f"Question {at}?": [f"answer {at} {letter}" for letter in "pqrs"] for at in range(5)}))
    toolbox = Bench()
    pairwise(toolbox).judge(made)
    heads = [request.messages[0][1].partition("\nAnswer B:")[0] for request in toolbox.model.requests]
    # 5 prompts x 4 answers, each first in 3 of the 6 pairs x 2 orders: 20 runs of 3, none of them broken up.
    assert len(heads) == 60
    runs = [head for at, head in enumerate(heads) if at == 0 or heads[at - 1] != head]
    assert len(runs) == len(set(heads)) == 20
    # and the runs of one prompt stand together too
    prompts = [head.partition("\nAnswer A:")[0] for head in runs]
    assert len([one for at, one in enumerate(prompts) if at == 0 or prompts[at - 1] != one]) == 5


def test_the_orders_that_a_comparison_names_are_the_orders_asked() -> None:
    (item,) = compared(world({"Q?": ["one", "two"]}))
    for option in ("both", "ab", "random"):
        judge = pairwise(Bench(lambda _request: "Verdict: A"), order=option)
        for orders, preferences in ((("ba",), [0.0]), (("ab",), [1.0]), (("ba", "ab"), [0.0, 1.0])):
            wanted = [replace(item, orders=orders)]
            made = judge.judge(wanted).judgments
            assert [one.order for one in made] == list(orders)
            assert [one.preference for one in made] == preferences
            assert len(judge.requests(wanted)) == len(orders)


def test_planned_requests_are_those_that_are_made() -> None:
    made = compared(world({"Q?": ["one", "two", "three"], "R?": ["four", "five"]}))
    toolbox = Bench()
    judge = pairwise(toolbox)
    planned = judge.requests(made)
    assert not toolbox.model.requests
    judge.judge(made)
    assert sorted(map(repr, planned)) == sorted(map(repr, toolbox.model.requests))


@given(st.text(max_size=200), st.text(max_size=200))
@settings(max_examples=100, deadline=None)
def test_what_stands_second_changes_nothing_of_what_stands_before_it(one: str, other: str) -> None:
    (item,) = compared(world({"Q?": ["first answer", "x"]}))
    a = item.completion_a == "first answer"
    texts: list[str] = []
    for second in (one, other):
        shown = replace(item, **{"completion_b" if a else "completion_a": second}, orders=("ab" if a else "ba",))
        (request,) = pairwise(Bench()).requests([shown])
        texts.append(request.messages[0][1].partition("\n\nAnswer B:\n")[0])
    assert texts[0] == texts[1]
    assert texts[0].count("first answer") == 1
