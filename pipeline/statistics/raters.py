"""Who said what of which pair, as arrays: what agreement and bias are counted on. Pure.

A side is 1 (a), -1 (b), 0 (a tie, or a judge's mean over its orders of exactly one half) or ABSENT. a and b are the
imported file's own where the pair was imported and the canonical order elsewhere, so that kappas of published data
come out as published: which answer is called a does not move how often two raters agree, but a little what is
expected of chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.arrays import Array, Integers, Mask
from pipeline.frames import given_by_people

Sides = npt.NDArray[np.int8]
Rows = pl.DataFrame | pl.LazyFrame

ABSENT = 2
DIGITS = 12
"""A preference is compared with one half after rounding to so many, so that 0.3 and 0.7 make a tie."""
MOST_SUBSETS = 20
"""Subsets beside the whole, the largest first: tags may be as many as prompts."""


@dataclass(frozen=True)
class JudgeRater:
    """One judge's opinions, pair by pair: (pairs,) each."""

    ab: Array
    """P(a preferred) when it saw a first; NaN where there is none."""
    ba: Array
    """P(a preferred) when it saw b first; NaN where there is none."""
    asked: Integers
    """Judgments asked for, failed ones included."""
    failed: Integers

    @cached_property
    def mean(self) -> Array:
        """Mean P(a preferred) over the orders it answered; NaN where it answered none."""
        answered = (~np.isnan(self.ab)).astype(np.float64) + ~np.isnan(self.ba)
        total = np.nan_to_num(self.ab) + np.nan_to_num(self.ba)
        return np.divide(total, answered, out=np.full(len(total), np.nan), where=answered > 0)


@dataclass(frozen=True)
class Raters:
    """Judges' and people's opinions of the same pairs, in the order of the pair ids."""

    pair_ids: pl.Series
    flipped: Mask
    """(pairs,) whether a here is the canonical b."""
    prompt: Integers
    """(pairs,) number of the prompt, in the order of the sorted prompt ids."""
    length: Array
    """(pairs,) log((1 + characters of a) / (1 + characters of b))."""
    model_a: pl.Series
    model_b: pl.Series
    judges: dict[str, JudgeRater]
    labelled: Integers
    """(labelled,) rows of the pairs that people labelled."""
    people: dict[str, Sides]
    """Annotator -> (labelled,) sides."""
    subsets: dict[str, Mask]
    """`all`, `source:...`, `tag:...` -> (pairs,) whether the pair is in it."""

    @cached_property
    def counts(self) -> Array:
        """(labelled, 3) people who said a, tie, b."""
        return counts_of(list(self.people.values()))

    @cached_property
    def human(self) -> Array:
        """(pairs,) people's mean preference for a, ties one half; NaN where there is no label."""
        mean = np.full(len(self.prompt), np.nan)
        counts = self.counts
        mean[self.labelled] = (counts @ np.array([1, 0.5, 0])) / counts.sum(axis=1)
        return mean


def sides_of(preference: Array) -> Sides:
    """Sides of preferences for a in [0, 1]; ABSENT for NaN."""
    side = np.sign(np.round(np.nan_to_num(preference, nan=0.5) - 0.5, DIGITS)).astype(np.int8)
    side[np.isnan(preference)] = ABSENT
    return side


def counts_of(raters: Sequence[Sides]) -> Array:
    """(pairs, 3) how many of *raters* say a, tie, b; (0, 3) when there are no raters."""
    made = np.zeros((len(raters[0]) if raters else 0, 3))
    for sides in raters:
        for column, side in enumerate((1, 0, -1)):
            made[:, column] += sides == side
    return made


def raters_of(judgments: Rows, labels: pl.DataFrame, pairs: pl.DataFrame, samples: Rows, prompts: Rows) -> Raters:
    """Raters from the frames of those names; of lazy ones no text is held.

    Of people's labels the ``audit`` ones count, or all where there is none: pairs chosen because they are hard would
    show less agreement than there is. A known answer (``pipeline.frames.given_by_people``) is nobody's opinion.
    """
    length = pl.col("characters").cast(pl.Float64)
    texts = samples.lazy().select("sample_id", "model", length=length).unique("sample_id", keep="any")
    flipped = pl.col("external_flipped")
    table = (
        pairs.lazy()
        .select(
            "pair_id",
            "prompt_id",
            flipped,
            first=pl.when(flipped).then("sample_b").otherwise("sample_a"),
            second=pl.when(flipped).then("sample_a").otherwise("sample_b"),
        )
        .join(texts.rename({"sample_id": "first", "model": "model_a", "length": "length_a"}), on="first")
        .join(texts.rename({"sample_id": "second", "model": "model_b", "length": "length_b"}), on="second")
        .join(prompts.lazy().select("prompt_id", "source", "tags"), on="prompt_id", how="left")
        .sort("pair_id")
        .with_columns(row=pl.int_range(pl.len()), prompt=pl.col("prompt_id").rank("dense").cast(pl.Int64) - 1)
        .collect(engine="streaming")
    )
    place = table.select("pair_id", "row", flipped)
    labelled, people = _people(labels, place)
    return Raters(
        pair_ids=table["pair_id"],
        flipped=table["external_flipped"].to_numpy(),
        prompt=table["prompt"].to_numpy(),
        length=np.log((1 + table["length_a"].to_numpy()) / (1 + table["length_b"].to_numpy())),
        model_a=table["model_a"],
        model_b=table["model_b"],
        judges=_judges(judgments, place),
        labelled=labelled,
        people=people,
        subsets=_subsets(table),
    )


def _judges(judgments: Rows, place: pl.DataFrame) -> dict[str, JudgeRater]:
    turned, value = pl.col("external_flipped"), pl.col("preference")
    opinions = (
        judgments.lazy()
        .join(place.lazy(), on="pair_id")
        .select(
            "judge",
            "row",
            a_first=(pl.col("order").cast(pl.String) == "ab") != turned,
            value=pl.when(turned).then(1 - value).otherwise(value).fill_null(float("nan")),
            failed=pl.col("error").is_not_null(),
        )
        .collect(engine="streaming")
    )
    made: dict[str, JudgeRater] = {}
    for key, part in sorted(opinions.partition_by("judge", as_dict=True).items()):
        row, a_first, failed = (part[name].to_numpy() for name in ("row", "a_first", "failed"))
        ab, ba = np.full(place.height, np.nan), np.full(place.height, np.nan)
        for values, shown in ((ab, a_first), (ba, ~a_first)):
            values[row[shown]] = part["value"].to_numpy()[shown]
        asked, lost = (np.bincount(rows, minlength=place.height) for rows in (row, row[failed]))
        made[str(key[0])] = JudgeRater(ab, ba, asked, lost)
    return made


def _people(labels: pl.DataFrame, place: pl.DataFrame) -> tuple[Integers, dict[str, Sides]]:
    given = given_by_people(labels)
    audit = given.filter(pl.col("queue").cast(pl.String) == "audit")
    side = pl.col("label").cast(pl.String).replace_strict({"a": 1, "tie": 0, "b": -1}, return_dtype=pl.Int8)
    used = (
        (given if audit.is_empty() else audit)
        .join(place, on="pair_id")
        .select("annotator", "row", side=pl.when("external_flipped").then(-side).otherwise(side))
    )
    labelled = used["row"].unique().sort().to_numpy()
    made: dict[str, Sides] = {}
    for key, part in sorted(used.partition_by("annotator", as_dict=True).items()):
        sides = np.full(len(labelled), ABSENT, dtype=np.int8)
        sides[np.searchsorted(labelled, part["row"].to_numpy())] = part["side"].to_numpy()
        made[str(key[0])] = sides
    return labelled, made


def _subsets(table: pl.DataFrame) -> dict[str, Mask]:
    """The whole, then each source and tag that some pairs have and others have not."""
    named = pl.concat(
        [
            table.select("row", name="source:" + pl.col("source")),
            table.select("row", name=pl.col("tags")).explode("name").select("row", name="tag:" + pl.col("name")),
        ]
    ).drop_nulls("name")
    sizes = named.group_by("name").len().filter(pl.col("len") < table.height)
    wanted = sizes.sort("len", "name", descending=[True, False]).head(MOST_SUBSETS)["name"].to_list()
    made: dict[str, Mask] = {"all": np.ones(table.height, dtype=np.bool_)}
    for name in sorted(wanted):
        inside = np.zeros(table.height, dtype=np.bool_)
        inside[named.filter(pl.col("name") == name)["row"].to_numpy()] = True
        made[name] = inside
    return made
