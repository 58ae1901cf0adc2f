"""How alike two texts are, whether a text is a refusal, which language it is in. Reads its own pattern file only."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.errors import ConfigError

WORDS = 3
PATTERNS = Path(__file__).with_name("refusals.txt")
OPENING = 200
"""Characters in which a refusal shows itself."""
CONFIDENT = 0.5
"""Probability from which a language counts as recognised; short or mixed texts and code stay below it."""


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


@cache
def refusal_pattern() -> str:
    """One regular expression for all lines of ``refusals.txt``."""
    lines = [line.strip() for line in PATTERNS.read_text(encoding="utf-8").splitlines()]
    return "(?is)(?:" + "|".join(f"(?:{line})" for line in lines if line and not line.startswith("#")) + ")"


def refuses(texts: pl.Series) -> pl.Series:
    """Of each text, whether it opens like a refusal."""
    return texts.str.slice(0, OPENING).str.replace_all("\u2019", "'", literal=True).str.contains(refusal_pattern())


def languages(texts: Sequence[str]) -> list[str | None]:
    """Of each text, the ISO 639 code of its language, or None where it is not recognised with confidence.

    Raises:
        ConfigError: the extra `language` is not installed.
    """
    identifier = _identifier()
    found = [identifier.classify(text) for text in texts]
    return [language if confidence >= CONFIDENT else None for language, confidence in found]


def known_languages() -> list[str]:
    """Codes that can be recognised.

    Raises:
        ConfigError: the extra `language` is not installed.
    """
    return sorted(_identifier().labels)


@cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigError(
            "select.languages needs the package py3langid, which is not installed; run pip install 'jurybox[language]'"
        ) from error
    kind: Any = LanguageIdentifier
    return kind.from_model_file(MODEL_FILE, norm_probs=True)
