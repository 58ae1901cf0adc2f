"""Pairs as one row with each prompt once: the layout by hand, and the same numbers as TRL's own way, model by model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from tests.integration.test_training import BAD, GOOD, lesson, row, write
from tests.tiny_models import tiny_model, tiny_tokenizer
from training.methods.dpo import DpoMethod
from training.prefix import Span, layout

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
SAME = ("Llama", "Qwen2", "Qwen3", "Phi3", "Olmo2", "Granite", "SmolLM3", "GPTNeoX")
OTHER = {
    "Mistral": ({"sliding_window": 8}, "slides over a window"),
    "Gemma2": ({"sliding_window": 8, "head_dim": 8}, "slides over a window"),
    "Gemma3": ({"sliding_window": 8, "head_dim": 8}, "slides over a window"),
    "Mixtral": ({"num_local_experts": 2, "sliding_window": None}, "mixture of experts"),
    "Qwen3Moe": ({"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32}, "mixture of experts"),
}


def test_a_layout_by_hand() -> None:
    # Two pairs: 1 2 3 | 4 5 against 1 2 3 | 6, and 7 8 | 9 against 7 8 | (nothing of its own).
    ids = torch.tensor([[1, 2, 3, 4, 5], [7, 8, 9, 0, 0], [1, 2, 3, 6, 0], [7, 8, 0, 0, 0]])
    present = torch.tensor([[1] * 5, [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])
    labels = ids.masked_fill(present == 0, -100)
    labels[:, :2] = -100
    made = layout(ids, present, labels)
    assert made.spans == (Span(0, 3, 2, 1), Span(6, 2, 1, 0))
    assert made.tokens.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9]]
    assert made.positions.tolist() == [[0, 1, 2, 3, 4, 3, 0, 1, 2]]
    # 3 after 2, 4 after 3, 5 after 4; 9 after 8; 3 after 2, 6 after 3: the shared 3 is predicted for both answers.
    assert made.labels.tolist() == [[3, 4, 5, 9, 3, 6]]
    assert made.read.tolist() == [1, 2, 3, 7, 1, 2]
    assert made.mask.tolist() == [
        [False, True, True, True],
        [False, True, False, False],
        [False, True, True, False],
        [False, False, False, False],
    ]


def model_of(family: str, folder: Path, **more: Any) -> str:
    tokenizer = tiny_tokenizer()
    name = f"{family}TextConfig" if family == "Gemma3" else f"{family}Config"
    sizes = {key: size for key, size in SIZES.items() if family != "GPTNeoX" or key != "num_key_value_heads"}
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = getattr(transformers, name)(**sizes, **ends, vocab_size=len(tokenizer), **more)
    torch.manual_seed(0)
    model: Any = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def trainer_of(model: str, folder: Path, **options: Any) -> Any:
    # Answers that begin alike, and pairs of several lengths.
    rows = [row(at, f"{GOOD} {'So ' * at}it is.", f"{GOOD} {BAD}" if at % 2 else BAD) for at in range(6)]
    write(folder, rows, [row(at) for at in range(20, 23)])
    settings = {"batch_size": 3, "gradient_accumulation": 1, "learning_rate": 1e-2, "max_steps": 2, "lora": {"r": 4}}
    made = DpoMethod(DpoMethod.Options.model_validate({**settings, **options}))
    return made.trainer(lesson(folder / "dataset", model))[0]


def batch_of(trainer: Any) -> dict[str, Any]:
    batch = next(iter(trainer.get_train_dataloader()))
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}


def gradients(trainer: Any, model: Any, batch: dict[str, Any]) -> tuple[Any, dict[str, torch.Tensor]]:
    trainer.model.zero_grad()
    answer = model(**batch, use_cache=False, fused_lm_head=True)
    answer.log_probs.square().sum().backward()
    own = {name: each.grad.clone() for name, each in trainer.model.named_parameters() if each.requires_grad}
    return answer, own


@pytest.mark.parametrize("family", SAME)
def test_numbers_and_gradients_are_trls(family: str, tmp_path: Path) -> None:
    trainer = trainer_of(model_of(family, tmp_path / "model"), tmp_path)
    # max_steps covers all rows, so the reference pass has read a batch, and compared it.
    assert trainer.plainly is None
    torch.manual_seed(1)
    for weights in trainer.model.parameters():
        if weights.requires_grad:
            torch.nn.init.normal_(weights, std=0.05)
    batch = batch_of(trainer)
    theirs, plain = gradients(trainer, trainer.model, batch)
    ours, shared = gradients(trainer, trainer.shared.reading(trainer.model), batch)
    for name in ("log_probs", "entropy", "mean_logits"):
        assert torch.allclose(getattr(ours, name), getattr(theirs, name), atol=1e-5), name
    assert torch.equal(ours.is_top1, theirs.is_top1)
    for name, found in shared.items():
        assert torch.allclose(found, plain[name], atol=1e-5 * max(1.0, float(plain[name].abs().max()))), name
    # What is read is less: no padding, and each beginning once.
    made = layout(**batch)
    assert made.tokens.shape[1] < 0.75 * batch["input_ids"].numel()


@pytest.mark.parametrize("family", OTHER)
def test_where_it_would_be_wrong_training_goes_on_plainly_and_says_so(family: str, tmp_path: Path) -> None:
    more, reason = OTHER[family]
    model = model_of(family, tmp_path / "model", **more)
    trainer = trainer_of(model, tmp_path, lora={"r": 4, "target_modules": ["q_proj", "v_proj"]})
    assert reason in trainer.plainly
    assert trainer.train().global_step == 2


def test_the_comparison_catches_what_no_rule_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.prefix import SharedPrefix

    monkeypatch.setattr(SharedPrefix, "unfit", lambda _: None)
    trainer = trainer_of(model_of("Mistral", tmp_path / "model", sliding_window=8), tmp_path)
    assert "log-probability differs by" in trainer.plainly
    assert trainer.model.config._attn_implementation == "sdpa"

    def broken(*_: Any, **__: Any) -> Any:
        raise TypeError("unexpected keyword")

    monkeypatch.setattr(SharedPrefix, "reading", lambda *_: broken)
    trainer = trainer_of(tiny_model(tmp_path / "llama"), tmp_path / "broken")
    assert trainer.plainly == "its code does not take it (TypeError: unexpected keyword)"


LOSSES: list[dict[str, Any]] = [
    {},
    {"loss": "ipo"},
    {"loss": "sigmoid_norm", "beta": 2.0},
    {"ld_alpha": 0.5},
    {"loss": {"sigmoid": 1.0, "sft": 0.2}},
    {"loss": "apo_zero"},
    {"loss": "robust", "label_smoothing": 0.1},
    {"use_weighting": True},
    {"soft_labels": True},
    {"gradient_checkpointing": True},
]


@pytest.mark.parametrize("options", LOSSES, ids=json.dumps)
def test_a_training_is_the_same_with_and_without(options: dict[str, Any], tmp_path: Path) -> None:
    student = tiny_model(tmp_path / "student")
    reports: list[dict[str, Any]] = []
    weights: list[dict[str, torch.Tensor]] = []
    for shared in (True, False):
        run = tmp_path / str(shared)
        rows = [row(at, f"{GOOD} {'So ' * at}it is.") for at in range(6)]
        dataset = write(run, rows, [row(at) for at in range(20, 23)])
        settings = {"batch_size": 3, "gradient_accumulation": 1, "learning_rate": 1e-3, "epochs": 2, "lora": {"r": 4}}
        made = DpoMethod(DpoMethod.Options.model_validate({**settings, "share_prefix": shared, **options}))
        made.train(lesson(dataset, student), run / "model")
        reports.append(json.loads((run / "model" / "training.json").read_text()))
        weights.append(load_file(run / "model" / "adapter_model.safetensors"))
    assert [report["prefix_read_once"] for report in reports] == [True, False]
    for one, other in zip(reports[0]["loss"], reports[1]["loss"], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4, abs=1e-5)
    assert reports[0]["eval"]["rewards/margins"] == pytest.approx(reports[1]["eval"]["rewards/margins"], abs=1e-4)
    assert reports[0]["tokens"] == reports[1]["tokens"]


def test_the_models_own_attention_is_what_is_saved(tmp_path: Path) -> None:
    run = tmp_path / "run"
    dataset = write(run, [row(at) for at in range(4)], [])
    made = DpoMethod(DpoMethod.Options.model_validate({"batch_size": 4, "max_steps": 1, "lora": None}))
    made.train(lesson(dataset, tiny_model(tmp_path / "student")), run / "model")
    assert "jurybox" not in (run / "model" / "config.json").read_text()
