"""Pins down where reasoning ends and an answer begins, in every shape that servers are reported to send."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.calls.reasoning import TAGS, Spoken, refusal, split, spoken


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("42", Spoken("42")),
        ("<think>\nhm\n</think>\n\n42", Spoken("42", "hm")),
        ("  \n<think>hm</think>42", Spoken("42", "hm")),
        ("<think>\n\n</think>\n\n42", Spoken("42")),  # Qwen with thinking off
        ("hm, both are good.\n</think>\n\n42", Spoken("42", "hm, both are good.")),
        ("hm.</think>42", Spoken("42", "hm.")),
        ("</think>\n42", Spoken("42")),
        ("<think>\nhm", Spoken("", "hm", whole=False)),
        ("<think>", Spoken("", None, whole=False)),
        ("<think>hm</think>", Spoken("", "hm")),
        # only the first closing tag ends it
        ("<think>a</think>\n<think>b</think>c", Spoken("<think>b</think>c", "a")),
        ("[THINK]hm[/THINK]42", Spoken("42", "hm")),
        (
            "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>42",
            Spoken("42", "hm<|end|>"),
        ),
        # an answer about tags is an answer
        (
            "Write `<think>` and then `</think>` into the template.",
            Spoken("Write `<think>` and then `</think>` into the template."),
        ),
        ("Close it with `</think>`.", Spoken("Close it with `</think>`.")),
        ('It prints "</think>" last.', Spoken('It prints "</think>" last.')),
        ("First <think>x</think> then", Spoken("First <think>x</think> then")),
        ("I think so.", Spoken("I think so.")),
    ],
)
def test_tags(text: str, expected: Spoken) -> None:
    assert split(text) == expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"content": "42", "reasoning_content": "hm"}, Spoken("42", "hm")),  # DeepSeek, vLLM
        ({"content": "42", "reasoning": "hm"}, Spoken("42", "hm")),  # OpenRouter, Groq, newer vLLM
        ({"content": "42", "reasoning": "hm", "reasoning_content": "hm"}, Spoken("42", "hm")),
        ({"content": "42", "reasoning": None, "reasoning_content": None}, Spoken("42")),
        ({"content": "42", "reasoning": "", "reasoning_details": []}, Spoken("42")),
        ({"content": "42", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}, Spoken("42", "hm")),
        ({"content": "42", "reasoning": {"summary": [{"type": "summary_text", "text": "hm"}]}}, Spoken("42", "hm")),
        ({"content": "<think>h</think>42", "reasoning": "hm"}, Spoken("42", "hm\n\nh")),
        ({"content": [{"type": "text", "text": "4"}, {"type": "text", "text": "2"}]}, Spoken("42")),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                    {"type": "text", "text": "42"},
                ]
            },
            Spoken("42", "hm"),
        ),  # Mistral
        (
            {"content": [{"type": "thinking", "thinking": "hm", "signature": "x"}, {"type": "text", "text": "42"}]},
            Spoken("42", "hm"),
        ),
        ({"content": [{"type": "reasoning", "text": "hm"}, "42"]}, Spoken("42", "hm")),
        ({"content": {"type": "text", "text": "42"}}, Spoken("42")),
        ({"content": None, "reasoning_content": "hm"}, Spoken("", "hm")),
        ({"content": 7}, Spoken("")),
        ({}, Spoken("")),
        ({"content": [None, 7, [], {"type": "image_url"}]}, Spoken("")),
    ],
)
def test_messages(message: dict[str, Any], expected: Spoken) -> None:
    assert spoken(message) == expected


def test_a_refusal_is_found_beside_the_content_and_in_its_parts() -> None:
    assert refusal({"refusal": "no"}) == "no"
    assert refusal({"content": [{"type": "refusal", "refusal": "no"}]}) == "no"
    assert refusal({"content": [{"type": "refusal"}]}) == "refused"
    assert refusal({"content": "no", "refusal": None}) is None
    assert refusal({"refusal": {"a": 1}}) is None


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["type", "text", "thinking", "summary", "x"]), inner)
    ),
    max_leaves=20,
)


@given(
    st.dictionaries(
        st.sampled_from(["content", "reasoning", "reasoning_content", "reasoning_details", "refusal"]), JUNK
    )
)
def test_junk_is_read_without_a_fault(message: dict[str, Any]) -> None:
    spoken(message)
    refusal(message)


@given(st.sampled_from(TAGS), st.text(alphabet="ab \n"), st.text(alphabet="xyz", min_size=1))
def test_the_answer_is_what_follows_the_closing_tag(tags: tuple[str, str], thought: str, answer: str) -> None:
    found = split(f"{tags[0]}{thought}{tags[1]}\n\n{answer}")
    assert (found.answer, found.reasoning, found.whole) == (answer, thought.strip() or None, True)
    assert split(found.answer) == Spoken(answer)
