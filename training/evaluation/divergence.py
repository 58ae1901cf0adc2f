"""How far the trained model has moved from the untrained one, in nats. Loads both."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

from pipeline.engines.local_models import chat_tokens, for_inference, load_model, with_adapter

KL_ESTIMATOR = (
    "KL(trained || untrained), nats per answer: one answer a prompt sampled from the trained model at temperature 1, "
    "and at each of its positions the exact divergence of the two next-token distributions, summed "
    "(Rao-Blackwellized Monte Carlo, Amini et al. 2025, arXiv:2504.10637)"
)
LOGITS = 2**27
"""Numbers in one batch of logits: 512 MB as float32."""
BATCH_TOKENS = 16_384
Turns = tuple[tuple[str, str], ...]


def divergence(model: str, trained: Path, answers: Sequence[tuple[Turns, str, bool]]) -> list[float]:
    """How far the trained model has moved on each prompt: :data:`KL_ESTIMATOR`.

    Args:
        model: the untrained model, a folder or a Hub name.
        trained: folder of the trained adapter, or of the whole trained model.
        answers: (messages, an answer of the trained model at temperature 1, whether it ended by itself). The answer
            is tokenized again, which can differ from how it was sampled where two tokenizations spell the same words.

    Returns:
        Nats, at least 0, in the order of *answers*.
    """
    import torch

    base, tokenizer = load_model(model)
    if (trained / "adapter_config.json").is_file():
        tuned = for_inference(with_adapter(base, str(trained)))
        reference, switched_off = tuned, tuned.disable_adapter
    else:
        tuned, reference, switched_off = for_inference(load_model(str(trained))[0]), for_inference(base), nullcontext
    rows = [_positions(tokenizer, *answer) for answer in answers]
    found = [0.0] * len(rows)
    order = sorted(range(len(rows)), key=lambda at: (len(rows[at][0]), at))
    limit = min(BATCH_TOKENS, max(1, LOGITS // int(base.config.vocab_size)))
    for batch in _batches(order, [len(tokens) for tokens, _ in rows], limit):
        width = max(len(rows[at][0]) for at in batch)
        tokens = torch.zeros((len(batch), width), dtype=torch.long)
        present, counted = torch.zeros_like(tokens), torch.zeros_like(tokens)
        for row, at in enumerate(batch):
            words, start = rows[at]
            tokens[row, : len(words)] = torch.tensor(words)
            present[row, : len(words)] = 1
            counted[row, start : len(words)] = 1
        inputs = {"input_ids": tokens.to(tuned.device), "attention_mask": present.to(tuned.device)}
        with torch.inference_mode():
            ours = torch.log_softmax(tuned(**inputs).logits.float(), dim=-1)
            with switched_off():
                theirs = torch.log_softmax(reference(**inputs).logits.float(), dim=-1)
            each: Any = (ours.exp() * (ours - theirs)).sum(-1) * counted.to(tuned.device)
            totals = cast("list[float]", each.double().sum(-1).tolist())
        for at, total in zip(batch, totals, strict=True):
            found[at] = max(total, 0.0)
    return found


def _positions(tokenizer: Any, messages: Turns, text: str, ended: bool) -> tuple[list[int], int]:
    """(tokens to read, index of the first position that predicts a token of the answer)."""
    turns = [{"role": role, "content": content} for role, content in messages]
    prompt = chat_tokens(tokenizer, turns, add_generation_prompt=True)
    answer = tokenizer.encode(text, add_special_tokens=False)
    # The last position read predicts the end token, if there was one; a cut answer has no such position.
    tokens = [*prompt, *answer] if ended else [*prompt, *answer[:-1]]
    return tokens, len(prompt) - 1


def _batches(order: Sequence[int], lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Cut *order*, shortest first, into batches of at most *limit* padded tokens, one row at least."""
    batches: list[list[int]] = []
    for at in order:
        if batches and (len(batches[-1]) + 1) * lengths[at] <= limit:
            batches[-1].append(at)
        else:
            batches.append([at])
    return batches
