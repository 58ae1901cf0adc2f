"""A model in this process through vLLM: one engine batch for all temperatures. Touches the GPU (or CPU build)."""

import hashlib
import importlib
import json
import os
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from pipeline import control_tokens
from pipeline.config import ModelConfig
from pipeline.engines.base import Advance, Answer, Call, Request, Toolbox, spoken
from pipeline.errors import ConfigError, StageError

QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
"""Set unless the user did: the progress bars stay readable, and nothing is reported to anyone."""
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that the engine can be built for; it takes any adapter up to that rank."""
SHUTDOWN_S = 30.0
"""Seconds that the engine's processes get to let go of the memory before they are killed."""


class VllmEngine:
    """Completes requests with ``vllm.LLM``; equal seeds give equal text (on a GPU with VLLM_BATCH_INVARIANT=1).

    ``engine_args`` are vLLM's own, and ``adapter``: the folder of a LoRA adapter that lies on top.
    """

    def __init__(self, options: ModelConfig, toolbox: Toolbox) -> None:
        del toolbox
        arguments = dict(options.engine_args)
        self.options = options
        self.adapter = cast("str | None", arguments.pop("adapter", None))
        self.vllm, self.llm = start(options.model, {**self._lora_arguments(), **arguments})
        self.tokenizer: Any = self.llm.get_tokenizer()
        self.control = control_tokens.of(self.tokenizer)
        self.context = int(self.llm.llm_engine.model_config.max_model_len)
        self.lock = threading.Lock()

    def complete(self, requests: Sequence[Request], advance: Advance) -> list[Answer]:
        """See Engine. A prompt that leaves no room for an answer is a failed answer.

        Raises:
            StageError: the engine died.
        """
        prompts = [self._tokens(request) for request in requests]
        fitting = [at for at, request in enumerate(requests) if len(prompts[at]) + request.max_tokens <= self.context]
        made = self._generate([prompts[at] for at in fitting], [requests[at] for at in fitting])
        outputs = dict(zip(fitting, made, strict=True))
        advance(len(requests))
        return [
            self._read(request, outputs[at], len(prompts[at]))
            if at in outputs
            else self._too_long(request, len(prompts[at]))
            for at, request in enumerate(requests)
        ]

    def close(self) -> None:
        """End the engine's processes, which gives the memory back."""
        stop(self.llm)
        del self.llm

    def _generate(self, prompts: list[list[int]], requests: list[Request]) -> list[Any]:
        if not prompts:
            return []
        with self.lock, alive(self.options.model):
            return self.llm.generate(
                [{"prompt_token_ids": prompt} for prompt in prompts],
                [self._sampling(request) for request in requests],
                use_tqdm=False,
                lora_request=self._lora_request(),
            )

    def _tokens(self, request: Request) -> list[int]:
        messages = [
            {"role": role, "content": control_tokens.defused(text, self.control)} for role, text in request.messages
        ]
        made = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        return cast("list[int]", made["input_ids"])

    def _lora_arguments(self) -> dict[str, Any]:
        if self.adapter is None:
            return {}
        file = Path(self.adapter) / "adapter_config.json"
        try:
            rank = int(json.loads(file.read_text(encoding="utf-8"))["r"])
            # The engine's own default of 16 would refuse the adapters of the default training (r = 64).
            return {"enable_lora": True, "max_lora_rank": next(size for size in LORA_RANKS if size >= rank)}
        except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
            raise ConfigError(
                f"{file} is no LoRA adapter of rank at most {LORA_RANKS[-1]} ({type(error).__name__}: {error}); "
                "`adapter` is the folder that the train stage or PEFT wrote"
            ) from error

    def _lora_request(self) -> Any:
        if self.adapter is None:
            return None
        return importlib.import_module("vllm.lora.request").LoRARequest("adapter", 1, self.adapter)

    def _sampling(self, request: Request) -> Any:
        shared: dict[str, Any] = {"temperature": request.temperature, "top_p": request.top_p, "seed": request.seed}
        if request.choices:
            # Exactly the log-probabilities that are needed, from before any mask, temperature or top_p.
            return self.vllm.SamplingParams(
                **shared, max_tokens=1, logprob_token_ids=list(self._spellings(request.choices).values())
            )
        if request.response_schema is not None:
            shared["structured_outputs"] = self.vllm.sampling_params.StructuredOutputsParams(
                json=dict(request.response_schema)
            )
        return self.vllm.SamplingParams(**shared, max_tokens=request.max_tokens, logprobs=0)

    def _spellings(self, choices: Sequence[str]) -> dict[str, int]:
        """The tokens that spell a choice, with and without a space before it."""
        forms = (form for choice in choices for form in (choice, f" {choice}"))
        spelled = {form: self.tokenizer.encode(form, add_special_tokens=False) for form in forms}
        return {form: int(tokens[0]) for form, tokens in spelled.items() if len(tokens) == 1}

    def _call(self, request: Request, prompt: int, cached: int, completion: int) -> Call:
        identity = repr((self.options.model, self.adapter, request))
        return Call(hashlib.sha256(identity.encode()).hexdigest(), "answered", prompt, cached, completion)

    def _too_long(self, request: Request, prompt: int) -> Answer:
        text = f"prompt of {prompt} tokens and {request.max_tokens} of answer exceed the context of {self.context}"
        return Answer(self._call(request, prompt, 0, 0), reason="too_long", error=text)

    def _read(self, request: Request, output: Any, prompt: int) -> Answer:
        best = output.outputs[0]
        call = self._call(request, prompt, int(output.num_cached_tokens or 0), len(best.token_ids))
        if request.choices:
            found = {
                form: float(best.logprobs[0][token].logprob) for form, token in self._spellings(request.choices).items()
            }
            chosen = max(found, key=lambda form: found[form])
            return Answer(call, chosen.strip(), "stop", min(found[chosen], 0.0), found)
        total = None if best.cumulative_logprob is None else min(float(best.cumulative_logprob), 0.0)
        return spoken(call, cast("str", best.text), str(best.finish_reason or "stop"), total)


def start(model: str, arguments: Mapping[str, Any]) -> tuple[Any, Any]:
    """(the module vllm, its LLM of *model*), which runs until :func:`stop`.

    Raises:
        ConfigError: vLLM is not installed, or cannot load the model.
        StageError: it could not be started.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        vllm: Any = importlib.import_module("vllm")
    except ImportError as error:
        raise ConfigError(
            f"engine `vllm` is not installed ({error}); install the `vllm` extra on a machine with a GPU, or "
            "use `engine: transformers` or an `endpoint`"
        ) from error
    try:
        return vllm, vllm.LLM(model=model, **{"disable_log_stats": True, "use_tqdm_on_load": False, **arguments})
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"model {model!r} cannot be loaded by vLLM ({_last_line(error)}); give a folder that exists "
            "beside the config or a Hub name this machine can download, and engine_args that vllm.LLM knows"
        ) from error
    except RuntimeError as error:
        raise StageError(
            f"vLLM could not start model {model!r} ({_last_line(error)}); what it printed says why. "
            "Short of memory, give engine_args a smaller max_model_len or another gpu_memory_utilization"
        ) from error


@contextmanager
def alive(model: str) -> Generator[None]:
    """Where vLLM's engine is asked; raises StageError when it died."""
    died: type[Exception] = importlib.import_module("vllm.v1.engine.exceptions").EngineDeadError
    try:
        yield
    except died as error:
        raise StageError(
            f"vLLM died while it ran model {model!r} (most often for want of memory); the same "
            "command goes on from there, with a smaller max_model_len or max_num_seqs in engine_args"
        ) from error


def stop(llm: Any) -> None:
    """End the processes of an LLM."""
    llm.llm_engine.engine_core.shutdown(timeout=SHUTDOWN_S)


def _last_line(error: BaseException) -> str:
    """The end of a message that may be pages long: the engine puts the cause last."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
