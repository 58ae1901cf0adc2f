"""Pins down adaptive panels: what a missing call is expected to say, which call is next, and when asking stops."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.aggregation import adaptive
from pipeline.aggregation.expectation import CallModel, call_model, fully_judged, matrix, reference
from pipeline.aggregation.transitivity import leverage, smoothed
from pipeline.aggregation.votes import Votes
from pipeline.arrays import Array
from pipeline.runner import run_stage
from tests.worlds import bench, labels, longer_label, world


def panel(pairs: int, seed: int = 0, *, position: float = 0.3) -> tuple[Votes, Array]:
    """A steady judge, one that often names the slot it sees first, and one that flips coins; and the truth."""
    random = np.random.default_rng(seed)
    truth = random.choice([-1.0, 1.0], pairs)
    noisy = [np.where(random.random(pairs) < share, -truth, truth) for share in (0.1, 0.3, 0.5)]
    ab, ba = np.column_stack(noisy), np.column_stack(noisy)
    first = random.random((2, pairs)) < position
    ab[first[0], 1], ba[first[1], 1] = 1.0, -1.0
    made = Votes.level([f"{at:032x}" for at in range(pairs)], ["steady", "slot", "coin"], ab, np.zeros(pairs))
    return replace(made, ab=ab, ba=ba), truth


def told(votes: Votes, truth: Array, count: int) -> dict[str, float]:
    return {votes.pair_ids[at]: float(truth[at] > 0) for at in range(count)}


def only(votes: Votes, rows: int) -> Votes:
    """The calls of the first pairs; the others were not asked about."""
    known = matrix(votes)
    known[rows:] = np.nan
    ab, ba = np.hsplit(known, 2)
    return replace(votes, ab=ab, ba=ba)


def test_a_missing_call_is_the_regression_on_those_there() -> None:
    # Mean b in order ab and -b in ba; variance 1, correlation .6: E[ba | ab = 1] = -b + .6 (1 - b)
    model = CallModel(np.array([0.2, -0.2]), np.array([[1, 0.6], [0.6, 1]]), np.array([True, True]), np.array([True]))
    filled = model.expected(np.array([[1.0, np.nan], [np.nan, np.nan], [-1.0, 1.0]]))
    assert filled[0].tolist() == pytest.approx([1.0, -0.2 + 0.6 * 0.8])
    assert filled[1].tolist() == pytest.approx([0.2, -0.2])
    assert filled[2].tolist() == [-1.0, 1.0]


def test_the_model_of_calls_is_the_same_after_a_swap() -> None:
    votes, _ = panel(80)
    here, there = call_model(votes), call_model(votes.swapped())
    assert here.mean == pytest.approx(there.mean, abs=1e-12)
    assert here.covariance == pytest.approx(there.covariance, abs=1e-12)
    # position bias: the mean of ab is that of ba turned around
    assert here.mean[:3] == pytest.approx(-here.mean[3:])
    assert here.mean[1] > 0.15


def test_completing_a_swapped_panel_turns_every_sign() -> None:
    votes, _ = panel(60)
    random = np.random.default_rng(1)
    gaps = np.where(random.random((60, 6)) < 0.3, np.nan, matrix(votes))
    ab, ba = np.hsplit(gaps, 2)
    holed = replace(votes, ab=ab, ba=ba)
    whole = call_model(holed).completed(holed)
    turned = call_model(holed.swapped()).completed(holed.swapped())
    assert not np.isnan(matrix(whole)).any()
    assert matrix(turned.swapped()) == pytest.approx(matrix(whole), abs=1e-9)


def test_an_order_of_which_nothing_is_known_stays_missing() -> None:
    votes, _ = panel(60)
    one_order = replace(votes, ba=np.where(np.arange(60)[:, None] < 30, np.nan, votes.ba))
    one_order = replace(one_order, ab=np.where(np.arange(60)[:, None] < 30, votes.ab, np.nan))
    whole = call_model(one_order).completed(one_order)
    assert np.isnan(whole.ba[:30]).all()
    assert np.isnan(whole.ab[30:]).all()


def test_the_doubtful_pairs_of_an_early_stop_do_not_mislead() -> None:
    votes, _ = panel(100)
    stopped = only(votes, 40)
    assert fully_judged(stopped).sum() == 40
    assert len(reference(stopped).pair_ids) == 40
    assert len(reference(only(votes, 29)).pair_ids) == 100


def test_the_sequence_starts_with_what_tells_most_per_dollar() -> None:
    votes, truth = panel(200)
    known, human = only(votes, 120), told(votes, truth, 120)
    policy = adaptive.learn(known, human, np.ones(3))
    assert policy is not None
    assert policy.sequence[0] % 3 == 0
    assert sorted(policy.sequence) == list(range(6))
    dear = adaptive.learn(known, human, np.array([1000.0, 1.0, 1.0]))
    assert dear is not None
    assert dear.sequence[0] % 3 == 1
    # what every pair has already stands first, whatever it is worth
    given = np.array([False, False, True] * 2)
    after = adaptive.learn(known, human, np.ones(3), given)
    assert after is not None
    assert {call % 3 for call in after.sequence[:2]} == {2}


def test_too_few_labelled_pairs_are_no_policy() -> None:
    votes, truth = panel(100)
    assert adaptive.learn(only(votes, 29), told(votes, truth, 29), np.ones(3)) is None


def test_asking_stops_early_and_keeps_the_full_panels_verdict() -> None:
    votes, truth = panel(600)
    known, human, seen = only(votes, 150), told(votes, truth, 150), matrix(votes)
    policy = adaptive.learn(known, human, np.ones(3))
    assert policy is not None
    made = np.where(np.arange(600) < 150, 6, 0)
    calls = 0

    def ask(call: int, rows: np.ndarray) -> Array:
        nonlocal calls
        assert (rows >= 150).all()
        assert np.isnan(matrix(known)[rows, call]).all()
        calls += len(rows)
        return seen[rows, call]

    stopped = adaptive.judged(known, policy, made, 0.01, ask)
    whole = policy.calls.completed(stopped)
    here = policy.preference.neutral_logit(whole.votes, votes.answers)[150:]
    full = policy.preference.neutral_logit(votes.votes, votes.answers)[150:]
    assert calls < 450 * 6 / 2
    assert (np.sign(here) == np.sign(full)).mean() > 0.97
    # one call a pair where everything is tolerated (who judged nothing gives no verdict), and all where nothing is
    once = matrix(adaptive.judged(known, policy, made, 0.6, ask))
    assert (~np.isnan(once)).sum(axis=1).tolist() == [6] * 150 + [1] * 450
    assert not np.isnan(matrix(adaptive.judged(known, policy, made, 0.0, ask))).any()


def test_the_probability_of_a_flip_is_about_what_happens() -> None:
    votes, truth = panel(3000, seed=2)
    policy = adaptive.learn(only(votes, 500), told(votes, truth, 500), np.ones(3))
    assert policy is not None
    known = np.full((3000, 6), np.nan)
    known[:, policy.sequence[:1]] = matrix(votes)[:, policy.sequence[:1]]
    ab, ba = np.hsplit(known, 2)
    now = replace(votes, ab=ab, ba=ba)
    flip = policy.flip_probability(now, np.ones(3000, dtype=np.int64))
    whole = policy.calls.completed(now)
    here = policy.preference.neutral_logit(whole.votes, votes.answers)
    full = policy.preference.neutral_logit(votes.votes, votes.answers)
    assert flip.mean() == pytest.approx((np.sign(here) != np.sign(full)).mean(), abs=0.04)


def test_transitivity_by_hand() -> None:
    # Three answers, a > b and b > c told, a ? c not: with ridge 3, (A'A + 3) s = A'v with A'A the Laplacian of a
    # triangle, 3 I - ones: s = A'v / 6 since A'v adds up to zero. A'v = (1, 0, -1), so s_a - s_c = 1/3.
    answers = np.array([[0, 1], [1, 2], [0, 2]])
    found = smoothed(np.array([1.0, 1.0, 0.0]), answers)
    assert found.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 3])
    assert smoothed(np.array([1.0]), np.array([[0, 1]])).tolist() == pytest.approx([2 / 5])
    assert leverage(answers) @ np.array([1.0, 1.0, 0.0]) == pytest.approx(found)


JUDGE = '''
import hashlib

from judges.base import Judgment, Opinions
from pipeline.config import JudgeConfig

class Coin:
    """Names the longer answer but for some pairs; one line a call in calls.txt."""
    class Options(JudgeConfig):
        error: float = 0.0
        order: str = "both"
        log: str
        @property
        def asked_by_order(self):
            return True
    def __init__(self, options, toolbox):
        self.options, self.base = options, toolbox.base
    def fit(self, labelled):
        pass
    def requests(self, comparisons):
        return []
    def judge(self, comparisons):
        made = []
        for item in comparisons:
            for order in item.orders or ("ab", "ba"):
                luck = int(hashlib.sha256((self.options.name + item.pair_id).encode()).hexdigest()[:8], 16) / 2**32
                longer = len(item.completion_a) > len(item.completion_b)
                made.append(Judgment(item.pair_id, order, float(longer != (luck < self.options.error))))
        with open(self.base / self.options.log, "a") as out:
            out.writelines(self.options.name + " " + one.pair_id + " " + one.order + chr(10) for one in made)
        return Opinions(made)
'''


@pytest.mark.parametrize("mode", ["full", "adaptive"])
def test_the_stage_asks_less_and_the_fit_pairs_are_judged_by_all(tmp_path: Path, mode: str) -> None:
    made = world({f"q{at}": ["x", "yyyy", "a long one"] for at in range(60)})
    (tmp_path / "coin.py").write_text(JUDGE, encoding="utf-8")
    log = tmp_path / "calls.txt"
    judges = [
        {"name": name, "kind": "./coin.py:Coin", "error": error, "log": log.name}
        for name, error in (("good", 0.02), ("fair", 0.2), ("bad", 0.4))
    ]
    frames = {**made, "labels": labels(made, longer_label)}
    with bench(tmp_path, frames, judges=judges, panel={"mode": mode}) as run:
        run_stage(run, "judge")
        run_stage(run, "aggregate")
        found, verdicts = run.folder.read("judgments"), run.folder.read("verdicts")
        again = run_stage(run, "judge")
    assert again.skipped
    asked = log.read_text(encoding="utf-8").splitlines()
    assert len(asked) == len(set(asked)) == found.height
    assert verdicts.height == 180
    per_pair = found.group_by("pair_id").len()
    if mode == "full":
        assert set(per_pair["len"]) == {6}
        return
    fit = per_pair.filter(pl.col("len") == 6)
    assert 30 <= fit.height < 180
    rest = per_pair.filter(pl.col("len") < 6)
    assert rest["len"].mean() < 4  # type: ignore[operator]
    table = verdicts.join(made["pairs"], on="pair_id").join(found.select("pair_id").unique(), on="pair_id")
    assert table.height == 180
