"""Pins down which pairs people label next: uniform, nested, blind, read back; the active ones tell most."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from jurybox.cli import app
from pipeline import schemas
from pipeline.commands import checks, imports
from pipeline.config import LabelsConfig
from pipeline.errors import InputError
from pipeline.labels import queues as labelling
from pipeline.labels.queues import most_informative, needed, queue
from pipeline.labels.splits import audited, is_fit, split_labels
from pipeline.workbench import Workbench
from tests.worlds import Frames, bench, decided, judgments, longer, world

ANSWERS = {f"q{at}": ["x", "yy", "zzz"] for at in range(40)}


@pytest.fixture(scope="module")
def made() -> Frames:
    frames = world(ANSWERS)
    return {
        **frames,
        "judgments": judgments(frames, {"long": longer, "even": lambda _a, _b: 0.5}),
        "verdicts": decided(frames, lambda a, b: 0.5 + 0.4 * (longer(a, b) - 0.5)),
    }


def prompts_of(pairs: pl.DataFrame, rows: list[dict[str, Any]]) -> list[str]:
    owner = dict(pairs.select("pair_id", "prompt_id").iter_rows())
    return list(dict.fromkeys(owner[row["pair_id"]] for row in rows))


def test_an_audit_is_uniform_nested_and_blind(made: Frames, tmp_path: Path) -> None:
    with bench(tmp_path, made) as run:
        small, large = queue(run, audit=5), queue(run, audit=8)
    assert len(small) == 15
    assert {row["inclusion_prob"] for row in small} == {5 / 40}
    assert {row["inclusion_prob"] for row in large} == {8 / 40}
    assert [row["pair_id"] for row in large[:15]] == [row["pair_id"] for row in small]
    assert len(prompts_of(made["pairs"], large)) == 8
    keys = ["pair_id", "queue", "inclusion_prob", "messages", "response_a", "response_b"]
    assert list(small[0]) == [*keys, "annotator", "label", "seconds", "labelled_at"]
    texts = dict(made["samples"].select("sample_id", "completion").iter_rows())
    for row in small:
        pair = made["pairs"].row(by_predicate=pl.col("pair_id") == row["pair_id"], named=True)
        assert (row["response_a"], row["response_b"]) == (texts[pair["sample_a"]], texts[pair["sample_b"]])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.sampled_from(["prompt", "pair"]), st.booleans())
def test_every_sample_holds_the_smaller_ones(few: int, more: int, unit: str, one_pair: bool) -> None:
    pairs = world(ANSWERS)["pairs"]
    few, more = sorted((few, more))
    small, large = (audited(pairs, 3, unit, count, one_pair=one_pair) for count in (few, more))
    assert set(small["pair_id"]) <= set(large["pair_id"])
    assert small[f"{unit}_id"].n_unique() == few
    shuffled = pairs.sample(fraction=1, shuffle=True, seed=few)
    assert audited(shuffled, 3, unit, few, one_pair=one_pair).equals(small)
    # the probabilities are those of the design: summed over the sample they estimate the number of units
    per = 1 / small["inclusion_prob"].to_numpy()
    assert per.sum() == pytest.approx(120 if few else 0)


def test_every_prompt_is_drawn_about_equally_often() -> None:
    pairs = world({f"q{at}": ["x", "yy"] for at in range(20)})["pairs"]
    counts = pl.concat([audited(pairs, seed, "prompt", 5) for seed in range(400)]).group_by("prompt_id").len()
    # binomial(400, 1/4): 100 +- 8.7; five standard deviations
    assert counts.height == 20
    assert counts["len"].is_between(57, 143).all()


def test_what_is_labelled_comes_again_only_for_more_people(made: Frames, tmp_path: Path) -> None:
    with bench(tmp_path, made) as run:
        first = queue(run, audit=5)
        file = tmp_path / "filled.jsonl"
        filled = [{**row, "annotator": "ann", "label": "b", "seconds": 9} for row in first[:6]]
        file.write_text("\n".join(json.dumps(row) for row in [*filled, first[7], {**filled[0], "queue": "best"}]))
        counts, reasons = imports.run(run, "labels", file)
        assert counts == {"labels": 6}
        assert reasons.rows == {"filled.jsonl:7": "annotator_missing", "filled.jsonl:8": "queue_unknown"}
        back = run.folder.read("labels")
        assert set(back["inclusion_prob"]) == {5 / 40}
        assert back["label"].cast(pl.String).to_list() == ["b"] * 6
        assert [row["pair_id"] for row in queue(run, audit=5)] == [row["pair_id"] for row in first[6:]]
        assert len(queue(run, audit=5, each=2)) == 15


def test_active_pairs_fit_and_are_those_on_which_the_judges_are_torn(made: Frames, tmp_path: Path) -> None:
    with bench(tmp_path, made) as run:
        rows = queue(run, active=10)
        assert len(rows) == 10
        assert {row["queue"] for row in rows} == {"active"}
        chosen = prompts_of(made["pairs"], rows)
        assert len(chosen) == 10
        fraction = run.config.labels.fit_fraction
        assert all(is_fit(key, run.seed, fraction) for key in chosen)
        both = queue(run, audit=40, active=10)
        # a pair stands once, as audit
        assert len({row["pair_id"] for row in both}) == len(both) == 120


def test_the_greedy_choice_is_that_of_the_determinant() -> None:
    rng = np.random.default_rng(0)
    features, p = rng.normal(size=(30, 3)), rng.uniform(0.05, 0.95, 30)
    prompts, known = np.arange(30), np.zeros(30, dtype=np.bool_)
    known[:4] = True
    found = most_informative(features, p, prompts, known, ~known, 6)
    information = np.eye(3) + sum(p[i] * (1 - p[i]) * np.outer(features[i], features[i]) for i in range(4))
    left = set(range(4, 30))
    for row in found:
        volume = {i: np.linalg.det(information + p[i] * (1 - p[i]) * np.outer(features[i], features[i])) for i in left}
        assert row == max(sorted(left), key=lambda i: volume[i])
        information += p[row] * (1 - p[row]) * np.outer(features[row], features[row])
        left.remove(row)


def test_swapping_answers_changes_no_choice_and_what_tells_nothing_is_left_out() -> None:
    rng = np.random.default_rng(1)
    features, p = rng.normal(size=(20, 3)), rng.uniform(0, 1, 20)
    features[5] = 0
    everyone, nobody = np.ones(20, dtype=np.bool_), np.zeros(20, dtype=np.bool_)
    prompts = np.repeat(np.arange(10), 2)
    found = most_informative(features, p, prompts, nobody, everyone, 50)
    flip = rng.random(20) < 0.5
    turned = np.where(flip[:, None], -features, features)
    assert most_informative(turned, np.where(flip, 1 - p, p), prompts, nobody, everyone, 50) == found
    assert sorted(found) == [row for row in range(20) if row != 5]
    # one pair a prompt until every prompt has had one
    assert len(set(prompts[found[:10]])) == 10


def labels_of(rows: pl.DataFrame) -> pl.DataFrame:
    filled = rows.select("pair_id", "inclusion_prob").with_columns(
        annotator=pl.lit("ann"), label=pl.lit("a"), queue=pl.lit("audit"), seconds=None, labelled_at=None
    )
    return schemas.Labels.validate(schemas.frame("labels", filled))


@pytest.mark.parametrize(("unit", "one_pair"), [("prompt", False), ("prompt", True), ("pair", False)])
def test_an_extended_audit_is_one_sample(unit: str, one_pair: bool) -> None:
    pairs = world(ANSWERS)["pairs"]
    small, large = (audited(pairs, 0, unit, count, one_pair=one_pair) for count in (8, 20))
    more = large.join(small, on="pair_id", how="anti")
    _, at_once = split_labels(labels_of(large), pairs, 0, 0.5)
    _, extended = split_labels(labels_of(pl.concat([small, more])), pairs, 0, 0.5)
    assert extended["inclusion_prob"].n_unique() == 1
    assert extended.drop("inclusion_prob").sort("pair_id").equals(at_once.drop("inclusion_prob").sort("pair_id"))
    # with a pair missing or a stranger among them it is no such sample, and stays as it is
    picked = labels_of(pl.concat([small, more])).join(extended.head(1), on="pair_id", how="anti")
    _, odd = split_labels(picked, pairs, 0, 0.5)
    expected = (
        {8 / 40, 20 / 40}
        if unit == "prompt" and not one_pair
        else set(small["inclusion_prob"]) | set(large["inclusion_prob"])
    )
    assert set(odd["inclusion_prob"]) == expected


def certificate(**fields: object) -> dict[str, Any]:
    return {"certified": False, "labels_needed": 12, "n_units": 10, "reason": "too few", **fields}


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (None, "there is no certificate yet: `jurybox gate` says how many labels are needed"),
        (certificate(certified=True), "the gate certifies; no more labels are needed"),
        (certificate(labels_needed=None), "the gate asks for no number of labels: too few"),
        # 20 audited, 10 of them counted: 12 more take 24
        (
            certificate(),
            "the gate asks for about 12 more audited prompts among the kept; 20 are audited, and --audit 44",
        ),
    ],
)
def test_how_many_are_needed(found: dict[str, Any] | None, text: str) -> None:
    pairs = world({f"q{at}": ["x", "yy"] for at in range(50)})["pairs"]
    told = needed(found, pairs, labels_of(audited(pairs, 0, "prompt", 20)), LabelsConfig())
    assert told.startswith(text)
    few = pairs.head(30)
    if found is not None and "--audit" in text:
        assert "the run has 30 prompts" in needed(found, few, labels_of(audited(few, 0, "prompt", 20)), LabelsConfig())


def test_the_command_writes_the_file_and_says_what_is_needed(made: Frames, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("name: small\n")
    with Workbench.open(config, tmp_path / "run") as run:
        for name, rows in made.items():
            run.folder.write_part(name, "before", "all", rows, {})
    out = tmp_path / "next.jsonl"
    base = ["queue", str(config), "--run-dir", str(tmp_path / "run")]
    done = CliRunner().invoke(app, [*base, "--audit", "4", "--active", "3", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "12 audit" in done.output
    assert "3 active" in done.output
    assert "there is no certificate yet" in done.output
    assert [json.loads(line)["queue"] for line in out.read_text().splitlines()] == ["audit"] * 12 + ["active"] * 3
    assert CliRunner().invoke(app, base).exit_code == 0
    with pytest.raises(InputError, match="give --out FILE"):
        CliRunner().invoke(app, [*base, "--audit", "4"], catch_exceptions=False)
    with pytest.raises(InputError, match=r"--audit 41: there are 40 prompts"):
        CliRunner().invoke(app, [*base, "--audit", "41", "--out", str(out)], catch_exceptions=False)


def test_guidelines_are_the_configs_or_those_that_ship(tmp_path: Path) -> None:
    assert "tie" in labelling.guidelines(LabelsConfig())
    (tmp_path / "mine.md").write_text("Be kind.")
    assert labelling.guidelines(LabelsConfig(guidelines=tmp_path / "mine.md")) == "Be kind."
    with pytest.raises(InputError, match=r"labels.guidelines .*none.md"):
        labelling.guidelines(LabelsConfig(guidelines=tmp_path / "none.md"))
    with (
        bench(tmp_path, labels={"guidelines": "none.md"}) as run,
        pytest.raises(InputError, match=r"labels.guidelines .*none.md"),
    ):
        checks.check(run)
