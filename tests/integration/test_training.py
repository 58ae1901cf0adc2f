"""DPO with the real trainer on a random Llama: end tokens, resuming, evaluation of what came out."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import trl
from safetensors.torch import load_file

from pipeline.config import Config
from pipeline.engines.local_models import load_model
from pipeline.errors import ConfigError, StageError
from pipeline.runner import run_stage
from pipeline.workbench import Workbench
from tests.tiny_models import CHAT_TEMPLATE, tiny_model, tiny_tokenizer
from training.base import Lesson
from training.evaluation.divergence import divergence
from training.methods.dpo import DpoMethod
from training.rows import row_fault
from training.trl import last_checkpoint

SHIPPED = str(Path(__file__).parents[2] / "data" / "models" / "student")
GOOD, BAD = "Short and good.", "It is a long answer that goes on and on about very little."


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(tmp_path_factory.mktemp("student"))


def row(at: int, chosen: str = GOOD, rejected: str = BAD) -> dict[str, Any]:
    return {
        "pair_id": f"{at:032x}",
        "prompt": [{"role": "user", "content": f"What is good {at}?"}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "margin": 0.5,
        "p_chosen": 0.8,
    }


def write(run: Path, train: list[dict[str, Any]], test: list[dict[str, Any]]) -> Path:
    folder = run / "dataset" / "trl_dpo"
    folder.mkdir(parents=True)
    schema = pl.DataFrame([row(0)]).schema
    for name, rows in (("train", train), ("test", test)):
        pl.DataFrame(rows, schema=schema).write_parquet(folder / f"{name}.parquet")
    return run / "dataset"


def method(**options: Any) -> DpoMethod:
    settings = {
        "batch_size": 4,
        "gradient_accumulation": 1,
        "learning_rate": 1e-2,
        "save_steps": 2,
        "lora": {"r": 4, "alpha": 8},
        **options,
    }
    return DpoMethod(DpoMethod.Options.model_validate(settings))


def lesson(dataset: Path, model: str, told: list[int] | None = None) -> Lesson:
    run = dataset.parent
    heard = (told if told is not None else []).append
    return Lesson(dataset, model, 5, run / "training" / "stamp", run / "reference", heard)


def test_trains_measures_and_says_so(student: str, tmp_path: Path) -> None:
    dataset = write(tmp_path, [row(at) for at in range(16)], [row(at) for at in range(16, 21)])
    told: list[int] = []
    assert method().train(lesson(dataset, student, told), tmp_path / "model") == {}
    report = json.loads((tmp_path / "model" / "training.json").read_text())
    assert report["rows"] == {"train": 16, "test": 5}
    assert report["steps"] == 4
    assert sum(told) == 100
    assert [point["step"] for point in report["loss"]] == [1, 2, 3, 4]
    # Before the first step the adapter changes nothing: every reward is 0 and the loss is log 2.
    assert report["loss"][0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    # an adapter that has learned nothing yet is the untrained model
    assert report["loss"][0]["reward_margin"] == pytest.approx(0.0, abs=1e-3)
    assert report["loss"][-1]["reward_margin"] > 0
    assert report["loss"][-1]["loss"] < report["loss"][0]["loss"]
    assert 0 <= report["reward_accuracy"] <= 1
    # Equal trainings are equal bytes: what PEFT holds as a set has one order.
    modules = json.loads((tmp_path / "model" / "adapter_config.json").read_text())["target_modules"]
    assert len(modules) > 1
    assert modules == sorted(modules)
    assert (tmp_path / "model" / "tokenizer.json").is_file()


def test_without_a_test_split_the_accuracy_is_unknown(student: str, tmp_path: Path) -> None:
    dataset = write(tmp_path, [row(at) for at in range(4)], [])
    method(max_steps=1).train(lesson(dataset, student), tmp_path / "model")
    report = json.loads((tmp_path / "model" / "training.json").read_text())
    assert report["reward_accuracy"] is None
    assert report["eval"] is None


@pytest.mark.parametrize("shipped", [False, True], ids=["random", "shipped"])
def test_bug_13_exactly_one_end_token_and_no_prompt_in_the_answer(student: str, tmp_path: Path, shipped: bool) -> None:
    """Regression 13 (TRL #4481, #1541), counted in the batches the trainer really sees."""
    dataset = write(tmp_path, [row(at, f"{GOOD} {at}") for at in range(8)], [])
    trainer, _, _ = method().trainer(lesson(dataset, SHIPPED if shipped else student))
    tokenizer = trainer.processing_class
    seen = 0
    for batch in trainer.get_train_dataloader():
        for tokens, answer, present in zip(
            batch["input_ids"], batch["completion_mask"], batch["attention_mask"], strict=True
        ):
            ids, mask = tokens.tolist(), answer.tolist()
            words = [token for token, counted in zip(ids, mask, strict=True) if counted]
            assert words.count(tokenizer.eos_token_id) == 1
            assert words[-1] == tokenizer.eos_token_id
            assert ids.count(tokenizer.eos_token_id) == 1
            text = tokenizer.decode(words, skip_special_tokens=True)
            assert text.startswith((GOOD, BAD))
            assert "What is good" not in text
            whole = tokenizer.decode(tokens[present.bool()].tolist())
            assert whole.count("What is good") == 1
            assert whole.startswith("<|user|>What is good")
            seen += 1
    assert seen == 16


def test_rows_that_would_teach_not_to_stop_are_left_out_by_name(student: str, tmp_path: Path) -> None:
    long, spelled = row(1, "very " * 200), row(2, "Stop.<|end|>And on.")
    dataset = write(tmp_path, [row(0), long, spelled], [])
    _, _, dropped = method(max_length=60).trainer(lesson(dataset, student))
    assert dropped == {long["pair_id"]: "too_long", spelled["pair_id"]: "end_inside"}


def test_row_fault_counts_ends_in_the_answer_only() -> None:
    # 9 ends an answer; an earlier turn of the prompt ends with it too.
    prompt = [1, 5, 9, 1, 6, 2]
    assert row_fault(prompt, [7, 9], frozenset({9}), 8) is None
    assert row_fault(prompt, [7, 9, 3], frozenset({9}), 9) is None
    assert row_fault(prompt, [7, 9], frozenset({9}), 7) == "too_long"
    assert row_fault(prompt, [7], frozenset({9}), 9) == "no_end"
    assert row_fault(prompt, [7, 9, 9], frozenset({9}), 9) == "end_inside"


def test_a_template_that_never_ends_an_answer_is_refused(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "endless")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE.replace("{{- '<|end|>' -}}", "")
    tokenizer.save_pretrained(model)
    dataset = write(tmp_path, [row(0)], [])
    with pytest.raises(StageError, match="ends no answer with an end token"):
        method().trainer(lesson(dataset, model))


class Killed(BaseException):
    """Stands for kill -9: nothing of ours handles it."""


def test_a_killed_training_goes_on_and_ends_where_a_straight_one_does(
    student: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, tests = [row(at) for at in range(16)], [row(at) for at in range(16, 20)]
    straight = write(tmp_path / "straight", rows, tests)
    method().train(lesson(straight, student), tmp_path / "straight" / "model")

    broken = write(tmp_path / "broken", rows, tests)
    step = trl.DPOTrainer.training_step
    steps: list[int] = []

    def dying(self: Any, *args: Any, **kwargs: Any) -> Any:
        steps.append(1)
        if len(steps) == 4:
            raise Killed
        return step(self, *args, **kwargs)

    monkeypatch.setattr(trl.DPOTrainer, "training_step", dying)
    with pytest.raises(Killed):
        method().train(lesson(broken, student), tmp_path / "broken" / "model")
    monkeypatch.undo()
    checkpoints = tmp_path / "broken" / "training" / "stamp"
    # A checkpoint that was being written when the power went has no state file yet.
    (checkpoints / "checkpoint-3").mkdir()
    assert last_checkpoint(checkpoints) == str(checkpoints / "checkpoint-2")
    told: list[int] = []
    method().train(lesson(broken, student, told), tmp_path / "broken" / "model")
    assert told[0] == 75
    one, other = (load_file(tmp_path / name / "model" / "adapter_model.safetensors") for name in ("straight", "broken"))
    assert one.keys() == other.keys()
    for name, weights in one.items():
        assert torch.equal(weights, other[name]), name
    curves = [
        json.loads((tmp_path / n / "model" / "training.json").read_text())["loss"] for n in ("straight", "broken")
    ]
    assert curves[0] == curves[1]


def test_a_short_training_ends_without_a_checkpoint_and_a_regular_one_stays(student: str, tmp_path: Path) -> None:
    dataset = write(tmp_path, [row(at) for at in range(12)], [])
    told = lesson(dataset, student)
    method(save_steps=200).train(told, tmp_path / "one")
    assert list(told.folder.glob("checkpoint-*")) == []
    # three steps, a checkpoint every two: the second is one, the end is not
    method(save_steps=2).train(told, tmp_path / "two")
    assert [path.name for path in told.folder.glob("checkpoint-*")] == ["checkpoint-2"]


def test_the_stage_trains_once_and_again_only_for_what_it_reads(student: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    write(run, [row(at) for at in range(4)], [])
    settings = {
        "name": "t",
        "train": {"model": student, "max_steps": 1, "batch_size": 4, "lora": {"r": 4}},
        "test_fraction": 0.0,
    }

    def go(**changes: Any) -> bool:
        config = Config.model_validate({**settings, **changes})
        with Workbench(config, run, tmp_path) as bench:
            return run_stage(bench, "train").skipped

    assert not go()
    assert not (run / "training").exists()
    assert (run / "model" / "training.json").is_file()
    card = (run / "model" / "README.md").read_text()
    assert "library_name: peft" in card
    assert "Trained with dpo on 4 rows, 1 steps." in card
    # a folder of this machine stays out of what may be published
    assert student not in card
    assert go()
    (run / "dataset" / "trl_dpo" / "README.md").write_text("a new card")
    assert go(licence="MIT")
    assert not go(seed=1)


def test_what_cannot_be_trained_names_the_remedy(student: str, tmp_path: Path) -> None:
    def go(**settings: Any) -> None:
        config = Config.model_validate({"name": "t", **settings})
        with Workbench(config, tmp_path / "run", tmp_path) as bench:
            run_stage(bench, "train")

    with pytest.raises(StageError, match="add train"):
        go()
    with pytest.raises(StageError, match=r"set train\.model"):
        go(train={})
    with pytest.raises(StageError, match="add trl_dpo to `export`"):
        go(train={"model": student})
    write(tmp_path / "run", [], [])
    with pytest.raises(StageError, match="no row to train on"):
        go(train={"model": student})
    write(tmp_path / "other", [row(0)], [])
    with pytest.raises(ConfigError, match=r"cannot be loaded as a chat model .* give a folder that exists"):
        method().trainer(lesson(tmp_path / "other" / "dataset", str(tmp_path / "nowhere")))


PEOPLE = '''
class People:
    """Likes the shorter answer."""

    names = ("simulated-1",)

    def label(self, *, annotator, messages, reference, answer_a, answer_b, seed):
        lengths = len(answer_a), len(answer_b)
        return "tie" if lengths[0] == lengths[1] else "a" if lengths[0] < lengths[1] else "b"


def check(reference, completion):
    return float("good" in completion)
'''


def evaluated(run: Path, base: Path, student: str, *, force: bool = False, **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "name": "t",
        "generators": [{"engine": "transformers", "model": student, "max_tokens": 12}],
        "judges": [
            {"name": "length", "kind": "length"},
            {"name": "check", "kind": "verifier", "program": "./people.py:check"},
            {"name": "gone", "kind": "length", "scale": 1.0},
        ],
        "labels": {"simulated": {"kind": "./people.py:People"}},
        "train": {"max_steps": 4, "batch_size": 4, "gradient_accumulation": 1, "learning_rate": 1e-2, "lora": {"r": 4}},
        "evaluate": {"prompts": {"path": str(base / "heldout.jsonl")}, "temperature": 1.0},
        "test_fraction": 0.0,
        **changes,
    }
    with Workbench(Config.model_validate(settings, context={"base": base}), run, base) as bench:
        run_stage(bench, "train")
        run_stage(bench, "evaluate", force=force)
    return json.loads((run / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def trained(student: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    base = tmp_path_factory.mktemp("evaluated")
    (base / "people.py").write_text(PEOPLE)
    lines = [{"prompt": f"What is long {at}?", "reference": "x"} for at in range(8)]
    (base / "heldout.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    run = base / "run"
    write(run, [row(at) for at in range(16)], [])
    judges = {name: {"in_panel": name != "gone", "weight": 1.0} for name in ("length", "check", "gone")}
    (run / "panel.json").write_text(json.dumps({"judges": judges}))
    evaluated(run, base, student)
    return run, base


def test_the_evaluation_adds_up(trained: tuple[Path, Path], student: str) -> None:
    run, base = trained
    found = json.loads((run / "evaluation.json").read_text())
    duels = pl.read_parquet(run / "duels" / "*.parquet")
    assert found["n"] == duels.height == 8
    assert found["win_rate"] == pytest.approx(duels["people"].mean())
    assert found["win_rate_low"] <= found["win_rate"] <= found["win_rate_high"]
    assert (found["decided_by"], found["simulated"], found["reason"]) == ("simulated people", True, None)
    # The people here like short, the judge `length` likes long; `gone` left the panel and `check` sees no difference
    # or one answer only, so by hand:
    for duel in duels.iter_rows(named=True):
        old, new = duel["baseline"], duel["trained"]
        assert duel["people"] == (0.5 if len(new) == len(old) else float(len(new) < len(old)))
        length = 1 / (1 + torch.tensor((len(old) - len(new)) / 40).exp().item())
        check = (1 + ("good" in new) - ("good" in old)) / 2
        assert duel["panel"] == pytest.approx(0.5 if old == new else (length + check) / 2)
    assert found["panel_win_rate"] == pytest.approx(duels["panel"].mean())
    rates = {side: sum("good" in text for text in duels[side]) / 8 for side in ("baseline", "trained")}
    assert found["verifier"]["before"] == pytest.approx(rates["baseline"])
    assert found["verifier"]["after"] == pytest.approx(rates["trained"])
    assert found["kl"] > 0
    assert found["reward_accuracy"] is None
    again = evaluated(run, base, student, force=True)
    assert again == found


def test_without_people_nobody_decides(trained: tuple[Path, Path], student: str) -> None:
    run, base = trained
    found = evaluated(run, base, student, labels={})
    assert found["win_rate"] is None
    assert found["decided_by"] is None
    assert "labels.simulated" in found["reason"]
    assert found["panel_win_rate"] is not None


def test_no_held_out_prompt_is_an_error_with_a_remedy(trained: tuple[Path, Path], student: str) -> None:
    run, base = trained
    with pytest.raises(StageError, match=r"evaluate\.prompts"):
        evaluated(run, base, student, evaluate={})


def test_divergence_of_a_model_from_itself_is_nothing_and_of_a_change_is_its_mean(
    student: str, trained: tuple[Path, Path], tmp_path: Path
) -> None:
    import peft

    base, tokenizer = load_model(student, "float32")
    untouched: Any = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules="all-linear"))
    untouched.save_pretrained(tmp_path / "nothing")
    turns = (("user", "What is good?"),)
    assert divergence(student, tmp_path / "nothing", [(turns, GOOD, True)]) == [0.0]

    # By hand for an answer of one token, ended: the divergence at the position that predicts the token and at the one
    # that predicts the end; cut off: at the first alone.
    adapter = trained[0] / "model"
    word = tokenizer.decode([300])
    assert tokenizer.encode(word, add_special_tokens=False) == [300]
    ended, cut = divergence(student, adapter, [(turns, word, True), (turns, word, False)])
    base, _ = load_model(student, "float32")
    tuned: Any = peft.PeftModel.from_pretrained(base, str(adapter)).eval()
    chat = [{"role": "user", "content": "What is good?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
    tokens = torch.tensor([[*prompt, 300]])
    with torch.no_grad():
        ours = tuned(tokens).logits[0].log_softmax(-1)
        with tuned.disable_adapter():
            theirs = tuned(tokens).logits[0].log_softmax(-1)
    each = torch.nn.functional.kl_div(theirs, ours, log_target=True, reduction="none").sum(-1)
    assert cut == pytest.approx(each[-2].item(), rel=1e-3)
    assert ended == pytest.approx((each[-2] + each[-1]).item(), rel=1e-3)
