"""Pins down what every kind of reply means: each row of the table, in the words that servers are reported to use."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.calls.error_words import LONGEST, words
from pipeline.calls.finality import TABLE, Outcome, outcome
from tests.endpoints import chat


def error(message: object, **more: object) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


def choice(**fields: object) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": "half an ans"}, **fields}]}


NOT_FINAL_UNDER_200: list[object] = [
    # OpenRouter, as cases have it
    {
        "error": {"message": "Provider returned error", "code": 502, "metadata": {"raw": "upstream overloaded"}},
        "user_id": "u",
    },
    {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": '{"error": "what?"}'}}},
    {"id": "x", "choices": None, "usage": None},
    {"id": "x", "choices": []},
    {"id": "x", "choices": [None]},
    {"id": "x", "choices": "none"},
    {},
    [],
    None,
    7,
    "<html><title>502 Bad Gateway</title></html>",
    "",
    choice(finish_reason="error", error={"code": 429, "message": "rate limited upstream"}),
    choice(finish_reason="error"),
    choice(finish_reason="stop", error={"message": "stream broke"}),
    choice(finish_reason="abort"),  # SGLang
    choice(finish_reason="insufficient_system_resource"),  # DeepSeek
    choice(finish_reason="network_error"),  # Zhipu
    {**choice(finish_reason="stop"), "error": {"message": "late", "code": 500}},
    chat(""),
    chat(None),
    chat(" \n "),
    choice(message=None),
    choice(message={"content": None, "tool_calls": [{"id": "x"}]}, finish_reason="tool_calls"),
    choice(message={"content": None, "reasoning_content": "I thought and said nothing"}, finish_reason="stop"),
    choice(message={"content": []}),
    {"object": "error", "message": "overloaded", "code": 503},
]


@pytest.mark.parametrize("body", NOT_FINAL_UNDER_200)
def test_success_without_an_answer_is_asked_again(body: object) -> None:
    found = outcome(200, body)
    assert (found.fate, found.reason) == ("again", "unanswered")
    assert found.words


TOO_LONG = [
    (400, error("This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.")),
    (400, error("no", code="context_length_exceeded")),
    (
        400,
        {
            "object": "error",
            "message": "The decoder prompt (length 10127) is longer than the maximum model length of 8192.",
        },
    ),
    (400, error("request (4390 tokens) exceeds the available context size (4096 tokens), try increasing it")),
    (500, error("Context size has been exceeded.", code=500, type="server_error")),
    (
        400,
        {
            "error": "Trying to keep the first 15857 tokens when context the overflows. However, the model is loaded "
            "with context length of only 4096 tokens, which is not enough."
        },
    ),
    (
        400,
        {
            "error": "The number of tokens to keep from the initial prompt is greater than the context length "
            "(n_keep: 13055>= n_ctx: 4096)."
        },
    ),
    (400, {"error": "prompt too long; exceeded max context length by 12 tokens"}),
    (
        422,
        {
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. Given: 1887 `inputs` "
            "tokens and 1024 `max_new_tokens`",
            "error_type": "validation",
        },
    ),
    (
        200,
        {
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048.",
            "error_type": "validation",
        },
    ),
    (
        400,
        {
            "object": "error",
            "message": "The input (61709 tokens) is longer than the model's context length (40960 tokens).",
        },
    ),
    (
        400,
        {
            "object": "error",
            "message": "Input length (160062 tokens) exceeds the maximum allowed length (59862 tokens).",
        },
    ),
    (
        400,
        [
            {
                "error": {
                    "code": 400,
                    "message": "The input token count (1200293) exceeds the maximum number of tokens "
                    "allowed (1048576).",
                    "status": "INVALID_ARGUMENT",
                }
            }
        ],
    ),
    (
        400,
        {
            "type": "error",
            "error": {"type": "invalid_request_error", "message": "prompt is too long: 210000 tokens > 200000 maximum"},
        },
    ),
    (400, error("input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000")),
    (
        400,
        {
            "object": "error",
            "message": "Prompt contains 40000 tokens, too large for model with 32768 maximum context length",
        },
    ),
    (413, "<html><h1>413 Request Entity Too Large</h1></html>"),
    (413, "no"),
    (400, error("Please reduce the length of the messages or completion.")),
    (400, error("Invalid request: Your request exceeded model token limit: 8192")),
    (400, error("Requested tokens (2285) exceed context window of 2048")),
    (
        400,
        error(
            "Provider returned error",
            code=400,
            metadata={
                "provider_name": "X",
                "raw": '{"error":{"message":"This model\'s maximum context length is 512 tokens"}}',
            },
        ),
    ),
    (400, error("This model's maximum prompt length is 131072 but the request contains 537812 tokens.")),
    (400, error("Range of input length should be [1, 30720]")),
]


@pytest.mark.parametrize(("status", "body"), TOO_LONG)
def test_a_prompt_too_long_for_the_model_is_final_in_every_servers_words(status: int, body: object) -> None:
    found = outcome(status, body)
    assert (found.fate, found.reason) == ("final", "too_long"), found.words


FILTERED = [
    (
        400,
        error(
            "The response was filtered due to the prompt triggering content management policy.", code="content_filter"
        ),
    ),
    (400, {"error": {"message": "no", "code": None, "innererror": {"code": "ResponsibleAIPolicyViolation"}}}),
    (400, error("Content Exists Risk")),
    (403, error('Your chosen model requires moderation and your input was flagged for "violence"', code=403)),
    (400, error("Your request was rejected as a result of our safety system.", code="content_policy_violation")),
    (400, error("Output blocked by content filtering policy")),
    (400, error("Input data may contain inappropriate content.", code="data_inspection_failed")),
    (200, chat(None, finish_reason="content_filter")),
    (200, chat("half", finish_reason="content_filter")),
    (200, chat(None, finish_reason="SAFETY")),
    (200, chat(None, finish_reason="content_filter: PROHIBITED_CONTENT")),
    (200, chat("", finish_reason="sensitive")),
    (200, {"choices": [], "promptFeedback": {"blockReason": "OTHER"}}),
    (200, error("Content Exists Risk", code=400)),
]


@pytest.mark.parametrize(("status", "body"), FILTERED)
def test_what_a_filter_caught_is_final(status: int, body: object) -> None:
    found = outcome(status, body)
    assert (found.fate, found.reason) == ("final", "content_filter"), found.words


MENDED = [
    (401, error("Incorrect API key provided")),
    (402, error("Insufficient Balance")),
    (403, error("Country not supported")),
    (403, error("Your account was flagged for violating our usage policies")),
    (404, error("The model `m` does not exist")),
    (404, "404 page not found"),
    (405, {"detail": "Method Not Allowed"}),
    (307, ""),
    (
        429,
        error(
            "You exceeded your current quota, please check your plan and billing details.", code="insufficient_quota"
        ),
    ),
    (400, error("Your credit balance is too low to access the API")),
    (400, error("Budget has been exceeded! Current cost: 1.0, Max budget: 1.0", type="budget_exceeded")),
    (
        429,
        error(
            "Request too large for m on tokens per min (TPM): Limit 6000, Requested 9000", code="rate_limit_exceeded"
        ),
    ),
    (400, {"code": "Arrearage", "message": "Access denied, please make sure your account is in good standing."}),
    (400, [{"error": {"message": "API key not valid. Please pass a valid API key.", "code": 400}}]),
    (200, {"error": "Unexpected endpoint or method. (POST /chat/completions). Returning 200 anyway"}),
    (200, error("This request requires more credits, or fewer max_tokens.", code=402)),
    (404, error("No models loaded. Please load a model in the developer page")),
]


@pytest.mark.parametrize(("status", "body"), MENDED)
def test_what_a_person_mends_is_never_final(status: int, body: object) -> None:
    found = outcome(status, body)
    assert (found.fate, found.reason) == ("mend", "unanswered"), found.words


@pytest.mark.parametrize("status", [408, 409, 425, 429, 424, 500, 501, 502, 503, 504, 520, 524, 529])
def test_what_passes_is_asked_again(status: int) -> None:
    found = outcome(status, error("later"))
    assert (found.fate, found.reason, found.throttled) == ("again", "unanswered", status == 429)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (
            429,
            error(
                "You exceeded your current quota, please check your plan and billing details. Please retry in 24.5s."
            ),
        ),
        (429, error("Rate limit reached on tokens per day (TPD): Limit 100000. Please try again in 7m12s.")),
        (
            400,
            error("Provider returned error", code=400, metadata={"raw": "The model is overloaded. Try again later."}),
        ),
        (500, error("internal error")),
    ],
)
def test_a_limit_that_says_when_it_ends_passes(status: int, body: object) -> None:
    assert outcome(status, body).fate == "again"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, error("Unsupported parameter: 'max_tokens' is not supported with this model.", param="max_tokens")),
        (422, {"message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs"}]}}),
        (400, {"object": "error", "message": "System role not supported"}),
        (418, "I'm a teapot"),
        # what a server repeats of the request is not what it says
        (422, {"detail": [{"msg": "field required", "loc": ["x"], "input": "maximum context length, content_filter"}]}),
    ],
)
def test_any_other_refusal_is_not_repeated_now_and_not_final(status: int, body: object) -> None:
    found = outcome(status, body)
    assert (found.fate, found.reason) == ("rejected", "rejected")


def test_answers_cut_offs_and_refusals() -> None:
    assert outcome(200, chat("yes")) == Outcome("answer", said=outcome(200, chat("yes")).said, finish_reason="stop")
    for word in ("length", "max_tokens", "MAX_TOKENS", "model_length"):
        found = outcome(200, chat("half an ans", finish_reason=word))
        assert (found.fate, found.finish_reason) == ("answer", "length")
    for finish in ("length", "MAX_TOKENS"):
        found = outcome(200, choice(message={"content": None, "reasoning_content": "hm and hm"}, finish_reason=finish))
        assert (found.fate, found.reason) == ("final", "cut_off")
        assert found.said is not None
        assert found.said.reasoning == "hm and hm"
    assert outcome(200, chat("<think>\nI wonder", finish_reason="stop")).reason == "cut_off"
    for message in (
        {"content": None, "refusal": "I cannot"},
        {"content": [{"type": "refusal", "refusal": "I cannot"}]},
    ):
        found = outcome(200, choice(message=message))
        assert (found.fate, found.reason, found.words) == ("final", "refused", "I cannot")
    # the words of a completion, not of a chat; a server without a finish_reason
    found = outcome(200, {"choices": [{"text": "yes"}]})
    assert (found.fate, found.finish_reason) == ("answer", "stop")


def test_an_answer_that_talks_about_errors_is_an_answer() -> None:
    text = "The context length exceeds the limit: insufficient_quota, content_filter, HTTP 429."
    assert outcome(200, chat(text)).fate == "answer"


EXAMPLES: tuple[tuple[int, object], ...] = (
    (200, chat("yes")),
    (200, chat("half", finish_reason="length")),
    (200, chat(None, finish_reason="length")),
    (200, chat(None, refusal="I cannot")),
    (200, chat("half", finish_reason="content_filter")),
    (200, error("x", code=502)),
    (400, error("prompt is too long: 9 tokens > 8 maximum")),
    (413, "no"),
    (400, error("x", code="content_filter")),
    (503, "down"),
    (402, error("Insufficient Balance")),
    (400, error("no such thing")),
)


def test_the_table_says_what_is_done() -> None:
    assert len(TABLE) == len(EXAMPLES)
    page = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert "\n".join(f"| {what} | {reason} | {fate} |" for what, reason, fate in TABLE) in page
    for (what, reason, fate), (status, body) in zip(TABLE, EXAMPLES, strict=True):
        found = outcome(status, body)
        assert found.fate == fate, what
        assert reason.startswith(found.reason or "-"), what


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            error("no", param="seed", code="unsupported_parameter"),
            "HTTP 400: no; code unsupported_parameter; param seed",
        ),
        ({"error": "plain"}, "HTTP 400: plain"),
        (
            {"detail": [{"msg": "Extra inputs are not permitted", "loc": ["body", "seed"], "input": 7}]},
            "HTTP 400: Extra inputs are not permitted; at ['body', 'seed']",
        ),
        ([{"error": {"message": 'Unknown name "seed"', "code": 400}}], 'HTTP 400: Unknown name "seed"'),
        ("<html><body><h1>400</h1>\x1b[31mBad\x07 <b>Request</b></body></html>", "HTTP 400: 400 [31mBad Request"),
        ({"errors": [{"code": 7, "message": "a"}, {"message": "b"}]}, "HTTP 400: a; b"),
        (
            error(
                "Provider returned error",
                metadata={"provider_name": "Acme", "raw": '{"error": {"message": "the truth"}}'},
            ),
            "HTTP 400: Provider returned error; Acme; the truth",
        ),
        ({}, "HTTP 400: no words"),
        (None, "HTTP 400: no words"),
    ],
)
def test_an_endpoints_own_words_are_found(body: object, expected: str) -> None:
    assert words(400, body) == expected


def test_words_are_bounded_and_in_one_line() -> None:
    deep: object = "bottom"
    for _ in range(500):
        deep = {"error": deep}
    for body in ("x" * 10**6, error("y\n\u202e" * 10**5), deep, error("\ud83d"), {"error": {"message": {"a": [[[]]]}}}):
        found = words(400, body)
        assert len(found) <= LONGEST
        assert found.isprintable()
        found.encode()
