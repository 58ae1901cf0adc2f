"""Pins down rubrics: six ship with worked examples, each serves every kind, a user's own is one file."""

from pathlib import Path

import pytest

from judges import framing
from judges.pairwise import PairwiseJudge
from judges.rendering import fill
from pipeline.commands import checks
from pipeline.errors import ConfigError
from pipeline.transcript import fence_tag
from tests.worlds import SECRET, Bench, bench, compared, world

KINDS = {
    "pairwise": ["prompt", "first", "second"],
    "reference_guided": ["prompt", "reference", "first", "second"],
    "pointwise": ["prompt", "answer"],
    "listwise": ["prompt", "answers"],
}
DEMO = Path(__file__).parents[2] / "data" / "demo"


def test_the_rubrics_that_ship() -> None:
    assert framing.shipped() == [
        "accuracy",
        "clarity",
        "concision",
        "helpfulness",
        "instruction_following",
        "safety",
    ]


@pytest.mark.parametrize("name", framing.shipped())
def test_a_rubric_has_two_examples_with_opposite_verdicts_and_reads_as_no_verdict(name: str) -> None:
    text = framing.criteria(name, Path())
    for number in (1, 2):
        assert text.count(f"[[example {number}]]\n") == text.count(f"[[/example {number}]]") == 1
    assert text.count("\nBetter: the first; ") == text.count("\nBetter: the second; ") == 1
    assert text.count(" Why: ") == 2
    # Repeated by a judge, no line of it is one of the documented shapes; nor can it be taken for a candidate's fence.
    assert "Verdict:" not in text
    assert "Ranking:" not in text
    assert "Score " not in text
    assert "<<" not in text
    assert text.index("[[") == text.index("[[example 1]]")


@pytest.mark.parametrize("name", framing.shipped())
@pytest.mark.parametrize("kind", KINDS)
def test_every_rubric_fits_every_frame(kind: str, name: str) -> None:
    made = framing.template(kind, [name], Path())
    assert not made.whole
    assert framing.BRACES.findall(made.text) == KINDS[kind]
    assert framing.criteria(name, Path()).strip() in made.text


def test_a_users_own_rubric_is_one_file_of_criteria_or_of_the_whole_prompt(tmp_path: Path) -> None:
    (tmp_path / "own.md").write_text("Prefer answers that rhyme, and keep {n} of $\\frac{1}{2}$ as it is.\n")
    for kind in KINDS:
        made = framing.template(kind, ["own.md"], tmp_path)
        assert "\nPrefer answers that rhyme, and keep {n} of $\\frac{1}{2}$ as it is.\n" in made.text
    whole = "Q {prompt} one {first} two {second}"
    (tmp_path / "whole.md").write_text(whole)
    assert framing.template("pairwise", ["whole.md"], tmp_path) == framing.Template(whole, whole=True)


@pytest.mark.parametrize(
    "text", ["{first} {second}", "{prompt} {second} {first}", "{prompt} {first} {second} {second}", "{prompt} {answer}"]
)
def test_a_whole_prompt_with_other_placeholders_is_a_wrong_config(tmp_path: Path, text: str) -> None:
    (tmp_path / "own.md").write_text(text)
    with pytest.raises(ConfigError, match=r"own\.md: placeholders are .* needs \{prompt\} \{first\} \{second\} in"):
        framing.template("pairwise", ["own.md"], tmp_path)


def test_criteria_of_several_rubrics_stand_one_below_the_other_and_a_whole_prompt_alone(tmp_path: Path) -> None:
    made = framing.template("pointwise", ["accuracy", "clarity"], tmp_path)
    accuracy, clarity = (framing.criteria(name, tmp_path).strip() for name in ("accuracy", "clarity"))
    assert f"\n\n{accuracy}\n\n{clarity}\n\n" in made.text
    (tmp_path / "own.md").write_text("{prompt} {answer}")
    with pytest.raises(ConfigError, match="stands alone"):
        framing.template("pointwise", ["accuracy", "own.md"], tmp_path)


def test_a_rubric_that_is_not_there_or_empty_is_a_wrong_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'kindness' is neither one of accuracy, .* nor the file"):
        framing.template("pairwise", ["kindness"], tmp_path)
    (tmp_path / "own.md").write_text(" \n")
    with pytest.raises(ConfigError, match="is empty"):
        framing.template("pairwise", ["own.md"], tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_check_finds_a_rubric_of_another_kind_before_anything_is_spent(kind: str, tmp_path: Path) -> None:
    (tmp_path / "own.md").write_text("{second} {first}")
    judge = {"name": "j", "kind": kind, "model": "m", "engine": "vllm", "rubric": "own.md"}
    with bench(tmp_path, judges=[judge]) as made, pytest.raises(ConfigError, match=r"own\.md: placeholders are"):
        checks.check(made)


def test_the_demos_judge_reads_the_prompt_that_it_was_trained_on() -> None:
    # data/make_models.py trains on fill(rubric.md, ...) and nothing around it.
    (item,) = compared(world({"What do I pay?": ["You pay 25 euros.", "27 euros!"]}))
    toolbox = Bench(base=DEMO)
    options = PairwiseJudge.Options(
        name="lm", kind="pairwise", model="m", engine="transformers", rubric="rubric.md", verdict="logprob", order="ab"
    )
    (request,) = PairwiseJudge(options, toolbox).requests([item])
    texts = {"prompt": "What do I pay?", "first": item.completion_a, "second": item.completion_b}
    rubric = (DEMO / "rubric.md").read_text()
    assert request.messages == (("user", fill(rubric, texts, SECRET)),)
    blocks = [
        f"<<{name} {fence_tag(SECRET, text)}>>\n{text}\n<</{name} {fence_tag(SECRET, text)}>>"
        for name, text in texts.items()
    ]
    assert request.messages[0][1] == (
        "Which answer would the customer prefer? Correct first, then short, then friendly.\n\n"
        + "\n\n".join(blocks)
        + "\n\nThe first answer is A, the second is B. Reply with A or B.\n"
    )
