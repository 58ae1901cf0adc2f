"""The last training method of a config, and its data, as other trainers read them: a config and JSON lines. Pure.

Axolotl and LLaMA-Factory are neither imported nor installed: keys and shapes are those of their documentation. What a
trainer cannot do is an error, never left out in silence.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import yaml

from pipeline.errors import ConfigError
from training.rows import Row, continued

Files = dict[str, str]
"""File name -> content."""
TRAINERS = ("axolotl", "llama_factory")
Trainer = Literal["axolotl", "llama_factory"]
OUTPUT = "trained"


def hand_over(trainer: str, method: Any, model: str, pairs: Mapping[str, Sequence[Row]]) -> Files:
    """What *trainer* needs to do what `train` here would.

    Args:
        trainer: one of TRAINERS.
        method: a ``TrlMethod``.
        model: folder or Hub name.
        pairs: rows of the export `trl_dpo` by split (``train``, ``test``).

    Raises:
        ConfigError: there is no such trainer, or it has no such method, loss or data.
    """
    if trainer not in TRAINERS:
        raise ConfigError(f"unknown trainer {trainer!r}; allowed: {', '.join(TRAINERS)}")
    if any(continued(row["prompt"]) for rows in pairs.values() for row in rows):
        raise ConfigError(f"{trainer} continues no assistant's turn, and some pairs are steps; train them here")
    made: dict[str, Callable[..., Files]] = {"axolotl": _axolotl, "llama_factory": _llama_factory}
    options = method.options
    own = [name for name in ("thumbs", "conversations") if getattr(options, name, None) is not None]
    if own:
        raise ConfigError(
            f"{trainer} is given the dataset alone, and `train` has {own[0]}; train here, or leave it out"
        )
    return made[trainer](options.method, options, method.rate, model, pairs)


def _axolotl(method: str, options: Any, rate: float, model: str, pairs: Mapping[str, Sequence[Row]]) -> Files:
    """Axolotl: https://docs.axolotl.ai/docs/rlhf.html."""
    loss = _loss(method, options, {"sigmoid": "dpo", "ipo": "ipo"})
    kinds: dict[str, dict[str, Any]] = {
        "dpo": {"rl": loss, "rl_beta": getattr(options, "beta", None)},
        "orpo": {"rl": "orpo", "orpo_alpha": getattr(options, "beta", None), "remove_unused_columns": False},
        "simpo": {
            "rl": "simpo",
            "rl_beta": getattr(options, "beta", None),
            "cpo_alpha": 0.0,
            "simpo_gamma": getattr(options, "gamma", None),
        },
    }
    if method not in kinds:
        raise ConfigError(
            f"axolotl's `{method}` does not take conversations with a model's own template; allowed: "
            f"{', '.join(sorted(kinds))}; or hand over to llama_factory"
        )
    whole = method == "orpo"
    shape = (
        {"type": "chat_template.argilla"}
        if whole
        else {
            "type": "chat_template.default",
            "field_messages": "messages",
            "field_chosen": "chosen",
            "field_rejected": "rejected",
            "message_property_mappings": {"role": "role", "content": "content"},
            "roles": {name: [name] for name in ("user", "assistant", "system")},
        }
    )
    config = {
        "base_model": model,
        **kinds[method],
        "chat_template": "tokenizer_default",
        "datasets": [{"path": "train.jsonl", "ds_type": "json", "split": "train", **shape}],
        **(
            {"test_datasets": [{"path": "test.jsonl", "ds_type": "json", "split": "train", **shape}]}
            if pairs.get("test")
            else {}
        ),
        "sequence_len": options.max_length,
        "output_dir": OUTPUT,
        "micro_batch_size": options.batch_size,
        "gradient_accumulation_steps": options.gradient_accumulation,
        **({"num_epochs": options.epochs} if options.max_steps is None else {"max_steps": options.max_steps}),
        "learning_rate": rate,
        "lr_scheduler": "linear",
        "warmup_ratio": options.warmup_ratio,
        "optimizer": "adamw_torch",
        "save_steps": options.save_steps,
        "bf16": "auto",
        "gradient_checkpointing": True,
        **_axolotl_adapter(options),
    }
    lines = _whole_conversations if whole else _answers_beside
    return {"axolotl.yaml": _yaml(config), **{f"{split}.jsonl": lines(rows) for split, rows in pairs.items() if rows}}


def _axolotl_adapter(options: Any) -> dict[str, Any]:
    lora = options.lora
    if lora is None:
        return {}
    everywhere = lora.target_modules == "all-linear"
    return {
        "adapter": "lora" if options.quantize is None else "qlora",
        **({} if options.quantize is None else {"load_in_4bit": True}),
        "lora_r": lora.r,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        **({"lora_target_linear": True} if everywhere else {"lora_target_modules": _modules(lora.target_modules)}),
    }


def _llama_factory(method: str, options: Any, rate: float, model: str, pairs: Mapping[str, Sequence[Row]]) -> Files:
    """LLaMA-Factory: https://github.com/hiyouga/LLaMA-Factory, its data folder and examples."""
    loss = _loss(method, options, {name: name for name in ("sigmoid", "hinge", "ipo")})
    beta = getattr(options, "beta", None)
    stages: dict[str, dict[str, Any]] = {
        "dpo": {"stage": "dpo", "pref_loss": loss, "pref_beta": beta},
        "orpo": {"stage": "dpo", "pref_loss": "orpo", "pref_beta": beta},
        "simpo": {
            "stage": "dpo",
            "pref_loss": "simpo",
            "pref_beta": beta,
            "simpo_gamma": getattr(options, "gamma", None),
        },
        "kto": {
            "stage": "kto",
            "pref_beta": beta,
            "kto_chosen_weight": getattr(options, "desirable_weight", None),
            "kto_rejected_weight": getattr(options, "undesirable_weight", None),
        },
        "sft": {"stage": "sft"},
    }
    if method not in stages:
        raise ConfigError(f"llama_factory has no method {method!r}; allowed: {', '.join(sorted(stages))}")
    lines: Callable[[Sequence[Row]], str]
    if method == "kto":
        lines, columns = _answers_alone, {"messages": "messages", "kto_tag": "label"}
    elif method == "sft":
        lines, columns = _chosen_conversations, {"messages": "messages"}
    else:
        lines, columns = _answers_beside, {"messages": "messages", "chosen": "chosen", "rejected": "rejected"}
    told = {
        "formatting": "sharegpt",
        **({"ranking": True} if "chosen" in columns else {}),
        "columns": columns,
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }
    splits = [split for split, rows in pairs.items() if rows]
    config = {
        "model_name_or_path": model,
        **stages[method],
        "do_train": True,
        **_llama_factory_adapter(options),
        "dataset_dir": ".",
        "dataset": "jurybox_train",
        **({"eval_dataset": "jurybox_test"} if "test" in splits else {}),
        "template": "REPLACE with the name of the model's template, as LLaMA-Factory's README lists it",
        "cutoff_len": options.max_length,
        "output_dir": OUTPUT,
        "per_device_train_batch_size": options.batch_size,
        "gradient_accumulation_steps": options.gradient_accumulation,
        **({"num_train_epochs": options.epochs} if options.max_steps is None else {"max_steps": options.max_steps}),
        "learning_rate": rate,
        "lr_scheduler_type": "linear",
        "warmup_ratio": options.warmup_ratio,
        "save_steps": options.save_steps,
        "bf16": True,
    }
    return {
        "llama_factory.yaml": _yaml(config),
        "dataset_info.json": json.dumps(
            {f"jurybox_{split}": {"file_name": f"{split}.jsonl", **told} for split in splits}, indent=2
        )
        + "\n",
        **{f"{split}.jsonl": lines(pairs[split]) for split in splits},
    }


def _llama_factory_adapter(options: Any) -> dict[str, Any]:
    lora = options.lora
    if lora is None:
        return {"finetuning_type": "full"}
    everywhere = lora.target_modules == "all-linear"
    return {
        "finetuning_type": "lora",
        **({} if options.quantize is None else {"quantization_bit": 4, "quantization_method": "bnb"}),
        "lora_rank": lora.r,
        "lora_alpha": int(lora.alpha),
        "lora_dropout": lora.dropout,
        "lora_target": "all" if everywhere else ",".join(_modules(lora.target_modules)),
    }


def _modules(targets: str | tuple[str, ...]) -> list[str]:
    return [targets] if isinstance(targets, str) else list(targets)


def _loss(method: str, options: Any, names: Mapping[str, str]) -> str | None:
    """The trainer's name of DPO's loss."""
    if method != "dpo":
        return None
    unknown = [
        name
        for name, on in (
            ("soft_labels", options.soft_labels),
            ("use_weighting", options.use_weighting),
            ("ld_alpha", options.ld_alpha is not None),
            ("f_divergence", options.f_divergence != "reverse_kl"),
            ("sync_reference", options.sync_reference is not None),
            (f"loss {options.loss!r}", len(options.weights) > 1 or not set(options.weights) <= set(names)),
        )
        if on
    ]
    if unknown:
        raise ConfigError(
            f"the other trainer has no {', '.join(unknown)}; it has the losses {', '.join(names)}: train here, or "
            "change `train`"
        )
    return names[next(iter(options.weights))]


def _answers_beside(rows: Sequence[Row]) -> str:
    return _lines(
        {"messages": row["prompt"], "chosen": row["chosen"][0], "rejected": row["rejected"][0]} for row in rows
    )


def _whole_conversations(rows: Sequence[Row]) -> str:
    return _lines({side: [*row["prompt"], *row[side]] for side in ("chosen", "rejected")} for row in rows)


def _chosen_conversations(rows: Sequence[Row]) -> str:
    return _lines({"messages": [*row["prompt"], *row["chosen"]]} for row in rows)


def _answers_alone(rows: Sequence[Row]) -> str:
    return _lines(
        {"messages": [*row["prompt"], *row[side]], "label": side == "chosen"}
        for row in rows
        for side in ("chosen", "rejected")
    )


def _lines(rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _yaml(config: Mapping[str, Any]) -> str:
    return yaml.safe_dump({key: value for key, value in config.items() if value is not None}, sort_keys=False)
