"""Pins down which names look alike, and that they are told apart in words."""

import polars as pl
import pytest

from pipeline import schemas
from pipeline.likeness import LOOKS, alike, difference, skeleton
from pipeline.statistics import warnings as warning


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ("Anna", "\u0410nna", "U+0041 LATIN CAPITAL LETTER A where the other has U+0410 CYRILLIC CAPITAL LETTER A"),
        ("Anna", "\uff21\uff4e\uff4e\uff41", "FULLWIDTH LATIN CAPITAL LETTER A"),
        ("Anna", "anna", "U+0041 LATIN CAPITAL LETTER A where the other has U+0061 LATIN SMALL LETTER A"),
        ("Bo", "B\u03bf", "GREEK SMALL LETTER OMICRON"),
        ("Bo", "B0", "DIGIT ZERO"),
        ("Zo\u00eb", "Zoe", "LATIN SMALL LETTER E WITH DIAERESIS"),
        ("Zo\u00eb", "Zoe\u0308", "3 and 4 characters"),
        ("ann", "ann\u200b", "3 and 4 characters; only one of them has U+200B ZERO WIDTH SPACE"),
        ("ann", "ann ", "3 and 4 characters; only one of them has U+0020 SPACE"),
        ("an\u202en", "ann", "RIGHT-TO-LEFT OVERRIDE"),
    ],
)
def test_names_that_look_alike_are_told_apart_in_words(one: str, other: str, words: str) -> None:
    assert skeleton(one) == skeleton(other)
    assert {frozenset(pair) for pair in alike([one, "someone else", other])} == {frozenset((one, other))}
    assert words in difference(one, other)


def test_names_that_differ_to_the_eye_are_left_alone() -> None:
    assert alike(["Anna", "Hanna", "Ann", "Ali", "\u0414\u0438\u043c\u0430", "\u674e", "anna@b.org"]) == []
    assert alike(["Anna", "Anna"]) == []


def test_every_look_alike_is_another_letter_of_another_script() -> None:
    assert all(chr(a) != chr(b) and chr(b).isascii() for a, b in LOOKS.items() if isinstance(b, int))


def test_the_warning_names_both_and_the_difference() -> None:
    def row(name: str) -> dict[str, object]:
        return {
            "annotator": name,
            "measure": "labels",
            "value": 1.0,
            "low": None,
            "high": None,
            "reference": None,
            "n": 3,
        }

    annotators = schemas.frame("annotators", [row("Anna"), row("\u0410nna"), row("Bo")])
    empty = {name: schemas.frame(name, []) for name in ("agreement", "bias", "trend")}
    found = warning.table(empty["agreement"], empty["bias"], annotators, empty["trend"], 0.9)
    (text,) = found.filter(pl.col("kind") == "look_alike")["text"]
    assert text.startswith("annotators Anna and \u0410nna are two, though their names look alike: U+0041 LATIN CAPITAL")
    assert text.endswith("give one person one name in the labels")
