"""How verdicts' margins are spread, kept pairs and the others. Pure."""

from typing import Any

import numpy as np
import polars as pl

BINS = 20


def histogram(verdicts: pl.LazyFrame, kept: pl.LazyFrame) -> dict[str, Any]:
    """``edges`` (21, from 0 to 1) and how many pairs lie between them: ``kept`` and ``dropped`` (20 each).

    A margin on an edge counts above it, and 1 in the last bin.

    Args:
        verdicts: the frame ``verdicts``.
        kept: the frame ``kept``, whose pairs are among them.
    """
    edges = np.arange(BINS + 1) / BINS
    every, chosen = (
        np.histogram(rows.select("margin").collect(engine="streaming")["margin"].to_numpy(), bins=edges)[0]
        for rows in (verdicts, kept)
    )
    return {"edges": edges.tolist(), "kept": chosen.tolist(), "dropped": (every - chosen).tolist()}
