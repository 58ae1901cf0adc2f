"""Pins down reliability: by hand, by scikit-learn's own Brier score, and that names do not matter."""

import numpy as np
import polars as pl
import pytest
import sklearn.metrics

from pipeline.statistics.calibration import errors, table


def frames(p: list[float], human: list[float]) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    ids = [f"{at:032x}" for at in range(len(p))]
    verdicts = pl.DataFrame({"pair_id": ids, "p_a": p})
    told = pl.DataFrame({"pair_id": ids, "human": human})
    return verdicts, told, pl.DataFrame({"pair_id": ids, "prompt_id": ids})


def test_bins_by_hand() -> None:
    # confidences .9, .9 (people 1 and 0 for the side: mean .5) and .6 (tie): ECE = (2 * .4 + .1) / 3
    made = table(*frames([0.9, 0.1, 0.6], [1.0, 1.0, 0.5]), "p_a", 0)
    assert made["confidence_from"].to_list() == [0.6, 0.9]
    assert made["n"].to_list() == [1, 2]
    assert made["people"].to_list() == [0.5, 0.5]
    found = errors(made)
    assert found is not None
    assert found["ece"] == pytest.approx(0.9 / 3)
    # (.1^2 + .9^2 + .1^2) / 3
    assert found["brier"] == pytest.approx(0.83 / 3)


def test_certainty_and_a_coin_have_their_bins() -> None:
    made = table(*frames([1.0, 0.0, 0.5], [1.0, 0.0, 0.5]), "p_a", 0)
    assert made["confidence_from"].to_list() == [0.5, 0.95]
    assert errors(made) == {"ece": 0.0, "brier": 0.0, "n": 3}


def test_nothing_told_is_nothing_known() -> None:
    verdicts, told, pairs = frames([0.7], [1.0])
    assert errors(table(verdicts, told.head(0), pairs, "p_a", 0)) is None


def test_a_calibrated_panel_has_little_error_and_brier_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    p = random.random(4000)
    human = (random.random(4000) < p).astype(float)
    found = errors(table(*frames(p.tolist(), human.tolist()), "p_a", 0))
    overconfident = errors(table(*frames((p > 0.5).astype(float).tolist(), human.tolist()), "p_a", 0))
    mirrored = errors(table(*frames((1 - p).tolist(), (1 - human).tolist()), "p_a", 0))
    assert found is not None
    assert overconfident is not None
    assert mirrored == pytest.approx(found)
    assert found["ece"] < 0.02
    assert overconfident["ece"] == pytest.approx(0.25, abs=0.02)
    assert found["brier"] == pytest.approx(sklearn.metrics.brier_score_loss(human, p))


def test_the_interval_holds_what_people_say() -> None:
    random = np.random.default_rng(1)
    made = table(*frames([0.8] * 300, (random.random(300) < 0.8).astype(float).tolist()), "p_a", 0)
    low, people, high = made.select("low", "people", "high").row(0)
    assert low < people < high
    # normal approximation: 1.96 * sqrt(.8 * .2 / 300) = .045
    assert high - low == pytest.approx(2 * 0.045, abs=0.015)
