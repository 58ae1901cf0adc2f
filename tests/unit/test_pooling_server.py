"""Pins down how a served reward model is asked: one call an answer, failures told apart, never a score made up."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from judges.base import Opinions
from judges.reward_model import RewardModelJudge
from pipeline.config import Config
from pipeline.errors import EndpointError
from pipeline.stages import judge as stage
from tests.endpoints import Body, Endpoint, Reply
from tests.worlds import bench, compared, world

ANSWERS = world({"Q?": ["a", "bb", "cccc"]})


def classified(*scores: object) -> Body:
    data = [{"index": 0, "label": "LABEL_0", "probs": list(scores), "num_classes": len(scores)}]
    return {"object": "list", "data": data, "usage": {"prompt_tokens": 9, "total_tokens": 9}}


def opinions(folder: Path, server: Endpoint, **endpoint: Any) -> Opinions:
    config = {
        "endpoints": {"e": {"base_url": server.url, "attempts": 1, **endpoint}},
        "judges": [{"name": "rm", "kind": "reward_model", "endpoint": "e", "model": "test"}],
    }
    with bench(folder, ANSWERS, **config) as made:
        return stage.make(made.config.judges[0], made).judge(compared(ANSWERS))


def test_one_call_an_answer_and_the_raw_score_decides(tmp_path: Path) -> None:
    with Endpoint(lambda body: Reply(200, classified(len(body["messages"][-1]["content"]) / 2))) as server:
        found = opinions(tmp_path, server)
    assert len(server.log) == len(found.calls) == len(found.ratings) == 3
    for body in server.bodies:
        assert [turn["role"] for turn in body["messages"]] == ["user", "assistant"]
        assert (body["use_activation"], body["add_generation_prompt"], body["add_special_tokens"]) == (False,) * 3
    items = {item.pair_id: item for item in compared(ANSWERS)}
    for one in found.judgments:
        item = items[one.pair_id]
        gap = (len(item.completion_a) - len(item.completion_b)) / 2
        favoured = (one.preference or 0) if gap > 0 else 1 - (one.preference or 0)
        # logistic(.5), logistic(1), logistic(1.5)
        assert favoured == pytest.approx({0.5: 0.62246, 1.0: 0.73106, 1.5: 0.81757}[abs(gap)], abs=1e-5)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(400, {"error": {"message": "no such thing"}}), "rejected: HTTP 400"),
        (Reply(400, {"error": {"message": "maximum context length is 8"}}), "too_long: HTTP 400"),
        (Reply(200, classified(0.1, 0.9)), "unanswered: no score: ValueError"),
        (Reply(200, {"data": []}), "unanswered: no score: IndexError"),
        (Reply(200, classified("high")), "unanswered: no score: ValueError"),
        (Reply(500, {"error": {"message": "no"}}), "unanswered: "),
        (Reply(307, "", 0, {"Location": "http://127.0.0.1:9/classify"}), "unanswered: HTTP 307"),
    ],
)
def test_an_answer_without_a_score_fails_its_pairs_alone(tmp_path: Path, reply: Reply, error: str) -> None:
    def answer(body: Body) -> Reply:
        return reply if body["messages"][-1]["content"] == "bb" else Reply(200, classified(1.0))

    with Endpoint(answer) as server:
        found = opinions(tmp_path, server)
    for item, one in zip(compared(ANSWERS), found.judgments, strict=True):
        if "bb" in (item.completion_a, item.completion_b):
            assert one.preference is None
            assert (one.fault or "").startswith(error)
        else:
            assert one.preference == 1 / 2


@pytest.mark.parametrize(
    ("reply", "why"), [(Reply(404), "--runner pooling"), (Reply(401), "check key"), (Reply(503), "answered nothing")]
)
def test_a_server_that_can_judge_nothing_stops_the_stage(tmp_path: Path, reply: Reply, why: str) -> None:
    with Endpoint(lambda _body: reply) as server, pytest.raises(EndpointError, match=why):
        opinions(tmp_path, server)


def test_what_learns_is_scored_where_it_learned_and_an_endpoint_must_be_defined() -> None:
    settings = {"name": "rm", "kind": "reward_model", "model": "m"}
    for other in ({"engine": "vllm"}, {"endpoint": "e"}):
        with pytest.raises(ValidationError, match="`fit` trains and scores with"):
            RewardModelJudge.Options.model_validate({**settings, "fit": {}, **other})
    with pytest.raises(ValidationError, match="endpoint 'e' of model 'm' is not defined"):
        Config.model_validate({"name": "c", "judges": [{**settings, "endpoint": "e"}]})
