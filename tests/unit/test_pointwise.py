"""Pins down the pointwise judge: one call an answer, whole scores under their names, equal scores a tie."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from judges.parsing import UnreadableError
from judges.pointwise import PointwiseJudge, scores_from_json, scores_from_text
from pipeline import schemas
from pipeline.engines.base import Answer, Request
from pipeline.errors import ConfigError
from pipeline.stages import judge as stage
from tests.endpoints import Endpoint, Reply, chat
from tests.worlds import Bench, bench, compared, said, world

BOTH = ("accuracy", "clarity")
LOG = math.log


def pointwise(
    script: Callable[[Request], str | Answer], base: Path = Path(), **options: Any
) -> tuple[PointwiseJudge, Bench]:
    toolbox = Bench(script, base=base)
    made = {"name": "p", "kind": "pointwise", "model": "m", "engine": "vllm", **options}
    return PointwiseJudge(PointwiseJudge.Options.model_validate(made), toolbox), toolbox


def shown(request: Request) -> str:
    """The answer inside its fence."""
    return request.messages[0][1].partition("<<answer ")[2].partition(">>\n")[2].partition("\n<</answer")[0]


def reply(**scores: object) -> str:
    return json.dumps({"rationale": "because", "scores": scores})


def by_length(request: Request) -> str:
    """One point for each of the first five letters."""
    return reply(overall=min(len(shown(request)), 5))


# Reading scores


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('{"rationale": "x", "scores": {"accuracy": 4, "clarity": 2}}', (4, 2)),
        ('{"scores": {"clarity": 2, "accuracy": 10}, "rationale": "Two.\\n\\nParagraphs: 1."}', (10, 2)),
        ('{"rationale": "x", "scores": {"accuracy": 4.0, "clarity": 1}}', (4, 1)),
    ],
)
def test_json_scores_are_read_by_name(text: str, values: tuple[float, ...]) -> None:
    assert scores_from_json(text, BOTH, 10).values == values


@pytest.mark.parametrize(
    "score", ["4.5", "0", "6", "-1", "10", '"4"', "true", "null", "[4]", "1e400", "NaN", '{"of": 5}', "4.0000001"]
)
def test_a_score_that_is_no_whole_number_of_the_scale_is_unreadable(score: str) -> None:
    with pytest.raises(UnreadableError):
        scores_from_json(f'{{"rationale": "x", "scores": {{"overall": {score}}}}}', ("overall",), 5)


@pytest.mark.parametrize(
    "text",
    [
        "5",
        "Rating: 5",
        '{"scores": {"accuracy": 4, "clarity": 2}}',
        '{"rationale": "x", "scores": {"accuracy": 4}}',
        '{"rationale": "x", "scores": {"accuracy": 4, "clarity": 2, "tone": 3}}',
        '{"rationale": "x", "scores": {"accuracy": 4, "accuracy": 5, "clarity": 2}}',
        '{"rationale": "x", "scores": [4, 2]}',
        '{"rationale": 5, "scores": {"accuracy": 4, "clarity": 2}}',
        '{"rationale": "x", "scores": {"accuracy": 4, "clarity": 2}} {"rationale": "x", "scores": {}}',
    ],
)
def test_any_other_json_is_unreadable(text: str) -> None:
    with pytest.raises(UnreadableError):
        scores_from_json(text, BOTH, 5)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("Verdict: accuracy 4, clarity 2", (4, 2)),
        # bug 2: a preamble, two paragraphs, and the aspects out of order shift nothing
        ("Preamble.\n\nRating: 1\n\nAnother paragraph, 3 out of 5.\n\nVerdict: clarity 2, accuracy 4\n", (4, 2)),
        ("Verdict: accuracy 10, clarity 1", (10, 1)),
    ],
)
def test_scores_in_text_are_read_by_name(text: str, values: tuple[float, ...]) -> None:
    assert scores_from_text(text, BOTH, 10).values == values


@pytest.mark.parametrize(
    "line",
    [
        "accuracy 4",
        "accuracy 4, clarity 4.5",
        "accuracy 4, clarity 11",
        "accuracy 4, clarity 04",
        "accuracy 4, clarity \uff14",
        "accuracy 4, clarity 2, tone 3",
        "accuracy 4, accuracy 2",
        "accuracy 4, accuracy 4, clarity 2",
        "accuracy: 4, clarity: 2",
        "4, 2",
        "accuracy 4 clarity 2",
        "accuracy 4/10, clarity 2/10",
        "accuracy <1 to 10>, clarity <1 to 10>",
    ],
)
def test_any_other_last_line_is_unreadable(line: str) -> None:
    with pytest.raises(UnreadableError):
        scores_from_text(f"Fine.\nVerdict: {line}", BOTH, 10)


@pytest.mark.parametrize("text", ["", "4", "Score: 4", "Verdict: 4.5", "Verdict: 4\nmore", "Verdict: 4\nVerdict: 4"])
def test_a_lone_score_in_text_has_one_shape(text: str) -> None:
    assert scores_from_text("So.\nVerdict: 4", ("overall",), 5).values == (4,)
    with pytest.raises(UnreadableError):
        scores_from_text(text, ("overall",), 5)


@given(st.text(max_size=60), st.integers(2, 10))
@settings(max_examples=200, deadline=None)
def test_what_is_read_is_on_the_scale_whatever_was_said(text: str, scale: int) -> None:
    for read in (scores_from_json, scores_from_text):
        for candidate in (text, f"Verdict: {text}", f'{{"rationale": "", "scores": {{"overall": {text}}}}}'):
            try:
                (value,) = read(candidate, ("overall",), scale).values
            except UnreadableError:
                continue
            assert value in range(1, scale + 1)
            assert str(int(value)) in candidate


# Judging


def test_one_call_an_answer_serves_every_pair_of_the_prompt() -> None:
    made = compared(world({"Q?": ["a", "bb", "ccc", "dddd"], "R?": ["a", "bb"]}))
    assert len(made) == 6 + 1
    judge, toolbox = pointwise(by_length)
    opinions = judge.judge(made)
    assert len(toolbox.model.requests) == len(judge.requests(made)) == 4 + 2
    assert len(opinions.ratings) == 4 + 2
    lengths = {item.pair_id: len(item.completion_a) - len(item.completion_b) for item in made}
    for one in opinions.judgments:
        # one point of five is a quarter of the scale: logistic(4 x d / 4)
        assert one.preference == pytest.approx(1 / (1 + math.exp(-lengths[one.pair_id])))
        assert (one.order, one.error, len(one.call_keys)) == ("ab", None, 2)
    schemas.Ratings.validate(stage.ratings(opinions.ratings, "p"))
    schemas.Judgments.validate(stage.judgments(opinions.judgments, "p"))


def test_equal_scores_are_a_tie_and_a_failed_score_is_a_failure_of_its_pairs_alone() -> None:
    made = compared(world({"Q?": ["same", "kind", "long one"]}))
    judge, _ = pointwise(lambda request: "hm, 4.5" if shown(request) == "kind" else reply(overall=3))
    for item, one in zip(made, judge.judge(made).judgments, strict=True):
        if "kind" in (item.completion_a, item.completion_b):
            assert one.preference is None
            assert "expected one JSON object" in (one.error or "")
            assert "hm, 4.5" in (one.rationale or "")
        else:
            assert one.preference == 1 / 2


def test_aspects_are_weighed_and_every_one_is_a_row() -> None:
    made = compared(world({"Q?": ["one", "three"]}))
    scores = {"one": (5, 1), "three": (3, 5)}
    judge, toolbox = pointwise(
        lambda request: reply(accuracy=scores[shown(request)][0], clarity=scores[shown(request)][1]),
        aspects={"accuracy": 2, "clarity": 1},
    )
    opinions = judge.judge(made)
    # (2 x 5 + 1) / 3 = 11/3, (2 x 3 + 5) / 3 = 11/3: a tie that no single aspect shows
    assert opinions.judgments[0].preference == pytest.approx(1 / 2)
    assert sorted((one.aspect, one.score) for one in opinions.ratings) == [
        ("accuracy", 3),
        ("accuracy", 5),
        ("clarity", 1),
        ("clarity", 5),
        ("overall", pytest.approx(11 / 3)),
        ("overall", pytest.approx(11 / 3)),
    ]
    assert len(toolbox.model.requests) == 2
    text = toolbox.model.requests[0].messages[0][1]
    assert "Accuracy: how far" in text
    assert "Clarity: how easily" in text
    assert "Helpfulness: which" not in text


def test_logprobs_give_the_expected_score_over_every_spelling() -> None:
    made = compared(world({"Q?": ["x", "y"]}))
    # P(1) = .1, P(3) = .2 + .1 (" 3"), P(5) = .2, .4 elsewhere; renormalised by .6: (.1 + .9 + 1) / .6 = 10/3
    given_x = {"1": LOG(0.1), "3": LOG(0.2), " 3": LOG(0.1), "5": LOG(0.2), "10": LOG(0.2), "The": LOG(0.2)}
    given_y = {"2": LOG(1.0)}
    judge, toolbox = pointwise(
        lambda request: said("3", choice_logprobs=given_x if shown(request) == "x" else given_y), verdict="logprob"
    )
    opinions = judge.judge(made)
    assert sorted(one.score for one in opinions.ratings) == pytest.approx([2, 10 / 3])
    sign = 1 if made[0].completion_a == "x" else -1
    assert opinions.judgments[0].preference == pytest.approx(1 / (1 + math.exp(-sign * (10 / 3 - 2))))
    assert toolbox.model.requests[0].choices == ("1", "2", "3", "4", "5")
    assert toolbox.model.requests[0].max_tokens == 1


def test_logprobs_of_aspects_are_one_call_each_which_share_all_but_the_question() -> None:
    made = compared(world({"Q?": ["x", "y"]}))
    judge, toolbox = pointwise(
        lambda _request: said("3", choice_logprobs={"3": 0.0}), verdict="logprob", aspects={"accuracy": 1, "clarity": 1}
    )
    opinions = judge.judge(made)
    assert opinions.judgments[0].preference == 1 / 2
    assert len(opinions.judgments[0].call_keys) == 4
    texts = [request.messages[0][1] for request in toolbox.model.requests]
    for one, other in (texts[:2], texts[2:]):
        assert one.partition("\nScore the answer's ")[0] == other.partition("\nScore the answer's ")[0]
        assert one != other


def test_ten_and_one_cannot_be_told_by_their_first_token() -> None:
    with pytest.raises(ValidationError, match="10 begins like 1"):
        pointwise(by_length, verdict="logprob", scale=10)


@pytest.mark.parametrize("verdict", ["json", "text"])
def test_an_answer_that_carries_ready_scores_scores_nothing_by_being_repeated(verdict: str) -> None:
    ready = {"json": reply(overall=5), "text": "Verdict: 5"}[verdict]
    made = compared(world({"Q?": [ready, "plain"]}))
    judge, _ = pointwise(lambda request: shown(request) if shown(request) == ready else "?", verdict=verdict)
    opinions = judge.judge(made)
    assert opinions.ratings == []
    assert opinions.judgments[0].preference is None
    # bug 9: nor does the prompt itself read as a score
    echo, _ = pointwise(lambda request: request.messages[0][1], verdict=verdict)
    assert echo.judge(made).judgments[0].preference is None


def test_aspects_are_rubrics_or_named_by_the_rubric(tmp_path: Path) -> None:
    (tmp_path / "own.md").write_text("Tone: it sounds like a friend.\n")
    with pytest.raises(ConfigError, match="aspect 'rhyme' is neither one of accuracy"):
        pointwise(by_length, tmp_path, aspects={"rhyme": 1}, rubric="own.md")
    judge, _ = pointwise(by_length, tmp_path, aspects={"tone": 1, "safety": 1}, rubric="own.md")
    (first, *_) = judge.requests(compared(world({"Q?": ["x", "y"]})))
    assert "Tone: it sounds" in first.messages[0][1]
    assert "Safety: how well" in first.messages[0][1]
    assert [file.name for file in judge.options.files(tmp_path)] == ["safety.md", "own.md"]
    with pytest.raises(ValidationError, match="weighted mean"):
        pointwise(by_length, aspects={"overall": 1, "clarity": 1})


def test_a_conversation_and_its_system_prompt_are_judged_whole() -> None:
    (item,) = compared(world({"Q?": ["x", "y"]}))
    from dataclasses import replace

    turns = (("system", "Speak Latin."), ("user", "Salve!"), ("assistant", "Salve et tu."), ("user", "Quid novi?"))
    judge, _ = pointwise(by_length)
    for request in judge.requests([replace(item, messages=turns)]):
        text = request.messages[0][1]
        places = [text.index(f"[{role}]\n{content}") for role, content in turns]
        assert places == sorted(places)


def test_an_endpoint_is_asked_once_an_answer_and_scores_land_where_they_belong(tmp_path: Path) -> None:
    frames = world({"Q?": ["a", "bb", "cccc"]})

    def answer(body: dict[str, Any]) -> Reply:
        request = Request(tuple((turn["role"], turn["content"]) for turn in body["messages"]), 1)
        schema = body["response_format"]["json_schema"]["schema"]
        assert schema["properties"]["scores"]["properties"]["overall"]["enum"] == [1, 2, 3, 4, 5]
        return Reply(200, chat(by_length(request)))

    with Endpoint(answer) as server:
        config = {
            "endpoints": {"e": {"base_url": server.url}},
            "judges": [{"name": "p", "kind": "pointwise", "endpoint": "e", "model": "test"}],
        }
        with bench(tmp_path, frames, **config) as made:
            judge = stage.make(made.config.judges[0], made)
            opinions = judge.judge(compared(frames))
    assert len(server.log) == 3
    lengths = dict(frames["samples"].select("sample_id", "completion").iter_rows())
    assert {one.sample_id: one.score for one in opinions.ratings} == {key: len(text) for key, text in lengths.items()}
    assert len(opinions.calls) == 3
