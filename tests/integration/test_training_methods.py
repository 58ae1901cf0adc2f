"""Each training method with TRL's real trainer on a random Llama: what it learns from, resuming, sequences."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from pydantic import ValidationError
from safetensors.torch import load_file

from pipeline import discovery
from pipeline.config import Config
from pipeline.engines.local_models import load_model
from pipeline.errors import ConfigError, DataError, StageError
from pipeline.runner import run_stage
from pipeline.workbench import Workbench
from tests.integration.test_training import BAD, GOOD, Killed, lesson, row, write
from tests.tiny_models import tiny_model, tiny_tokenizer
from training.methods.dpo import DpoMethod
from training.methods.kto import KtoMethod, read_thumbs, spread, unbalanced
from training.methods.sft import SftMethod, conversation_tokens, conversations
from training.methods.step_dpo import StepDpoMethod
from training.rows import IGNORED
from training.trainers import mismatched

METHODS = ("dpo", "sft", "kto", "orpo", "simpo", "reward")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(tmp_path_factory.mktemp("student"))


def method(kind: str, **options: Any) -> Any:
    found = discovery.find("training.methods", kind, "{Kind}Method")
    settings = {"method": kind, "batch_size": 4, "gradient_accumulation": 2, "learning_rate": 1e-2, "save_steps": 1}
    return found(found.Options.model_validate({**settings, "lora": {"r": 2, "alpha": 4}, **options}))


def rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [row(at, f"{GOOD} {at}") for at in range(first, first + count)]


def told(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "training.json").read_text())


@pytest.mark.parametrize("shape", ["adapter", "whole"])
@pytest.mark.parametrize("kind", METHODS)
def test_a_killed_training_ends_bit_for_bit_where_a_straight_one_does(
    kind: str, shape: str, student: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten rows, batches of four, two batches a step: the last batch and the last step are smaller."""
    options = {"epochs": 2.0, "lora": None} if shape == "whole" else {"epochs": 2.0}
    straight = write(tmp_path / "straight", rows(10), rows(5, 20))
    method(kind, **options).train(lesson(straight, student), tmp_path / "straight" / "model")

    broken = write(tmp_path / "broken", rows(10), rows(5, 20))
    step = transformers.Trainer.training_step
    steps: list[int] = []

    def dying(self: Any, *args: Any, **kwargs: Any) -> Any:
        steps.append(1)
        if len(steps) == 4:
            raise Killed
        return step(self, *args, **kwargs)

    monkeypatch.setattr(transformers.Trainer, "training_step", dying)
    with pytest.raises(Killed):
        method(kind, **options).train(lesson(broken, student), tmp_path / "broken" / "model")
    monkeypatch.undo()
    method(kind, **options).train(lesson(broken, student), tmp_path / "broken" / "model")
    file = "model.safetensors" if shape == "whole" else "adapter_model.safetensors"
    one, other = (load_file(tmp_path / name / "model" / file) for name in ("straight", "broken"))
    assert one.keys() == other.keys()
    for name, weights in one.items():
        assert torch.equal(weights, other[name]), name
    first, second = told(tmp_path / "straight" / "model"), told(tmp_path / "broken" / "model")
    assert first["loss"] == second["loss"]
    assert first["eval"] == second["eval"]
    assert first["loss"][-1]["loss"] < first["loss"][0]["loss"]
    assert (first["method"], first["rows"]["train"]) == (kind, 20 if kind == "kto" else 10)


def test_the_reference_is_asked_once_whatever_else_changes(
    student: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write(tmp_path, rows(6), rows(3, 20))
    method("dpo").train(lesson(dataset, student), tmp_path / "one")
    import trl

    asked: list[int] = []
    ask = trl.DPOTrainer.compute_ref_log_probs

    def counted(self: Any, model: Any, inputs: Any) -> Any:
        asked.append(len(inputs["input_ids"]) // 2)
        return ask(self, model, inputs)

    monkeypatch.setattr(trl.DPOTrainer, "compute_ref_log_probs", counted)
    again = lesson(dataset, student)
    again.folder.rename(tmp_path / "elsewhere")
    method("dpo", beta=0.4, learning_rate=1e-3, lora={"r": 3}).train(again, tmp_path / "two")
    assert asked == []
    # Two new pairs are asked about, and they alone; a weight on lengths is another question.
    more = write(tmp_path / "more", rows(8), rows(3, 20))
    (tmp_path / "reference").rename(tmp_path / "more" / "reference")
    method("dpo").train(lesson(more, student), tmp_path / "three")
    assert sum(asked) == 2
    method("dpo", ld_alpha=0.5).train(lesson(more, student), tmp_path / "four")
    assert sum(asked) == 2 + 8 + 3
    # Another model is another reference.
    method("dpo").train(lesson(more, tiny_model(tmp_path / "other", seed=1)), tmp_path / "five")
    assert sum(asked) == 13 + 11


def config(student: str, train: Any, **more: Any) -> Config:
    return Config.model_validate({"name": "t", "train": train, "test_fraction": 0.0, **more})


def step(kind: str, **options: Any) -> dict[str, Any]:
    return {"method": kind, "batch_size": 4, "gradient_accumulation": 1, "max_steps": 2, **options}


def stage(config: Config, run: Path) -> dict[str, Any]:
    with Workbench(config, run, run) as bench:
        run_stage(bench, "train")
    return told(run / "model")


def test_methods_go_on_from_one_another_in_one_adapter(
    student: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, rows(8), rows(4, 20))
    lora = {"r": 2}
    first = {**step("sft", learning_rate=1e-2, lora=lora), "model": student}
    report = stage(config(student, [first, step("dpo", learning_rate=1e-9, lora=lora)]), tmp_path)
    assert (report["method"], [each["method"] for each in report["before"]]) == ("dpo", ["sft"])
    # What the second starts from is what the first made: its loss is log 2, as it is its own reference.
    assert report["loss"][0]["loss"] == pytest.approx(0.6931, abs=1e-4)
    both: Any = peft.PeftModel.from_pretrained(load_model(student)[0], str(tmp_path / "model"))
    alone = tmp_path / "alone"
    write(alone, rows(8), rows(4, 20))
    stage(config(student, first), alone)
    only: Any = peft.PeftModel.from_pretrained(load_model(student)[0], str(alone / "model"))
    for (name, one), (_, other) in zip(both.named_parameters(), only.named_parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-7), name
    card = (tmp_path / "model" / "README.md").read_text()
    assert "Trained with sft, then dpo on 8 rows" in card
    assert "tags:\n- sft\n- dpo\n- lora\n" in card
    assert not (tmp_path / "model" / "ref").exists()
    assert not (tmp_path / "training").exists()


def test_a_finished_method_is_not_trained_again_when_the_next_is_killed(
    student: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, rows(8), [])
    made = config(student, [{**step("sft", lora={"r": 2}), "model": student}, step("dpo", lora={"r": 2})])
    train = DpoMethod.train

    def dying(*_: Any) -> Any:
        raise Killed

    monkeypatch.setattr(DpoMethod, "train", dying)
    with pytest.raises(Killed):
        stage(made, tmp_path)
    monkeypatch.setattr(DpoMethod, "train", train)
    monkeypatch.setattr(SftMethod, "train", dying)
    assert stage(made, tmp_path)["method"] == "dpo"


@pytest.mark.parametrize("order", [(None, {"r": 2}), ({"r": 2}, None)], ids=["whole first", "whole last"])
def test_after_a_whole_model_the_result_is_whole(order: tuple[Any, Any], student: str, tmp_path: Path) -> None:
    write(tmp_path, rows(8), rows(4, 20))
    steps = [{**step("sft", lora=order[0]), "model": student}, step("dpo", lora=order[1])]
    stage(config(student, steps), tmp_path)
    assert not (tmp_path / "model" / "adapter_config.json").exists()
    assert load_model(str(tmp_path / "model"))[0].num_parameters() == load_model(student)[0].num_parameters()
    assert "library_name: transformers" in (tmp_path / "model" / "README.md").read_text()


def test_sequences_that_cannot_be_are_told(student: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"train\.1\.model|goes on from the one before it"):
        config(student, [step("sft"), {**step("dpo"), "model": student}])
    write(tmp_path, rows(4), [])
    with pytest.raises(ConfigError, match="share one adapter, and its shape differs"):
        stage(config(student, [{**step("sft", lora={"r": 2}), "model": student}, step("dpo")]), tmp_path)
    with pytest.raises(StageError, match="make `reward` the only method"):
        stage(
            config(student, [{**step("sft", lora={"r": 2}), "model": student}, step("reward", lora={"r": 2})]), tmp_path
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "dpop"}, r"unknown loss dpop; the installed TRL has: sigmoid, hinge, ipo"),
        ({"loss": ["sigmoid", "sfr"]}, "unknown loss sfr"),
        ({"label_smoothing": 0.1}, r"`label_smoothing` is read by robust, .* set `soft_labels: true`"),
        ({"loss": "ipo", "soft_labels": True}, "`soft_labels` is a form of the loss `sigmoid`"),
        ({"soft_labels": True, "ld_alpha": 0.5}, "not defined together with ld_alpha"),
        ({"sync_reference": {"every": 2}}, "set `lora: null`"),
        ({"quantize": "4bit", "lora": None}, "it needs an adapter"),
    ],
)
def test_options_that_cannot_be_are_refused_when_the_config_is_read(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DpoMethod.Options.model_validate(options)


def test_what_trl_refuses_is_a_config_error(student: str, tmp_path: Path) -> None:
    dataset = write(tmp_path, rows(4), [])
    with pytest.raises(ConfigError, match=r"`train`: TRL refuses these options: .*f_divergence_type"):
        method("dpo", loss="apo_zero", f_divergence="js_divergence").trainer(lesson(dataset, student))


def test_robust_takes_the_flip_rate_of_the_certificate(student: str, tmp_path: Path) -> None:
    dataset = write(tmp_path, rows(4), [])
    made = method("dpo", loss="robust")
    assert made.reads[-1] == "certificate.json"
    with pytest.raises(StageError, match=r"certificate.json does not say how far people agree"):
        made.trainer(lesson(dataset, student))
    (tmp_path / "certificate.json").write_text(json.dumps({"agreement": 0.88}))
    trainer, _, _ = made.trainer(lesson(dataset, student))
    assert trainer.label_smoothing == pytest.approx(0.12)
    assert "certificate.json" not in method("dpo").reads
    assert method("dpo", loss="exo_pair").smoothing(tmp_path) == 1e-3


def test_soft_labels_pull_less_where_people_would_be_split(student: str, tmp_path: Path) -> None:
    margins: list[float] = []
    for chance in (1.0, 0.7, 0.5):
        run = tmp_path / str(chance)
        dataset = write(run, [{**each, "p_chosen": chance} for each in rows(8)], rows(4, 20))
        method("dpo", soft_labels=True, gradient_accumulation=1, epochs=15, learning_rate=3e-2).train(
            lesson(dataset, student), run / "model"
        )
        margins.append(told(run / "model")["eval"]["rewards/margins"])
    # The loss is least where s(z) is the chance: at log(.7 / .3) = .85 for .7, at the reference for .5, nowhere for 1.
    assert margins[0] > margins[1] > 0.3
    assert margins[1] < 0.85
    assert margins[2] == pytest.approx(0.0, abs=0.05)
    missing = write(tmp_path / "missing", [{**each, "p_chosen": None} for each in rows(4)], [])
    with pytest.raises(StageError, match="has no p_chosen, which `soft_labels` needs"):
        method("dpo", soft_labels=True).trainer(lesson(missing, student))


def test_outside_of_practice_is_said_with_its_source(student: str, tmp_path: Path) -> None:
    dataset = write(tmp_path, rows(4), [])
    made = method("dpo", beta=0.9, epochs=9)
    found = made.warnings(made.trainer(lesson(dataset, student))[0].train_dataset)
    assert any(
        text.startswith("train.beta is 0.9; practice with dpo is 0.1 to 0.5") and "2305.18290" in text for text in found
    )
    assert any("train.learning_rate is 0.01; practice with dpo for an adapter is 1e-05 to 5e-05" in t for t in found)
    assert any("train.epochs is 9" in text for text in found)
    assert any("the train split has 4 rows, fewer than one step takes (8)" in text for text in found)
    usual = DpoMethod(DpoMethod.Options())
    assert usual.warnings(range(64)) == []
    full = DpoMethod(DpoMethod.Options(lora=None))
    assert (full.rate, full.warnings(range(64))) == (1e-6, [])
    # IPO's beta is another quantity, so it has a range of its own.
    assert DpoMethod(DpoMethod.Options(loss="ipo", beta=0.02)).warnings(range(64)) == []
    assert discovery.find("training.methods", "simpo", "{Kind}Method").Options().beta == 2.5


def steps_row(at: int, beginning: str = "First, two. ") -> dict[str, Any]:
    made = row(at, "Then four.", "Then five.")
    return {**made, "prompt": [*made["prompt"], {"role": "assistant", "content": beginning}]}


def test_a_step_goes_on_in_its_turn_and_has_no_end(student: str, tmp_path: Path) -> None:
    spelled = steps_row(2)
    spelled["chosen"] = [{"role": "assistant", "content": "Done.<|end|>"}]
    dataset = write(tmp_path, [steps_row(0), steps_row(1), row(3), spelled], [])
    made = StepDpoMethod(StepDpoMethod.Options(batch_size=2, lora={"r": 2}))  # pyright: ignore[reportArgumentType]
    trainer, _, dropped = made.trainer(lesson(dataset, student))
    assert dropped == {row(3)["pair_id"]: "not_a_step", spelled["pair_id"]: "end_inside"}
    tokenizer = trainer.processing_class
    (batch,) = trainer.get_train_dataloader()
    for tokens, answer, present in zip(
        batch["input_ids"], batch["completion_mask"], batch["attention_mask"], strict=True
    ):
        whole = tokens[present.bool()]
        assert tokenizer.eos_token_id not in whole.tolist()
        assert tokenizer.decode(whole).endswith(("<|assistant|>First, two. Then four.", "First, two. Then five."))
        assert tokenizer.decode(tokens[answer.bool()]) in {"Then four.", "Then five.", " Then four.", " Then five."}
    assert made.options.beta == 0.5


def test_sft_learns_every_assistants_turn_and_nothing_else() -> None:
    tokenizer = tiny_tokenizer()
    turns = [("system", "Be good."), ("user", "What?"), ("assistant", GOOD), ("user", "And?"), ("assistant", BAD)]
    made = conversation_tokens(tokenizer, [{"role": role, "content": text} for role, text in turns])
    learned = [token for token in made["labels"] if token != IGNORED]
    assert tokenizer.decode(learned) == f"{GOOD}<|end|>{BAD}<|end|>"
    assert len(made["labels"]) == len(made["input_ids"])


def test_sft_on_conversations_of_ones_own(student: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    talk = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": GOOD}]
    cut = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "a<|end|>b"}]
    file.write_text("\n".join(json.dumps({"messages": each}) for each in (talk, talk[::-1], cut)))
    made = method("sft", conversations=str(file))
    assert made.reads == (str(file.resolve()),)
    trainer, tests, dropped = made.trainer(lesson(tmp_path / "dataset", student))
    assert (len(trainer.train_dataset), tests, list(dropped.values())) == (2, {}, ["end_inside"])
    file.write_text('{"messages": [{"role": "user", "content": "What?"}]}')
    with pytest.raises(DataError, match=r"mine.jsonl:1: has no assistant's turn"):
        list(conversations(file))
    file.write_text('\n{"prompt": "x"}')
    with pytest.raises(DataError, match=r"mine.jsonl:2: is no conversation"):
        list(conversations(file))


def test_an_answer_chosen_twice_is_learned_once(student: str, tmp_path: Path) -> None:
    twice = [row(0), {**row(0, rejected="Another one."), "pair_id": "f" * 32}, row(1)]
    trainer, _, _ = method("sft").trainer(lesson(write(tmp_path, twice, []), student))
    assert len(trainer.train_dataset) == 2


def test_kto_mixes_good_and_bad_evenly_whatever_the_order_they_come_in() -> None:
    answers = [
        {"pair_id": str(at), "prompt": [], "completion": [{"content": str(at)}], "label": at < 30} for at in range(40)
    ]
    mixed = spread(answers, 7)
    assert spread(answers[::-1], 7) == mixed
    assert [each["pair_id"] for each in mixed] != [str(at) for at in range(40)]
    # 30 good and 10 bad: each eight hold six and two, to within one
    for at in range(0, 40, 8):
        assert abs(sum(each["label"] for each in mixed[at : at + 8]) - 6) <= 1


def test_kto_pairs_a_prompt_with_another_rows_answer() -> None:
    # batches of two, as TRL: each has the other's; a last batch of one takes the row before, never itself
    assert mismatched([[1], [2], [3], [4]], 2) == [[2], [1], [4], [3]]
    assert mismatched([[1], [2], [3]], 2) == [[2], [1], [2]]
    assert mismatched([[1], [2], [3], [4], [5]], 3) == [[3], [1], [2], [5], [4]]


def test_kto_learns_from_thumbs_as_well(student: str, tmp_path: Path) -> None:
    file = tmp_path / "thumbs.jsonl"
    lines = [{"prompt": "What?", "completion": f"Yes {at}.", "label": at % 3 > 0} for at in range(9)]
    lines.append({"prompt": [{"role": "user", "content": "Who?"}], "completion": "Me.", "label": False})
    file.write_text("\n".join(map(json.dumps, lines)))
    made = method("kto", thumbs=str(file))
    trainer, _, _ = made.trainer(lesson(write(tmp_path, rows(2), []), student))
    assert len(trainer.train_dataset) == 4 + 10
    assert sum(trainer.train_dataset["label"]) == 2 + 6
    alone = method("kto", thumbs=str(file), pairs=False)
    assert alone.reads == (str(file.resolve()),)
    assert len(alone.trainer(lesson(tmp_path / "nothing" / "dataset", student))[0].train_dataset) == 10
    file.write_text(json.dumps({"prompt": "What?", "completion": "Yes.", "label": "up"}))
    with pytest.raises(DataError, match=r"thumbs.jsonl:1: label is 'up' .* allowed: true or false"):
        list(read_thumbs(file))


def test_kto_says_when_good_and_bad_weigh_otherwise_than_the_paper_recommends() -> None:
    options = KtoMethod.Options()
    assert list(unbalanced(options, [True] * 4 + [False] * 3)) == []
    # 30 good and 10 bad weigh 3 to 1; a third to 4 / 9 brings the ratio to 1 to 4/3
    (text,) = unbalanced(options, [True] * 30 + [False] * 10)
    assert "set train.desirable_weight between 0.33 and 0.44" in text
    assert list(unbalanced(KtoMethod.Options(desirable_weight=0.4), [True] * 30 + [False] * 10)) == []
    (text,) = unbalanced(options, [True] * 3)
    assert "all 3 answers are good" in text
    with pytest.raises(ValidationError):
        KtoMethod.Options(batch_size=1)


def test_a_reward_model_is_a_judge_and_the_evaluation_says_so(student: str, tmp_path: Path) -> None:
    write(tmp_path, rows(8), rows(4, 20))
    made = config(student, {**step("reward", lora=None, learning_rate=1e-2), "model": student})
    with Workbench(made, tmp_path, tmp_path) as bench:
        run_stage(bench, "train")
        for frame in ("prompts", "pairs", "samples", "labels"):
            bench.folder.write_part(frame, "load", "all", bench.empty(frame), {})
        run_stage(bench, "evaluate")
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["reward_accuracy"] == 1.0
    assert (found["win_rate"], found["n"]) == (None, 0)
    assert "a reward model answers no prompt" in found["reason"]
    classifier: Any = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert classifier.config.num_labels == 1


def test_an_export_without_pairs_names_the_remedy(student: str, tmp_path: Path) -> None:
    for kind in METHODS:
        with pytest.raises(StageError, match="add trl_dpo to `export`"):
            method(kind).trainer(lesson(tmp_path / "dataset", student))


# On a CPU it multiplies what needs no gradient by a kernel of its own, about which torch warns.
@pytest.mark.filterwarnings("ignore:bitsandbytes..gemv_4bit:UserWarning")
def test_four_bits_under_an_adapter_learn(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra `qlora` is not installed")
    # It packs rows of 64 numbers.
    wide = tiny_model(tmp_path / "wide", hidden_size=64, intermediate_size=128)
    dataset = write(tmp_path, rows(8), rows(4, 20))
    method("dpo", quantize="4bit", epochs=4, gradient_accumulation=1).train(lesson(dataset, wide), tmp_path / "model")
    found = told(tmp_path / "model")
    assert found["eval"]["rewards/margins"] > 0
    # The adapter is one on the model as it is.
    assert peft.PeftConfig.from_pretrained(str(tmp_path / "model")).base_model_name_or_path == wide


def test_four_bits_without_the_library_name_the_extra(
    student: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"`quantize: 4bit` needs bitsandbytes.*\[qlora\]"):
        method("dpo", quantize="4bit").trainer(lesson(write(tmp_path, rows(4), []), student))
