"""How alike two texts are: near-duplicate prompts, near-identical answers. Touches nothing."""

import re
from typing import Any

import polars as pl

from pipeline.filters.refusals import WORDS

PERMUTATIONS = 128

STRICTEST_INDEX = 0.9
"""The index cannot be built for 1; it only proposes, and what it proposes is compared."""


def near_duplicate_ids(rows: dict[str, dict[str, object]], threshold: float) -> list[str]:
    """Ids similar to one with a smaller id that is kept: MinHash LSH over word 3-grams (Broder 1997)."""
    from datasketch import MinHash, MinHashLSH

    index: Any = MinHashLSH(threshold=min(threshold, STRICTEST_INDEX), num_perm=PERMUTATIONS)
    signatures: dict[str, Any] = {}
    dropped: list[str] = []
    for key in sorted(rows):
        words = re.findall(r"\w+", str(rows[key]["messages"]).lower())
        signature: Any = MinHash(num_perm=PERMUTATIONS)
        signature.update_batch([" ".join(words[at : at + 3]).encode() for at in range(max(len(words) - 2, 1))])
        if any(signature.jaccard(signatures[other]) >= threshold for other in index.query(signature)):
            dropped.append(key)
        else:
            index.insert(key, signature)
            signatures[key] = signature
    return dropped


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
