"""How alike two texts are: near-duplicate prompts, near-identical answers. Touches nothing."""

import math
import re
from collections.abc import Mapping
from typing import Any

import polars as pl

WORDS = 3
PERMUTATIONS = 128
SEED = 1
SURE = 0.999
"""Probability, at least, with which two texts as alike as asked for share a band of the index."""
DOUBT = 4 * math.sqrt(0.25 / PERMUTATIONS)
"""Four standard errors of a similarity estimated from two sketches, at most."""
BATCH = 10_000
"""Texts whose grams are held at once."""


def near_duplicate_ids(texts: Mapping[str, str], threshold: float) -> list[str]:
    """Ids whose text is similar to one with a smaller id that is kept.

    Similarity is :func:`jaccard`. An index of sketches (MinHash with locality-sensitive hashing, Broder 1997) proposes,
    and misses a pair with a probability of one in a thousand; what it proposes is compared gram by gram.

    Args:
        texts: id -> text.
        threshold: in (0, 1]; a text that is as similar as this goes.
    """
    import rensa

    library: Any = rensa
    keys = sorted(texts)
    index: Any = library.RMinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, num_bands=bands(threshold))
    sketches: list[Any] = []
    dropped: list[str] = []
    for start in range(0, len(keys), BATCH):
        batch = [list(grams(texts[key])) for key in keys[start : start + BATCH]]
        sketches += library.RMinHash.from_token_sets(batch, num_perm=PERMUTATIONS, seed=SEED)
        for at in range(start, len(sketches)):
            sketch = sketches[at]
            near = (other for other in index.query(sketch) if sketch.jaccard(sketches[other]) >= threshold - DOUBT)
            if any(_alike(texts[keys[at]], texts[keys[other]]) >= threshold for other in near):
                dropped.append(keys[at])
            else:
                index.insert(at, sketch)
    return dropped


def bands(threshold: float) -> int:
    """The fewest bands of equally many permutations of which two texts so alike share one as good as surely.

    Of b bands of r permutations two texts of similarity s share one with probability 1 - (1 - s^r)^b.
    """
    numbers = (PERMUTATIONS // rows for rows in (64, 32, 16, 8, 4, 2, 1))
    return next((b for b in numbers if 1 - (1 - threshold ** (PERMUTATIONS // b)) ** b >= SURE), PERMUTATIONS)


def grams(text: str) -> set[str]:
    """The word 3-grams of a text; see :func:`jaccard`."""
    words = re.findall(r"\w+", text.lower())
    return {" ".join(words[at : at + WORDS]) for at in range(max(len(words) - WORDS + 1, 1))}


def _alike(one: str, other: str) -> float:
    first, second = grams(one), grams(other)
    return len(first & second) / len(first | second)


def jaccard(one: pl.Series, other: pl.Series) -> pl.Series:
    """Of each two texts, the Jaccard similarity of their sets of word 3-grams, in [0, 1] (Broder 1997).

    Case and punctuation count nothing; a text of fewer than three words is one gram, so two without a word are equal.
    """
    sets = pl.DataFrame({"one": one, "other": other}).select(_grams("one"), _grams("other"))
    shared, all_ = pl.col("one").list.set_intersection("other"), pl.col("one").list.set_union("other")
    return sets.select((shared.list.len() / all_.list.len()).alias("similarity")).to_series()


def _grams(column: str) -> pl.Expr:
    words = pl.col(column).str.to_lowercase().str.extract_all(r"\w+")
    word = pl.element()
    triples = words.list.eval(pl.concat_str(word, word.shift(-1), word.shift(-2), separator=" ").drop_nulls())
    short = pl.concat_list(words.list.join(" "))
    return pl.when(words.list.len() < WORDS).then(short).otherwise(triples)
