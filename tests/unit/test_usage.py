"""Pins down what a reply is charged: by its own count where that can be believed, else at its reservation."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.calls.usage import ABSURD_TOKENS, charge, cost_usd, read_usage, surely_unpaid
from pipeline.config import Price

PRICE = Price(input=1000, output=2000, cached_input=100)
"""US$ .001 a prompt token, .0001 a cached one, .002 an output token."""
RESERVED = 0.325
REASONED = "completion_tokens_details"
COUNTED = {"prompt_tokens": 40, "completion_tokens": 40, "total_tokens": 80}


def reply(usage: object, text: str | None = "An answer of some words.") -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}], "usage": usage}


@pytest.mark.parametrize(
    ("usage", "usd", "output"),
    [
        # 40 * .001 + 40 * .002
        (COUNTED, 0.12, 40),
        ({"prompt_tokens": 40, "completion_tokens": 40}, 0.12, 40),
        ({**COUNTED, "total_tokens": None}, 0.12, 40),
        # 10 of the 40 cached: 30 * .001 + 10 * .0001 + 40 * .002
        ({**COUNTED, "prompt_tokens_details": {"cached_tokens": 10}}, 0.111, 40),
        ({**COUNTED, "prompt_tokens_details": {"cached_tokens": None}}, 0.12, 40),
        ({**COUNTED, "prompt_tokens_details": None, "completion_tokens_details": None}, 0.12, 40),
        ({**COUNTED, "completion_tokens_details": {"reasoning_tokens": 30}}, 0.12, 40),
        # reasoning apart, seen in the total alone: 40 * .001 + (95 - 40) * .002
        ({"prompt_tokens": 40, "completion_tokens": 5, "total_tokens": 95}, 0.15, 55),
        # reasoning apart, not in the total: 40 * .001 + (5 + 50) * .002
        (
            {**COUNTED, "completion_tokens": 5, "total_tokens": 45, REASONED: {"reasoning_tokens": 50}},
            0.15,
            55,
        ),
        # all of it was reasoning, and counted as none
        (
            {"prompt_tokens": 21, "completion_tokens": 0, "total_tokens": 81, REASONED: {"reasoning_tokens": 60}},
            0.141,
            60,
        ),
        # a total that is too small takes nothing away
        ({**COUNTED, "total_tokens": 7}, 0.12, 40),
    ],
)  # fmt: skip
def test_a_count_that_can_be_believed_is_charged(usage: dict[str, Any], usd: float, output: int) -> None:
    found = charge(reply(usage), RESERVED, PRICE)
    assert (found.cost_usd, found.reported_usd) == (pytest.approx(usd), pytest.approx(usd))
    assert (found.usage.completion_tokens, found.fault) == (output, "")


@pytest.mark.parametrize(
    ("usage", "fault"),
    [
        (None, "no usage"),
        ([COUNTED], "usage is a list"),
        ("80", "usage is '80'"),
        ({}, "no prompt_tokens; no completion_tokens"),
        (dict.fromkeys(COUNTED), "prompt_tokens is None; completion_tokens is None"),
        ({**COUNTED, "completion_tokens": None}, "completion_tokens is None"),
        ({"prompt_tokens": 40.0, "completion_tokens": 40.0, "total_tokens": 80.0}, "prompt_tokens is 40.0"),
        ({**COUNTED, "completion_tokens": 40.5}, "completion_tokens is 40.5"),
        ({**COUNTED, "prompt_tokens": "40"}, "prompt_tokens is '40'"),
        ({**COUNTED, "prompt_tokens": -40}, "prompt_tokens is -40"),
        ({**COUNTED, "completion_tokens": True}, "completion_tokens is True"),
        ({**COUNTED, "total_tokens": "many"}, "total_tokens is 'many'"),
        ({**COUNTED, "total_tokens": -1}, "total_tokens is -1"),
        ({**COUNTED, "prompt_tokens": 2**53 + 1}, "prompt_tokens is 9007199254740993"),
        ({**COUNTED, "total_tokens": 10**400}, "total_tokens is an absurd number"),
        ({**COUNTED, "completion_tokens": float("nan")}, "completion_tokens is nan"),
        ({**COUNTED, "prompt_tokens_details": {"cached_tokens": 41}}, "41 cached of 40 prompt tokens"),
        ({**COUNTED, "prompt_tokens_details": {"cached_tokens": -11_000}}, "cached_tokens is -11000"),
        ({**COUNTED, "prompt_tokens_details": [1]}, "prompt_tokens_details is a list"),
        ({**COUNTED, "completion_tokens_details": "none"}, "completion_tokens_details is 'none'"),
        ({**COUNTED, "completion_tokens_details": {"reasoning_tokens": 1.5}}, "reasoning_tokens is 1.5"),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, "prompt_tokens is 0; completion_tokens is 0"),
        ({**COUNTED, "prompt_tokens": 0}, "prompt_tokens is 0"),
    ],
)  # fmt: skip
def test_a_count_that_cannot_be_believed_charges_the_reservation(usage: object, fault: str) -> None:
    found = charge(reply(usage), RESERVED, PRICE)
    assert (found.cost_usd, found.reported_usd) == (RESERVED, None)
    assert found.fault.startswith(fault)
    # what is noted about a reply of megabytes or of ten thousand digits fits into a line
    assert len(found.fault) < 200


def test_a_token_is_at_most_so_long() -> None:
    # 1,281 bytes are more than ten tokens of 128
    assert read_usage(reply({"prompt_tokens": 9, "completion_tokens": 10}, "x" * 1281)).fault
    assert not read_usage(reply({"prompt_tokens": 9, "completion_tokens": 10}, "x" * 1280)).fault


def test_what_failed_and_was_counted_as_nothing_is_charged_nothing() -> None:
    nothing = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    for failed in (reply(nothing, ""), reply(nothing, None), {"error": {"code": 429}, "usage": nothing}):
        assert charge(failed, RESERVED, PRICE).cost_usd == 0.0
    assert charge({"error": {"code": 429}}, RESERVED, PRICE).cost_usd == RESERVED


def test_without_a_price_nothing_is_charged() -> None:
    assert charge(reply(COUNTED), 0.0, None).cost_usd == 0.0
    assert charge(reply(None), 0.0, None).cost_usd == 0.0


def test_more_than_was_reserved_is_charged_as_reported() -> None:
    # 40 * .001 + 400 * .002 = .84 where .325 were foreseen: the vendor does not keep to max_tokens
    found = charge(reply({**COUNTED, "completion_tokens": 400}), RESERVED, PRICE)
    assert found.cost_usd == pytest.approx(0.84)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422, 429, 500, 501, 503, 529])
def test_a_server_that_says_no_did_not_do_it(status: int) -> None:
    assert surely_unpaid(status)


@pytest.mark.parametrize("status", [200, 408, 502, 504, 520, 524])
def test_a_server_that_does_not_know_may_have_done_it(status: int) -> None:
    assert not surely_unpaid(status)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
counts = st.integers(0, 500) | json_values
usages = st.fixed_dictionaries(
    {},
    optional={
        "prompt_tokens": counts,
        "completion_tokens": counts,
        "total_tokens": counts,
        "prompt_tokens_details": json_values | st.fixed_dictionaries({"cached_tokens": counts}),
        "completion_tokens_details": json_values | st.fixed_dictionaries({"reasoning_tokens": counts}),
    },
)


@given(usages | json_values, st.floats(0, 10))
def test_whatever_it_says_is_never_free_and_never_raises(usage: object, reserved: float) -> None:
    found = charge(reply(usage), reserved, PRICE)
    assert found.cost_usd >= 0.0
    if found.fault:
        assert (found.cost_usd, found.reported_usd) == (reserved, None)
    else:
        # by hand: at least one prompt token, cached at worst, and one for the text
        assert found.cost_usd >= 0.0001 + 0.002
        assert found.cost_usd == cost_usd(found.usage, PRICE) == found.reported_usd
    json.dumps(found.fault)
    for count in (found.usage.prompt_tokens, found.usage.cached_tokens, found.usage.completion_tokens):
        assert count is None or 0 <= count <= 2 * ABSURD_TOKENS
