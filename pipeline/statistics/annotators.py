"""How good people's labels are: gold items, drift, agreement with the others, time, labels a pair. Pure.

A gold item is a pair whose answer is known: a label by the annotator ``gold`` in the queue ``gold``. Known answers
judge people and do nothing else; they neither fit nor certify (``pipeline.frames.given_by_people``).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from pipeline import schemas
from pipeline.frames import given_by_people
from pipeline.schemas import ANY
from pipeline.statistics import intervals as bootstrap
from pipeline.statistics import kappa

Row = dict[str, object]
Interval = tuple[float, float, float]


def table(labels: pl.DataFrame, agreement: pl.DataFrame) -> pl.DataFrame:
    """The frame ``annotators``.

    Args:
        labels: the frame ``labels``, known answers included.
        agreement: the frame ``agreement``, for each person against the others.
    """
    given = given_by_people(labels)
    if given.is_empty():
        return schemas.frame("annotators", [])
    rows = [*_per_pair(given), *_against_others(agreement)]
    tie = (pl.col("label").cast(pl.String) == "tie").mean()
    rows += _beside_others(given, "tie_rate", tie)
    rows += _beside_others(given.filter(pl.col("seconds").is_not_null()), "seconds", pl.col("seconds").median())
    rows += _gold(gold_items(labels))
    return schemas.frame("annotators", rows)


def gold_items(labels: pl.DataFrame) -> pl.DataFrame:
    """People's labels of pairs with a known answer: ``annotator``, ``right``, ``labelled_at``; oldest first.

    Pairs of which two known answers differ are left out: then none is known.
    """
    truth = labels.join(given_by_people(labels), on=labels.columns, how="anti", nulls_equal=True)
    known = (
        truth.group_by("pair_id")
        .agg(pl.col("label").cast(pl.String).unique().alias("answers"))
        .filter(pl.col("answers").list.len() == 1)
        .select("pair_id", answer=pl.col("answers").list.first())
    )
    return (
        given_by_people(labels)
        .join(known, on="pair_id")
        .select("annotator", "labelled_at", "pair_id", right=pl.col("label").cast(pl.String) == pl.col("answer"))
        .sort("annotator", "labelled_at", "pair_id", nulls_last=True)
    )


def between(labels: pl.DataFrame) -> list[Row]:
    """Each two people who labelled the same pairs: ``one``, ``other``, ``n`` pairs, ``same`` (share of equal labels)
    and ``kappa`` (Cohen's; NaN where chance alone explains all), most pairs first.
    """  # noqa: D205
    given = given_by_people(labels).select("pair_id", "annotator", label=pl.col("label").cast(pl.String))
    both = given.join(given, on="pair_id", suffix="_other").filter(pl.col("annotator") < pl.col("annotator_other"))
    rows: list[Row] = []
    for (one, other), part in both.group_by("annotator", "annotator_other"):
        cells = np.zeros((3, 3))
        np.add.at(cells, (_place(part["label"]), _place(part["label_other"])), 1.0)
        found = kappa.of_two(cells)
        measured = {"n": part.height, "same": float(found["same"]), "kappa": float(found["cohen_kappa"])}
        rows.append({"one": str(one), "other": str(other), **measured})
    return sorted(rows, key=lambda row: (-int(str(row["n"])), str(row["one"]), str(row["other"])))


def _place(labels: pl.Series) -> Any:
    return labels.replace_strict({"a": 0, "tie": 1, "b": 2}, return_dtype=pl.Int64).to_numpy()


def _share(right: Sequence[bool]) -> Interval:
    """(share, low, high) of right items."""
    share = sum(right) / len(right)
    return share, *bootstrap.wilson(share, len(right))


def _per_pair(given: pl.DataFrame) -> list[Row]:
    """How many pairs have how many labels."""
    counts = given.group_by("pair_id").len("labels").group_by("labels").len("pairs").sort("labels")
    total = int(counts["pairs"].sum())
    return [_row(ANY, f"share_of_pairs_with_{labels}", pairs / total, n=pairs) for labels, pairs in counts.iter_rows()]


def _against_others(agreement: pl.DataFrame) -> list[Row]:
    each = agreement.filter(
        (pl.col("between").cast(pl.String) == "person_person")
        & (pl.col("rater_2") == ANY)
        & (pl.col("subset") == "all")
        & (pl.col("measure").cast(pl.String) == "accuracy")
    )
    columns = ("rater_1", "value", "low", "high", "n")
    usual = dict(each.select("rater_1", "value").iter_rows()).get(ANY)
    return [
        _row(name, "agreement", value, low, high, usual, n)
        for name, value, low, high, n in each.select(columns).iter_rows()
        if name != ANY and value is not None
    ]


def _beside_others(given: pl.DataFrame, measure: str, statistic: pl.Expr) -> list[Row]:
    """A statistic of each person, with that of everybody else as its reference."""
    rows: list[Row] = []
    for name in sorted(given["annotator"].unique()):
        own, others = given.filter(pl.col("annotator") == name), given.filter(pl.col("annotator") != name)
        reference = None if others.is_empty() else float(others.select(statistic).item())
        rows.append(_row(name, measure, float(own.select(statistic).item()), reference=reference, n=own.height))
    return rows


def _gold(items: pl.DataFrame) -> list[Row]:
    rows: list[Row] = []
    for name in sorted(items["annotator"].unique()):
        own = items.filter(pl.col("annotator") == name)
        others = items.filter(pl.col("annotator") != name)["right"]
        found = _share(own["right"].to_list())
        reference = None if others.is_empty() else float(np.mean(others.to_numpy()))
        rows.append(_row(name, "gold_accuracy", *found, reference, own.height))
        dated = own.filter(pl.col("labelled_at").is_not_null())["right"].to_list()
        half = len(dated) // 2
        if half:
            change = bootstrap.difference_interval(_share(dated[half:]), _share(dated[:half]))
            rows.append(_row(name, "gold_drift", *change, 0.0, len(dated)))
    return rows


def _row(
    annotator: str,
    measure: str,
    value: float,
    low: float | None = None,
    high: float | None = None,
    reference: float | None = None,
    n: int = 0,
) -> Row:
    return {
        "annotator": annotator,
        "measure": measure,
        "value": value,
        "low": low,
        "high": high,
        "reference": reference,
        "n": n,
    }
