"""Charts of what moves judges besides quality, and of what constant answers won. Pure."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from dashboard import marks, theme
from dashboard.charts.measured import COIN, MEASURES, PEOPLE_BESIDE, RATES, SHARES, Chart, ends_of, estimate, span
from dashboard.marks import JUDGE, Kind, Row
from pipeline import figures


def biases(bias: pl.DataFrame, measure: str, *, subset: str = "all") -> Chart:
    """*measure* of ``bias`` for every judge with its interval, and beside it what no bias or what people would show."""
    what = MEASURES.get(measure, "measure")
    mine = (pl.col("measure").cast(pl.String) == measure) & (pl.col("subset") == subset) & pl.col("value").is_finite()
    found = [] if bias.is_empty() else bias.filter(mine).sort("judge").to_dicts()
    if not found:
        return marks.nothing(f"{what[0].upper()}{what[1:]}")
    shares = measure in SHARES
    words = {"swap_consistency": COIN, **dict.fromkeys(PEOPLE_BESIDE, "people, on the same pairs")}
    beside = Kind(words.get(measure, "no bias"), theme.VERMILION, marks.UPRIGHT)
    # The furthest from what it is to be stands first.
    ideal = 1.0 if measure == "swap_consistency" else None
    found.sort(key=lambda row: (-abs(row["value"] - (ideal or _reference(row, measure) or 0.0)), row["judge"]))
    rows: list[Row] = []
    for at, row in enumerate(found):
        reference = _reference(row, measure)
        told = figures.share(reference) if shares else figures.plain(reference)
        one = {**estimate(row, at, JUDGE.name, row["judge"], shares=shares), "reference": told}
        rows.append(one)
        if reference is not None:
            rows.append({**one, "kind": beside.name, "value": reference, "low": None, "high": None})
    kinds = (JUDGE, beside) if len(rows) > len(found) else (JUDGE,)
    domain = marks.reach(
        [*ends_of(found), *(_reference(row, measure) for row in found), ideal],
        within=(0, 1) if measure in RATES else None,
    )
    tip = marks.tips(name="judge", figure=what, interval="95% interval", reference=beside.name, n="n")
    points = marks.estimates(rows, marks.x_of("value", what, domain, shares=shares), kinds, tip)
    said = f"{what[0].upper()}{what[1:]}, with 95% intervals: {span(found, 'judge', shares=shares)}."
    if len(kinds) > 1:
        said += f" Beside each stands what {beside.name.removesuffix(', on the same pairs')} would show."
    return marks.finished(points, said, marks.height(len(found)))


def _reference(row: Row, measure: str) -> float | None:
    """What no bias or what people show; a coin that is thrown for each order says the same half the time."""
    return figures.number(row["reference"]) if measure != "swap_consistency" else 0.5


def controls(controls: Mapping[str, Mapping[str, Any]]) -> Chart:
    """What constant answers won from each judge; ``controls`` of summary.json."""
    found = {name: won for name, won in controls.items() if figures.number(won.get("win_rate")) is not None}
    if not found:
        return marks.nothing("What constant answers won")
    whole, single = Kind("all constant answers", theme.BLUE), Kind("one of them", theme.GREY, "triangle")
    rows: list[Row] = []
    order = sorted(found, key=lambda name: (-found[name]["win_rate"], name))
    for at, name in enumerate(order):
        won = found[name]
        singles: Mapping[str, Row] = won.get("by_control") or {}
        for answer, one in singles.items():
            told = {**one, "value": one["win_rate"], "low": None, "high": None}
            rows.append({**estimate(told, at, single.name, name), "answer": marks.told(answer)})
        rows.append({**estimate({**won, "value": won["win_rate"]}, at, whole.name, name), "answer": "all"})
    tip = marks.tips(name="judge", answer="constant answer", figure="wins", interval="95% interval", n="comparisons")
    x = marks.x_of("value", "comparisons that the constant answer won", [-0.02, 1.02])
    said = "How often constant answers, which deserve to win nothing, won: "
    said += f"{span([{'value': won['win_rate']} for won in found.values()], 'judge')}."
    return marks.finished(marks.estimates(rows, x, (whole, single), tip), said, marks.height(len(order), 30))
