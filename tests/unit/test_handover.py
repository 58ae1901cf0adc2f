"""What another trainer is given: keys, shapes and refusals, against the examples of its documentation."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from jurybox.cli import app
from pipeline import discovery
from pipeline.errors import ConfigError
from training.handover import hand_over


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


ROW: dict[str, Any] = {
    "pair_id": "0" * 32,
    "prompt": [turn("system", "Be kind."), turn("user", "What?")],
    "chosen": [turn("assistant", "Yes | ü")],
    "rejected": [turn("assistant", "No")],
}
PAIRS = {"train": [ROW], "test": []}


def method(kind: str, **options: Any) -> Any:
    found = discovery.find("training.methods", kind, "{Kind}Method")
    return found(found.Options.model_validate({"method": kind, **options}))


def lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def test_axolotl_dpo_is_the_documented_shape() -> None:
    # https://docs.axolotl.ai/docs/rlhf.html, chat_template.default
    made = hand_over("axolotl", method("dpo", beta=0.2, lora={"r": 32}), "org/model", PAIRS)
    config = yaml.safe_load(made["axolotl.yaml"])
    assert (config["rl"], config["rl_beta"], config["base_model"]) == ("dpo", 0.2, "org/model")
    (data,) = config["datasets"]
    assert (data["type"], data["field_chosen"]) == ("chat_template.default", "chosen")
    assert (config["adapter"], config["lora_r"], config["lora_target_linear"]) == ("lora", 32, True)
    assert config["learning_rate"] == 1e-5
    assert (config["micro_batch_size"], config["gradient_accumulation_steps"]) == (8, 4)
    assert "test_datasets" not in config
    (row,) = lines(made["train.jsonl"])
    assert row == {"messages": ROW["prompt"], "chosen": ROW["chosen"][0], "rejected": ROW["rejected"][0]}
    assert set(made) == {"axolotl.yaml", "train.jsonl"}


@pytest.mark.parametrize(
    ("kind", "options", "keys"),
    [
        ("dpo", {"loss": "ipo"}, {"rl": "ipo"}),
        ("orpo", {}, {"rl": "orpo", "orpo_alpha": 0.1, "remove_unused_columns": False}),
        ("simpo", {}, {"rl": "simpo", "rl_beta": 2.5, "simpo_gamma": 1.4, "cpo_alpha": 0.0}),
        ("dpo", {"quantize": "4bit"}, {"adapter": "qlora", "load_in_4bit": True}),
        ("dpo", {"lora": None}, {"learning_rate": 1e-6}),
    ],
)
def test_axolotl_by_method(kind: str, options: dict[str, Any], keys: dict[str, Any]) -> None:
    made = hand_over("axolotl", method(kind, **options), "org/model", PAIRS)
    config = yaml.safe_load(made["axolotl.yaml"])
    assert {name: config[name] for name in keys} == keys
    if kind == "orpo":
        (row,) = lines(made["train.jsonl"])
        assert row["chosen"] == [*ROW["prompt"], *ROW["chosen"]]


def test_llama_factory_pairs_are_the_documented_shape() -> None:
    # data/README.md of LLaMA-Factory: sharegpt, ranking, tags of the OpenAI format
    made = hand_over("llama_factory", method("dpo"), "org/model", {"train": [ROW], "test": [ROW]})
    info = json.loads(made["dataset_info.json"])
    assert info["jurybox_train"]["ranking"] is True
    assert info["jurybox_train"]["columns"] == {"messages": "messages", "chosen": "chosen", "rejected": "rejected"}
    assert info["jurybox_test"]["file_name"] == "test.jsonl"
    config = yaml.safe_load(made["llama_factory.yaml"])
    assert (config["stage"], config["pref_loss"], config["pref_beta"]) == ("dpo", "sigmoid", 0.1)
    assert (config["dataset"], config["eval_dataset"]) == ("jurybox_train", "jurybox_test")
    assert (config["finetuning_type"], config["lora_target"]) == ("lora", "all")
    assert config["template"].startswith("REPLACE")


def test_llama_factory_kto_and_sft() -> None:
    made = hand_over("llama_factory", method("kto", desirable_weight=1.2), "org/model", PAIRS)
    assert json.loads(made["dataset_info.json"])["jurybox_train"]["columns"]["kto_tag"] == "label"
    assert [row["label"] for row in lines(made["train.jsonl"])] == [True, False]
    assert yaml.safe_load(made["llama_factory.yaml"])["kto_chosen_weight"] == 1.2
    made = hand_over("llama_factory", method("sft"), "org/model", PAIRS)
    assert lines(made["train.jsonl"]) == [{"messages": [*ROW["prompt"], *ROW["chosen"]]}]


@pytest.mark.parametrize(
    ("trainer", "made", "message"),
    [
        ("trainer", ("dpo", {}), "unknown trainer 'trainer'; allowed: axolotl, llama_factory"),
        ("axolotl", ("kto", {}), "or hand over to llama_factory"),
        ("llama_factory", ("reward", {}), "has no method 'reward'; allowed: dpo, kto, orpo, sft, simpo"),
        ("axolotl", ("dpo", {"loss": "apo_zero"}), "has no loss 'apo_zero'; it has the losses sigmoid, ipo"),
        ("axolotl", ("dpo", {"loss": {"sigmoid": 1.0, "sft": 0.2}}), "has no loss"),
        ("llama_factory", ("dpo", {"soft_labels": True, "beta": 0.3}), "has no soft_labels"),
        ("llama_factory", ("kto", {"thumbs": "thumbs.jsonl"}), "`train` has thumbs"),
    ],
)
def test_what_the_other_trainer_cannot_do_is_told(trainer: str, made: tuple[str, dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        hand_over(trainer, method(made[0], **made[1]), "org/model", PAIRS)


def test_steps_are_not_handed_over() -> None:
    step = {**ROW, "prompt": [*ROW["prompt"], turn("assistant", "First,")]}
    with pytest.raises(ConfigError, match="continues no assistant's turn"):
        hand_over("axolotl", method("dpo"), "org/model", {"train": [step]})


def test_the_command_writes_the_files(tmp_path: Path) -> None:
    data = tmp_path / "run" / "dataset" / "trl_dpo"
    data.mkdir(parents=True)
    pl.DataFrame([ROW]).write_parquet(data / "train.parquet")
    config = tmp_path / "c.yaml"
    config.write_text("name: t\ntrain: {method: dpo, model: org/model}\n")
    called = ["hand-over", str(config), "axolotl", "--run-dir", str(tmp_path / "run"), "--json"]
    found = CliRunner().invoke(app, called)
    assert found.exit_code == 0, found.output
    files = json.loads(found.stdout)["files"]
    assert [Path(file).name for file in files] == ["axolotl.yaml", "train.jsonl"]
    assert all(Path(file).is_file() for file in files)
