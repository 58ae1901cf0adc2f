"""Charts: what they hold and say of themselves; names from elsewhere are data and nothing else. Pure."""

import json
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import polars as pl
import pytest
import vl_convert

from dashboard import charts, marks, theme
from dashboard.charts import measured, run, trained
from dashboard.report.drawing import drawn
from pipeline import schemas

HOSTILE = (
    "a.b[0]['c']",
    "back\\slash\\u0041",
    "\"quoted' `ticks`",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](http://evil.example/x.png)",
    "datum.value",
    "{{ 7 * 7 }} ${x}",
    "\u202egnp.exe",
    "line\nbreak\x00\x1b[2J",
    "long " * 2000,
    "long " * 2000 + "other end",
    "a" + "\u0301" * 5000,
    "",
)


def agreed(
    between: str,
    one: str,
    other: str,
    value: float | None,
    *,
    subset: str = "all",
    measure: str = "accuracy",
    **more: Any,
) -> dict[str, object]:
    row = {"between": between, "rater_1": one, "rater_2": other, "subset": subset, "measure": measure, "value": value}
    ends = {"low": None, "high": None} if value is None else {"low": value - 0.05, "high": value + 0.05}
    return {**row, **ends, "n": 100, "prompts": 20, **more}


def agreement(*judges: str) -> pl.DataFrame:
    """Judge number i agrees on .6 + i / 100; the panel on .8; ceiling .85, floor .55; kappa of each two .3."""
    rows = [agreed("judge_people", name, "people", 0.6 + at / 100) for at, name in enumerate(judges)]
    rows += [agreed("judge_people", name, "people", 0.7, subset="tag:sums") for name in judges]
    rows += [agreed("judge_people", name, "people", 0.2, measure="cohen_kappa") for name in judges]
    rows += [
        agreed("judge_judge", one, other, 0.3, measure="cohen_kappa")
        for one, other in list(combinations(judges, 2))[:300]  # the stage lists no more than the first few hundred
    ]
    rows += [
        agreed("panel_people", "panel", "people", 0.8),
        agreed("panel_people", "panel", "people", 0.5, measure="cohen_kappa"),
        agreed("person_person", "*", "*", 0.85),
        agreed("length_people", "longer", "people", 0.55),
    ]
    return schemas.frame("agreement", rows)


def bias(measure: str, reference: float | None, **values: float) -> pl.DataFrame:
    shared = {"subset": "all", "measure": measure, "reference": reference, "n": 40, "prompts": 10}
    return schemas.frame(
        "bias",
        [
            {"judge": name, "value": v, "low": v - 0.1, "high": None if v > 1 else v + 0.1, **shared}
            for name, v in values.items()
        ],
    )


def trend(names: tuple[str, ...], snapshots: int) -> pl.DataFrame:
    rows: list[dict[str, object]] = [
        {
            "snapshot": str(at),
            "judge": name,
            "measure": "accuracy",
            "measured_at": f"2026-01-0{at + 1}T12:00:00+00:00",
            "value": 0.6 + at / 10,
            "low": 0.55,
            "high": 0.75,
            "n": 10,
            "difference": None if at == 0 else 0.1,
            "difference_low": None if at == 0 else 0.0,
            "difference_high": None if at == 0 else 0.2,
        }
        for at in range(snapshots)
        for name in names
    ]
    return schemas.frame("trend", rows)


def win_rates(*models: str) -> pl.DataFrame:
    rows: list[dict[str, object]] = [
        {"made_by": f"{model} {t}", "model": model, "temperature": t, "win_rate": 0.5, "low": 0.4, "high": 0.6}
        | {"n": 9, "prompts": 3}
        for model in models
        for t in (0.3, None)
    ]
    return schemas.frame("win_rates", rows)


CURVE = [
    {"threshold": 0.9, "coverage": 0.1, "agreement": 0.99, "lower_bound": 0.8, "n_units": 10, "tested": True},
    {"threshold": 0.5, "coverage": 0.6, "agreement": 0.9, "lower_bound": 0.75, "n_units": 60, "tested": True},
    {"threshold": 0.1, "coverage": 1.0, "agreement": None, "lower_bound": 0.0, "n_units": 0, "tested": False},
]
CERTIFICATE: dict[str, Any] = {
    "curve": CURVE,
    "target_agreement": 0.7,
    "coverage": 0.6,
    "threshold": 0.5,
    "targets": [
        {"target": 0.6, "certified": True, "coverage": 0.9, "threshold": 0.2, "agreement": 0.8, "lower_bound": 0.7},
        {"target": 0.9, "certified": False, "coverage": None, "threshold": None, "labels_needed": 120},
    ],
    "more_labels": [
        {"labels": 0, "coverage": None, "threshold": None},
        {"labels": 50, "coverage": 0.5, "threshold": 0.3},
    ],
}
SUMMARY: dict[str, Any] = {
    "rows": {
        "load": {"in": {}, "out": {"prompts": 10}},
        "generate": {"in": {"prompts": 12}, "out": {"samples": 40}},
        "pair": {"in": {"samples": 40, "pairs": 0}, "out": {"pairs": 60}},
        "aggregate": {"in": {"pairs": 60}, "out": {"verdicts": 60}},
        "select": {"in": {"verdicts": 60}, "out": {"kept": 12}},
        "export": {"in": {"kept": 12}, "out": {}},
    },
    "dropped": {"pair": {"identical": 3}, "select": {"not_selected": 40, "low_margin": 8}, "export": {"no_text": 2}},
    "spent": {
        "lm": {"calls": 30, "cost_usd": 3.0, "prompt_tokens": 1000, "cached_tokens": 5, "completion_tokens": 7}
        | {"latency_s": 0.25},
        "generate:m": {"calls": 10, "cost_usd": 1.0, "prompt_tokens": 10, "cached_tokens": 0, "completion_tokens": 9}
        | {"latency_s": None},
    },
    "margins": {"edges": [at / 20 for at in range(21)], "kept": [0] * 19 + [12], "dropped": [48] + [0] * 19},
}
CONTROLS = {
    "lm": {"win_rate": 0.7, "low": 0.5, "high": 0.8, "n": 40, "by_control": {"flattery": {"win_rate": 1.0, "n": 9}}},
    "none": {"win_rate": None, "low": None, "high": None, "n": 0, "by_control": {}},
}
CALIBRATION = schemas.frame(
    "calibration",
    [
        {"confidence_from": 0.5, "n": 10, "confidence": 0.52, "people": 0.4, "low": 0.2, "high": 0.6, "brier": 0.2},
        {"confidence_from": 0.95, "n": 1, "confidence": 0.97, "people": 1.0, "low": None, "high": None, "brier": 0.0},
    ],
)
HISTORY = [{"step": 1, "loss": 0.7, "reward_accuracy": 0.5}, {"step": 2, "loss": 0.5, "reward_accuracy": 1.0}]


def spec(chart: charts.Chart) -> dict[str, Any]:
    return chart.to_dict()


def rows(chart: charts.Chart) -> list[dict[str, Any]]:
    """All data of a chart."""
    return [row for data in spec(chart)["datasets"].values() for row in data]


def column(chart: charts.Chart, field: str, /, **where: object) -> list[Any]:
    return [row[field] for row in rows(chart) if field in row and where.items() <= row.items()]


def labels(chart: charts.Chart) -> list[str]:
    """The rows' labels from top to bottom, as the axis shows them."""
    return [row[5:] for row in sorted(set(column(chart, "row")))]


def every(names: tuple[str, ...]) -> dict[str, charts.Chart]:
    """Every chart that shows names, of these."""
    found = agreement(*names)
    won = {name: CONTROLS["lm"] | {"by_control": {name: {"win_rate": 0.1, "n": 1}}} for name in names}
    runs = [{"name": name, "kl": 1.0, "win_rate": 0.6, "low": 0.5, "high": 0.7} for name in names]
    return {
        "drops": charts.drops({"dropped": {"generate": dict.fromkeys(names, 2)}}),
        "spent": charts.spent({"spent": dict.fromkeys(names, SUMMARY["spent"]["lm"])}),
        "accuracy": charts.accuracy(found),
        "matrix": charts.matrix(found, "cohen_kappa"),
        "subsets": charts.subsets(found),
        "drift": charts.drift(trend(names, 2), "accuracy"),
        "first snapshot": charts.drift(trend(names, 1), "accuracy"),
        "biases": charts.biases(bias("longer_rate", 0.5, **dict.fromkeys(names, 0.4)), "longer_rate"),
        "controls": charts.controls(won),
        "frontier": charts.frontier(runs),
        "win rates": charts.win_rates(win_rates(*names)),
        "compared": charts.compared(found, found, (names[0], names[-1])),
    }


def figures() -> dict[str, charts.Chart]:
    """Every chart, of small figures."""
    return every(("lm", "verifier")) | {
        "funnel": charts.funnel(SUMMARY),
        "gate": charts.gate(CERTIFICATE),
        "targets": charts.targets(CERTIFICATE, 0.8),
        "more labels": charts.more_labels(CERTIFICATE),
        "reliability": charts.reliability(CALIBRATION),
        "margins": charts.margins(SUMMARY),
        "training": charts.training(HISTORY, "loss"),
    }


def outside_data(chart: charts.Chart) -> str:
    """The chart's specification without its data."""
    return json.dumps({key: value for key, value in spec(chart).items() if key != "datasets"})


NO_FIGURES: Mapping[str, Callable[[], charts.Chart]] = {
    "funnel": lambda: charts.funnel({}),
    "drops": lambda: charts.drops({"dropped": {}}),
    "spent": lambda: charts.spent({"spent": {}}),
    "free": lambda: charts.spent({}),
    "accuracy": lambda: charts.accuracy(schemas.frame("agreement", [])),
    "undefined": lambda: charts.accuracy(schemas.frame("agreement", [agreed("judge_people", "lm", "people", None)])),
    "matrix": lambda: charts.matrix(schemas.frame("agreement", []), "same"),
    "subsets": lambda: charts.subsets(schemas.frame("agreement", [agreed("judge_people", "lm", "people", 0.5)])),
    "drift": lambda: charts.drift(schemas.frame("trend", []), "accuracy"),
    "biases": lambda: charts.biases(schemas.frame("bias", []), "tie_rate"),
    "controls": lambda: charts.controls({"none": CONTROLS["none"]}),
    "gate": lambda: charts.gate({"curve": [CURVE[-1]]}),
    "targets": lambda: charts.targets({"certified": False}),
    "more_labels": lambda: charts.more_labels({}),
    "reliability": lambda: charts.reliability(schemas.frame("calibration", [])),
    "margins": lambda: charts.margins({"margins": {"edges": [0, 1], "kept": [0], "dropped": [0]}}),
    "training": lambda: charts.training([{"step": 1, "loss": 1.0}], "reward_margin"),
    "frontier": lambda: charts.frontier([{"name": "x", "kl": None, "win_rate": 0.5}]),
    "win_rates": lambda: charts.win_rates(pl.DataFrame()),
    "compared": lambda: charts.compared(*[schemas.frame("agreement", [])] * 2, ("x", "y")),
}


@pytest.mark.parametrize("name", NO_FIGURES)
def test_without_figures_a_chart_says_so(name: str) -> None:
    made = spec(NO_FIGURES[name]())
    assert made["title"]["text"] == marks.NOTHING
    assert made["description"].endswith(f": {marks.NOTHING}.")
    assert marks.NOTHING in vl_convert.vegalite_to_svg(made)


def test_a_chart_describes_itself_fits_its_place_and_has_tooltips() -> None:
    for name, chart in figures().items():
        made = spec(chart)
        assert len(made["description"]) > 20, name
        assert marks.NOTHING not in made["description"], name
        assert "width" not in made, name
        assert made["height"] >= marks.ROW_PX, name
        assert made["autosize"] == {"type": "fit-x", "contains": "padding"}, name
        assert '"tooltip"' in outside_data(chart), name
        drawn = vl_convert.vegalite_to_svg({**made, "width": 600})
        assert "NaN" not in drawn, name
        assert "undefined" not in drawn, name


def test_names_from_elsewhere_are_data_and_nothing_else() -> None:
    words = ("a.b", "slash", "quoted", "<script", "onerror", "evil", "7 * 7", "gnp", "long ", "other end", "202e")
    for name, chart in every(HOSTILE).items():
        told = outside_data(chart)
        assert not [word for word in words if word in told], name
        assert "alert(1)" in json.dumps(rows(chart)), name
        shown = json.dumps(rows(chart), ensure_ascii=False)
        assert not set(shown) & set("\u202e\x00\x1b"), name
        assert max(len(row.get("row", "")) for row in rows(chart)) <= 80, name
        # Vega takes them as they are: nothing breaks, nothing is read as markup or as an expression.
        drawn = vl_convert.vegalite_to_svg({**spec(chart), "width": 600})
        assert "<script" not in drawn, name
        assert "<img" not in drawn, name


def test_names_that_are_cut_to_the_same_words_keep_rows_of_their_own() -> None:
    names = ("model/" + "x" * 100 + "one" + "y" * 50, "model/" + "x" * 100 + "two" + "y" * 50)
    shown = labels(charts.accuracy(agreement(*names)))
    assert len(shown) == 3
    assert shown[1] == shown[2]
    assert len(shown[1]) == marks.LABEL


def test_twenty_four_judges_each_have_a_row_and_the_chart_grows() -> None:
    names = tuple(f"judge {at}" for at in range(24))
    for name, chart in every(names).items():
        made = spec(chart)
        if name in {"drift", "frontier", "drops"}:
            continue
        assert len(labels(chart)) >= 24, name
        assert made["height"] / len(labels(chart)) >= 18, name  # px a row: its label needs 14
    assert spec(charts.drift(trend(names, 2), "accuracy"))["height"] >= 24 * 60
    matrix = charts.matrix(agreement(*names), "cohen_kappa")
    # 24 x 23 judges with each other, 24 and the panel with people
    assert len(rows(matrix)) == 24 * 23 + 25
    assert set(column(matrix, "text")) == {"30", "20", "50"}  # hundredths, for there is no room for more
    assert "in hundredths" in spec(matrix)["description"]


def test_the_funnel_counts_imported_rows_and_what_was_dropped_on_the_way() -> None:
    chart = charts.funnel(SUMMARY)
    # two of the twelve prompts were imported; export dropped two of the twelve kept pairs
    assert labels(chart) == ["prompts 12", "answers 40", "pairs 60", "verdicts 60", "kept pairs 12", "dataset rows 10"]
    assert column(chart, "n", kind="dropped") == [0, 0, 3, 0, 48, 2]
    assert "12 kept pairs, 10 dataset rows" in spec(chart)["description"]


def test_drops_are_sorted_and_the_many_are_one_row() -> None:
    assert labels(charts.drops(SUMMARY)) == [
        "select not_selected",
        "select low_margin",
        "pair identical",
        "export no_text",
    ]
    many = charts.drops({"dropped": {"generate": {f"error {at}": 1 for at in range(100)}}})
    assert len(rows(many)) == run.MOST_REASONS + 1
    assert sum(column(many, "n")) == 100


def test_spent_shows_shares_of_calls_and_of_cost() -> None:
    chart = charts.spent(SUMMARY)
    assert column(chart, "share", kind="calls") == [0.75, 0.25]
    assert column(chart, "share", kind="US$") == [0.75, 0.25]
    assert "40 calls and the US$ 4.0000" in spec(chart)["description"]
    free = charts.spent({"spent": {"lm": {"calls": 2, "cost_usd": 0.0}}})
    assert set(column(free, "kind")) == {"calls"}


def test_accuracy_shows_everyone_with_intervals_ceiling_and_floor() -> None:
    chart = charts.accuracy(agreement("low", "high"), people="simulated people")
    assert labels(chart) == ["panel", "high", "low"]
    assert column(chart, "value", name="low") == [0.6]
    assert column(chart, "interval", name="high") == ["56.0% to 66.0%"]
    assert column(chart, "at") == [0.85, 0.55, 0.5]
    assert column(chart, "line") == list(measured.LINES)
    said = spec(chart)["description"]
    assert "2 judges, from 60.0% to 61.0%; the panel 80.0%" in said
    assert "ceiling: one person, another: 85.0%, 80.0% to 90.0%, n = 100" in said
    assert '"agreement with simulated people"' in outside_data(chart)


def test_the_matrix_has_figures_that_can_be_read_on_their_cells() -> None:
    chart = charts.matrix(agreement("lm", "other"), "cohen_kappa", people="simulated people")
    cells = {(row["name"], row["other"]): row for row in rows(chart)}
    assert set(cells) == {
        ("lm", "simulated people"),
        ("other", "simulated people"),
        ("panel", "simulated people"),
        ("lm", "other"),
        ("other", "lm"),
    }
    assert cells["other", "lm"]["text"] == "0.30"
    beside = [
        agreed("person_person", "*", "*", 0.4, measure="cohen_kappa"),
        agreed("length_people", "longer", "people", 0.1, measure="cohen_kappa"),
    ]
    both = agreement("lm").vstack(schemas.frame("agreement", beside))
    below = [
        (row["row"][5:], row["text"])
        for row in rows(charts.matrix(both, "cohen_kappa"))
        if row["name"] in measured.LINES
    ]
    assert set(below) == {(measured.CEILING, "0.40"), (measured.FLOOR, "0.10")}
    for value in (-1.0, -0.7, -0.3, 0.0, 0.2, 0.5, 0.8, 1.0):
        made = (
            agreement()
            .clear()
            .vstack(schemas.frame("agreement", [agreed("judge_people", "lm", "people", value, measure="gwet_ac1")]))
        )
        (cell,) = rows(charts.matrix(made, "gwet_ac1"))
        assert theme.contrast(cell["fill"], cell["ink"]) >= 4.5


def test_subsets_stand_under_their_judge() -> None:
    chart = charts.subsets(agreement("lm"))
    assert labels(chart) == ["panel", "lm", "sums"]
    assert column(chart, "value", subset="sums") == [0.7]


def test_drift_goes_through_the_snapshots_in_time() -> None:
    chart = charts.drift(trend(("lm",), 3), "accuracy")
    assert sorted(set(column(chart, "at"))) == [f"000{at} 2026-01-0{at + 1} 12:00" for at in range(3)]
    assert column(chart, "change")[:2] == ["none before", "+0.100 (0.0% to 20.0%)"]
    assert "yOffset" not in outside_data(charts.drift(trend(("lm",), 1), "accuracy"))


@pytest.mark.parametrize(
    ("measure", "reference", "beside", "shown"),
    [
        ("first_slot_rate", 0.5, "no bias", [0.5]),
        ("longer_rate", 0.4, "people, on the same pairs", [0.4]),
        ("swap_consistency", None, "a coin", [0.5]),
        ("failure_rate", None, "no bias", []),
    ],
)
def test_beside_a_bias_stands_what_people_or_no_bias_would_show(
    measure: str, reference: float | None, beside: str, shown: list[float]
) -> None:
    chart = charts.biases(bias(measure, reference, lm=0.8), measure)
    assert column(chart, "value", kind="judge") == [0.8]
    assert column(chart, "value", kind=beside) == shown


def test_an_interval_with_one_end_is_none() -> None:
    (row,) = rows(charts.biases(bias("length_slope_given_people", None, lm=1.5), "length_slope_given_people"))
    assert (row["high"], row["interval"]) == (None, "\N{EN DASH}")


def test_constant_answers_are_shown_together_and_one_by_one() -> None:
    chart = charts.controls(CONTROLS)
    assert column(chart, "value", answer="all") == [0.7]
    assert column(chart, "value", answer="flattery") == [1.0]
    assert labels(chart) == ["lm"]


def test_the_gate_shows_curve_bound_target_and_threshold() -> None:
    chart = charts.gate(CERTIFICATE)
    assert column(chart, "value", kind="agreement seen") == [0.99, 0.9]
    assert column(chart, "value", kind="its lower bound") == [0.8, 0.75]
    assert sorted(column(chart, "at")) == [0.6, 0.7]
    none = charts.gate({**CERTIFICATE, "coverage": None})
    assert "none passes" in spec(none)["description"]
    # a legend without an entry would be infinitely high
    assert "Infinity" not in drawn(none)


def test_targets_and_labels_that_certify_nothing_are_crosses_on_the_ground() -> None:
    chart = charts.targets(CERTIFICATE, 0.8)
    assert column(chart, "coverage", kind="certified") == [0.9]
    assert column(chart, "coverage", kind="nothing certified") == [0.0]
    assert sorted(column(chart, "at")) == [0.7, 0.8]
    more = charts.more_labels(CERTIFICATE)
    assert [(row["labels"], row["coverage"], row["kind"]) for row in rows(more)] == [
        (0, 0.0, "nothing certified"),
        (50, 0.5, "certified"),
    ]


def test_reliability_margins_and_training_hold_their_figures() -> None:
    assert column(charts.reliability(CALIBRATION), "value", n=10) == [0.4]
    assert "52.0%, people agree on 40.0%" in spec(charts.reliability(CALIBRATION))["description"]
    assert sum(column(charts.margins(SUMMARY), "n", kind="kept")) == 12
    assert column(charts.training(HISTORY, "loss"), "value") == [0.7, 0.5]
    long = [{"step": at, "loss": 1.0} for at in range(100_000)]
    assert len(rows(charts.training(long, "loss"))) <= trained.MOST_STEPS


def test_runs_on_the_frontier_differ_in_colour_or_shape() -> None:
    points = [{"name": str(at), "kl": at, "win_rate": 0.5, "low": 0.4, "high": 0.6} for at in range(25)]
    told = spec(charts.frontier(points))
    (dots,) = [layer for layer in told["layer"] if "shape" in layer["encoding"]]
    pairs = zip(*(dots["encoding"][channel]["scale"]["range"] for channel in ("color", "shape")), strict=True)
    assert len(set(pairs)) == 25


def test_win_rates_and_two_runs_are_set_side_by_side() -> None:
    chart = charts.win_rates(win_rates("m"))
    assert labels(chart) == ["temperature unknown", "temperature 0.3"]
    two = charts.compared(agreement("lm", "gone"), agreement("lm", "new"), ("monday", "tuesday"))
    assert column(two, "run", name="lm") == ["monday", "tuesday"]
    assert column(two, "kind", name="gone") == ["before"]
    assert column(two, "kind", name="new") == ["after"]


def test_colours_of_marks_are_seen_on_both_grounds() -> None:
    for colour in theme.SERIES:
        for ground in (theme.LIGHT, theme.DARK):
            assert theme.contrast(colour, ground) >= 3
