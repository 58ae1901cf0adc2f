"""Whether a text is a refusal. Reads its own pattern file only."""

from functools import cache
from pathlib import Path

import polars as pl

PATTERNS = Path(__file__).with_name("refusals.txt")
OPENING = 200
"""Characters in which a refusal shows itself."""


@cache
def refusal_pattern() -> str:
    """One regular expression for all lines of ``refusals.txt``."""
    lines = [line.strip() for line in PATTERNS.read_text(encoding="utf-8").splitlines()]
    return "(?is)(?:" + "|".join(f"(?:{line})" for line in lines if line and not line.startswith("#")) + ")"


def refuses(texts: pl.Series) -> pl.Series:
    """Of each text, whether it opens like a refusal."""
    return texts.str.slice(0, OPENING).str.replace_all("\u2019", "'", literal=True).str.contains(refusal_pattern())
