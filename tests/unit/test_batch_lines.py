"""Pins down what a batch API's words and files are believed to mean."""

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.calls.batch_lines import Counts, counts, read_lines, state, surely_unmade


def line(**fields: object) -> bytes:
    return json.dumps({"custom_id": "k", **fields}).encode()


@pytest.mark.parametrize("said", ["completed", "COMPLETED", "Cancelled", "canceled", "expired", "timeout-exceeded"])
def test_it_is_over_in_words_known_to_mean_it(said: str) -> None:
    assert state(said) == "over"


@pytest.mark.parametrize("said", ["failed", "FAILED"])
def test_it_failed(said: str) -> None:
    assert state(said) == "failed"


@given(st.none() | st.integers() | st.lists(st.text(max_size=3), max_size=2) | st.text(max_size=12))
def test_every_other_word_means_that_it_goes_on(said: object) -> None:
    known = ("completed", "complete", "succeeded", "success", "expired", "timeout_exceeded", "cancelled", "canceled")
    if str(said).strip().lower() not in (*known, "ended", "failed", "failure"):
        assert state(said) == "running"


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ((10, 7, 3), Counts(10, 7, 3)),
        ((10, 7, 4), None),  # more than there are
        ((10, None, 3), None),
        ((10, "7", 3), None),
        ((10, -7, 3), None),
        ((10, True, 3), None),
    ],
)
def test_counts_that_are_none_are_not_believed(said: tuple[object, ...], found: Counts | None) -> None:
    assert counts(SimpleNamespace(**dict(zip(("total", "completed", "failed"), said, strict=True)))) == found


@pytest.mark.parametrize(
    ("status", "said", "lines", "missing", "unmade"),
    [
        ("expired", Counts(10, 3, 0), 3, 7, True),  # 3 done, 3 there: the other 7 were not made
        ("expired", Counts(10, 3, 0), 2, 8, False),  # one of the 3 is missing
        ("expired", Counts(10, 0, 0), 0, 10, True),
        ("completed", Counts(10, 0, 0), 0, 10, False),  # who did everything and counts nothing has not counted
        ("completed", Counts(10, 10, 0), 7, 3, False),  # the file is cut
        ("completed", Counts(10, 4, 3), 7, 3, True),  # left out by the vendor
        ("completed", None, 7, 3, False),
        ("cancelled", Counts(0, 0, 0), 0, 10, False),  # counts of something else
    ],
)  # fmt: skip
def test_what_stands_in_no_file_was_not_made_only_where_the_counts_agree(
    status: str, said: Counts | None, lines: int, missing: int, unmade: bool
) -> None:
    assert surely_unmade(status, said, lines, missing) is unmade


def test_lines_in_every_shape() -> None:
    content = b"\n".join(
        [
            line(response={"status_code": 200, "body": {"x": 1}}),
            line(response={"status_code": "429", "body": None}, error={"message": "slow"}),
            line(response=None, error={"code": "batch_expired", "message": "late"}),
            line(response=None, error={"code": "request_timeout"}),
            line(response=None, error=None),
            line(response=[1], error="words"),
            b"{",
            b"[]",
            b"<html>",
            b'{"custom_id": 7}',
            b"",
        ]
    )
    found = list(read_lines(content))
    assert [(one.status, one.unmade) for one in found] == [
        (200, False), (429, False), (None, True), (None, False), (None, False), (None, False),
    ]  # fmt: skip
    # vLLM says beside the reply what OpenAI says in it
    assert (found[0].body, found[1].body) == ({"x": 1}, {"message": "slow"})
    assert found[5].error == "words"


def test_what_is_no_utf_8_is_read_only_to_salvage_it() -> None:
    content = line(response={"status_code": 200, "body": {"x": "Q"}}).replace(b"Q", b"\xff")
    assert list(read_lines(content)) == []
    (found,) = read_lines(content, salvage=True)
    assert found.body == {"x": "\ufffd"}


@given(st.binary(max_size=200))
def test_no_file_raises(content: bytes) -> None:
    for salvage in (False, True):
        list(read_lines(content, salvage=salvage))
