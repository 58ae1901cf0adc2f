"""Pins down votes, weights and verdicts: by hand, antisymmetric, and fitted on `fit` labels alone."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.aggregation.base import mean_vote
from pipeline.aggregation.calibrated import CalibratedAggregation, fit, fit_logistic
from pipeline.aggregation.consistency import ConsistencyAggregation
from pipeline.aggregation.dawid_skene import DawidSkeneAggregation
from pipeline.aggregation.glad import GladAggregation
from pipeline.aggregation.majority import MajorityAggregation
from pipeline.aggregation.one_coin import OneCoinAggregation
from pipeline.aggregation.votes import Votes
from pipeline.config import Config
from pipeline.errors import StageError
from pipeline.runner import run_stage
from pipeline.stages.aggregate import aggregate, floor
from tests.worlds import Frames, bench, judgments, labels, longer, longer_label, world

NAN = math.nan


def votes(
    rows: list[list[float]], length: list[float] | None = None, consistency: dict[str, float] | None = None
) -> Votes:
    judges = ["x", "y", "z"][: len(rows[0])]
    ids = [f"{at:032x}" for at in range(len(rows))]
    return Votes.level(ids, judges, np.array(rows), np.array(length or [0.0] * len(rows)), consistency or {})


def test_mean_vote_by_hand() -> None:
    given = np.array([[1.0, -1.0, NAN], [NAN, NAN, NAN], [1.0, 0.0, -0.5]])
    assert mean_vote(given).tolist() == pytest.approx([0.0, 0.0, 1 / 6])
    # weights 2, 1, 1: (2 - 1) / 3; nobody; (2 + 0 - .5) / 4
    assert mean_vote(given, np.array([2.0, 1.0, 1.0])).tolist() == pytest.approx([1 / 3, 0.0, 0.375])


def test_majority_counts_heads() -> None:
    fitted = MajorityAggregation().fit_predict(votes([[0.1, 0.2, -1.0], [0.0, 0.3, NAN]]), {})
    # (1 + (1 + 1 - 1) / 3) / 2 = 2/3; (1 + (0 + 1) / 2) / 2 = 3/4
    assert fitted.p_a.tolist() == pytest.approx([2 / 3, 3 / 4])


def test_consistency_counts_above_chance_and_cubed() -> None:
    given = votes([[1.0, -1.0, 1.0]], consistency={"x": 1.0, "y": 0.75})
    fitted = ConsistencyAggregation().fit_predict(given, {})
    # 2c - 1 = 1 and .5, and .75 from the mean .875 of both for the judge of whom nothing is known; cubed
    assert fitted.weights == pytest.approx({"x": 1.0, "y": 0.125, "z": 0.421875})
    # (1 + (1 - .125 + .421875) / 1.546875) / 2
    assert fitted.p_a[0] == pytest.approx((1 + 1.296875 / 1.546875) / 2)


def test_judges_that_are_never_consistent_weigh_the_same() -> None:
    fitted = ConsistencyAggregation().fit_predict(votes([[1.0, 0.5]], consistency={"x": 0.0, "y": 0.0}), {})
    assert fitted.p_a[0] == pytest.approx((1 + 0.75) / 2)


def test_the_logistic_fit_solves_its_equation() -> None:
    # One feature x = 1, share s of successes in n rows, ridge r: n (s - p) = r w with p = 1 / (1 + exp(-w)).
    fitted = fit_logistic(np.ones((10, 1)), np.array([1.0] * 7 + [0.5] * 2 + [0.0]), np.array([0.3]))
    (weight,) = fitted.coefficients
    p = 1 / (1 + math.exp(-weight))
    assert 10 * (0.8 - p) == pytest.approx(0.3 * weight, abs=1e-5)


def test_soft_labels_count_by_their_share() -> None:
    features = np.array([[1.0], [1.0]])
    soft = fit_logistic(features, np.array([0.75, 0.75]), np.array([0.5])).coefficients
    hard = fit_logistic(np.ones((8, 1)), np.array([1.0] * 6 + [0.0] * 2), np.array([2.0])).coefficients
    # 2 (.75 - p) = .5 w and 8 (.75 - p) = 2 w are one equation
    assert soft == pytest.approx(hard, abs=1e-5)


def test_the_evidence_is_the_integral_where_it_can_be_done() -> None:
    # One label s = 1 on x = 1 with prior N(0, 1/r): P = integral of logistic(w) over the prior = 1/2 by symmetry. The
    # Laplace approximation is close for a narrow prior, and the log likelihood alone would not be.
    found = fit_logistic(np.ones((1, 1)), np.array([1.0]), np.array([25.0])).log_evidence
    assert found == pytest.approx(math.log(0.5), abs=1e-3)


def test_labels_of_one_prompt_count_as_fewer() -> None:
    # n labels of one prompt weigh n / (1 + .4 (n - 1)): six of them 2, so the fit is that of two labels apart
    one_prompt = replace(votes([[1.0]] * 6), prompt_ids=pl.Series(["p"] * 6))
    apart = votes([[1.0]] * 2)
    fits = [fit(given, dict.fromkeys(given.pair_ids, 1.0), np.ones(1)) for given in (one_prompt, apart)]
    assert fits[0].direct == pytest.approx(fits[1].direct, rel=1e-5)


def test_modes_of_one_model_share_what_is_learned() -> None:
    # Both modes of m are right; one is seen in the labels to be so and the other only half of the time.
    random = np.random.default_rng(4)
    truth = random.choice([-1.0, 1.0], 60)
    noise = random.choice([-1.0, 1.0], (60, 3))
    noise[:, 0] = truth
    given = replace(votes(noise.tolist()), judges=["m/one", "m/two", "other"])
    human = dict(zip(given.pair_ids, ((truth + 1) / 2).tolist(), strict=True))
    alone = replace(given, judges=["m", "n", "other"])
    kin = fit(given, human, np.ones(3)).own
    strangers = fit(alone, human, np.ones(3)).own
    # what the config says of a judge's model counts as a name does
    told = replace(alone, models={"m": "base", "n": "base"})
    assert fit(told, human, np.ones(3)).own == pytest.approx(kin)
    assert kin[1] > strangers[1]
    assert kin[0] > kin[1]


def test_labels_of_one_kind_are_no_trouble() -> None:
    for label in (0.0, 0.5, 1.0):
        fitted = CalibratedAggregation().fit_predict(votes([[1.0], [-1.0]]), {f"{0:032x}": label})
        assert np.isfinite(fitted.p_a).all()
        assert np.sign(fitted.p_a - 0.5).tolist() == [np.sign(label - 0.5), np.sign(0.5 - label)]


def test_calibrated_learns_whom_to_trust() -> None:
    random = np.random.default_rng(0)
    truth = random.choice([-1.0, 1.0], 200)
    wrong = np.where(random.random(200) < 0.4, -truth, truth)
    given = votes([[right, noisy] for right, noisy in zip(truth, wrong, strict=True)])
    fitted = CalibratedAggregation().fit_predict(
        given, dict(zip(given.pair_ids, ((truth + 1) / 2).tolist(), strict=True))
    )
    assert fitted.weights["x"] > fitted.weights["y"] > 0  # shrunk towards equal weights, but x alone decides
    assert ((fitted.p_a > 1 / 2) == (truth > 0)).all()


def test_calibrated_is_antisymmetric_and_length_is_held_at_zero() -> None:
    random = np.random.default_rng(1)
    given = votes(random.uniform(-1, 1, (50, 3)).tolist(), random.normal(size=50).tolist())
    human = {key: float(random.choice([0, 0.5, 1])) for key in given.pair_ids.head(30)}
    fitted = CalibratedAggregation().fit_predict(given, human)
    mirrored = CalibratedAggregation().fit_predict(given.swapped(), {key: 1 - value for key, value in human.items()})
    assert mirrored.p_a == pytest.approx(1 - fitted.p_a, abs=1e-6)
    assert mirrored.p_a_lc == pytest.approx(1 - fitted.p_a_lc, abs=1e-6)
    # the same weights on the same votes with the length, in units of its root mean square, taken away
    z = np.clip(given.length / np.sqrt(np.mean(given.length**2)), -3, 3)
    logit = np.log(fitted.p_a / (1 - fitted.p_a)) - fitted.parameters["length"] * z
    assert fitted.p_a_lc == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-9)


def test_calibrated_needs_labels() -> None:
    with pytest.raises(ValueError, match="needs labelled pairs"):
        CalibratedAggregation().fit_predict(votes([[1.0]]), {})


def test_the_floor_drops_bad_judges_and_keeps_the_best() -> None:
    given = votes([[1.0, -1.0, -1.0]] * 10)
    human = dict.fromkeys(given.pair_ids, 1.0)
    prompts = {key: key for key in given.pair_ids}
    assert set(floor(given, human, prompts, 0.6, 0)) == {"y", "z"}
    assert set(floor(given, dict.fromkeys(given.pair_ids, 0.0), prompts, 0.6, 0)) == {"x"}
    # all are below: the best stays
    assert len(floor(votes([[-1.0, -1.0]] * 4), human, prompts, 0.6, 0)) == 1
    assert floor(given, {}, prompts, 0.6, 0) == {}


def many() -> Frames:
    made = world({f"q{at}": ["x", "yyyy", "a long one"] for at in range(30)})
    return {**made, "judgments": judgments(made, {"length": longer})}


def test_without_labels_the_fallback_speaks_and_says_so() -> None:
    frames = {**many(), "labels": labels(world({}), longer_label)}
    made, silent, panel = aggregate(frames, Config(name="x"), CalibratedAggregation(), ConsistencyAggregation())
    assert (panel["method"], panel["validated"]) == ("consistency", False)
    assert made.height == 90
    assert silent == []
    with_labels = {**frames, "labels": labels(many(), longer_label)}
    _, _, panel = aggregate(with_labels, Config(name="x"), CalibratedAggregation(), ConsistencyAggregation())
    assert (panel["method"], panel["validated"]) == ("calibrated", True)
    assert panel["labels"]["fit_pairs"] + panel["labels"]["certify_pairs"] == 90


def test_no_readable_judgment_says_why(tmp_path: Path) -> None:
    made = many()
    failed = made | {"judgments": judgments(made, {"j": lambda _a, _b: None})}
    why = r"none of 180 judgments has a readable verdict \(j: 180 x failed\)"
    with bench(tmp_path, failed) as run, pytest.raises(StageError, match=why):
        run_stage(run, "aggregate")
    nothing = {key: made[key] for key in ("prompts", "samples", "pairs")}
    with bench(tmp_path / "none", nothing) as run, pytest.raises(StageError, match="there are no judgments"):
        run_stage(run, "aggregate")


@pytest.mark.parametrize("kind", [DawidSkeneAggregation, OneCoinAggregation, GladAggregation])
def test_classical_models_find_who_is_right_and_know_no_names(kind: type[DawidSkeneAggregation]) -> None:
    random = np.random.default_rng(6)
    truth = random.choice([-1.0, 1.0], 120)
    panel = np.column_stack([np.where(random.random(120) < share, -truth, truth) for share in (0.1, 0.15, 0.45)])
    panel[0] = NAN
    panel[1] = [0.0, 0.0, 0.0]
    given = votes(panel.tolist())
    fitted = kind().fit_predict(given, {})
    # nobody took a side: nothing is known
    assert fitted.p_a[:2].tolist() == [0.5, 0.5]
    assert (np.sign(fitted.p_a - 0.5) == truth)[2:].mean() > 0.85
    assert kind().fit_predict(given.swapped(), {}).p_a == pytest.approx(1 - fitted.p_a, abs=1e-9)


def test_the_skill_of_a_coin_is_its_accuracy() -> None:
    # One-coin EM against its own fixed point: a judge's skill is the mean posterior of the side it took.
    random = np.random.default_rng(7)
    truth = random.choice([-1.0, 1.0], 300)
    panel = np.column_stack([np.where(random.random(300) < share, -truth, truth) for share in (0.1, 0.2, 0.4)])
    fitted = OneCoinAggregation().fit_predict(votes(panel.tolist()), {})
    for column, judge in enumerate(("x", "y", "z")):
        side = np.where(panel[:, column] > 0, fitted.p_a, 1 - fitted.p_a)
        assert fitted.weights[judge] == pytest.approx(side.mean(), abs=0.01)
