"""What filters of pairs speak. Pure. A kind is one file in this folder that defines ``<Kind>Filter``."""

from typing import Any, Protocol

import polars as pl


class Filter(Protocol):
    """Says which pairs a dataset is better without; made with its entry of ``select.filters``.

    A class attribute ``Options`` (a ``FilterConfig``) holds the keys of its own, if it has any.
    """

    reason: str
    """Drop reason of its pairs, one word."""

    def __init__(self, options: Any) -> None: ...

    def drops(self, pairs: pl.DataFrame) -> pl.Series:
        """Whether each pair goes: booleans, a row each.

        Args:
            pairs: ``prompt`` (the conversation as one text), ``chosen`` and ``rejected`` (texts). Order and number of
                the rows decide nothing: a pair's answer hangs on its own words alone.
        """
        ...
