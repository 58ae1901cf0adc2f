"""Filter: drops pairs of which an answer shouts. Pure."""

import polars as pl
from pydantic import Field

from pipeline.config import FilterConfig


class ShoutingFilter:
    """See Filter."""

    class Options(FilterConfig):
        """Keys of ``kind: shouting``."""

        capitals: int = Field(default=4, ge=1)
        """So many capitals in a row are a shout."""

    reason = "shouting"

    def __init__(self, options: Options) -> None:
        self._pattern = f"[A-Z]{{{options.capitals}}}"

    def drops(self, pairs: pl.DataFrame) -> pl.Series:
        """See Filter."""
        return pairs["chosen"].str.contains(self._pattern) | pairs["rejected"].str.contains(self._pattern)
