"""Scores of single answers from comparisons of two, prompt by prompt (Bradley & Terry 1952). Pure.

    logit P(a preferred) = s_a - s_b

A verdict's probability p is a soft outcome: it counts p for a and 1 - p for b. The scores maximise

    sum over pairs [p log P + (1 - p) log(1 - P)] - ridge / 2 * sum of s^2

by Newton's method, many prompts with equally many answers at once. The penalty is a normal prior on each score: it
keeps the scores finite where an answer won or lost everything, and defined where answers are linked by no chain of
comparisons (their difference then says nothing, which the standard error shows). The scores of a prompt sum to zero.
Exchanging a and b and turning p over changes nothing. Where every two answers were compared, the order is that of the
mean win probability.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

LINEAR: Any = np.linalg
RIDGE = 0.1
"""Prior variance of a score: 10 square nats, so that a certain win over an equal stays a few nats."""
LARGEST_STEP = 2.0
ITERATIONS = 100
TOLERANCE = 1e-11
BATCH = 1 << 15
"""Cells of the win matrices that are worked on at once; they stay in the processor's cache."""


@dataclass(frozen=True)
class Scores:
    """Scores of answers, in the order of their numbers."""

    score: Array
    """(answers,) nats; zero on average over a prompt's answers."""
    se: Array
    """(answers,) standard error of the distance from the prompt's mean score, each verdict taken as one comparison."""
    n: Integers
    """(answers,) comparisons it was in."""


def scores(a: Integers, b: Integers, p: Array, prompt: Integers, ridge: float = RIDGE) -> Scores:
    """Scores of the answers of many prompts.

    Args:
        a: (pairs,) number of the first answer, in [0, answers).
        b: (pairs,) number of the second.
        p: (pairs,) P(a preferred), in [0, 1].
        prompt: (answers,) the prompt each answer belongs to; no pair spans two. Any integers.
        ridge: strength of the prior, 1 / (square nats).

    Raises:
        ValueError: the scores of some prompt did not settle.
    """
    answers = len(prompt)
    score, se = np.zeros(answers), np.full(answers, 1 / np.sqrt(ridge))
    n = np.bincount(a, minlength=answers) + np.bincount(b, minlength=answers)
    by_prompt = np.argsort(prompt, kind="stable")
    _, first, sizes = np.unique(prompt[by_prompt], return_index=True, return_counts=True)
    # Of each answer: its prompt's number, and its place among the prompt's answers.
    group, place = np.empty(answers, np.int64), np.empty(answers, np.int64)
    group[by_prompt] = np.repeat(np.arange(len(sizes)), sizes)
    place[by_prompt] = np.arange(answers) - np.repeat(first, sizes)
    for size in np.unique(sizes).tolist():
        alike = np.flatnonzero(sizes == size)
        # Where each prompt stands among those of this size.
        rank = np.full(len(sizes), -1)
        rank[alike] = np.arange(len(alike))
        of_pair = rank[group[a]]
        pairs = np.flatnonzero(of_pair >= 0)
        cell = (of_pair[pairs] * size + place[a[pairs]]) * size + place[b[pairs]]
        mirrored = (of_pair[pairs] * size + place[b[pairs]]) * size + place[a[pairs]]
        cells = len(alike) * size**2
        counts = np.bincount(cell, minlength=cells) + np.bincount(mirrored, minlength=cells)
        wins: Array = np.bincount(cell, p[pairs], cells) + np.bincount(mirrored, 1 - p[pairs], cells)  # type: ignore[assignment]
        shape = (len(alike), size, size)
        own = by_prompt[first[alike][:, None] + np.arange(size)]
        parts = np.array_split(np.arange(len(alike)), max(1, cells // BATCH))
        for part in parts:
            score[own[part]], se[own[part]] = _fit(wins.reshape(shape)[part], counts.reshape(shape)[part], ridge)
    return Scores(score, se, n)


def _fit(wins: Array, counts: Integers, ridge: float) -> tuple[Array, Array]:
    """(scores, standard errors), each (prompts, answers).

    Args:
        wins: (prompts, answers, answers) expected wins of the row over the column.
        counts: (prompts, answers, answers) comparisons of row and column; symmetric.
        ridge: of the penalty.

    Raises:
        ValueError: the iteration did not settle.
    """
    won, one = wins.sum(axis=2), np.eye(wins.shape[1])
    score: Array = np.zeros_like(won)
    for _ in range(ITERATIONS):
        chance = 1 / (1 + np.exp(score[:, None, :] - score[:, :, None]))
        weight = counts * chance * (1 - chance)
        hessian = (weight.sum(axis=2) + ridge)[:, :, None] * one - weight
        gradient: Array = won - (counts * chance).sum(axis=2) - ridge * score
        if np.abs(gradient).max(initial=0) < TOLERANCE:
            break
        step: Array = LINEAR.solve(hessian, gradient[:, :, None])[:, :, 0]
        score += np.minimum(np.maximum(step, -LARGEST_STEP), LARGEST_STEP)
    else:
        raise ValueError(f"Bradley-Terry scores did not settle in {ITERATIONS} steps; is every p in [0, 1]?")
    # The common level of a prompt's scores has variance 1 / (answers * ridge) by the prior alone; it is no one's error.
    variance = np.diagonal(LINEAR.inv(hessian), axis1=1, axis2=2) - 1 / (wins.shape[1] * ridge)
    return score, np.sqrt(np.maximum(variance, 0))
