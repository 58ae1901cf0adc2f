"""Pins down how a model is spoken to: families, the config's changes, and refusals that are learned once."""

from typing import Any

import pytest

from pipeline.calls.dialect import Dialect, family_of
from pipeline.calls.error_words import words
from pipeline.calls.streams import assembled, is_stream

PLAIN: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}],
    "max_tokens": 9,
    "temperature": 1.5,
    "seed": 3,
    "top_logprobs": 20,
    "stream": False,
    "response_format": {"type": "json_schema", "json_schema": {}},
}


def test_a_plain_endpoint_gets_the_request_as_it_is() -> None:
    assert Dialect("http://127.0.0.1:8000/v1", "m").body(PLAIN) == PLAIN


@pytest.mark.parametrize(
    ("url", "model", "family"),
    [
        ("https://api.openai.com/v1", "o4-mini", "OpenAI, reasoning"),
        ("https://api.openai.com/v1", "gpt-5-mini-2025-08-07", "OpenAI, reasoning"),
        ("https://api.openai.com/v1", "gpt-5-chat-latest", ""),
        ("https://api.openai.com/v1", "gpt-4.1", ""),
        ("https://x.openai.azure.com/openai/deployments/o3", "o3", "Azure, reasoning"),
        ("https://x.openai.azure.com/openai/v1", "mine", "Azure"),
        ("https://api.deepseek.com/v1", "deepseek-chat", "DeepSeek"),
        ("https://generativelanguage.googleapis.com/v1beta/openai", "gemini-2.5-pro", "Gemini"),
        ("https://openrouter.ai/api/v1", "openai/o4-mini", ""),
        ("http://127.0.0.1:11434/v1", "deepseek-r1", ""),
    ],
)
def test_families(url: str, model: str, family: str) -> None:
    assert family_of(url, model).name == family


def test_families_and_the_configs_changes() -> None:
    made = Dialect("https://api.openai.com/v1", "o3").body(PLAIN)
    assert made["max_completion_tokens"] == 9
    assert {"max_tokens", "temperature"} & set(made) == set()
    assert Dialect("https://api.mistral.ai/v1", "m").body(PLAIN)["random_seed"] == 3
    made = Dialect("https://api.anthropic.com/v1", "claude").body(PLAIN)
    assert (made["temperature"], "seed" in made, "response_format" in made) == (1.0, False, False)
    changes = ({"max_tokens": None, "max_completion_tokens": 7, "top_k": 1}, {"top_k": 2, "seed": None})
    made = Dialect("http://h", "m", changes, "json_object").body(PLAIN)
    assert (made["max_completion_tokens"], made["top_k"], "seed" in made, "max_tokens" in made) == (7, 2, False, False)
    assert made["response_format"] == {"type": "json_object"}
    assert PLAIN["max_tokens"] == 9, "the plain request is nobody's to change"


def refusal(message: str, **more: object) -> str:
    return words(400, {"error": {"message": message, **more}})


@pytest.mark.parametrize(
    ("said", "field", "becomes"),
    [
        (
            refusal("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
            "max_completion_tokens",
            9,
        ),
        (refusal("Unrecognized request argument supplied: seed"), "seed", None),
        (refusal("`temperature` is deprecated for this model."), "temperature", None),
        (refusal("invalid temperature: only 1 is allowed for this model"), "temperature", None),
        (refusal("top_logprobs must be less than or equal to 5"), "top_logprobs", 5),
        (refusal("no", param="temperature", code="unsupported_value"), "temperature", None),
        (refusal("Structured output is not supported by this model"), "response_format", {"type": "json_object"}),
        (words(422, {"detail": [{"loc": ["body", "stream"], "type": "extra_forbidden", "msg": "no"}]}), "stream", None),
    ],
)
def test_a_refusal_that_names_a_parameter_is_learned_once(said: str, field: str, becomes: object) -> None:
    speech = Dialect("http://h", "m")
    sent = speech.body(PLAIN)
    assert speech.learn(400, said, sent, PLAIN)
    made = speech.body(PLAIN)
    assert made.get(field) == becomes
    assert len(speech.refused) == 1
    assert said in next(iter(speech.refused.values()))
    # a call that was sent before it was learned is made again; one that was sent after it, not
    assert speech.learn(400, said, sent, PLAIN)
    if field != "response_format":  # which is asked for in yet another way, and then not at all
        assert not speech.learn(400, said, made, PLAIN)


def test_the_other_length_is_learned_where_the_new_one_is_refused() -> None:
    speech = Dialect("http://h", "m", ({"max_tokens": None, "max_completion_tokens": 9},))
    said = words(422, {"detail": [{"loc": ["body", "max_completion_tokens"], "type": "extra_forbidden", "msg": "no"}]})
    assert speech.learn(422, said, speech.body(PLAIN), PLAIN)
    assert speech.body(PLAIN)["max_tokens"] == 9


@pytest.mark.parametrize(
    "said",
    [
        refusal("max_tokens is too large: 9. This model supports at most 8 completion tokens."),
        refusal("temperature must be between 0 and 1"),
        refusal("'logprobs' is not supported with this model"),
        refusal("something is not supported"),
        refusal("no"),
        refusal("'top_k' is not supported"),
    ],
)
def test_what_cannot_be_left_out_or_is_not_named_is_not(said: str) -> None:
    speech = Dialect("http://h", "m")
    assert not speech.learn(400, said, speech.body(PLAIN), PLAIN)
    assert speech.body(PLAIN) == PLAIN
    assert not speech.learn(401, refusal("seed is not supported"), speech.body(PLAIN), PLAIN)


def test_streams_are_put_together() -> None:
    text = (
        ": OPENROUTER PROCESSING\n\n"
        'data: {"id": "x", "model": "m", "choices": [{"delta": {"role": "assistant", "reasoning": "h"}}]}\n\n'
        'data: {"choices": [{"delta": {"reasoning": "m", "content": null}}]}\r\n\r\n'
        'data: {"choices": [{"delta": {"content": "a\u2028"}}]}\n\n'
        'data:{"choices": [{"delta": {"content": "b"}, "finish_reason": "stop"}]}\n\n'
        'data: {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}\n\n'
        "data: [DONE]\n\n"
    )
    assert is_stream(text)
    made = assembled(text)
    assert made["choices"][0]["message"] == {"role": "assistant", "content": "a\u2028b", "reasoning": "hm"}
    assert (made["choices"][0]["finish_reason"], made["usage"]["completion_tokens"]) == ("stop", 2)
    assert not is_stream('{"choices": []}')


@pytest.mark.parametrize(
    "text",
    [
        'data: {"choices": [{"delta": {"content": "a"}}]}\n\n',
        'data: {"choices": [{"delta": {"content": "a"}, "finish_reason": "error"}]}\n\ndata: [DONE]\n\n',
        'data: {"error": {"message": "overloaded"}}\n\ndata: [DONE]\n\n',
        "data: {\n\n",
        "event: error\n\n",
        'data: {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}\n\ndata: junk\n\n',
    ],
)
def test_a_stream_with_an_error_or_without_an_end_is_no_answer(text: str) -> None:
    from pipeline.calls.finality import outcome

    assert outcome(200, assembled(text)).fate == "again"
