"""A sequence classifier in this process through vLLM: what scores answers, not writes. Touches the GPU (or CPU build).

A request is a whole conversation; its answer's text is the raw score of the classifier's one output, as Python writes
the number. ``engine: vllm`` of a reward model comes here.
"""

import hashlib
import threading
from collections.abc import Iterable
from typing import Any, cast

from pipeline import control_tokens
from pipeline.config import ModelConfig
from pipeline.engines.base import Advance, Answer, Call, Request, Toolbox
from pipeline.engines.vllm import alive, start, stop
from pipeline.errors import ConfigError


class VllmPoolingEngine:
    """Scores conversations with ``vllm.LLM.classify``; ``engine_args`` are vLLM's own."""

    def __init__(self, options: ModelConfig, toolbox: Toolbox) -> None:
        del toolbox
        self.options = options
        self.vllm, self.llm = start(options.model, {"runner": "pooling", **options.engine_args})
        self.tokenizer: Any = self.llm.get_tokenizer()
        settings = self.llm.llm_engine.model_config
        self.context = int(settings.max_model_len)
        self.lock = threading.Lock()
        if "classify" not in self.llm.supported_tasks or settings.hf_config.num_labels != 1:
            stop(self.llm)
            raise ConfigError(
                f"model {options.model!r} is no sequence classifier with one output (vLLM can "
                f"{', '.join(self.llm.supported_tasks)}, labels: {settings.hf_config.num_labels}); give a reward model"
            )
        if self.tokenizer.chat_template is None:
            stop(self.llm)
            raise ConfigError(f"model {options.model!r} has no chat template; give a reward model of chat answers")
        self.control = control_tokens.of(self.tokenizer)

    def complete(self, requests: Iterable[Request], advance: Advance) -> list[Answer]:
        """See Engine. A conversation longer than the context is a failed answer.

        Raises:
            StageError: the engine died.
        """
        asked = list(requests)
        rows = [self._tokens(request) for request in asked]
        fitting = [at for at, row in enumerate(rows) if len(row) <= self.context]
        scores = dict(zip(fitting, self._classify([rows[at] for at in fitting]), strict=True))
        advance(len(asked))
        return [self._answer(request, len(rows[at]), scores.get(at)) for at, request in enumerate(asked)]

    def close(self) -> None:
        """End the engine's processes, which gives the memory back."""
        stop(self.llm)
        del self.llm

    def _classify(self, rows: list[list[int]]) -> list[float]:
        if not rows:
            return []
        with self.lock, alive(self.options.model):
            outputs = self.llm.classify(
                [{"prompt_token_ids": row} for row in rows],
                # The logit itself: the pooler's default would squash it.
                pooling_params=self.vllm.PoolingParams(use_activation=False),
                use_tqdm=False,
            )
        return [float(output.outputs.probs[0]) for output in outputs]

    def _tokens(self, request: Request) -> list[int]:
        messages = [
            {"role": role, "content": control_tokens.defused(text, self.control)} for role, text in request.messages
        ]
        return cast("list[int]", self.tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"])

    def _answer(self, request: Request, length: int, score: float | None) -> Answer:
        key = hashlib.sha256(repr((self.options.model, "classify", request)).encode()).hexdigest()
        call = Call(key, "answered", length if score is not None else 0, 0, 0)
        if score is None:
            return Answer(call, reason="too_long", error=f"{length} tokens exceed the context of {self.context}")
        return Answer(call, repr(score), "stop")
