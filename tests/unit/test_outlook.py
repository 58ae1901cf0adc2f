"""Pins down what the certificate says of other targets and of more labels, by hand and against the gate itself."""

import polars as pl
import pytest

from pipeline.stages import gate
from pipeline.statistics import bounds
from pipeline.statistics.outlook import MORE, TARGETS, at_target, foretold, outlook
from pipeline.statistics.thresholds import Curve

DELTA = 0.1


def kept(margins: list[float]) -> pl.DataFrame:
    """One kept pair a prompt."""
    return pl.DataFrame(
        {
            "pair_id": [f"{at:032x}" for at in range(len(margins))],
            "prompt_id": [f"{at:032x}" for at in range(len(margins))],
            "margin": margins,
            "a_chosen": [True] * len(margins),
        }
    )


def told(human: list[float]) -> pl.DataFrame:
    """One label for each of the first pairs."""
    return pl.DataFrame(
        {
            "pair_id": [f"{at:032x}" for at in range(len(human))],
            "human": human,
            "for_a": [float(one == 1) for one in human],
            "for_b": [float(one == 0) for one in human],
            "annotators": [1] * len(human),
            "audit": [True] * len(human),
            "inclusion_prob": [1.0] * len(human),
        },
        schema_overrides={"human": pl.Float64, "for_a": pl.Float64, "for_b": pl.Float64, "pair_id": pl.String},
    )


RIGHT_ABOVE = kept([0.9] * 30 + [0.1] * 30)
"""People agree on the clear half always, on the close half every other time."""
SAID = told([1.0] * 30 + [1.0, 0.0] * 15)


@pytest.mark.parametrize("target", [0.6, 0.8, 0.9, 0.95])
def test_another_target_is_what_the_gate_would_say_if_the_config_named_it(target: float) -> None:
    found = at_target(Curve.of(RIGHT_ABOVE, SAID, "prompt"), target, DELTA)
    certificate = gate.certify(RIGHT_ABOVE, SAID, target=target, delta=DELTA)
    shared = ("certified", "threshold", "coverage", "labels_needed")
    assert {key: found[key] for key in shared} == {key: certificate[key] for key in shared}
    if found["certified"]:
        assert found["lower_bound"] == certificate["lower_bound"] >= target


def test_a_stricter_target_keeps_no_more() -> None:
    coverage = [
        row["coverage"] or 0.0
        for row in outlook(RIGHT_ABOVE, SAID, 60, target=0.9, delta=DELTA, unit="prompt")["targets"]
    ]
    assert coverage == sorted(coverage, reverse=True)
    # 30 of 30 show .9 (.9^30 = .04) and not .95 (.95^30 = .21); all 45 of 60 show .6 and not .75
    by_target = dict(zip(TARGETS, coverage, strict=True))
    assert (by_target[0.6], by_target[0.9], by_target[0.95]) == (1.0, 0.5, 0.0)


def test_more_labels_are_foretold_to_keep_what_they_would() -> None:
    # 20 of 20 cannot show .9 (22 are needed); twice as many would, people agreeing as before
    table, said = kept([0.98] * 40), told([1.0] * 20)
    curve = Curve.of(table, said, "prompt")
    assert gate.certify(table, said, target=0.9, delta=DELTA)["certified"] is False
    none, twice = (foretold(curve, 20, more, 0.9, DELTA) for more in (1, 20))
    assert (none["coverage"], none["chance"]) == (None, 0.0)
    assert (twice["labels"], twice["coverage"], twice["threshold"]) == (20, 1.0, 0.98)
    # the panel expects .99, so with ten units of that the truth is taken for (20 + 9.9) / 30
    assert twice["chance"] == pytest.approx(bounds.power(40, 29.9 / 30, 0.9, DELTA))


def test_labels_that_show_disagreement_buy_nothing() -> None:
    table, said = kept([0.98] * 40), told([1.0, 0.0] * 20)
    rows = outlook(table, said, 40, target=0.9, delta=DELTA, unit="prompt")["more_labels"]
    assert [row["labels"] for row in rows] == list(MORE)
    assert all(row["coverage"] is None for row in rows)


def test_only_the_share_of_labels_that_counts_is_expected_of_more() -> None:
    # of 80 units drawn 20 are among the kept: 20 more labels give 5 more there, and 25 of them can pass
    curve = Curve.of(kept([0.98] * 40), told([1.0] * 20), "prompt")
    assert foretold(curve, 80, 20, 0.9, DELTA)["chance"] == pytest.approx(bounds.power(25, 29.9 / 30, 0.9, DELTA))


def test_without_labels_there_is_no_outlook() -> None:
    empty = {"targets": [], "more_labels": []}
    assert outlook(kept([0.5]), told([]), 0, target=0.9, delta=DELTA, unit="prompt") == empty
    assert outlook(kept([]), told([1.0]), 1, target=0.9, delta=DELTA, unit="prompt") == empty
