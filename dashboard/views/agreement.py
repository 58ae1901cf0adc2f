"""The page Agreement: how far judges, the panel and people agree. Draws the frames agreement, trend and calibration."""

import polars as pl

from dashboard import charts, parts
from dashboard.runs import Run
from pipeline.figures import share

MEASURES = {
    "cohen_kappa": "Cohen's κ: agreement beyond chance",
    "krippendorff_alpha": "Krippendorff's \N{GREEK SMALL LETTER ALPHA}: beyond chance, missing labels allowed",
    "gwet_ac1": "Gwet's AC1: beyond chance, steady when one answer is rare",
    "same": "Same verdict: share of pairs, ties count as a verdict",
    "accuracy": "Accuracy: share of pairs on people's side",
}
FOLLOWED = {"accuracy": "Agreement with people", "first_slot_rate": "First slot preferred", "tie_rate": "Ties"}
MEASURE = "jurybox measure CONFIG"


def draw(run: Run, _runs: list[Run]) -> None:
    """Draw the page for *run*."""
    found = run.frame("agreement")
    if found.is_empty():
        parts.missing("This run has not measured agreement yet.", MEASURE)
        return
    subset = _subset(found)
    _accuracy(run, found, subset)
    _matrix(run, found, subset)
    if found["subset"].n_unique() > 1:
        parts.heading("By subset of the prompts")
        parts.chart(charts.subsets(found, people=run.people))
        against = found.filter(_with_people("accuracy")).sort("rater_1", "subset")
        names = [("rater_1", "judge"), ("subset", "subset")]
        parts.measured(f"Agreement with {run.people} by subset", against, names)
    _drift(run)
    _calibration(run)
    _annotators(run)


def _subset(found: pl.DataFrame) -> str:
    """The subset of the prompts that the reader asks for."""
    subsets = sorted(found["subset"].unique().to_list(), key=lambda name: (name != "all", name))
    if len(subsets) == 1:
        return "all"
    return parts.choice("Prompts", subsets, "subset")


def _with_people(measure: str) -> pl.Expr:
    between = pl.col("between").cast(pl.String)
    return between.is_in(["judge_people", "panel_people", "length_people"]) & _of(measure)


def _of(measure: str) -> pl.Expr:
    return (pl.col("measure").cast(pl.String) == measure) & pl.col("value").is_not_null()


def _accuracy(run: Run, found: pl.DataFrame, subset: str) -> None:
    parts.heading(f"Agreement with {run.people}")
    here = found.filter(pl.col("subset") == subset)
    against = here.filter(_with_people("accuracy"))
    if against.is_empty():
        parts.missing("Nobody has labelled pairs of these prompts.", "jurybox queue CONFIG --audit 200 --out FILE")
        return
    parts.note(
        f"Share of pairs on which a judge sides with {run.people}, ties of {run.people} left out; lines are 95% "
        "intervals over whole prompts. The ceiling is how often one person agrees with another, the floor is what "
        "preferring the longer answer would reach. The panel is measured on labels that fitted nothing."
    )
    parts.chart(charts.accuracy(found, subset=subset, people=run.people))
    ceiling = here.filter(
        _of("accuracy"), pl.col("between").cast(pl.String) == "person_person", pl.col("rater_1") == "*"
    )
    rows = pl.concat([against, ceiling]).with_columns(
        pl.when(pl.col("between").cast(pl.String) == "person_person")
        .then(pl.lit("ceiling: one person"))
        .when(pl.col("between").cast(pl.String) == "length_people")
        .then(pl.lit("floor: the longer answer"))
        .otherwise("rater_1")
        .alias("rater_1")
    )
    parts.measured(f"Agreement with {run.people}", rows, [("rater_1", "judge")])


def _matrix(run: Run, found: pl.DataFrame, subset: str) -> None:
    parts.heading("Everyone with everyone")
    measure = parts.choice("Measure", list(MEASURES), "measure", MEASURES)
    parts.chart(charts.matrix(found, measure, subset=subset, people=run.people))
    rows = found.filter(_of(measure), pl.col("subset") == subset)
    names = [("rater_1", "rater"), ("rater_2", "with")]
    parts.measured("Every two raters; * is any person", rows, names, unit="number")


def _drift(run: Run) -> None:
    trend = run.frame("trend")
    there = [name for name in FOLLOWED if name in trend["measure"].unique().to_list()]
    if not there:
        return
    parts.heading(
        "Over time",
        "One point for each time judgments or labels changed, over all runs of this name. Where a judge drifts, the "
        "panel may need new labels.",
    )
    measure = parts.choice("Follow", there, "follow", FOLLOWED)
    parts.chart(charts.drift(trend, measure))
    rows = trend.filter(pl.col("measure") == measure).sort("measured_at", "judge")
    parts.measured("Every snapshot", rows, [("measured_at", "measured"), ("judge", "judge")])


def _calibration(run: Run) -> None:
    found = run.frame("calibration")
    if found.is_empty():
        return
    parts.heading(
        "Do probabilities keep their word?",
        f"Pairs grouped by how sure the panel is, and the share of {run.people} on its side; on the diagonal it is as "
        "right as it says. Only labels that fitted nothing are counted.",
    )
    parts.chart(charts.reliability(found))
    rows = found.with_columns(value="people", about=pl.col("confidence").map_elements(share, pl.String))
    parts.measured("Calibration", rows, [("about", "the panel's confidence")])


def _annotators(run: Run) -> None:
    found = run.frame("annotators").filter(pl.col("measure") != "seconds")
    if found.is_empty():
        return
    parts.heading(run.people.capitalize())
    names = [("annotator", "who"), ("measure", "measure"), ("reference", "the others, or what is in order")]
    rows = found.with_columns(pl.col("measure").str.replace_all("_", " "))
    parts.measured("How good the labels are; * is everyone", rows, names)
