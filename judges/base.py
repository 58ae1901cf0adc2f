"""The one protocol every judge speaks. Pure: types only.

A judge kind is one file in this folder that defines ``<Kind>Judge`` with a class attribute ``Options`` (its
config model) and the methods of :class:`Judge`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.comparison import Comparison, Order
from pipeline.config import JudgeConfig
from pipeline.engines.base import ASKED_AGAIN, Call, Request, Toolbox

UNREADABLE = "unreadable"
"""Reason of a reply that is not in the documented shape."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A comparison from the `fit` split with the people's mean preference for a, in [0, 1]."""

    comparison: Comparison
    preference: float


@dataclass(frozen=True, slots=True)
class Judgment:
    """One opinion in one order; ``preference`` is P(a preferred), un-swapped, or None with an ``error``."""

    pair_id: str
    order: Order
    preference: float | None
    rationale: str | None = None
    error: str | None = None
    call_keys: tuple[str, ...] = ()
    reason: str | None = None
    """Of a failed one by a model: that of its answer (``pipeline.calls.finality.Reason``), or ``unreadable``."""

    @property
    def unanswered(self) -> bool:
        """Nothing final came: the next run asks again."""
        return self.reason in ASKED_AGAIN

    @property
    def fault(self) -> str | None:
        """Why it failed, the reason before the words, as frames keep it."""
        return self.error if self.reason in (None, UNREADABLE) else f"{self.reason}: {self.error}"

    def __post_init__(self) -> None:
        if (self.preference is None) == (self.error is None):
            raise ValueError("a judgment has a preference or an error, never both and never neither")


@dataclass(frozen=True, slots=True)
class Rating:
    """The score of one answer; higher is better."""

    sample_id: str
    score: float
    aspect: str = "overall"
    call_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Opinions:
    """What a judge returns: judgments for every comparison, and what they rest on."""

    judgments: list[Judgment]
    ratings: list[Rating] = field(default_factory=list[Rating])
    calls: list[Call] = field(default_factory=list[Call])


class Judge(Protocol):
    """Compares answers."""

    def __init__(self, options: Any, toolbox: Toolbox) -> None:
        """*options* is an instance of the kind's ``Options``; *toolbox* opens models and knows the run."""
        ...

    def fit(self, labelled: Sequence[Labelled]) -> None:
        """Learn from the `fit` labels, if the judge learns; called once per stage run, before `judge`."""
        ...

    def requests(self, comparisons: Sequence[Comparison]) -> Iterable[Request]:
        """Every call that `judge` would make of these comparisons, at its first attempt; none if it makes none.

        For planning: nothing is sent, and `fit` need not have been called.
        """
        ...

    def judge(self, comparisons: Sequence[Comparison]) -> Opinions:
        """An opinion on every comparison; a failed call is a judgment with an ``error``, never raised.

        Raises:
            JobError: nothing can be judged at all (endpoint gone, key refused, budget spent).
        """
        ...


__all__ = ["Comparison", "Judge", "JudgeConfig", "Judgment", "Labelled", "Opinions", "Order", "Rating"]
