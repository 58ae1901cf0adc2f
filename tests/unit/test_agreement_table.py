"""Pins down the frames agreement and bias: values counted one by one, ceiling and floor, intervals that cover."""

from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.metrics import cohen_kappa_score

from pipeline import schemas
from pipeline.commands import imports
from pipeline.importers import jsonl
from pipeline.stages.labels import labels as labelled
from pipeline.statistics import agreement, bias, kappa
from pipeline.statistics import intervals as bootstrap
from pipeline.statistics.raters import raters_of
from tests.recorded_endpoint import shared
from tests.worlds import Frames, compared, world

VALUE = {"a": 1.0, "tie": 0.5, "b": 0.0}
NOBODY = pl.Series([], dtype=pl.String)


def random_world(seed: int, prompts: int = 12) -> Frames:
    """Two judges in both orders with failures, and three people who each skip some pairs."""
    rng = np.random.default_rng(seed)
    answers = {f"q{at}": ["x" * int(rng.integers(1, 9)) + str(n) for n in range(3)] for at in range(prompts)}
    made = world(answers)
    judgments: list[dict[str, object]] = []
    labels: list[dict[str, object]] = []
    for item in compared(made):
        for judge in ("j", "k"):
            for order in ("ab", "ba"):
                value = rng.choice([None, 0.0, 0.5, 1.0, 0.8], p=[0.1, 0.3, 0.1, 0.3, 0.2])
                judgments.append(
                    {
                        "pair_id": item.pair_id,
                        "judge": judge,
                        "order": order,
                        "preference": value,
                        "rationale": None,
                        "error": "failed" if value is None else None,
                        "call_keys": [],
                    }
                )
        labels += [
            {
                "pair_id": item.pair_id,
                "annotator": person,
                "label": str(rng.choice(["a", "b", "tie"])),
                "queue": "audit",
                "inclusion_prob": 1.0,
                "seconds": None,
                "labelled_at": None,
            }
            for person in ("p", "q", "r")
            if rng.random() < 0.7
        ]
    return {**made, "judgments": schemas.frame("judgments", judgments), "labels": schemas.frame("labels", labels)}


def tables(frames: Frames, verdicts: pl.DataFrame | None = None, certify: pl.Series = NOBODY) -> Frames:
    ratings = raters_of(*(frames[name] for name in ("judgments", "labels", "pairs", "samples", "prompts")))
    decided = schemas.frame("verdicts", []) if verdicts is None else verdicts
    found = agreement.table(ratings, decided, certify, "p_a", 7)
    measured = bias.table(ratings, {name: name.split("/")[0] for name in ratings.judges}, 7)
    return {"agreement": schemas.Agreement.validate(found), "bias": schemas.Bias.validate(measured)}


def of_many(items: list[list[int]]) -> dict[str, float]:
    """Fleiss' kappa, Krippendorff's alpha and Gwet's AC1 of people's labels, by their definitions, item by item."""
    several = [item for item in items if sum(item) > 1]

    def alike(item: list[int]) -> int:
        return sum(n * (n - 1) for n in item)

    seen = sum(alike(item) / (sum(item) * (sum(item) - 1)) for item in several) / len(several)
    share = [sum(item[at] / sum(item) for item in items) / len(items) for at in range(3)]
    fleiss, gwet = sum(p * p for p in share), sum(p * (1 - p) for p in share) / 2
    totals = [sum(item[at] for item in several) for at in range(3)]
    n = sum(totals)
    differ = 1 - sum(alike(item) / (sum(item) - 1) for item in several) / n
    by_chance = 1 - alike(totals) / (n * (n - 1))
    return {
        "fleiss_kappa": (seen - fleiss) / (1 - fleiss),
        "krippendorff_alpha": 1 - differ / by_chance,
        "gwet_ac1": (seen - gwet) / (1 - gwet),
    }


def value_of(found: pl.DataFrame, *key: str, subset: str = "all") -> tuple[float, int]:
    between, one, other, measure = key
    row = found.filter(
        (pl.col("between") == between)
        & (pl.col("rater_1") == one)
        & (pl.col("rater_2") == other)
        & (pl.col("measure") == measure)
        & (pl.col("subset") == subset)
    )
    assert row.height == 1, key
    value = row["value"][0]
    assert row["low"][0] - 1e-9 <= value <= row["high"][0] + 1e-9
    return value, row["n"][0]


def side(preference: float) -> str:
    return "a" if preference > 0.5 else "b" if preference < 0.5 else "tie"


def opinions(frames: Frames) -> dict[str, dict[str, str]]:
    """Rater -> pair -> side, counted row by row."""
    made: dict[str, dict[str, str]] = {}
    means = frames["judgments"].drop_nulls("preference").group_by("judge", "pair_id").agg(pl.col("preference").mean())
    for judge, pair, mean in means.iter_rows():
        made.setdefault(judge, {})[pair] = side(round(mean, 9))
    for row in frames["labels"].iter_rows(named=True):
        made.setdefault(row["annotator"], {})[row["pair_id"]] = row["label"]
    return made


@pytest.mark.parametrize("seed", range(3))
def test_every_value_is_that_of_a_count_one_by_one(seed: int) -> None:
    frames = random_world(seed)
    found = tables(frames)["agreement"]
    said = opinions(frames)
    people = ("p", "q", "r")
    votes: dict[str, list[str]] = {}
    for person in people:
        for pair, label in said[person].items():
            votes.setdefault(pair, []).append(label)
    mean = {pair: side(sum(VALUE[label] for label in labels) / len(labels)) for pair, labels in votes.items()}

    for between, one, other in (
        ("judge_judge", "j", "k"),
        *(("person_person", *pair) for pair in combinations(people, 2)),
        *(("judge_person", judge, person) for judge in ("j", "k") for person in people),
        *(("judge_people", judge, "people") for judge in ("j", "k")),
    ):
        theirs = mean if other == "people" else said[other]
        common = sorted(set(said[one]) & set(theirs))
        first, second = [said[one][pair] for pair in common], [theirs[pair] for pair in common]
        same = sum(map(str.__eq__, first, second)) / len(common)
        assert value_of(found, between, one, other, "same") == (pytest.approx(same), len(common))
        expected = cohen_kappa_score(first, second)
        assert value_of(found, between, one, other, "cohen_kappa")[0] == pytest.approx(expected)
        # Nominal alpha of two raters (Krippendorff 2011, B): every difference is two cells off the diagonal of the
        # coincidence matrix, and n (n - 1) times what chance gives there is n^2 - sum of n_c^2.
        n, totals = 2 * len(common), [(first + second).count(label) for label in VALUE]
        differ = 2 * sum(map(str.__ne__, first, second))
        alpha = 1 - (n - 1) * differ / (n**2 - sum(total**2 for total in totals))
        assert value_of(found, between, one, other, "krippendorff_alpha")[0] == pytest.approx(alpha)

    def accuracy(pairs: list[tuple[str, str]]) -> tuple[Any, int]:
        decided = [(VALUE[x], VALUE[y]) for x, y in pairs if y != "tie"]
        return pytest.approx(sum(1 - abs(x - y) for x, y in decided) / len(decided)), len(decided)

    for judge in ("j", "k"):
        against = [(said[judge][pair], mean[pair]) for pair in mean if pair in said[judge]]
        assert value_of(found, "judge_people", judge, "people", "accuracy") == accuracy(against)
        each = [(said[judge][pair], label) for pair in votes if pair in said[judge] for label in votes[pair]]
        assert value_of(found, "judge_person", judge, "*", "accuracy") == accuracy(each)
    ordered = [
        (one, other)
        for labels in votes.values()
        for at, one in enumerate(labels)
        for place, other in enumerate(labels)
        if at != place
    ]
    assert value_of(found, "person_person", "*", "*", "accuracy") == accuracy(ordered)
    own = [(said["p"][pair], said[other][pair]) for other in ("q", "r") for pair in said["p"] if pair in said[other]]
    assert value_of(found, "person_person", "p", "*", "accuracy") == accuracy(own)
    light = [value_of(found, "person_person", *pair, "cohen_kappa")[0] for pair in combinations(people, 2)]
    assert value_of(found, "person_person", "*", "*", "cohen_kappa")[0] == pytest.approx(sum(light) / 3)
    for measure, expected in of_many([[labels.count(s) for s in VALUE] for labels in votes.values()]).items():
        assert value_of(found, "person_person", "*", "*", measure)[0] == pytest.approx(expected)


def test_the_floor_is_what_preferring_the_longer_answer_gets() -> None:
    frames = random_world(3)
    found = tables(frames)["agreement"]
    lengths = dict(frames["samples"].select("sample_id", pl.col("completion").str.len_chars()).iter_rows())
    told = (
        frames["labels"]
        .group_by("pair_id")
        .agg(pl.col("label").cast(pl.String).replace_strict(VALUE, return_dtype=pl.Float64).mean())
    )
    mean = dict(told.iter_rows())
    credit = []
    for pair, _, a, b, *_ in frames["pairs"].iter_rows():
        if pair in mean and side(round(mean[pair], 9)) != "tie":
            longer = side(0.5 + (lengths[a] - lengths[b]) / 100)
            credit.append(1 - abs(VALUE[longer] - VALUE[side(round(mean[pair], 9))]))
    expected = (pytest.approx(sum(credit) / len(credit)), len(credit))
    assert value_of(found, "length_people", "longer", "people", "accuracy") == expected


def test_the_panel_is_measured_on_labels_that_fitted_nothing() -> None:
    frames = random_world(4)
    pairs = frames["pairs"]["pair_id"]
    human = opinions(frames)
    rows: list[dict[str, object]] = []
    for pair in pairs:
        labels = [VALUE[human[person][pair]] for person in ("p", "q", "r") if pair in human[person]]
        right = sum(labels) / len(labels) if labels else 0.5
        # right on every certify pair, wrong on every other
        p = right if pair in set(pairs[:10]) else 1 - right
        rows.append({"pair_id": pair, "p_a": p, "p_a_lc": 0.5, "margin": 0.0, "judges": [], "calls": 1, "agreement": 1})
    found = tables(frames, schemas.frame("verdicts", rows), pairs[:10])["agreement"]
    assert value_of(found, "panel_people", "panel", "people", "accuracy")[0] == 1.0
    assert value_of(found, "panel_people", "panel", "people", "same")[0] == 1.0


def test_neither_rows_nor_names_matter_and_intervals_repeat() -> None:
    frames = random_world(5)
    shuffled = {name: rows.sample(fraction=1, shuffle=True, seed=1) for name, rows in frames.items()}
    for name, rows in tables(frames).items():
        assert rows.equals(tables(shuffled)[name])


def test_subsets_are_the_pairs_of_their_prompts() -> None:
    frames = random_world(6)
    tagged = (
        frames["prompts"]
        .with_row_index("at")
        .with_columns(
            tags=pl.when(pl.col("at") < 5).then(pl.lit(["hard"])).otherwise(pl.lit([], dtype=pl.List(pl.String)))
        )
    )
    prompts = schemas.Prompts.validate(schemas.frame("prompts", tagged.drop("at")))
    found = tables({**frames, "prompts": prompts})
    hard = prompts.filter(pl.col("tags").list.len() > 0).select("prompt_id")
    only = {**frames, "prompts": prompts, "pairs": frames["pairs"].join(hard, on="prompt_id", how="semi")}
    alone = tables({**only, "labels": frames["labels"].join(only["pairs"], on="pair_id", how="semi")})
    for name in ("agreement", "bias"):
        inside = found[name].filter(pl.col("subset") == "tag:hard")
        keys = [key for key in schemas.FRAMES[name].primary_key() if key != "subset"]
        both = inside.join(alone[name].filter(pl.col("subset") == "all"), on=keys, how="inner")
        assert both.height == inside.height > 0
        assert both["value"].to_list() == pytest.approx(both["value_right"].to_list(), nan_ok=True)


def test_biases_by_hand() -> None:
    # Answers "1", "22", "333" to three questions: nine pairs, an odd number, so that no two halves are equal. The
    # judge takes the first slot when asked ab and the longer answer in ba; people the longer on the first question.
    made = world({question: ["1", "22", "333"] for question in "qrs"})
    rows: list[dict[str, object]] = []
    labels: list[dict[str, object]] = []
    for item in compared(made):
        longer = 1.0 if len(item.completion_a) > len(item.completion_b) else 0.0
        for order, value in (("ab", 1.0), ("ba", longer)):
            rows.append({"pair_id": item.pair_id, "judge": "j", "order": order, "preference": value, "call_keys": []})
        turned = longer if item.messages[-1][1] == "q" else 1 - longer
        labels.append(
            {
                "pair_id": item.pair_id,
                "annotator": "ann",
                "label": "a" if turned else "b",
                "queue": "audit",
                "inclusion_prob": 1.0,
            }
        )
    judgments = pl.DataFrame(rows).with_columns(rationale=None, error=None)
    people = pl.DataFrame(labels).with_columns(seconds=None, labelled_at=None)
    found = tables(
        {**made, "judgments": schemas.frame("judgments", judgments), "labels": schemas.frame("labels", people)}
    )["bias"]
    got = {
        measure: (value, reference)
        for measure, value, reference in found.select("measure", "value", "reference").iter_rows()
    }
    a_longer = sum(len(item.completion_a) > len(item.completion_b) for item in compared(made))
    # ab: the first slot every time (9). ba: the first slot is b, which wins where b is longer.
    assert got["first_slot_rate"] == (pytest.approx((9 + (9 - a_longer)) / 18), 0.5)
    assert got["swap_consistency"][0] == pytest.approx(a_longer / 9)
    assert got["longer_rate"] == (pytest.approx((9 + a_longer) / 18), pytest.approx(1 / 3))
    assert got["length_bias"][0] == pytest.approx((9 + a_longer) / 18 - 1 / 3)
    assert got["tie_rate"] == (0.0, 0.0)
    assert got["failure_rate"][0] == 0.0
    assert "self_preference" not in got


def test_the_partial_slope_is_least_squares() -> None:
    frames = random_world(8, prompts=30)
    ratings = raters_of(*(frames[name] for name in ("judgments", "labels", "pairs", "samples", "prompts")))
    vote, people = 2 * ratings.judges["j"].mean - 1, 2 * ratings.human - 1
    used = ~np.isnan(vote) & ~np.isnan(people)
    features = np.column_stack([ratings.length, people])[used]
    fitted = LinearRegression(fit_intercept=False).fit(features, vote[used])
    found = tables(frames)["bias"].filter((pl.col("judge") == "j") & (pl.col("measure") == "length_slope_given_people"))
    assert found["value"][0] == pytest.approx(fitted.coef_[0])
    assert found["low"][0] < found["value"][0] < found["high"][0]


def test_self_preference_on_vicuna80_is_as_published() -> None:
    folder = shared("vicuna80")
    rows, _ = jsonl.read_pairs(folder / "pairs.jsonl")
    frames, _ = imports.pairs(rows, "vicuna80")
    judgments, _ = imports.judgments(jsonl.read_judgments(folder / "judgments.jsonl")[0], frames["pairs"])
    labels, _ = labelled(jsonl.read_labels(folder / "human.jsonl")[0], frames["pairs"])
    found = tables({**frames, "judgments": judgments, "labels": labels})
    own = found["bias"].filter(pl.col("measure") == "self_preference")
    assert own.height == 5
    assert (round(own["value"].min(), 2), round(own["value"].max(), 2)) == (-0.01, 0.07)  # type: ignore[arg-type]
    assert value_of(found["agreement"], "length_people", "longer", "people", "accuracy")[0] == pytest.approx(
        0.84, abs=0.005
    )
    assert round(value_of(found["agreement"], "person_person", "*", "*", "cohen_kappa")[0], 2) == 0.18


def test_the_intervals_cover() -> None:
    # Raters of two categories; pairs of one prompt share their difficulty. 95 % intervals of kappa, alpha and AC1 on
    # 60 prompts of 4 pairs must hold the value on 40,000 prompts about 95 % of the time (300 draws: +- .025).
    rng = np.random.default_rng(1)

    def drawn(prompts: int) -> np.ndarray:
        """(prompts, 9) cells of two raters."""
        hard = rng.beta(1, 2, size=(prompts, 1))
        truth = rng.integers(0, 3, size=(prompts, 4))
        said = [np.where(rng.random((prompts, 4)) < hard, rng.integers(0, 3, (prompts, 4)), truth) for _ in range(2)]
        cells = np.zeros((prompts, 9))
        for pair in range(4):
            np.add.at(cells, (np.arange(prompts), 3 * said[0][:, pair] + said[1][:, pair]), 1)
        return cells

    everything = kappa.of_two(drawn(40_000).sum(axis=0).reshape(3, 3))
    held = dict.fromkeys(kappa.MEASURES, 0)
    repeats = 300
    for seed in range(repeats):
        sums = drawn(60)
        draws = kappa.of_two(bootstrap.resampled(sums, seed % 5).reshape(-1, 3, 3))
        for measure in kappa.MEASURES:
            low, high = bootstrap.interval(draws[measure])
            held[measure] += low <= everything[measure] <= high
    for measure, count in held.items():
        assert 0.9 <= count / repeats <= 0.985, (measure, count)


def test_many_prompts_are_dealt_into_blocks_and_the_interval_stays() -> None:
    rng = np.random.default_rng(2)
    prompts = 6000
    right = (rng.random((prompts, 3)) < rng.beta(2, 1, size=(prompts, 1))).astype(float)
    row_prompt = np.repeat(np.arange(prompts), 3)
    sums = bootstrap.prompt_sums(row_prompt, np.column_stack([right.ravel(), np.ones(3 * prompts)]))
    assert sums.shape == (bootstrap.MOST_BLOCKS, 2)
    assert sums.sum(axis=0).tolist() == [right.sum(), 3 * prompts]
    drawn = bootstrap.resampled(sums, 0)
    low, high = bootstrap.interval(drawn[:, 0] / drawn[:, 1])
    # the mean of 6,000 independent prompt means
    half = 1.96 * right.mean(axis=1).std() / np.sqrt(prompts)
    assert (high - low) / 2 == pytest.approx(half, rel=0.12)


def test_a_difference_recovers_the_variances() -> None:
    # Newcombe 1998, method 10, his example (a): 56/70 against 48/80: .2000, .0524 to .3339
    first, second = ((share, *bootstrap.wilson(share, n)) for share, n in ((56 / 70, 70), (48 / 80, 80)))
    assert [round(value, 4) for value in bootstrap.difference_interval(first, second)] == [0.2, 0.0524, 0.3339]
