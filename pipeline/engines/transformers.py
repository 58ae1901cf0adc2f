"""A causal language model in this process through transformers. Touches the model's folder and the CPU or GPU.

Meant for small models and machines without vLLM. A row's randomness comes from the row's own seed alone: the
sampler adds Gumbel noise to the scaled log-probabilities and takes the largest (Gumbel-max, Maddison et al.
2014), so what else is in the batch changes nothing, and one batch holds every temperature.
"""

import hashlib
import threading
from collections.abc import Sequence
from typing import Any, cast

from pipeline import control_tokens
from pipeline.config import ModelConfig
from pipeline.engines.base import Advance, Answer, Call, Request, Toolbox, spoken
from pipeline.engines.local_models import chat_tokens, end_tokens, for_inference, load_model

BATCH_TOKENS = 16_384
"""Prompt and answer tokens in one batch."""


class TransformersEngine:
    """Completes requests with ``AutoModelForCausalLM``; an adapter may lie on top."""

    def __init__(self, options: ModelConfig, toolbox: Toolbox) -> None:
        del toolbox
        arguments = dict(options.engine_args)
        adapter = cast("str | None", arguments.pop("adapter", None))
        model, self.tokenizer = load_model(options.model, adapter=adapter, **arguments)
        self.tokenizer.padding_side = "left"
        self.model: Any = for_inference(model)
        self.options, self.adapter = options, adapter
        self.control = control_tokens.of(self.tokenizer)
        self.context = int(self.model.config.max_position_embeddings)
        self.lock = threading.Lock()

    def complete(self, requests: Sequence[Request], advance: Advance) -> list[Answer]:
        """See Engine. A prompt that leaves no room for an answer is a failed answer."""
        prompts = [self._tokens(request) for request in requests]
        answers: list[Answer | None] = [None] * len(requests)
        fitting: list[int] = []
        for at, (request, prompt) in enumerate(zip(requests, prompts, strict=True)):
            if len(prompt) + request.max_tokens > self.context:
                answers[at] = self._too_long(request, len(prompt))
                advance(1)
            else:
                fitting.append(at)
        fitting.sort(key=lambda at: (len(prompts[at]), at))
        with self.lock:
            for batch in _batches(fitting, prompts, requests):
                chosen = [requests[at] for at in batch]
                made = (
                    self._score(chosen, [prompts[at] for at in batch])
                    if chosen[0].choices
                    else self._sample(chosen, [prompts[at] for at in batch])
                )
                for at, answer in zip(batch, made, strict=True):
                    answers[at] = answer
                advance(len(batch))
        return cast("list[Answer]", answers)

    def close(self) -> None:
        """Drop the model."""
        del self.model

    def _tokens(self, request: Request) -> list[int]:
        messages = [
            {"role": role, "content": control_tokens.defused(text, self.control)} for role, text in request.messages
        ]
        return chat_tokens(self.tokenizer, messages, add_generation_prompt=True)

    def _call(self, request: Request, prompt: int, completion: int) -> Call:
        identity = repr((self.options.model, self.adapter, request))
        return Call(hashlib.sha256(identity.encode()).hexdigest(), "answered", prompt, 0, completion)

    def _too_long(self, request: Request, prompt: int) -> Answer:
        needed = f"prompt of {prompt} tokens and {request.max_tokens} of answer"
        text = f"{needed} exceed the context of {self.context}"
        return Answer(self._call(request, prompt, 0), reason="too_long", error=text)

    def _score(self, requests: list[Request], prompts: list[list[int]]) -> list[Answer]:
        """One forward pass: log-probabilities of the first token, under every spelling of each choice."""
        import torch

        inputs = self.tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(self.model.device)
        with torch.inference_mode():
            logits = self.model(**inputs, logits_to_keep=1).logits[:, -1].float()
        logprobs = torch.log_softmax(logits, dim=-1)
        answers: list[Answer] = []
        for row, (request, prompt) in enumerate(zip(requests, prompts, strict=True)):
            spelled = {form: self._token(form) for choice in request.choices for form in (choice, f" {choice}")}
            found = {form: float(logprobs[row, token]) for form, token in spelled.items() if token is not None}
            best = max(found, key=lambda form: found[form]).strip()
            call = self._call(request, len(prompt), 1)
            answers.append(Answer(call, best, "stop", min(found.get(best, 0.0), 0.0), found))
        return answers

    def _token(self, form: str) -> int | None:
        tokens = cast("list[int]", self.tokenizer.encode(form, add_special_tokens=False))
        return tokens[0] if len(tokens) == 1 else None

    def _sample(self, requests: list[Request], prompts: list[list[int]]) -> list[Answer]:
        import torch
        from transformers import GenerationConfig, LogitsProcessorList

        inputs = self.tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(self.model.device)
        sampler = _GumbelSampler(requests, self.model.device)
        settings = GenerationConfig(
            do_sample=False,
            max_new_tokens=max(request.max_tokens for request in requests),
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=self.model.generation_config.eos_token_id,
        )
        with torch.inference_mode():
            made = self.model.generate(
                **inputs, generation_config=settings, logits_processor=cast("Any", LogitsProcessorList([sampler]))
            )
        logprobs = sampler.logprobs(made[:, -1:])
        new = made[:, inputs["input_ids"].shape[1] :].tolist()
        return [
            self._read(request, len(prompt), tokens[: request.max_tokens], logprobs[row])
            for row, (request, prompt, tokens) in enumerate(zip(requests, prompts, new, strict=True))
        ]

    def _read(self, request: Request, prompt: int, tokens: list[int], logprobs: Any) -> Answer:
        stops = end_tokens(self.model, self.tokenizer)
        length = next((at + 1 for at, token in enumerate(tokens) if token in stops), len(tokens))
        finished = length > 0 and tokens[length - 1] in stops
        text = cast("str", self.tokenizer.decode(tokens[:length], skip_special_tokens=True))
        call = self._call(request, prompt, length)
        total = min(float(logprobs[:length].sum()), 0.0)
        return spoken(call, text, "stop" if finished else "length", total)


class _GumbelSampler:
    """A logits processor after which the largest logit is a sample at the row's temperature and seed."""

    def __init__(self, requests: Sequence[Request], device: Any) -> None:
        import torch

        self.generators = [torch.Generator().manual_seed(request.seed) for request in requests]
        self.temperature = torch.tensor([[max(request.temperature, 1e-6)] for request in requests], device=device)
        self.random = torch.tensor([[float(request.temperature > 0)] for request in requests], device=device)
        self.top_p = torch.tensor([[request.top_p] for request in requests], device=device)
        self.truncated = any(request.top_p < 1 for request in requests)
        self.plain: Any = None
        self.steps: list[Any] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        import torch

        if self.plain is not None:
            self._note(input_ids[:, -1:])
        self.plain = torch.log_softmax(scores.float(), dim=-1)
        scaled = torch.log_softmax(self.plain / self.temperature, dim=-1)
        if self.truncated:
            scaled = self._nucleus(scaled)
        uniform = torch.stack([torch.rand(scaled.shape[-1], generator=own) for own in self.generators])
        noise = -torch.log(-torch.log(uniform.clamp_(1e-12, 1 - 1e-7)))
        return scaled + noise.to(scaled.device) * self.random

    def logprobs(self, last: Any) -> Any:
        """(rows, steps) log-probability of every sampled token under the model at temperature 1, nats."""
        import torch

        self._note(last)
        return torch.cat(self.steps, dim=-1).cpu()

    def _note(self, tokens: Any) -> None:
        self.steps.append(self.plain.gather(-1, tokens))

    def _nucleus(self, logprobs: Any) -> Any:
        import torch

        ordered, order = torch.sort(logprobs, descending=True)
        probabilities = ordered.exp()
        outside = probabilities.cumsum(-1) - probabilities >= self.top_p
        return logprobs.masked_fill(outside.scatter(-1, order, outside), float("-inf"))


def _batches(order: list[int], prompts: list[list[int]], requests: Sequence[Request]) -> list[list[int]]:
    """Cut *order* into batches of at most BATCH_TOKENS, never mixing scoring with sampling."""
    batches: list[list[int]] = []
    for scoring in (False, True):
        batch: list[int] = []
        for at in (at for at in order if bool(requests[at].choices) is scoring):
            widest = len(prompts[at]) + (0 if scoring else requests[at].max_tokens)
            if batch and (len(batch) + 1) * widest > BATCH_TOKENS:
                batches.append(batch)
                batch = []
            batch.append(at)
        if batch:
            batches.append(batch)
    return batches
