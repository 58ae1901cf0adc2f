"""What measures are called, rows of agreement and bias as charts need them. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl

from dashboard import marks
from dashboard.marks import JUDGE, PANEL, Row
from pipeline import figures
from pipeline.schemas import ANY, LONGER, PEOPLE

Chart = alt.Chart | alt.LayerChart | alt.FacetChart | alt.HConcatChart | alt.VConcatChart
CEILING, FLOOR, COIN = "ceiling: one person, another", "floor: the longer answer", "a coin"
LINES = (CEILING, FLOOR, COIN)
BESIDE = {("person_person", ANY, ANY): CEILING, ("length_people", LONGER, PEOPLE): FLOOR}
"""What agreement is to be read beside."""
MEASURES = {
    "accuracy": "agreement with people",
    "same": "same answer",
    "cohen_kappa": "Cohen's kappa",
    "fleiss_kappa": "Fleiss' kappa",
    "krippendorff_alpha": "Krippendorff's alpha",
    "gwet_ac1": "Gwet's AC1",
    "first_slot_rate": "the answer shown first wins",
    "swap_consistency": "same side in both orders",
    "tie_rate": "ties",
    "failure_rate": "failed judgments",
    "longer_rate": "the longer answer wins",
    "length_bias": "longer answer wins, judge minus people",
    "length_slope": "slope of the vote on log length",
    "length_slope_given_people": "slope on log length, people held fixed",
    "own_win_rate": "its own model's answer wins",
    "self_preference": "own model wins, judge minus people",
    "loss": "loss",
    "reward_accuracy": "reward accuracy",
    "reward_margin": "reward margin",
}
"""What measures are called on axes."""
SHARES = frozenset(
    {"accuracy", "same", "first_slot_rate", "swap_consistency", "tie_rate", "failure_rate", "longer_rate"}
    | {"length_bias", "own_win_rate", "self_preference", "reward_accuracy"}
)
"""Measures whose unit is a share."""
RATES = SHARES - {"length_bias", "self_preference"}
"""Shares that lie between 0 and 1."""
PEOPLE_BESIDE = frozenset({"tie_rate", "longer_rate", "length_slope", "own_win_rate"})
"""Measures of ``bias`` whose reference is what people do on the same pairs; that of the others is no bias."""


def having(agreement: pl.DataFrame, measure: str, subset: str | None) -> list[Row]:
    """Rows of the frame ``agreement`` that have a value."""
    if agreement.is_empty():
        return []
    found = agreement.with_columns(pl.col("between", "measure").cast(pl.String)).filter(
        (pl.col("measure") == measure) & pl.col("value").is_finite()
    )
    return (found if subset is None else found.filter(pl.col("subset") == subset)).to_dicts()


def against_people(rows: Iterable[Row]) -> list[Row]:
    """Those of judges, and of the panel, against people's mean."""
    return [row for row in rows if row["between"] in {"judge_people", "panel_people"} and row["rater_2"] == PEOPLE]


def beside(row: Row) -> tuple[str, str, str]:
    """Which of BESIDE a row of ``agreement`` is, if any."""
    return row["between"], row["rater_1"], row["rater_2"]


def kind_of(row: Row) -> str:
    """The kind of a row of ``agreement``: `panel` or `judge`."""
    return PANEL.name if row["between"] == "panel_people" else JUDGE.name


def estimate(row: Row, place: int, kind: str, name: str, *, shares: bool = True) -> Row:
    """A row of ``marks.estimates`` with what its tooltip says."""
    low, high = figures.number(row["low"]), figures.number(row["high"])
    return {
        "row": marks.placed(place, name),
        "kind": kind,
        "value": row["value"],
        "low": low,
        "high": high,
        "name": marks.told(name),
        "figure": figures.share(row["value"]) if shares else figures.plain(row["value"]),
        "interval": figures.interval(low, high, shares=shares),
        "n": figures.count(row.get("n")),
    }


def tips(who: str, what: str) -> list[alt.Tooltip]:
    """Tooltip lines of an estimate."""
    return marks.tips(name=who, figure=what, interval="95% interval", n="n")


def raters(rows: Sequence[Row]) -> str:
    """The judges' range and the panel's figure, from rows of ``agreement``."""
    judges, panel = ([row for row in rows if kind_of(row) == kind.name] for kind in (JUDGE, PANEL))
    told = [span(judges, "judge")] if judges else []
    return "; ".join([*told, *(f"the panel {figures.share(row['value'])}" for row in panel)])


def ends_of(rows: Iterable[Mapping[str, Any]]) -> list[float | None]:
    """Values and ends of intervals, for a scale that holds them all."""
    return [figures.number(row.get(key)) for row in rows for key in ("value", "low", "high")]


def span(rows: Sequence[Mapping[str, Any]], what: str, *, shares: bool = True) -> str:
    """How many there are, from the lowest to the highest value."""
    told = figures.share if shares else figures.plain
    values = [row["value"] for row in rows]
    if len(rows) == 1:
        return f"one {what}, {told(values[0])}"
    return f"{len(rows)} {what}s, from {told(min(values))} to {told(max(values))}"
