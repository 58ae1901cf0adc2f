"""Sections of report.html about who judged: judges, panel and people, what moves them, how they agree. Pure."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from dashboard import charts, tables
from dashboard.charts import MEASURES, SHARES
from dashboard.report.base import Found, Row, Section, drawn, tabled, unfolded
from dashboard.tables import Table
from pipeline.figures import NOTHING as NO_FIGURE
from pipeline.figures import count, interval, number, plain, share
from pipeline.schemas import ANY, PEOPLE

BIASES = (
    "first_slot_rate",
    "swap_consistency",
    "longer_rate",
    "length_bias",
    "own_win_rate",
    "self_preference",
    "tie_rate",
    "failure_rate",
)
"""Measures of ``bias`` that are drawn; the table has all."""
FOLLOWED = ("accuracy", "first_slot_rate", "swap_consistency", "length_bias")
"""Measures of ``trend`` that are drawn."""


def judges(found: Found) -> Section:
    """How far judges, panel and people agree."""
    made, people, agreement = found.made, found.people, found.frames["agreement"]
    rows = [_judge(name, judge) for name, judge in made["judges"].items()]
    beside = [
        (_of(agreement, "panel_people"), "the panel, on labels that fitted nothing"),
        (made["ceiling"], f"one of the {people} against another: the ceiling"),
        (made["floor"], "preferring the longer answer: the floor"),
    ]
    rows += [
        (name, share(one["value"]), interval(one["low"], one["high"]), count(one["n"]), "", "", "", "", "")
        for one, name in beside
        if one is not None and rows
    ]
    heads = (
        *("judge", "#agreement", "#95% interval", "#pairs", "#weight", "#swap consistency", "#first slot wins"),
        *("#failed", "in the panel"),
    )
    share_of = (
        f"Share of pairs on which a judge sides with {people}, where they are not evenly split; ties of the judge "
    )
    words = [share_of + "count one half. Intervals resample whole prompts."]
    if made["panel"] is not None:
        words.append(_combined(made["panel"], people))
    return Section(
        "judges",
        f"Judges and {people}",
        tuple(words),
        [
            *drawn(charts.accuracy(agreement, people=people)),
            *tabled(f"Agreement with {people}, and the votes of the judges", heads, rows, beside=False),
            *drawn(charts.matrix(agreement, "cohen_kappa", people=people)),
            *_between(agreement, people),
        ],
    )


def _judge(name: str, judge: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        name,
        share(judge["agreement"]),
        interval(judge["low"], judge["high"]),
        count(judge["n"]),
        plain(judge["weight"]),
        share(judge["swap_consistency"]),
        share(judge["first_slot_rate"]),
        f"{judge['failures']:,} of {judge['judgments']:,}",
        "yes" if judge["in_panel"] else f"no: {judge['reason']}",
    )


def _combined(panel: Mapping[str, Any], people: str) -> str:
    """How votes became verdicts."""
    how = f"Votes are combined by the aggregation \u201c{panel['method']}\u201d"
    if panel["validated"]:
        return f"{how}, fitted on {panel['labels']['fit_pairs']:,} pairs labelled by {people}."
    return f"{how}; no labels were used, so the result is not validated."


def _of(agreement: pl.DataFrame, between: str) -> Row | None:
    """The accuracy over all prompts of the one rater that is compared so, if there is one."""
    found = _rows(agreement, between, "accuracy", "all")
    return found[0] if found else None


def _rows(agreement: pl.DataFrame, between: str, measure: str, subset: str | None) -> list[Row]:
    found = agreement.filter(
        (pl.col("between").cast(pl.String) == between)
        & (pl.col("measure").cast(pl.String) == measure)
        & pl.col("value").is_finite()
    )
    return (found if subset is None else found.filter(pl.col("subset") == subset)).to_dicts()


def _between(agreement: pl.DataFrame, people: str) -> list[Table]:
    """What the matrix shows, with intervals, and the share of equal answers beside kappa."""
    kinds = ("judge_people", "panel_people", "person_person", "length_people", "judge_judge")
    same = {_pair(row): row["value"] for between in kinds for row in _rows(agreement, between, "same", "all")}
    wanted = [row for between in kinds for row in _rows(agreement, between, "cohen_kappa", "all")]
    rows = [
        (
            *_raters(row, people),
            plain(row["value"]),
            interval(row["low"], row["high"], shares=False),
            share(number(same.get(_pair(row)))),
            count(row["n"]),
        )
        for row in wanted
        # Of people, only any one against any other; of judges, only one against one.
        if (row["rater_1"] == ANY) == (row["between"] == "person_person")
    ]
    heads = ("rater", "with", "#Cohen's kappa", "#95% interval", "#same answer", "#pairs")
    return tabled("Raters against each other", heads, rows)


def _pair(row: Row) -> tuple[str, str, str]:
    return row["between"], row["rater_1"], row["rater_2"]


def _raters(row: Row, people: str) -> tuple[str, str]:
    """How the two raters of a row of ``agreement`` are called."""
    if row["between"] == "person_person":
        return f"one of the {people}: the ceiling", "another"
    one = "preferring the longer answer: the floor" if row["between"] == "length_people" else row["rater_1"]
    return one, people if row["rater_2"] == PEOPLE else row["rater_2"]


def subsets(found: Found) -> Section:
    """Agreement by kind of prompt."""
    agreement = found.frames["agreement"]
    rows = [
        (
            "preferring the longer answer" if between == "length_people" else row["rater_1"],
            row["subset"],
            share(row["value"]),
            interval(row["low"], row["high"]),
            count(row["n"]),
        )
        for between in ("judge_people", "panel_people", "length_people")
        for row in _rows(agreement, between, "accuracy", None)
        if row["subset"] != "all"
    ]
    words = f"Agreement with {found.people} by source and tag of the prompts."
    heads = ("judge", "prompts", "#agreement", "#95% interval", "#pairs")
    return Section(
        "subsets",
        "By kind of prompt",
        (words,),
        [
            *drawn(charts.subsets(agreement, people=found.people)),
            *tabled("Agreement by kind of prompt", heads, rows),
        ],
    )


def biases(found: Found) -> Section:
    """What moves the judges besides quality."""
    bias = found.frames["bias"]
    rows: list[tuple[str, ...]] = []
    for row in bias.filter(pl.col("subset") == "all").sort("measure", "judge").iter_rows(named=True):
        shares = row["measure"] in SHARES
        told = share if shares else plain
        rows.append(
            (
                row["judge"],
                _named(row["measure"]),
                told(row["value"]),
                interval(row["low"], row["high"], shares=shares),
                told(number(row["reference"])),
                count(row["n"]),
            )
        )
    heads = ("judge", "measure", "#value", "#95% interval", "#people, or no bias", "#n")
    words = (
        "What moves a judge besides the answers' quality, over all prompts. Length and own-model preference are set "
        f"against {found.people} on the same pairs, for the longer answer may well be the better one. A coin that is "
        "thrown for each order lets the first slot win half the time, and says the same in both orders half the time."
    )
    each = (charts.biases(bias, measure) for measure in BIASES)
    return Section(
        "bias", "What moves the judges", (words,), [*drawn(*each), *tabled("All measures of bias", heads, rows)]
    )


def _named(measure: str) -> str:
    """What *measure* is called."""
    return MEASURES.get(measure, measure)


def constant(found: Found) -> Section:
    """What constant answers won."""
    controls: Mapping[str, Mapping[str, Any]] = found.made["controls"]
    words = [tables.CONSTANT]
    if found.made["flags"]:
        told = ", ".join(f"{n:,} {flag}" for flag, n in found.made["flags"].items())
        words.append(f"Answers that look written for the judge: {told}.")
    table = unfolded(tables.controls(controls))
    return Section("constant", "Constant answers", tuple(words), [*drawn(charts.controls(controls)), *table])


def drift(found: Found) -> Section:
    """What was measured of the judges, run after run."""
    trend = found.frames["trend"]
    if trend["snapshot"].n_unique() <= 1:
        return Section("drift", "Drift")
    rows: list[tuple[str, ...]] = []
    newest = trend.filter(pl.col("measured_at") == pl.col("measured_at").max()).sort("measure", "judge")
    for row in newest.iter_rows(named=True):
        shares = row["measure"] in SHARES
        moved = NO_FIGURE if row["difference"] is None else f"{row['difference']:+.3f}"
        rows.append(
            (
                row["judge"],
                _named(row["measure"]),
                (share if shares else plain)(row["value"]),
                interval(row["low"], row["high"], shares=shares),
                moved,
                interval(row["difference_low"], row["difference_high"], shares=False),
            )
        )
    heads = ("judge", "measure", "#now", "#95% interval", "#change", "#its 95% interval")
    each = (charts.drift(trend, measure) for measure in FOLLOWED)
    table = tabled("The newest snapshot, and its change since the one before", heads, rows)
    return Section("drift", "Drift", ("What was measured of the judges, run after run.",), [*drawn(*each), *table])


def calibration(found: Found) -> Section:
    """Whether the panel's probabilities mean what they say."""
    made = found.frames["calibration"]
    rows = [
        (
            f"{row['confidence_from']:.2f} to {row['confidence_from'] + 0.05:.2f}",
            share(row["confidence"]),
            share(row["people"]),
            interval(row["low"], row["high"]),
            count(row["n"]),
        )
        for row in made.sort("confidence_from").iter_rows(named=True)
    ]
    words: tuple[str, ...] = ()
    if (errors := found.made["calibration"]) is not None:
        question = (
            f"Does the panel's probability mean what it says? On {errors['n']:,} pairs whose labels fitted nothing: "
        )
        figures = f"calibration error (ECE) {errors['ece']:.3f}, Brier score {errors['brier']:.3f}. "
        words = (f"{question}{figures}A larger point stands for more pairs.",)
    heads = ("probability", "#the panel says", "#people say", "#95% interval", "#pairs")
    table = tabled("Probabilities and people", heads, rows)
    return Section("calibration", "Calibration", words, [*drawn(charts.reliability(made)), *table])


def annotators(found: Found) -> Section:
    """How good people's labels are."""
    rows: list[tuple[str, ...]] = []
    for row in found.frames["annotators"].sort("measure", "annotator").iter_rows(named=True):
        shares = row["measure"] != "seconds"
        told = share if shares else plain
        rows.append(
            (
                "all" if row["annotator"] == ANY else row["annotator"],
                row["measure"].replace("_", " "),
                told(row["value"]),
                interval(row["low"], row["high"], shares=shares),
                told(number(row["reference"])),
                count(row["n"]),
            )
        )
    heads = ("annotator", "measure", "#value", "#95% interval", "#the others", "#n")
    title = f"The {found.people}" if found.made["simulated_people"] else "The people who labelled"
    return Section("people", title, parts=[*tabled("Annotators", heads, rows, beside=False)])
