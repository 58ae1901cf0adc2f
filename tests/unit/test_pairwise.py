"""Pins down the pairwise judge's grades and the reference-guided judge, which is shown a known answer too."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import judges.pairwise
from judges.pairwise import GRADES, PairwiseJudge
from judges.reference_guided import ReferenceGuidedJudge
from pipeline.comparison import Comparison
from pipeline.errors import ConfigError
from pipeline.stages import judge as stage
from tests.endpoints import Endpoint, Reply, chat
from tests.worlds import Bench, bench, compared, said, world

MODEL = {"name": "j", "model": "m", "engine": "vllm"}
TURNS = (("system", "Speak Latin."), ("user", "Salve!"), ("assistant", "Salve et tu."), ("user", "Quid novi?"))


def pairwise(toolbox: Bench, **options: Any) -> PairwiseJudge:
    return PairwiseJudge(PairwiseJudge.Options.model_validate({**MODEL, "kind": "pairwise", **options}), toolbox)


def guided(toolbox: Bench, **options: Any) -> ReferenceGuidedJudge:
    made = ReferenceGuidedJudge.Options.model_validate({**MODEL, "kind": "reference_guided", **options})
    return ReferenceGuidedJudge(made, toolbox)


def test_the_example_at_the_head_of_the_module_is_what_happens() -> None:
    prompt, told = (judges.pairwise.__doc__ or "").split("The reply ``", 1)
    reply = told.split("``", 1)[0]
    toolbox = Bench(lambda _request: reply)
    item = Comparison("p", "q", (("user", "What is the capital of France?"),), None, "a", "b", "Paris.", "Lyon.")
    made = pairwise(toolbox).judge([item]).judgments
    assert {one.order: one.preference for one in made} == {"ab": 1.0, "ba": 0.0}
    shown = re.sub("[0-9a-f]{8}>>", "TAG>>", pairwise(toolbox).requests([item])[0].messages[0][1])
    example = "\n".join(
        line.removeprefix("    ") for line in prompt.splitlines() if not line or line.startswith("    ")
    )
    head, body = re.sub("[0-9a-f]{8}>>", "TAG>>", example).strip().split("\n...\n")
    assert shown.startswith(head)
    assert shown.strip().endswith(body)


@pytest.mark.parametrize("scale", [3, 5, 7])
def test_grades_are_even_steps_and_turning_one_round_turns_its_preference(scale: int) -> None:
    grades = GRADES[scale]
    assert sorted(grades.values()) == pytest.approx([at / (scale - 1) for at in range(scale)])
    for verdict, preference in grades.items():
        mirrored = verdict.translate(str.maketrans("AB", "BA")).replace("B=A", "A=B")
        assert grades[mirrored] == pytest.approx(1 - preference)


@pytest.mark.parametrize(("word", "preference"), [("A>>B", 1.0), ("A>B", 0.75), ("A=B", 0.5), ("B>>A", 0.0)])
@pytest.mark.parametrize("verdict", ["json", "text"])
def test_a_graded_verdict_says_how_much(word: str, preference: float, verdict: str) -> None:
    reply = {"json": json.dumps({"rationale": "x", "verdict": word}), "text": f"x\nVerdict: {word}"}[verdict]
    toolbox = Bench(lambda _request: reply)
    made = pairwise(toolbox, scale=5, verdict=verdict).judge(compared(world({"Q?": ["x", "y"]}))).judgments
    assert {one.order: one.preference for one in made} == {"ab": preference, "ba": 1 - preference}
    assert all(grade in toolbox.model.requests[0].messages[0][1] for grade in GRADES[5])


@pytest.mark.parametrize("word", ["A", "tie", "A>>>B", "a>b", "A > B", "3"])
def test_a_grade_of_another_scale_is_unreadable(word: str) -> None:
    for verdict, reply in (("json", json.dumps({"rationale": "", "verdict": word})), ("text", f"Verdict: {word}")):
        toolbox = Bench(lambda _request, reply=reply: reply)
        (one, _) = pairwise(toolbox, scale=5, verdict=verdict).judge(compared(world({"Q?": ["x", "y"]}))).judgments
        assert one.preference is None


def test_a_probability_needs_no_grades() -> None:
    with pytest.raises(ValidationError, match="graded by its probability"):
        pairwise(Bench(), scale=5, verdict="logprob")


def test_a_letter_is_asked_for_when_its_probability_is_read() -> None:
    toolbox = Bench(lambda _request: said("A", choice_logprobs={"A": -0.1, "B": -2.5}))
    pairwise(toolbox, verdict="logprob").judge(compared(world({"Q?": ["x", "y"]})))
    assert toolbox.model.requests[0].messages[0][1].endswith("\nReply with one letter, A or B, and nothing else.\n")


@pytest.mark.parametrize("make", [pairwise, guided])
def test_a_conversation_and_its_system_prompt_are_judged_whole(make: Any) -> None:
    (item,) = compared(world({"Q?": ["x", "y"]}))
    for request in make(Bench()).requests([replace(item, messages=TURNS, reference="Nihil.")]):
        text = request.messages[0][1]
        places = [text.index(f"[{role}]\n{content}") for role, content in TURNS]
        assert places == sorted(places)
        assert places[-1] < text.index("Answer A:")


def test_the_reference_is_shown_between_the_prompt_and_the_answers_under_a_fence_of_its_own() -> None:
    (item,) = compared(world({"What is 2 + 2?": ["4", "5"]}, reference="It is {first} four."))
    (request, _) = guided(Bench()).requests([item])
    text = request.messages[0][1]
    parts = ["<<prompt ", "\nThe known answer:\n<<reference ", "\nIt is {first} four.\n<</reference ", "<<first "]
    assert [text.index(part) for part in parts] == sorted(text.index(part) for part in parts)


def test_a_prompt_without_a_reference_is_a_failed_judgment_and_no_call() -> None:
    (known,) = compared(world({"Q?": ["x", "y"]}, reference="x"))
    (unknown,) = compared(world({"R?": ["x", "y"]}))
    toolbox = Bench(lambda _request: json.dumps({"rationale": "", "verdict": "A"}))
    judge = guided(toolbox)
    found = {(one.pair_id, one.order): one for one in judge.judge([unknown, known]).judgments}
    assert len(found) == 4
    assert len(toolbox.model.requests) == len(judge.requests([unknown, known])) == 2
    for order in ("ab", "ba"):
        assert found[known.pair_id, order].error is None
        assert (found[unknown.pair_id, order].error or "").startswith("no_reference: ")
    (alone,) = judge.judge([replace(unknown, orders=("ba",))]).judgments
    assert (alone.order, alone.preference) == ("ba", None)


def test_a_whole_prompt_must_show_the_reference_too(tmp_path: Path) -> None:
    (tmp_path / "own.md").write_text("{prompt} {first} {second}")
    with pytest.raises(ConfigError, match=r"kind reference_guided needs \{prompt\} \{reference\} \{first\} \{second\}"):
        guided(Bench(base=tmp_path), rubric="own.md")


def test_an_endpoint_compares_with_the_reference(tmp_path: Path) -> None:
    frames = world({"What is 2 + 2?": ["It is 4.", "It is 5."]}, reference="It is 4.")

    def answer(body: dict[str, Any]) -> Reply:
        text = body["messages"][0]["content"]
        told, first = (
            text.partition(f"<<{name} ")[2].partition(">>\n")[2].partition("\n<</")[0]
            for name in ("reference", "first")
        )
        return Reply(200, chat(json.dumps({"rationale": "", "verdict": "A" if told == first else "B"})))

    with Endpoint(answer) as server:
        config = {
            "endpoints": {"e": {"base_url": server.url}},
            "judges": [{"name": "r", "kind": "reference_guided", "endpoint": "e", "model": "test", "order": "both"}],
        }
        with bench(tmp_path, frames, **config) as made:
            opinions = stage.make(made.config.judges[0], made).judge(compared(frames))
    (item,) = compared(frames)
    assert {one.preference for one in opinions.judgments} == {float(item.completion_a == "It is 4.")}
    assert len(server.log) == 2
