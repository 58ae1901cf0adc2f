"""How a model in this process is loaded: one way for engines, judges, training and evaluation. Touches its folder.

A model is a folder or a Hub name; an adapter is a folder that PEFT wrote. On a GPU weights are bfloat16, elsewhere
float32. What a library says when it cannot load is repeated, with what to do about it.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pipeline.errors import ConfigError

UNLOADABLE = (OSError, ValueError, RuntimeError, ImportError)
"""What transformers and PEFT raise for a missing file, a wrong config, other shapes, a missing library."""


def quiet() -> None:
    """Keep libraries from drawing and writing over our progress, and from reporting to their makers that we train."""
    import datasets
    import huggingface_hub.constants
    from transformers.utils import logging

    # TRL draws a bar for the reference pass that no argument turns off.
    os.environ.setdefault("TQDM_DISABLE", "1")
    untyped: Any = datasets
    untyped.disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True


def device() -> str:
    """``cuda`` where there is a GPU, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def usual_dtype() -> str:
    """The dtype of weights where none is asked for."""
    return "bfloat16" if device() == "cuda" else "float32"


def load_model(name: str, dtype: str | None = None, adapter: str | None = None, **arguments: Any) -> tuple[Any, Any]:
    """(causal language model, tokenizer that pads on the right), on the CPU unless *arguments* place it.

    Args:
        name: folder or Hub name.
        dtype: of the weights; defaults to :func:`usual_dtype`.
        adapter: folder of an adapter that lies on top.
        arguments: of ``from_pretrained``.

    Raises:
        ConfigError: it cannot be loaded, or has no chat template.
    """
    import transformers

    library: Any = transformers
    with_dtype = {"dtype": dtype or usual_dtype(), **arguments}
    model, tokenizer = _loaded(
        name, "a chat model", lambda: library.AutoModelForCausalLM.from_pretrained(name, **with_dtype)
    )
    return (model if adapter is None else with_adapter(model, adapter)), tokenizer


def with_adapter(model: Any, adapter: str, *, trainable: bool = False) -> Any:
    """*model* under the adapter in the folder *adapter*.

    Raises:
        ConfigError: the folder holds no adapter of this model.
    """
    import peft

    library: Any = peft
    try:
        return library.PeftModel.from_pretrained(model, adapter, is_trainable=trainable)
    except UNLOADABLE as error:
        raise ConfigError(
            f"adapter {adapter!r} cannot be laid on its model ({_first_line(error)}); `adapter` is the folder that the "
            "train stage or PEFT wrote, for this very model"
        ) from error


def load_classifier(name: str, dtype: str | None = None, *, new_head: bool) -> tuple[Any, Any]:
    """(sequence classifier with one output, tokenizer).

    Args:
        name: folder or Hub name.
        dtype: of the weights; defaults to :func:`usual_dtype`.
        new_head: whether a model without a trained head will do, because it is about to be trained.

    Raises:
        ConfigError: it cannot be loaded, has no chat template, or has no trained head where one is needed.
    """
    import transformers
    from transformers.utils import logging

    library: Any = transformers
    level = logging.get_verbosity()
    logging.disable_progress_bar()
    # What it would report, a head that is new, is checked below.
    logging.set_verbosity_error()
    try:
        (model, found), tokenizer = _loaded(
            name,
            "a reward model: a sequence classifier with one output",
            lambda: library.AutoModelForSequenceClassification.from_pretrained(
                name, num_labels=1, dtype=dtype or usual_dtype(), output_loading_info=True
            ),
        )
    finally:
        logging.set_verbosity(level)
    if found["missing_keys"] and not new_head:
        raise ConfigError(
            f"model {name!r} has no trained reward head ({', '.join(sorted(found['missing_keys']))} missing); add "
            "fit: {epochs: 1} to train one on labels, or give a reward model"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def for_inference(model: Any) -> Any:
    """*model* on this machine's device, dropout off."""
    return model.to(device()).eval()


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer: the tokenizer's, and those at which the model stops."""
    # A classifier generates nothing and has no generation config.
    stops = getattr(model, "generation_config", model.config).eos_token_id
    found = cast("list[int]", stops) if isinstance(stops, list) else [stops]
    return frozenset(int(token) for token in (*found, tokenizer.eos_token_id) if token is not None)


def chat_tokens(tokenizer: Any, messages: Sequence[Mapping[str, Any]], **how: Any) -> list[int]:
    """Tokens of a conversation under the model's chat template; *how* as ``apply_chat_template`` takes it."""
    return cast("list[int]", tokenizer.apply_chat_template(list(messages), return_dict=True, **how)["input_ids"])


def _loaded(name: str, what: str, load: Any) -> tuple[Any, Any]:
    import transformers

    library: Any = transformers
    try:
        tokenizer = library.AutoTokenizer.from_pretrained(name)
        model = load()
    except UNLOADABLE as error:
        raise ConfigError(
            f"model {name!r} cannot be loaded as {what} ({_first_line(error)}); give a folder that exists beside the "
            "config, or a Hub name that this machine can download"
        ) from error
    if tokenizer.chat_template is None:
        raise ConfigError(f"model {name!r} has no chat template; give {what} whose tokenizer has one")
    return model, tokenizer


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
