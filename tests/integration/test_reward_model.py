"""The reward model on a random Llama: what it learns, what it must not see, what it keeps."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from judges.base import Labelled
from judges.reward_model import RewardModelJudge
from pipeline import ids
from pipeline.comparison import Comparison
from pipeline.config import Config
from pipeline.errors import ConfigError, StageError
from pipeline.workbench import Workbench
from tests.tiny_models import tiny_model

FIT = {"epochs": 6, "learning_rate": 3e-3, "batch_size": 8}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(tmp_path_factory.mktemp("reward"))


def comparison(at: int) -> Comparison:
    """One answer says good, the other little; which of them is a is a coin."""
    rng = random.Random(at)
    prompt = ids.content_hash("prompt", at)
    a, b = rng.sample([f"Good, {rng.randint(0, 99)}.", f"Very little, {rng.randint(0, 99)}."], 2)
    first, second = sorted(ids.content_hash("sample", at, side) for side in (0, 1))
    return Comparison(ids.pair_id(first, second), prompt, (("user", f"What is {at}?"),), None, first, second, a, b)


def labelled(count: int) -> list[Labelled]:
    items = [comparison(at) for at in range(count)]
    return [Labelled(item, float("Good" in item.completion_a)) for item in items]


def judge(base: Path, model: str, **options: Any) -> RewardModelJudge:
    settings = {"name": "rm", "kind": "reward_model", "model": model, "fit": FIT, **options}
    bench = Workbench(Config(name="t", seed=3), base / "run", base)
    return RewardModelJudge(RewardModelJudge.Options.model_validate(settings), bench)


@pytest.fixture(scope="module")
def fitted(model: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RewardModelJudge]:
    base = tmp_path_factory.mktemp("fitted")
    made = judge(base, model)
    made.fit(labelled(80))
    return base, made


def test_learns_what_people_like_and_tells_prompts_it_has_no_label_of(
    fitted: tuple[Path, RewardModelJudge],
) -> None:
    _, made = fitted
    items = [comparison(at) for at in range(160)]
    opinions = made.judge(items)
    right = [
        (one.preference or 0) > 1 / 2 if "Good" in item.completion_a else (one.preference or 1) < 1 / 2
        for item, one in zip(items, opinions.judgments, strict=True)
    ]
    assert sum(right[:80]) / 80 > 0.9
    assert sum(right[80:]) / 80 > 0.9
    assert [one.order for one in opinions.judgments] == ["ab"] * 160
    assert len(opinions.ratings) == 320


def test_swapping_the_answers_gives_one_minus_p(fitted: tuple[Path, RewardModelJudge]) -> None:
    _, made = fitted
    item = comparison(200)
    swapped = replace(item, completion_a=item.completion_b, completion_b=item.completion_a)
    one, other = (made.judge([each]).judgments[0].preference for each in (item, swapped))
    assert one is not None
    assert other == pytest.approx(1 - one, abs=1e-6)


def test_a_moved_label_does_not_move_the_score_of_its_own_prompt(
    fitted: tuple[Path, RewardModelJudge], model: str, tmp_path: Path
) -> None:
    _, made = fitted
    labels = labelled(80)
    moved = labels[0]
    labels[0] = replace(moved, preference=1 - moved.preference)
    # A fresh folder, so that nothing can come from what was trained before.
    other = judge(tmp_path, model)
    other.fit(labels)
    fold = made.fold(moved.comparison.prompt_id)
    # The folder's name is a digest of what its model learned from: that of the prompt's own fold is the same.
    assert other.models[fold].name == made.models[fold].name
    assert other.models[1 - fold].name != made.models[1 - fold].name
    before, after = (one.judge([moved.comparison]).ratings for one in (made, other))
    assert before == after
    stranger = next(one.comparison for one in labels if made.fold(one.comparison.prompt_id) != fold)
    assert made.judge([stranger]).ratings != other.judge([stranger]).ratings


def test_what_was_trained_is_found_again_and_row_order_is_nothing(
    fitted: tuple[Path, RewardModelJudge], model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, made = fitted

    def never(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("judges.reward_model.train", never)
    again = judge(base, model)
    again.fit(labelled(80)[::-1])
    assert again.models == made.models
    assert not [path for path in (base / "run" / "judges" / "rm").iterdir() if path.name.endswith(".new")]


def test_ties_teach_nothing_and_no_labels_is_an_error(model: str, tmp_path: Path) -> None:
    made = judge(tmp_path, model)
    with pytest.raises(StageError, match="import labels"):
        made.fit([])
    with pytest.raises(StageError, match="label more prompts"):
        made.fit([replace(one, preference=0.5) for one in labelled(6)])


def test_wants_labels_only_to_learn(model: str, tmp_path: Path) -> None:
    assert judge(tmp_path, model).options.wants_labels
    assert not judge(tmp_path, model, fit=None).options.wants_labels


def test_a_model_without_a_reward_head_is_refused_unless_it_learns_one(model: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no trained reward head"):
        judge(tmp_path, model, fit=None).judge([comparison(0)])


def test_a_trained_model_judges_as_it_is(fitted: tuple[Path, RewardModelJudge], tmp_path: Path) -> None:
    _, made = fitted
    item = comparison(300)
    ready = judge(tmp_path, str(made.models[made.fold(item.prompt_id)]), fit=None)
    assert ready.judge([item]).judgments == made.judge([item]).judgments


def test_an_answer_that_is_too_long_is_a_failed_judgment(fitted: tuple[Path, RewardModelJudge], tmp_path: Path) -> None:
    _, made = fitted
    item = comparison(301)
    ready = judge(tmp_path, str(made.models[0]), fit=None, max_length=40)
    one, other = ready.judge(
        [item, replace(item, pair_id="0" * 32, sample_b="f" * 32, completion_b="x " * 99)]
    ).judgments
    assert one.preference is not None
    assert other.preference is None
    assert other.reason == "too_long"
