"""Pins down what holds of every text a model may write, drawn by hypothesis (as in tests/fuzz.py), and what broke."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judges import parsing
from judges.pairwise import GRADES
from judges.sealing import sealed, unsealed
from pipeline.engines.base import Request
from pipeline.engines.chat import read_answer
from tests import fuzz
from tests.endpoints import chat
from tests.worlds import SECRET

some = settings(max_examples=150, deadline=None)
PLAIN = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
TEXT = (
    st.lists(st.sampled_from([*fuzz.PIECES, *fuzz.VALID]) | PLAIN, max_size=8)
    .map("".join)
    .map(lambda text: text.encode(errors="ignore").decode())
)
RANDOM = st.randoms(use_true_random=True)


@given(RANDOM, TEXT)
@some
def test_a_reader_finds_a_verdict_only_where_an_independent_reading_does(rng: Any, text: str) -> None:
    fuzz.readers(rng, text)
    fuzz.logprobs(rng, text)


@given(RANDOM, TEXT, TEXT)
@some
def test_what_comes_from_a_judged_text_is_no_verdict(rng: Any, one: str, other: str) -> None:
    fuzz.quotations(rng, one, other)


@given(RANDOM, TEXT, TEXT)
@some
def test_every_text_stays_in_its_slot(rng: Any, one: str, other: str) -> None:
    fuzz.slots(rng, one, other)


@given(RANDOM, TEXT)
@some
def test_any_reply_of_an_endpoint_becomes_an_answer(rng: Any, text: str) -> None:
    fuzz.replies(rng, text)


@given(TEXT, TEXT, st.sampled_from(sorted(GRADES)), st.data())
@some
def test_a_verdict_is_read_back_as_it_was_written(judged: str, words: str, scale: int, data: st.DataObject) -> None:
    """Round trip: whoever writes the documented shape, with the code where one is asked for, is read exactly."""
    grades = GRADES[scale]
    verdict = data.draw(st.sampled_from(sorted(grades)))
    asked = sealed(Request((("user", "?"),), 9, response_schema=parsing.schema(grades)), [judged], SECRET)
    sealed_fields = {"code": asked.code, "verdict": verdict, "end": asked.code}
    fields = {"rationale": words, **(sealed_fields if asked.code else {"verdict": verdict})}
    reply = json.dumps(fields, ensure_ascii=data.draw(st.booleans()))
    found = parsing.from_json(unsealed(asked, reply), grades)
    assert (found.first, found.rationale) == (grades[verdict], words or None)

    asked = sealed(Request((("user", "?"),), 9), [judged], SECRET)
    spoken = words.replace("Verdict", "Opinion").replace(asked.code or "\x00", "")
    reply = f"{spoken}\n" + (f"Verdict {asked.code}: {verdict} {asked.code}" if asked.code else f"Verdict: {verdict}")
    assert parsing.from_text(unsealed(asked, reply), grades).first == grades[verdict]


# What the fuzzing found


@pytest.mark.parametrize("where", ["finish_reason", "refusal"])
def test_a_lone_surrogate_beside_the_text_is_a_question_mark(where: str) -> None:
    """It stopped the stage that wrote the word into a file."""
    body = chat("A", finish_reason="half \ud83d") if where == "finish_reason" else chat(None, refusal="half \ud83d")
    answer = read_answer("k", body, 0.0, 1.0)
    assert (
        answer.finish_reason == "half ?"
        if where == "finish_reason"
        else (answer.reason, answer.error) == ("refused", "half ?")
    )


@pytest.mark.parametrize("count", [10**30, -1, True, 2**63, "5", None, 1.5])
def test_a_count_that_is_no_number_of_tokens_is_unknown(count: object) -> None:
    """A column holds 64 bits; a larger count stopped the stage."""
    body = chat("A")
    body["usage"]["prompt_tokens"] = count
    assert read_answer("k", body, 0.0, 1.0).call.prompt_tokens is None


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_log_probability_that_is_no_number_is_unknown(value: float) -> None:
    answer = read_answer("k", chat("A", logprobs={"A": value}), 0.0, 1.0)
    assert (answer.text, answer.logprob) == ("A", None)
