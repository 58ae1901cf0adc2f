"""Whether the trained model is better: duels of answers, who decides them, the win rate. Pure.

The prompt is the unit of every interval: one outcome a prompt, whatever the number of annotators behind it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline import ids
from pipeline.comparison import Comparison, People
from pipeline.statistics.intervals import wilson
from pipeline.transcript import transcript

INTERVAL = "Wilson score with the effective sample size, 95 %, prompts as units"
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
    return WinRate(p, *wilson(p, n / effect))


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


def duel_rows(
    duels: Sequence[Duel], shares: Sequence[float] | None, panel: Sequence[float | None]
) -> list[dict[str, Any]]:
    """Rows of the frame ``duels``.

    Args:
        duels: what was answered.
        shares: the trained model's share of the people in each; None where nobody decided.
        panel: the panel's preference for the trained answer in each, None where it has none.
    """
    return [
        {
            "prompt_id": duel.prompt_id,
            "question": transcript(duel.messages),
            "baseline": duel.baseline,
            "trained": duel.trained,
            "people": None if shares is None else shares[at],
            "panel": panel[at],
        }
        for at, duel in enumerate(duels)
    ]


def mean(values: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return math.fsum(values) / len(values) if values else None
