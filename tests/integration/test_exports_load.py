"""Every format through its real reader: `datasets`, and TRL's trainers on the shipped student."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from datasets import Dataset, load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from pipeline.exports import jsonl, kto, openai_dpo, trl_dpo
from pipeline.stages.export import dataset_rows
from tests.export_frames import Choice, frames, numbered

STUDENT = Path(__file__).parents[2] / "data" / "models" / "student"
TALK = (("user", "Hi"), ("assistant", "Hello."), ("user", "And now?"))


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    made = frames([Choice(TALK, "Now tea.", 'A "quoted"\nline\u2028 and é'), *numbered(11)])
    return dataset_rows(made["kept"], made["pairs"], made["samples"], made["prompts"], seed=0, test_fraction=0.0)


def load(file: Path, cache: Path) -> Dataset:
    builder = "parquet" if file.suffix == ".parquet" else "json"
    return load_dataset(builder, data_files=str(file), split="train", cache_dir=str(cache))


def test_trl_dpo_loads(rows: pl.DataFrame, tmp_path: Path) -> None:
    loaded = load(trl_dpo.export(rows, tmp_path / "train", 0), tmp_path / "cache")
    assert loaded["prompt"] == rows["messages"].to_list()
    assert loaded["chosen"] == [[{"role": "assistant", "content": text}] for text in rows["chosen"]]
    assert loaded["rejected"] == [[{"role": "assistant", "content": text}] for text in rows["rejected"]]
    for name in ("margin", "p_chosen", "judges", "chosen_model", "rejected_temperature", "pair_id", "prompt_id"):
        assert loaded[name] == rows[name].to_list()


def test_jsonl_loads(rows: pl.DataFrame, tmp_path: Path) -> None:
    loaded = load(jsonl.export(rows, tmp_path / "train", 0), tmp_path / "cache")
    assert loaded["chosen"] == rows["chosen"].to_list()
    assert loaded["rejected"] == rows["rejected"].to_list()
    assert max(loaded["prompt"]) == "[user]\nHi\n\n[assistant]\nHello.\n\n[user]\nAnd now?"


def test_kto_loads(rows: pl.DataFrame, tmp_path: Path) -> None:
    loaded = load(kto.export(rows, tmp_path / "train", 0), tmp_path / "cache")
    found = {(row["pair_id"], row["label"]): row["completion"] for row in loaded}
    for pair, chosen, rejected in rows.select("pair_id", "chosen", "rejected").iter_rows():
        assert found[pair, True] == [{"role": "assistant", "content": chosen}]
        assert found[pair, False] == [{"role": "assistant", "content": rejected}]
    assert len(found) == loaded.num_rows == 2 * rows.height


def test_openai_dpo_loads(rows: pl.DataFrame, tmp_path: Path) -> None:
    loaded = load(openai_dpo.export(rows, tmp_path / "train", 0), tmp_path / "cache")
    assert [one["messages"] for one in loaded["input"]] == rows["messages"].to_list()
    assert [one["tools"] for one in loaded["input"]] == [[]] * rows.height
    assert loaded["preferred_output"] == [[{"role": "assistant", "content": text}] for text in rows["chosen"]]
    assert [turn[0]["content"] for turn in loaded["non_preferred_output"]] == rows["rejected"].to_list()


def spelled(tokenizer: Any, text: str) -> str:
    """*text* as the tokenizer gives it back."""
    return tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]).strip()


def arguments(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def test_the_real_dpo_trainer_takes_trl_dpo(rows: pl.DataFrame, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(STUDENT)
    loaded = load(trl_dpo.export(rows, tmp_path / "train", 0), tmp_path / "cache")
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(STUDENT),
        args=DPOConfig(**arguments(tmp_path / "out")),
        train_dataset=loaded,
        processing_class=tokenizer,
    )
    for made, row in zip(trainer.train_dataset, rows.iter_rows(named=True), strict=True):
        prompt = tokenizer.decode(made["prompt_ids"])
        for side in ("chosen", "rejected"):
            # bug 13: the answer alone, ended exactly once
            answer = tokenizer.decode(made[f"{side}_ids"], skip_special_tokens=True)
            assert answer.strip() == spelled(tokenizer, row[side])
            assert made[f"{side}_ids"].count(tokenizer.eos_token_id) == 1
            assert row["messages"][-1]["content"] in prompt
            assert row[side] not in prompt
    result = trainer.train()
    assert trainer.state.global_step == 2
    assert 0 < result.training_loss < 5


def test_the_real_kto_trainer_takes_kto(rows: pl.DataFrame, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(STUDENT)
    loaded = load(kto.export(rows, tmp_path / "train", 0), tmp_path / "cache")
    trainer = KTOTrainer(
        model=AutoModelForCausalLM.from_pretrained(STUDENT),
        args=KTOConfig(**arguments(tmp_path / "out")),
        train_dataset=loaded,
        processing_class=tokenizer,
    )
    good = {pair: spelled(tokenizer, text) for pair, text in rows.select("pair_id", "chosen").iter_rows()}
    labels = [row["label"] for row in trainer.train_dataset]
    assert [sum(labels[at : at + 4]) for at in range(0, len(labels), 4)] == [2] * (len(labels) // 4)
    for made, row in zip(trainer.train_dataset, loaded, strict=True):
        answer = tokenizer.decode(made["completion_ids"], skip_special_tokens=True).strip()
        assert (answer == good[row["pair_id"]]) == made["label"]
        assert made["completion_ids"].count(tokenizer.eos_token_id) == 1
    result = trainer.train()
    assert trainer.state.global_step == 2
    assert 0 < result.training_loss < 5
