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

import numpy as np

from pipeline.arrays import Array, Integers, in_blocks

RIDGE = 0.1
"""Prior variance of a score: 10 square nats, so that a certain win over an equal stays a few nats."""
LARGEST_STEP = 2.0
ITERATIONS = 100
TOLERANCE = 1e-11
CELLS = 1 << 17
"""Cells of the win matrices that a thread works on at once."""


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
        prompt: (answers,) number of the prompt each answer belongs to, at least 0; no pair spans two.
        ridge: strength of the prior, 1 / (square nats).

    Raises:
        ValueError: the scores of some prompt did not settle.
    """
    answers = len(prompt)
    score, se = np.zeros(answers), np.full(answers, 1 / np.sqrt(ridge))
    n = np.bincount(a, minlength=answers) + np.bincount(b, minlength=answers)
    by_prompt, sizes = np.argsort(prompt, kind="stable"), np.bincount(prompt)
    first = np.cumsum(sizes) - sizes
    # Each answer's place among those of its prompt.
    place = np.empty(answers, np.int64)
    place[by_prompt] = np.arange(answers) - np.repeat(first, sizes)
    for size in np.unique(sizes[sizes > 0]).tolist():
        alike = np.flatnonzero(sizes == size)
        # Where each prompt stands among those of this size.
        rank = np.full(len(sizes), -1)
        rank[alike] = np.arange(len(alike))
        if len(alike) == len(sizes):
            one, other, outcome = a, b, p
        else:
            pairs = np.flatnonzero(rank[prompt[a]] >= 0)
            one, other, outcome = a[pairs], b[pairs], p[pairs]
        cell = (place[one] * size + place[other]) * len(alike) + rank[prompt[one]]
        shape = (size, size, len(alike))
        counts = np.bincount(cell, minlength=size**2 * len(alike)).reshape(shape)
        wins: Array = np.bincount(cell, outcome, size**2 * len(alike)).reshape(shape)  # type: ignore[assignment]
        own = by_prompt[first[alike] + np.arange(size)[:, None]]

        def fitted(part: slice, wins: Array = wins, counts: Integers = counts, own: Integers = own) -> None:
            of_a, met = wins[:, :, part], counts[:, :, part]
            of_b = (met - of_a).swapaxes(0, 1)
            both = (met + met.swapaxes(0, 1)).astype(np.float64)
            score[own[:, part]], se[own[:, part]] = _fit(of_a + of_b, both, ridge)

        in_blocks(len(alike), fitted, max(1, CELLS // size**2))
    return Scores(score, se, n)


def _fit(wins: Array, counts: Array, ridge: float) -> tuple[Array, Array]:
    """(scores, standard errors), each (answers, prompts).

    Args:
        wins: (answers, answers, prompts) expected wins of the first over the second.
        counts: (answers, answers, prompts) comparisons of the two; symmetric.
        ridge: of the penalty.

    Raises:
        ValueError: the iteration did not settle.
    """
    won, one = wins.sum(axis=1), np.eye(len(wins))[:, :, None]
    score: Array = np.zeros_like(won)
    for _ in range(ITERATIONS):
        chance = np.exp(score[None] - score[:, None])
        chance += 1
        np.divide(1, chance, out=chance)
        expected = counts * chance
        weight = expected * (1 - chance)
        hessian = (weight.sum(axis=1) + ridge)[:, None] * one - weight
        gradient: Array = won - expected.sum(axis=1) - ridge * score
        if np.abs(gradient).max(initial=0) < TOLERANCE:
            break
        step = _solved(hessian, gradient[:, None])[:, 0]
        score += np.minimum(np.maximum(step, -LARGEST_STEP), LARGEST_STEP)
    else:
        raise ValueError(f"Bradley-Terry scores did not settle in {ITERATIONS} steps; is every p in [0, 1]?")
    # The common level of a prompt's scores has variance 1 / (answers * ridge) by the prior alone; it is no one's error.
    covariance = _solved(hessian, np.broadcast_to(one, hessian.shape))
    variance = np.diagonal(covariance).T - 1 / (len(wins) * ridge)
    return score, np.sqrt(np.maximum(variance, 0))


def _solved(matrix: Array, right: Array) -> Array:
    """(n, m, prompts) x with *matrix* x = *right*, by elimination, a step at a time for all prompts.

    Args:
        matrix: (n, n, prompts) symmetric and positive definite, so that no pivot is zero and none need be sought.
        right: (n, m, prompts)
    """
    size = len(matrix)
    rows = np.concatenate([matrix, right], axis=1)
    for at in range(size):
        pivot = rows[at, at:] / rows[at, at]
        rows[:, at:] -= rows[:, at, None] * pivot
        rows[at, at:] = pivot
    return rows[:, size:]
