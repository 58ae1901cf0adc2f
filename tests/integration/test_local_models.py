"""Loading a model in this process: what comes back, and what is said when it cannot be loaded."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from pipeline import discovery
from pipeline.engines.local_models import end_tokens, load_classifier, load_model, with_adapter
from pipeline.errors import ConfigError
from tests.tiny_models import tiny_model, tiny_reward_model, tiny_tokenizer
from training.evaluation.divergence import divergence

TURNS = (("user", "What is good?"),)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(tmp_path_factory.mktemp("student"))


def test_a_model_comes_with_its_tokenizer_and_its_end(student: str) -> None:
    model, tokenizer = load_model(student)
    assert model.dtype == torch.float32
    assert end_tokens(model, tokenizer) == {tokenizer.eos_token_id}
    half, _ = load_model(student, "bfloat16")
    assert half.dtype == torch.bfloat16


def test_what_cannot_be_loaded_is_named_with_the_remedy(student: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.* cannot be loaded as a chat model .*give a folder that exists"):
        load_model(str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"adapter .*empty.* cannot be laid on its model .*`adapter` is the folder"):
        with_adapter(load_model(student)[0], str(tmp_path / "empty"))
    other: Any = peft.get_peft_model(
        load_model(tiny_model(tmp_path / "wide", hidden_size=64))[0], peft.LoraConfig(r=2, target_modules="all-linear")
    )
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ConfigError, match="cannot be laid on its model"):
        load_model(student, adapter=str(tmp_path / "other"))
    with pytest.raises(ConfigError, match=r"no trained reward head \(score\.weight missing\)"):
        load_classifier(student, new_head=False)
    assert load_classifier(tiny_reward_model(tmp_path / "reward"), new_head=False)[0].config.num_labels == 1


def test_a_base_model_without_a_chat_template_is_told(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    (tmp_path / "base" / "chat_template.jinja").unlink()
    tokenizer.save_pretrained(base)
    with pytest.raises(ConfigError, match="has no chat template; give a chat model"):
        load_model(base)


def test_the_loader_is_no_engine() -> None:
    assert "local_models" not in discovery.kinds("pipeline.engines")


def test_a_whole_model_is_as_far_away_as_its_adapter(student: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    tuned: Any = peft.get_peft_model(
        load_model(student)[0], peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    )
    tuned.save_pretrained(tmp_path / "adapter")
    tuned.merge_and_unload().save_pretrained(tmp_path / "whole")
    tiny_tokenizer().save_pretrained(tmp_path / "whole")
    answers = [(TURNS, "Short and good.", True), (TURNS, "Not", False)]
    whole = divergence(student, tmp_path / "whole", answers)
    assert whole == pytest.approx(divergence(student, tmp_path / "adapter", answers), rel=1e-4)
    assert min(whole) > 0
