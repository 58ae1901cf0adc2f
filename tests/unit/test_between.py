"""Pins down the live agreement of two people on derived figures."""

import math

import polars as pl
import pytest

from pipeline import schemas
from pipeline.statistics.annotators import between


def labels(said: dict[str, str], queue: str = "audit") -> pl.DataFrame:
    """Annotator -> one letter a pair: a, b, t, or - for none."""
    rows: list[dict[str, object]] = [
        {
            "pair_id": f"{at:032x}",
            "annotator": name,
            "label": {"a": "a", "b": "b", "t": "tie"}[letter],
            "queue": queue,
            "inclusion_prob": 1.0,
            "seconds": None,
            "labelled_at": None,
        }
        for name, letters in said.items()
        for at, letter in enumerate(letters)
        if letter != "-"
    ]
    return schemas.frame("labels", rows)


def test_equal_labels_and_kappa_of_each_two() -> None:
    # ann and bob share 4 pairs: a/a b/b a/b t/t. Equal 3/4. Chance: a 2/4*1/4 + b 1/4*2/4 + t 1/4*1/4 = 5/16;
    # kappa = (12/16 - 5/16) / (11/16) = 7/11
    found = between(labels({"ann": "abat-", "bob": "abbta", "cleo": "----a"}))
    assert [(row["one"], row["other"], row["n"]) for row in found] == [("ann", "bob", 4), ("bob", "cleo", 1)]
    assert found[0]["same"] == 3 / 4
    assert found[0]["kappa"] == pytest.approx(7 / 11)
    assert math.isnan(float(str(found[1]["kappa"])))


def test_known_answers_are_nobodys() -> None:
    assert between(pl.concat([labels({"ann": "a"}), labels({"gold": "a"}, "gold")])) == []
    assert between(labels({})) == []
