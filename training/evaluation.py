"""Whether the trained model is better: win rate, who decides it, distance. Only `divergence` loads a model.

The prompt is the unit of every interval: one outcome a prompt, whatever the number of annotators behind it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pipeline import ids
from pipeline.comparison import Comparison, People

Z = 1.959963984540054
"""97.5 % quantile of the normal distribution: intervals are 95 %."""
INTERVAL = "Wilson score with the effective sample size, 95 %, prompts as units"
KL_ESTIMATOR = (
    "KL(trained || untrained), nats per answer: one answer a prompt sampled from the trained model at temperature 1, "
    "and at each of its positions the exact divergence of the two next-token distributions, summed "
    "(Rao-Blackwellized Monte Carlo, Amini et al. 2025, arXiv:2504.10637)"
)
LOGITS = 2**27
"""Numbers in one batch of logits: 512 MB as float32."""
BATCH_TOKENS = 16_384
Turns = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Duel:
    """The two models' answers to one held-out prompt."""

    prompt_id: str
    messages: Turns
    reference: str | None
    baseline: str
    """The untrained model's answer."""
    trained: str

    @property
    def tie(self) -> bool:
        """The answers are the same words."""
        return self.baseline == self.trained

    def comparison(self, seed: int) -> tuple[Comparison, bool]:
        """The duel as judges and people see it, and whether the trained answer is a: a seeded coin a prompt."""
        is_a = ids.uniform_from(seed, "duel", self.prompt_id) < 1 / 2
        a, b = (self.trained, self.baseline) if is_a else (self.baseline, self.trained)
        # A comparison's sample ids are in order by contract, so they name the sides a and b, not the models.
        first, second = sorted(ids.content_hash("duel", self.prompt_id, side) for side in (0, 1))
        pair = ids.pair_id(first, second)
        return Comparison(pair, self.prompt_id, self.messages, self.reference, first, second, a, b), is_a


@dataclass(frozen=True, slots=True)
class WinRate:
    """A mean outcome with its 95 % interval."""

    rate: float
    low: float
    high: float


def win_rate(wins: Sequence[float]) -> WinRate:
    """Mean outcome over prompts with a 95 % interval.

    Outcomes lie anywhere in [0, 1]: a tie is 1/2 and several annotators are averaged, so they vary less than a coin
    of the same mean. The interval is Wilson's (1927) with n replaced by the effective sample size
    n * p(1 - p) / s2, s2 the variance of the outcomes (Korn & Graubard 1998 on proportions with a design effect): for
    outcomes of 0 and 1 it is Wilson's own, it stays inside [0, 1], and it has a width even when every prompt is won,
    where a bootstrap or a t interval has none. No outcome weighs more than n^2 coins, so all ties are no certainty.

    Args:
        wins: per prompt, the trained model's share in [0, 1].

    Raises:
        ValueError: there is no outcome, or one is outside [0, 1].
    """
    if not wins or not all(0 <= win <= 1 for win in wins):
        raise ValueError(f"win_rate needs at least one outcome, all in [0, 1]; got {list(wins)[:5]}")
    n = len(wins)
    p = math.fsum(wins) / n
    spread, coin = math.fsum((win - p) ** 2 for win in wins) / n, p * (1 - p)
    effect = max(spread / coin, 1 / n) if coin > 0 else 1.0
    size = n / effect
    centre = (p + Z * Z / (2 * size)) / (1 + Z * Z / size)
    half = Z / (1 + Z * Z / size) * math.sqrt(coin / size + Z * Z / (4 * size * size))
    return WinRate(p, max(0.0, centre - half), min(1.0, centre + half))


def decide(people: People, duel: Duel, seed: int) -> float:
    """The trained answer's share of the people: win 1, tie 1/2, loss 0, mean over annotators.

    Args:
        people: who decides.
        duel: what they are shown, in an order drawn per prompt.
        seed: the run's seed.
    """
    if duel.tie:
        return 1 / 2
    shown, is_a = duel.comparison(seed)
    won = {"a": 1.0, "b": 0.0, "tie": 0.5} if is_a else {"a": 0.0, "b": 1.0, "tie": 0.5}
    outcomes = [
        won[
            people.label(
                annotator=name,
                messages=shown.messages,
                reference=shown.reference,
                answer_a=shown.completion_a,
                answer_b=shown.completion_b,
                seed=ids.seed_from(seed, "evaluate-label", duel.prompt_id, name),
            )
        ]
        for name in people.names
    ]
    return math.fsum(outcomes) / len(outcomes)


def weighted(preferences: dict[str, float], weights: dict[str, float]) -> float | None:
    """Mean of *preferences* by *weights* of the same judges, negative ones as 0; None when no weight is left."""
    used = {judge: max(weights.get(judge, 0.0), 0.0) for judge in preferences}
    total = math.fsum(used.values())
    if total <= 0:
        return None
    mean = math.fsum(used[judge] * preference for judge, preference in preferences.items()) / total
    return min(1.0, max(0.0, mean))


def divergence(model: str, adapter: Path, answers: Sequence[tuple[Turns, str, bool]]) -> list[float]:
    """How far the trained model has moved on each prompt: :data:`KL_ESTIMATOR`.

    Args:
        model: the untrained model, a folder or a Hub name.
        adapter: folder of the trained adapter.
        answers: (messages, an answer of the trained model at temperature 1, whether it ended by itself). The answer
            is tokenized again, which can differ from how it was sampled where two tokenizations spell the same words.

    Returns:
        Nats, at least 0, in the order of *answers*.
    """
    import peft
    import torch

    from training.methods.dpo import load_model

    library: Any = peft

    device = "cuda" if torch.cuda.is_available() else "cpu"
    base, tokenizer = load_model(model, "bfloat16" if device == "cuda" else "float32")
    tuned: Any = library.PeftModel.from_pretrained(base, str(adapter)).to(device).eval()
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
        inputs = {"input_ids": tokens.to(device), "attention_mask": present.to(device)}
        with torch.inference_mode():
            ours = torch.log_softmax(tuned(**inputs).logits.float(), dim=-1)
            with tuned.disable_adapter():
                theirs = torch.log_softmax(tuned(**inputs).logits.float(), dim=-1)
            each: Any = (ours.exp() * (ours - theirs)).sum(-1) * counted.to(device)
            totals = cast("list[float]", each.double().sum(-1).tolist())
        for at, total in zip(batch, totals, strict=True):
            found[at] = max(total, 0.0)
    return found


def _positions(tokenizer: Any, messages: Turns, text: str, ended: bool) -> tuple[list[int], int]:
    """(tokens to read, index of the first position that predicts a token of the answer)."""
    turns = [{"role": role, "content": content} for role, content in messages]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
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
