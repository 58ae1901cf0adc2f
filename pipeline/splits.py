"""Which prompts' labels fit and which certify. Pure; the only place where that is decided."""

import polars as pl

from pipeline import ids


def is_fit(prompt_id: str, seed: int, fit_fraction: float) -> bool:
    """Whether the labels of this prompt fit weights; otherwise they certify and do nothing else."""
    return ids.uniform_from(seed, "fit-or-certify", prompt_id) < fit_fraction


def split_labels(
    labels: pl.DataFrame, pairs: pl.DataFrame, seed: int, fit_fraction: float
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(fit, certify) labels: by prompt, and only `audit` labels certify. Columns as in ``labels``."""
    owner = pairs.select("pair_id", "prompt_id")
    fits = [key for key in owner["prompt_id"].unique().sort() if is_fit(key, seed, fit_fraction)]
    joined = labels.join(owner, on="pair_id")
    fitting = pl.col("prompt_id").is_in(fits)
    audit = pl.col("queue").cast(pl.String) == "audit"
    return joined.filter(fitting).select(labels.columns), joined.filter(~fitting & audit).select(labels.columns)
