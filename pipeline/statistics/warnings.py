"""What a reader of agreement, bias, drift and annotators must not overlook, in words. Pure.

A warning is given where an interval excludes what would be in order *and* the distance matters.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from pipeline import schemas
from pipeline.figures import interval, points, share
from pipeline.likeness import alike, difference
from pipeline.schemas import ANY, LONGER, PANEL

SLOT, POINTS, TIES, FAILURES = 0.1, 0.05, 0.2, 0.01
"""Distances that matter: of the first-slot rate, of other shares, of the tie rate; and the share of failures."""

HEADS = 3
"""Judges, annotators and so on whose worst warning is shown without being asked for."""
WORST_FIRST = (
    "constant",
    "below_floor",
    "position",
    "length",
    "self_preference",
    "ties",
    "failures",
    "left_panel",
    "ceiling",
    "one_label",
    "agreement",
    "gold_accuracy",
    "gold_drift",
)
"""Kinds of warnings, what moves the result most first; drift and others follow."""

Row = Mapping[str, Any]
Warned = dict[str, object]


def table(
    agreement: pl.DataFrame, bias: pl.DataFrame, annotators: pl.DataFrame, trend: pl.DataFrame, target: float
) -> pl.DataFrame:
    """The frame ``warnings``.

    Args:
        agreement: the frame of that name.
        bias: the frame of that name.
        annotators: the frame of that name.
        trend: the frame of that name; its newest snapshot counts.
        target: agreement that the gate is to certify.
    """
    rows = [
        *_judges(agreement, bias),
        *_people(agreement, annotators, target),
        *_drift(trend),
    ]
    return schemas.frame("warnings", rows)


def grouped(rows: Sequence[Row]) -> dict[str, Any]:
    """Warnings for a reader who has little time: one group a judge or person, worst first, all but a few folded.

    Args:
        rows: ``about``, ``name``, ``kind`` and ``text`` of each; those about the run itself (``about`` is ``run``) are
            all shown, before the others and in their order.

    Returns:
        ``shown``, the texts to be seen at once: the run's, then the worst of each of the HEADS worst groups; and
        ``folded``, the rest: rows of ``who`` and ``texts``, in the order of their worst.
    """
    shown = [str(row["text"]) for row in rows if row["about"] == "run"]
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in sorted((row for row in rows if row["about"] != "run"), key=_severity):
        groups.setdefault((str(row["about"]), str(row["name"])), []).append(row)
    folded: list[dict[str, Any]] = []
    for at, ((about, name), found) in enumerate(groups.items()):
        texts = [str(row["text"]) for row in found]
        if at < HEADS:
            shown.append(texts.pop(0))
        if texts:
            folded.append({"who": about if name in {ANY, PANEL} else f"{about} {name}", "texts": texts})
    return {"shown": shown, "folded": folded}


def _severity(row: Row) -> int:
    kind = str(row["kind"])
    return WORST_FIRST.index(kind) if kind in WORST_FIRST else len(WORST_FIRST)


def _warning(about: str, name: str, kind: str, text: str) -> Warned:
    return {"about": about, "name": name, "kind": kind, "text": text}


def _away(row: Row, reference: float, distance: float) -> bool:
    """Whether the interval of *row* excludes *reference* and its value is further from it than *distance*."""
    if row["low"] is None or row["high"] is None:
        return False
    return abs(row["value"] - reference) > distance and not row["low"] <= reference <= row["high"]


def _judges(agreement: pl.DataFrame, bias: pl.DataFrame) -> Iterator[Warned]:
    for row in bias.filter(pl.col("subset") == "all").iter_rows(named=True):
        yield from _of_bias(row)
    accuracy = agreement.filter((pl.col("subset") == "all") & (pl.col("measure").cast(pl.String) == "accuracy"))
    by_between = accuracy.with_columns(pl.col("between").cast(pl.String))
    floor = by_between.filter((pl.col("between") == "length_people") & (pl.col("rater_1") == LONGER))["value"]
    if floor.is_empty() or floor[0] is None:
        return
    for row in by_between.filter(pl.col("between").is_in(["judge_people", "panel_people"])).iter_rows(named=True):
        if row["value"] is not None and row["value"] <= floor[0]:
            about = str(row["between"]).removesuffix("_people")
            who = "the panel" if about == "panel" else f"judge {row['rater_1']}"
            yield _warning(
                about,
                row["rater_1"],
                "below_floor",
                f"{who} agrees with people on {share(row['value'])} ({interval(row['low'], row['high'])}, "
                f"n = {row['n']}); preferring the longer answer agrees on {share(floor[0])}",
            )


def _of_bias(row: Row) -> Iterator[Warned]:
    judge, measure, value, reference = row["judge"], row["measure"], row["value"], row["reference"]
    between, apart = interval(row["low"], row["high"]), points(row["low"], row["high"])
    if measure == "first_slot_rate" and _away(row, 0.5, SLOT):
        slot, rate = ("first", value) if value > 1 / 2 else ("second", 1 - value)
        seen = f"its first-slot rate is {between}"
        text = f"judge {judge} prefers the {slot} slot {share(rate)} of the time ({seen}); 50.0% would be no bias"
        yield _warning("judge", judge, "position", text)
    if measure == "length_bias" and _away(row, 0.0, POINTS):
        more = "more" if value > 0 else "less"
        text = f"judge {judge} prefers the longer answer {100 * abs(value):.0f} points {more} often than people"
        yield _warning("judge", judge, "length", f"{text} do on the same pairs ({apart})")
    if measure == "self_preference" and _away(row, 0.0, 0.0) and value > 0:
        text = f"judge {judge} prefers its own model's answers {100 * value:.0f} points more often than people"
        yield _warning("judge", judge, "self_preference", f"{text} do on the same pairs ({apart})")
    if measure == "tie_rate" and reference is not None and _away(row, reference, TIES):
        text = f"judge {judge} calls {share(value)} ties ({between}); people call {share(reference)}"
        yield _warning("judge", judge, "ties", text)
    if measure == "failure_rate" and value > FAILURES:
        yield _warning(
            "judge", judge, "failures", f"judge {judge} failed on {round(value * row['n'])} of {row['n']} judgments"
        )


def _people(agreement: pl.DataFrame, annotators: pl.DataFrame, target: float) -> Iterator[Warned]:
    ceiling = agreement.filter(
        (pl.col("between").cast(pl.String) == "person_person")
        & (pl.col("rater_1") == ANY)
        & (pl.col("subset") == "all")
        & (pl.col("measure").cast(pl.String) == "accuracy")
    )
    for row in ceiling.iter_rows(named=True):
        if row["high"] is not None and row["high"] < target:
            text = f"one person agrees with another on {share(row['value'])} ({interval(row['low'], row['high'])})"
            yield _warning("people", ANY, "ceiling", f"{text}, below the gate's target of {share(target)}")
    one_each = annotators.filter((pl.col("measure") == "share_of_pairs_with_1") & (pl.col("value") == 1))
    if not one_each.is_empty():
        text = "every labelled pair has one label: how far people agree with each other is unknown"
        yield _warning("people", ANY, "one_label", f"{text}; have two or three people label some pairs")
    for one, other in alike(set(annotators["annotator"]) - {ANY}):
        text = f"annotators {one} and {other} are two, though their names look alike: {difference(one, other)}"
        yield _warning("annotator", other, "look_alike", f"{text}; give one person one name in the labels")
    for row in annotators.iter_rows(named=True):
        yield from _of_annotator(row)


def _of_annotator(row: Row) -> Iterator[Warned]:
    name, measure, value, reference = row["annotator"], row["measure"], row["value"], row["reference"]
    if reference is None or value >= reference or not _away(row, reference, 0.0):
        return
    between = interval(row["low"], row["high"])
    said = {
        "agreement": f"annotator {name} agrees with the others on {share(value)} ({between}); any two people on "
        f"{share(reference)}",
        "gold_accuracy": f"annotator {name} is right on {share(value)} of {row['n']} gold items ({between}); the "
        f"others on {share(reference)}",
        "gold_drift": f"annotator {name} is right {100 * -value:.0f} points less often on the later half of the gold "
        f"items than on the earlier ({points(row['low'], row['high'])})",
    }
    if measure in said:
        yield _warning("annotator", name, measure, said[measure])


def _drift(trend: pl.DataFrame) -> Iterator[Warned]:
    newest = trend.filter(pl.col("measured_at") == pl.col("measured_at").max())
    for row in newest.iter_rows(named=True):
        moved = {"value": row["difference"], "low": row["difference_low"], "high": row["difference_high"]}
        if _away(moved, 0.0, 0.0):
            text = f"judge {row['judge']}: {row['measure']} moved by {row['difference']:+.2f} since the run before"
            between = interval(row["difference_low"], row["difference_high"], shares=False)
            yield _warning("judge", row["judge"], f"drift_{row['measure']}", f"{text} ({between})")
