"""Which prompts train or test, fit or certify, are audited. Pure; the only place where that is decided.

A prompt is its conversation here: the same turns under another reference are the same prompt in every split, since a
model that has seen one has seen the other.
"""

import polars as pl

from pipeline import ids
from pipeline.frames import unit_of, units


def is_test(prompt_id: str, seed: int, test_fraction: float) -> bool:
    """Whether the prompt is in the dataset's test split."""
    return ids.uniform_from(seed, "split", ids.conversation_id(prompt_id)) < test_fraction


def is_fit(prompt_id: str, seed: int, fit_fraction: float) -> bool:
    """Whether the labels of this prompt fit weights; otherwise they certify and do nothing else."""
    return ids.uniform_from(seed, "fit-or-certify", ids.conversation_id(prompt_id)) < fit_fraction


def audited(pairs: pl.DataFrame, seed: int, unit: str, count: int, *, one_pair: bool = False) -> pl.DataFrame:
    """The pairs of an audit sample, with ``inclusion_prob``, in the order in which they are audited.

    Units stand in the order of a hash of their id, so the first n are a uniform sample of n, and a larger sample holds
    the smaller ones.

    Args:
        pairs: ``pair_id`` and ``prompt_id`` of the pairs in question.
        seed: the run's seed.
        unit: ``prompt`` (a conversation) or ``pair``: what is drawn.
        count: units in the sample.
        one_pair: of each prompt one pair, drawn the same way, instead of all.
    """
    there = pairs.select("pair_id", "prompt_id", unit_of(unit))
    names = there["unit"].unique().sort()
    order = pl.DataFrame({"unit": names, "rank": [ids.uniform_from(seed, "audit-queue", one) for one in names]})
    drawn = order.sort("rank", "unit").head(count)
    sample = there.join(drawn, on="unit")
    share = pl.lit(count / max(len(names), 1))
    if one_pair and unit == "prompt":
        coins = [ids.uniform_from(seed, "audit-pair", pair) for pair in sample["pair_id"]]
        sample = sample.with_columns(coin=pl.Series(coins, dtype=pl.Float64), pairs=pl.len().over("unit"))
        sample = sample.sort("coin", "pair_id").unique("unit", keep="first")
        share /= pl.col("pairs")
    return sample.sort("rank", "pair_id").select("pair_id", "prompt_id", inclusion_prob=share)


def split_labels(
    labels: pl.DataFrame, pairs: pl.DataFrame, seed: int, fit_fraction: float
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(fit, certify) labels: by prompt, and only `audit` labels certify. Columns as in ``labels``.

    An audit sample that was extended is one sample: see :func:`_one_sample`.
    """
    owner = pairs.select("pair_id", "prompt_id")
    joined = labels.join(owner, on="pair_id")

    def fits(rows: pl.DataFrame) -> pl.Expr:
        return pl.col("prompt_id").is_in([key for key in rows["prompt_id"].unique() if is_fit(key, seed, fit_fraction)])

    fitting = fits(joined)
    audit = pl.col("queue").cast(pl.String) == "audit"
    certify = joined.filter(~fitting & audit)
    if certify["inclusion_prob"].n_unique() > 1:
        certify = _one_sample(certify, owner.filter(~fits(owner)), seed)
    return joined.filter(fitting).select(labels.columns), certify.select(labels.columns)


def _one_sample(certify: pl.DataFrame, owner: pl.DataFrame, seed: int) -> pl.DataFrame:
    """*certify* with the inclusion probabilities of the whole sample, where it is one that was extended.

    Audit samples are nested, so a label of an earlier, smaller one carries a smaller probability than the sample it is
    now part of. Labels of exactly the pairs that :func:`audited` lists for their number of units are such a sample;
    any other labels stay as they are.
    """
    labelled = set(certify["pair_id"])
    for unit, one_pair in (("prompt", False), ("prompt", True), ("pair", False)):
        sample = audited(owner, seed, unit, units(certify, unit), one_pair=one_pair)
        if set(sample["pair_id"]) == labelled:
            return certify.drop("inclusion_prob").join(sample.drop("prompt_id"), on="pair_id", maintain_order="left")
    return certify
