"""Pairs read as one row in which each prompt stands once: no padding, no prompt twice. Touches the model's attention.

Chosen and rejected answer begin with the same tokens, and a token's hidden state depends on those before it alone. So a
batch is laid out as one row, of each pair first what both share, then how each goes on, with the positions that the
tokens have in their own answers; attention lets each answer see its beginning and itself (prefix sharing: Wang, Hegde
2024, arXiv:2410.20305). The head is applied where there is a label. TRL's loop, losses and metrics stay: what it gets
back has the shape it asked for. Importing this imports torch and transformers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import transformers
from transformers import masking_utils
from transformers.integrations import sdpa_attention

from training.rows import IGNORED

_attention: Any = sdpa_attention
_masks: Any = masking_utils
SDPA: Any = _attention.sdpa_attention_forward
NAME = "jurybox_shared_prefix"
LAYOUT = "shared_layout"
"""Keyword by which the layout reaches the attention."""
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.3, torch.float16: 0.1}
"""Largest difference of a token's log-probability from TRL's own that rounding explains, nats."""
PER_TOKEN = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
"""What TRL's fused head returns for every label."""


@dataclass(frozen=True, slots=True)
class Span:
    """One pair in the row."""

    start: int
    """Place of its first token."""
    shared: int
    """Tokens that both answers begin with."""
    chosen: int
    """Tokens that only the chosen one has, after those."""
    rejected: int
    """Tokens that only the rejected one has, after these."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A batch of pairs as one row."""

    spans: tuple[Span, ...]
    tokens: torch.Tensor
    """(1, length) token ids."""
    positions: torch.Tensor
    """(1, length) each token's position in its own answer."""
    read: torch.Tensor
    """(labels,) place of the token whose hidden state predicts a label."""
    labels: torch.Tensor
    """(1, labels) token ids."""
    mask: torch.Tensor
    """(2 pairs, width - 1) where the batch has labels."""


def layout(input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> Layout:
    """Lay a batch out.

    Args:
        input_ids: (2 pairs, width), the chosen answers first, padded on the right.
        attention_mask: the same shape, 1 where there is a token.
        labels: the same shape, -100 where nothing is predicted.
    """
    pairs = len(input_ids) // 2
    lengths = attention_mask.sum(dim=1)
    chosen, rejected = lengths[:pairs], lengths[pairs:]
    same = (input_ids[:pairs] == input_ids[pairs:]) & attention_mask[:pairs].bool() & attention_mask[pairs:].bool()
    shared = same.long().cumprod(dim=1).sum(dim=1)
    sizes = chosen + rejected - shared
    starts = sizes.cumsum(dim=0) - sizes
    at = torch.arange(input_ids.shape[1], device=input_ids.device)
    first = starts[:, None] + at
    # After the shared tokens come the chosen answer's own, then the rejected one's.
    second = torch.where(at < shared[:, None], first, first + (chosen - shared)[:, None])
    places = torch.cat([first, second])
    present = attention_mask.bool()
    length = int(sizes.sum())
    tokens, positions = (torch.zeros(length, dtype=torch.long, device=input_ids.device) for _ in range(2))
    tokens[places[present]] = input_ids[present]
    positions[places[present]] = at.expand_as(places)[present]
    mask = labels[:, 1:] != IGNORED
    numbers: Any = torch.stack([starts, shared, chosen - shared, rejected - shared], dim=1)
    spans = tuple(Span(*row) for row in cast("list[list[int]]", numbers.tolist()))
    return Layout(spans, tokens[None], positions[None], places[:, :-1][mask], labels[:, 1:][mask][None], mask)


def attention(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any) -> tuple[Any, None]:
    """Causal attention in which the answers of a pair do not see each other; without a layout, plain SDPA."""
    found = cast("Layout | None", kwargs.pop(LAYOUT, None))
    if found is None:
        return SDPA(module, query, key, value, attention_mask, **kwargs)

    def causal(*parts: slice) -> Any:
        seen = [torch.cat([each[:, :, part] for part in parts], dim=2) for each in (query, key, value)]
        return SDPA(module, *seen, None, **{**kwargs, "is_causal": True})[0]

    pieces: list[Any] = []
    for span in found.spans:
        own = span.start + span.shared
        end = own + span.chosen
        pieces.append(causal(slice(span.start, end)))
        if span.rejected:
            pieces.append(causal(slice(span.start, own), slice(end, end + span.rejected))[:, span.shared :])
    return torch.cat(pieces, dim=1), None


class SharedPrefix:
    """The way from a model to one that reads pairs as one row."""

    def __init__(self, model: Any) -> None:
        """*model*: as TRL has it, with its fused head, under an adapter or not."""
        self.inner: Any = model.get_base_model() if hasattr(model, "peft_config") else model
        library: Any = transformers
        library.AttentionInterface.register(NAME, attention)
        library.AttentionMaskInterface.register(NAME, _masks.sdpa_mask)
        self.before: Any = None

    def unfit(self) -> str | None:
        """Why the model cannot read pairs so; None where nothing speaks against it."""
        config = self.inner.config.get_text_config()
        if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
            return "its attention slides over a window"
        if any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
            return "it is a mixture of experts"
        if self.inner.config._attn_implementation != "sdpa":
            return f"its attention is {self.inner.config._attn_implementation}, not sdpa"
        return None

    def install(self) -> None:
        """Take over the model's attention; what is not laid out stays plain SDPA."""
        self.before = self.inner.config._attn_implementation
        self.inner.set_attn_implementation(NAME)
        self.hook = self.inner.base_model.register_forward_hook(_labelled_only, with_kwargs=True)

    def remove(self) -> None:
        """Give the model its own attention back."""
        self.hook.remove()
        self.inner.set_attn_implementation(self.before)

    def reading(self, model: Any) -> Callable[..., Any]:
        """*model* (which may be wrapped for several processes), called and answering as TRL does."""

        def called(*, input_ids: Any, attention_mask: Any, labels: Any, use_cache: Any = None, **rest: Any) -> Any:
            del use_cache
            row = layout(input_ids, attention_mask, labels)
            answer = model(
                input_ids=row.tokens,
                position_ids=row.positions,
                attention_mask=None,
                shift_labels=row.labels,
                use_cache=False,
                **{LAYOUT: row},
                **rest,
            )
            for name in PER_TOKEN:
                told = getattr(answer, name)
                if told is not None:
                    answer[name] = told.new_zeros(row.mask.shape).masked_scatter(row.mask, told[0])
            answer["label_mask"] = row.mask
            return answer

        return called


def _labelled_only(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    """Keep the hidden states that predict a label, so that the head is applied to them alone."""
    del module, args
    found = cast("Layout | None", kwargs.get(LAYOUT))
    if found is not None:
        output["last_hidden_state"] = output.last_hidden_state[:, found.read]
    return output


def difference(one: Any, other: Any) -> float:
    """Largest absolute difference of two answers' log-probabilities, nats."""
    return float((one.log_probs.float() - other.log_probs.float()).detach().abs().max())
