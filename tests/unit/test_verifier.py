"""Pins down the verifier: right beats wrong, two alike are a tie, and a program that fails is a failure."""

from pathlib import Path

import pytest

from judges.verifier import VerifierJudge
from tests.worlds import Bench, compared, world

PROGRAM = """
CHECKED = []


def check(reference, completion):
    CHECKED.append(completion)
    if completion == "stop":
        raise SystemExit("bye")
    if completion == "loop":
        return check_again(completion)
    return {"half": 0.5, "nan": float("nan"), "many": 2, "yes": True}.get(completion, completion == reference)


def check_again(text):
    return check_again(text)
"""


def verifier(folder: Path) -> VerifierJudge:
    (folder / "check.py").write_text(PROGRAM)
    options = VerifierJudge.Options(name="v", kind="verifier", program="./check.py:check")
    return VerifierJudge(options, Bench(base=folder))


@pytest.mark.parametrize(
    ("a", "b", "preference"),
    [
        ("4", "5", 1.0),
        ("4", "yes", 0.5),
        ("5", "6", 0.5),
        ("4", "half", 0.75),
        ("5", "half", 0.25),
    ],
)
def test_right_beats_wrong_and_two_alike_are_a_tie(tmp_path: Path, a: str, b: str, preference: float) -> None:
    (item,) = compared(world({"2 + 2?": [a, b]}, reference="4"))
    (one,) = verifier(tmp_path).judge([item]).judgments
    assert one.preference == (preference if item.completion_a == a else 1 - preference)
    assert one.order == "ab"


@pytest.mark.parametrize("text", ["nan", "many", "stop", "loop"])
def test_a_program_that_fails_on_an_answer_fails_its_pairs_alone(tmp_path: Path, text: str) -> None:
    made = compared(world({"2 + 2?": ["4", "5", text]}, reference="4"))
    opinions = verifier(tmp_path).judge(made)
    for item, one in zip(made, opinions.judgments, strict=True):
        if text in (item.completion_a, item.completion_b):
            assert one.preference is None
            assert (one.error or "").startswith("the program failed: ")
        else:
            assert one.preference in (0.0, 1.0)
    assert sorted(rating.score for rating in opinions.ratings) == [0.0, 1.0]


def test_every_answer_is_checked_once_and_a_prompt_without_a_reference_not_at_all(tmp_path: Path) -> None:
    judge = verifier(tmp_path)
    opinions = judge.judge(
        compared(world({"2 + 2?": ["4", "5", "6", "7"]}, reference="4")) + compared(world({"Why?": ["so", "no"]}))
    )
    checked = judge.program.__globals__["CHECKED"]
    assert sorted(checked) == ["4", "5", "6", "7"]
    assert len(opinions.judgments) == 6 + 1
    assert opinions.judgments[-1].error == "the prompt has no reference"
    assert len(opinions.ratings) == 4
