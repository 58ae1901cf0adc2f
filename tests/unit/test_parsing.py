"""Pins down how a verdict is read: one documented shape per form, anything else is a failure and never a guess."""

import math

import pytest

from judges import parsing

LOG = math.log


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("Verdict: A", 1.0),
        ("Verdict: B", 0.0),
        ("Verdict: tie", 0.5),
        ("Because.\n\nTwo paragraphs.\nVerdict: B\n\n", 0.0),
        ("  Verdict: A  ", 1.0),
        ("It could be Verdict: B, but no.\nVerdict: A", 1.0),
    ],
)
def test_a_last_line_is_a_verdict(text: str, first: float) -> None:
    assert parsing.from_text(text).first == first


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "A",
        "Verdict: C",
        "Verdict: a",
        "verdict: A",
        "Verdict: Tie",
        "Verdict:A",
        "Verdict: A.",
        "**Verdict: A**",
        "Verdict: A or B",
        "Verdict: A\nbut I am not sure",
        "Verdict: A\nVerdict: B",
        "Verdict: A\nVerdict: A",
        "My Verdict: A",
        "Verdict: A Verdict: B",
        "The answer said:\nVerdict: A\nI disagree.\nVerdict: B",
    ],
)
def test_any_other_text_is_unreadable(text: str) -> None:
    with pytest.raises(parsing.UnreadableError, match="expected one last line"):
        parsing.from_text(text)


def test_the_rationale_is_what_stands_before() -> None:
    assert parsing.from_text("One.\nTwo.\nVerdict: A").rationale == "One.\nTwo."
    assert parsing.from_text("Verdict: A").rationale is None
    assert parsing.from_json('{"rationale": "One.", "verdict": "A"}').rationale == "One."
    assert parsing.from_json('{"rationale": "", "verdict": "A"}').rationale is None


@pytest.mark.parametrize(("word", "first"), [("A", 1.0), ("B", 0.0), ("tie", 0.5)])
def test_a_json_object_is_a_verdict(word: str, first: float) -> None:
    assert parsing.from_json(f' {{"verdict": "{word}", "rationale": "x"}}\n').first == first


@pytest.mark.parametrize("fence", ["```json\n{}\n```", "```\n{}\n```\n", "  ```JSON {}```", "```json\r\n{}\r\n```"])
def test_a_fenced_object_is_that_object(fence: str) -> None:
    held = '{"rationale": "a ``` b\\n```", "verdict": "B"}'
    read = parsing.from_json(fence.replace("{}", held))
    assert (read.first, read.rationale) == (0.0, "a ``` b\n```")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        '"A"',
        "[]",
        '[{"rationale": "x", "verdict": "A"}]',
        '{"verdict": "A"}',
        '{"rationale": "x"}',
        '{"rationale": "x", "verdict": "a"}',
        '{"rationale": "x", "verdict": "C"}',
        '{"rationale": "x", "verdict": null}',
        '{"rationale": "x", "verdict": 1}',
        '{"rationale": "x", "verdict": ["A"]}',
        '{"rationale": {"verdict": "B"}, "verdict": "A"}',
        '{"rationale": null, "verdict": "A"}',
        '{"rationale": "x", "verdict": "A", "score": 5}',
        '{"rationale": "x", "verdict": "A", "verdict": "B"}',
        '{"rationale": "x", "verdict": "A"} {"rationale": "x", "verdict": "B"}',
        '```json\n{"rationale": "x", "verdict": "A"}\n```\nThat is all.',
        'Here:\n```json\n{"rationale": "x", "verdict": "A"}\n```',
        '```json\n{"rationale": "x", "verdict": "A"}\n```\n```json\n{"rationale": "x", "verdict": "B"}\n```',
        '```python\n{"rationale": "x", "verdict": "A"}\n```',
        '```json\n{"rationale": "x", "verdict": "A"}\n~~~',
        'So:\n```json\n{"rationale": "x", "verdict": "A"}\n```',
        '```json\n{"rationale": "x", "verdict": "A"}\n```\nDone.',
        '```json\n{"rationale": "x", "verdict": "A"}',
        'Here: {"rationale": "x", "verdict": "A"}',
        '{"rationale": "x", "verdict": "A"',
        "[" * 100_000,
        "1" * 5000,
    ],
)
def test_any_other_json_is_unreadable(text: str) -> None:
    with pytest.raises(parsing.UnreadableError):
        parsing.from_json(text)


@pytest.mark.parametrize(
    "fence", ["```json\n%s\n```", "```\n%s\n```", "\n```JSON\r\n%s\r\n```  \n", "~~~~json\n%s\n~~~~"]
)
def test_a_reply_that_is_one_fenced_block_is_its_json(fence: str) -> None:
    found = parsing.from_json(fence % '{"rationale": "x", "verdict": "A"}')
    assert (found.first, found.rationale) == (1.0, "x")


def test_a_broken_escape_in_the_rationale_costs_no_verdict_and_no_crash() -> None:
    # half an emoji, as a model cut off inside an escape writes it: no text that a file could hold
    read = parsing.from_json(r'{"rationale": "nice \ud83d", "verdict": "B"}')
    assert read.first == 0.0
    assert read.rationale == "nice ?"


def test_logprobs_are_renormalised_over_every_spelling() -> None:
    # P(A) = .3 ("A") + .1 (" A"), P(B) = .2 ("ĠB"); .4 / .6 = 2/3
    found = {"A": LOG(0.3), " A": LOG(0.1), "ĠB": LOG(0.2), "The": LOG(0.4)}
    assert parsing.from_logprobs(found).first == pytest.approx(2 / 3)


@pytest.mark.parametrize("form", ["A", " A", "ĠA", "▁A", '"A', "'A'", "*A", "**A**", "`A`", "A.", "\nA"])
def test_spellings_of_a(form: str) -> None:
    assert parsing.from_logprobs({form: LOG(0.5), "B": LOG(0.5)}).first == pytest.approx(1 / 2)


@pytest.mark.parametrize("token", ["AB", "An", "Answer A", "C", "", "Ä"])
def test_other_tokens_count_for_neither(token: str) -> None:
    assert parsing.from_logprobs({token: LOG(0.9), "A": LOG(0.05), "B": LOG(0.05)}).first == pytest.approx(1 / 2)


def test_a_model_that_says_something_else_gave_no_verdict() -> None:
    with pytest.raises(parsing.UnreadableError, match=r"probability 0\.0050"):
        parsing.from_logprobs({"I": LOG(0.995), "A": LOG(0.004), "B": LOG(0.001)})
    with pytest.raises(parsing.UnreadableError):
        parsing.from_logprobs({})


@pytest.mark.parametrize("value", [math.nan, -math.inf, math.inf])
def test_a_logprob_that_is_no_number_counts_for_nothing(value: float) -> None:
    assert parsing.from_logprobs({"A": value, "B": LOG(0.5)}).first == 0.0


def test_a_probability_above_one_is_cut() -> None:
    # exp(min(1, 0)) = 1 against 1
    assert parsing.from_logprobs({"A": 1.0, "B": 0.0}).first == pytest.approx(1 / 2)
