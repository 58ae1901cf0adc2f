"""A random Llama with the demo's chat template, made in a second. Writes the folder it is given."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

PAD, END = "<|pad|>", "<|end|>"
CHAT_TEMPLATE = (
    "{%- for message in messages -%}{{- '<|' + message['role'] + '|>' + message['content'] -}}"
    "{%- if message['role'] == 'assistant' -%}{{- '<|end|>' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
"""As in data/make_models.py: an end token after an assistant's turn and nowhere else."""
TEXTS = ["What is good?", "Short and good.", "It is a long answer that goes on and on about very little."] * 4


def tiny_tokenizer() -> Any:
    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [PAD, "<|system|>", "<|user|>", "<|assistant|>", END]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, clean_up_tokenization_spaces=False
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def tiny_model(folder: Path, seed: int = 0, **config: Any) -> str:
    """Write model and tokenizer to *folder*; returns its path as a model's name. *config* replaces what is below."""
    tokenizer = tiny_tokenizer()
    torch.manual_seed(seed)
    return _saved(transformers.LlamaForCausalLM(_config(tokenizer, **config)), tokenizer, folder)


def tiny_reward_model(folder: Path, seed: int = 0, **config: Any) -> str:
    """The same with a random reward head of one output, large enough to tell answers apart."""
    tokenizer = tiny_tokenizer()
    torch.manual_seed(seed)
    # vLLM's CPU build has no attention for heads of 16.
    model: Any = transformers.LlamaForSequenceClassification(_config(tokenizer, num_labels=1, head_dim=64, **config))
    torch.nn.init.normal_(model.score.weight)
    return _saved(model, tokenizer, folder)


def _config(tokenizer: Any, **more: Any) -> transformers.LlamaConfig:
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    return transformers.LlamaConfig(**{**settings, **more})


def _saved(model: Any, tokenizer: Any, folder: Path) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
