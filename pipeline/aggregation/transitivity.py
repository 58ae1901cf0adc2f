"""What the other pairs of a prompt say of this one: if a beats b and b beats c, a beats c. Pure.

Each answer of a prompt gets a score, by least squares on the votes of the prompt's pairs with a ridge:
    s = argmin sum over pairs (s_a - s_b - v_ab)^2 + r |s|^2,   i.e.  (A'A + r I) s = A'v,
where A has +1 for a and -1 for b in a pair's row (Jiang et al. 2011, HodgeRank, with a ridge). The smoothed vote of a
pair is s_a - s_b. A pair that is alone with its prompt keeps its own vote, times 2 / (2 + r).
"""

from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
import scipy.sparse.linalg

from pipeline.arrays import Array, Integers

RIDGE = 3.0
PRECISION = 1e-13
SPARSE: Any = scipy.sparse
LINEAR: Any = scipy.sparse.linalg
GRAPH: Any = scipy.sparse.csgraph


def incidence(answers: Integers) -> Any:
    """The sparse (pairs, answers) matrix A: +1 for a, -1 for b.

    Args:
        answers: (pairs, 2) number of each pair's answers a and b.
    """
    pairs = len(answers)
    signs = np.tile([1.0, -1.0], pairs)
    starts = np.arange(0, 2 * pairs + 1, 2)
    width = int(answers.max()) + 1 if pairs else 0
    return SPARSE.csr_matrix((signs, answers.ravel(), starts), shape=(pairs, width))


def smoothed(vote: Array, answers: Integers) -> Array:
    """(pairs,) s_a - s_b of every pair.

    Args:
        vote: (pairs,) votes without gaps.
        answers: (pairs, 2) number of each pair's answers a and b; answers of different prompts have different numbers.
    """
    if not len(vote):
        return vote
    a, b = np.ascontiguousarray(answers.T)
    width = int(answers.max()) + 1

    def differences(scores: Array) -> Array:
        """A s."""
        return scores[a] - scores[b]

    def sums(pairs: Array) -> Array:
        """A'v."""
        return np.bincount(a, pairs, width) - np.bincount(b, pairs, width)  # type: ignore[return-value]

    def normal(scores: Array) -> Array:
        """(A'A + r I) s; the product A'A is never formed, which would take longer than to solve with it."""
        return sums(differences(scores)) + RIDGE * scores

    system = LINEAR.LinearOperator((width, width), matvec=normal, dtype=np.float64)
    scores, failed = LINEAR.cg(system, sums(vote), rtol=PRECISION, atol=0.0, maxiter=10_000)
    if failed:
        raise ArithmeticError(f"the scores of {width} answers did not converge; are votes finite?")
    return differences(scores)


def leverage(answers: Integers) -> Any:
    """The sparse (pairs, pairs) matrix H with smoothed(v) = H v; entries link pairs of one prompt only."""
    design = incidence(answers)
    normal = (design.T @ design + RIDGE * SPARSE.identity(design.shape[1], format="csr")).tocsc()
    _, block = GRAPH.connected_components(normal, directed=False)
    order = np.argsort(block, kind="stable")
    bounds = np.flatnonzero(np.diff(block[order])) + 1
    inverse: list[Array] = [np.linalg.inv(normal[part][:, part].toarray()) for part in np.split(order, bounds)]
    blocks = SPARSE.block_diag(inverse, format="csr")
    back = np.argsort(order, kind="stable")
    return (design @ blocks[back][:, back] @ design.T).tocsr()
