"""Pins down the coefficients of agreement on the examples of their own papers and on real people's labels."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from pipeline.statistics.kappa import item_sums, of_many, of_two
from tests.recorded_endpoint import shared

SIDES = ("a", "tie", "b")


def cohen_kappa(table: np.ndarray) -> float:
    """Of (q, q) counts of what the first and the second said."""
    return float(of_two(table)["cohen_kappa"])


def fleiss_kappa(counts: np.ndarray) -> float:
    """Of (items, q) counts of raters."""
    return float(of_many(item_sums(counts).sum(axis=0))["fleiss_kappa"])


def krippendorff_alpha(counts: np.ndarray) -> float:
    return float(of_many(item_sums(counts).sum(axis=0))["krippendorff_alpha"])


def gwet_ac1(counts: np.ndarray) -> float:
    return float(of_many(item_sums(counts).sum(axis=0))["gwet_ac1"])


def counted(raters: Sequence[Sequence[int | None]], q: int) -> np.ndarray:
    """(items, q) counts of raters' categories 1..q, None where a rater said nothing."""
    made = np.zeros((len(raters[0]), q))
    for said in raters:
        for item, category in enumerate(said):
            if category is not None:
                made[item, category - 1] += 1
    return made


def crossed(first: Sequence[str], second: Sequence[str]) -> np.ndarray:
    seen = Counter(zip(first, second, strict=True))
    return np.array([[seen[one, other] for other in SIDES] for one in SIDES], dtype=float)


def test_krippendorff_2011() -> None:
    # Computing Krippendorff's Alpha-Reliability, example C: four observers, twelve units, missing data; alpha = .743.
    x = None
    four = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, x, x, x],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, x, 3],
        [x, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, x],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, x],
    ]
    assert round(krippendorff_alpha(counted(four, 5)), 3) == 0.743
    # example A: two observers, binary, ten units; alpha = .095
    two = [[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]
    assert round(krippendorff_alpha(counted([[v + 1 for v in said] for said in two], 2)), 3) == 0.095
    # example B: nominal, twelve units; alpha = .692
    one, other = "aabbdcccedda", "babbbccceddd"
    letters = [["abcde".index(letter) + 1 for letter in said] for said in (one, other)]
    assert round(krippendorff_alpha(counted(letters, 5)), 3) == 0.692


FLEISS_1971 = (
    "444444 222555 233335 555555 222444 113333 333355 113334 114444 555555 144444 124444 222333 144444 224445 333335 "
    "111455 111112 224444 133555 555555 244444 224555 114444 144445 222224 111155 224444 133333 555555"
)
"""Thirty patients, each diagnosed by six psychiatrists: depression, personality disorder, schizophrenia, neurosis,
other."""


def test_fleiss_1971() -> None:
    patients = [[int(digit) for digit in row] for row in FLEISS_1971.split()]
    counts = counted(list(zip(*patients, strict=True)), 5)
    # The paper's column totals are 26, 26, 30, 55, 43, its kappa .430; the R package irr prints 0.4302445.
    assert counts.sum(axis=0).tolist() == [26, 26, 30, 55, 43]
    assert fleiss_kappa(counts) == pytest.approx(0.4302445, abs=5e-8)


def test_gwet_2008() -> None:
    # Two raters, 125 subjects: both say + 118 times, only the first 5, only the second 2. p = 118 / 125 = .944;
    # pi = (123 + 120) / 250 = .972, expected .972 * .028 * 2 = .054432: AC1 = .889568 / .945568 = .9408, while
    # kappa's expected is .984 * .96 + .016 * .04 = .94528 and kappa = -.00128 / .05472 = -.0234.
    counts = np.array([[2, 0]] * 118 + [[1, 1]] * 7, dtype=float)
    assert gwet_ac1(counts) == pytest.approx(0.889568 / 0.945568, abs=1e-12)
    assert cohen_kappa(np.array([[118.0, 5], [2, 0]])) == pytest.approx(-0.00128 / 0.05472, abs=1e-12)


def test_cohen_in_a_published_table() -> None:
    # SAS's example of the simple kappa coefficient: .4842
    assert round(cohen_kappa(np.array([[0.0, 4, 1], [0, 8, 0], [0, 1, 5]])), 4) == 0.4842


def test_what_chance_alone_explains_is_undefined() -> None:
    alike = np.array([[2.0, 0, 0]] * 5)
    assert math.isnan(cohen_kappa(np.diag([5.0, 0, 0])))
    assert math.isnan(fleiss_kappa(alike))
    assert math.isnan(krippendorff_alpha(alike))
    assert gwet_ac1(alike) == 1.0
    nothing = np.zeros((3, 3))
    for coefficient in (cohen_kappa, fleiss_kappa, krippendorff_alpha, gwet_ac1):
        assert math.isnan(coefficient(nothing))


def by_pair(name: str) -> dict[str, dict[str, str]]:
    made: dict[str, dict[str, str]] = defaultdict(dict)
    for line in (shared(name) / "human.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        made[row["pair_id"]][row["annotator"]] = row["label"]
    return made


def textbook_kappa(pairs: Sequence[tuple[str, str]]) -> float:
    """Cohen (1960), counted one by one."""
    n = len(pairs)
    observed = sum(one == other for one, other in pairs) / n
    expected = sum(
        sum(one == side for one, _ in pairs) / n * (sum(other == side for _, other in pairs) / n) for side in SIDES
    )
    return (observed - expected) / (1 - expected)


def test_pandalm_people() -> None:
    told = by_pair("pandalm")
    assert len(told) == 522
    published = {("1", "2"): 0.886, ("1", "3"): 0.901, ("2", "3"): 0.896}
    for (one, other), rounded in published.items():
        pairs = [(said[f"annotator{one}"], said[f"annotator{other}"]) for said in told.values()]
        found = cohen_kappa(crossed(*zip(*pairs, strict=True)))
        assert found == pytest.approx(textbook_kappa(pairs), abs=1e-12)
        assert round(found, 4) == round(float(cohen_kappa_score(*zip(*pairs, strict=True))), 4)
        assert round(found, 3) == rounded


def test_vicuna80_people() -> None:
    told = [said for said in by_pair("vicuna80").values() if len(said) > 1]
    names = ("h1", "h2", "h3")
    kappas = [
        cohen_kappa(crossed([said[one] for said in told], [said[other] for said in told]))
        for one, other in combinations(names, 2)
    ]
    assert round(sum(kappas) / 3, 2) == 0.18
    # Pairs of people: equal labels count 1, a tie against a side one half.
    credit = [
        1.0 if one == other else 0.5 if "tie" in (one, other) else 0.0
        for said in told
        for one, other in combinations(said.values(), 2)
    ]
    assert sum(credit) / len(credit) == pytest.approx(0.630, abs=0.005)


ratings = st.lists(st.lists(st.sampled_from([0, 1, 2, None]), min_size=3, max_size=3), min_size=1, max_size=12)


def from_rows(rows: Sequence[Sequence[int | None]], order: Sequence[int] = (0, 1, 2)) -> np.ndarray:
    return counted([[None if v is None else order[v] + 1 for v in said] for said in zip(*rows, strict=True)], 3)


def alpha_by_coincidences(rows: Sequence[Sequence[int | None]]) -> float:
    """Krippendorff (2011) from the coincidence matrix, ordered pair by ordered pair."""
    matrix = np.zeros((3, 3))
    for row in rows:
        said = [value for value in row if value is not None]
        for at, one in enumerate(said):
            for place, other in enumerate(said):
                if at != place:
                    matrix[one, other] += 1 / (len(said) - 1)
    n, totals = matrix.sum(), matrix.sum(axis=0)
    off = 1 - np.eye(3)
    expected = (np.outer(totals, totals) * off).sum() / (n * (n - 1)) if n > 1 else 0
    return 1 - (matrix * off).sum() / n / expected if expected else math.nan


@settings(max_examples=150, deadline=None)
@given(ratings)
def test_alpha_is_that_of_the_coincidence_matrix(rows: list[list[int | None]]) -> None:
    assert krippendorff_alpha(from_rows(rows)) == pytest.approx(alpha_by_coincidences(rows), nan_ok=True)


@settings(max_examples=100, deadline=None)
@given(ratings, st.permutations([0, 1, 2]), st.randoms(use_true_random=False))
def test_neither_raters_nor_rows_nor_names_of_categories_matter(
    rows: list[list[int | None]], order: list[int], random: object
) -> None:
    shuffled = [list(row) for row in rows]
    for row in shuffled:
        random.shuffle(row)  # type: ignore[attr-defined]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for coefficient in (fleiss_kappa, krippendorff_alpha, gwet_ac1):
        expected = pytest.approx(coefficient(from_rows(rows)), nan_ok=True)
        assert coefficient(from_rows(shuffled)) == expected
        assert coefficient(from_rows(rows, order)) == expected


cells = st.lists(st.integers(0, 9), min_size=9, max_size=9).map(lambda n: np.array(n, dtype=float).reshape(3, 3))


@settings(max_examples=100, deadline=None)
@given(cells)
def test_two_raters_are_many_raters_of_whom_there_are_two(table: np.ndarray) -> None:
    items = [np.eye(3)[i] + np.eye(3)[j] for i in range(3) for j in range(3) for _ in range(int(table[i, j]))]
    many = of_many(item_sums(np.array(items).reshape(-1, 3)).sum(axis=0))
    two = of_two(table)
    for name, value in many.items():
        assert float(two[name]) == pytest.approx(float(value), nan_ok=True)
    # The raters may change places, and so may a and b for both.
    assert cohen_kappa(table.T) == pytest.approx(cohen_kappa(table), nan_ok=True)
    assert cohen_kappa(table[::-1, ::-1]) == pytest.approx(cohen_kappa(table), nan_ok=True)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=3, max_size=3))
def test_identical_raters_agree_perfectly(counts: list[int]) -> None:
    table = np.diag(np.array(counts, dtype=float))
    for value in of_two(table).values():
        assert float(value) == pytest.approx(1.0)
