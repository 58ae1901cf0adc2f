"""Pins down the stage measure: annotators on gold items, drift from snapshot to snapshot, warnings in words."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest
import yaml

from dashboard.report import page as report
from pipeline import schemas, summary
from pipeline.config import Config
from pipeline.frames import people
from pipeline.labels.splits import split_labels
from pipeline.runner import run_stage
from pipeline.stages.measure import history
from pipeline.statistics import annotators, trend
from pipeline.statistics import warnings as warning
from pipeline.store import RunFolder
from pipeline.workbench import Workbench
from tests.worlds import Frames, bench, compared, decided, judgments, labels, longer, longer_label, world

ON_PAIRS = "people do on the same pairs"
FIRST_SLOT = "judge B prefers the first slot 71.0% of the time (its first-slot rate is 68.0% to 74.0%)"
SECOND_SLOT = "judge B prefers the second slot 70.0% of the time (its first-slot rate is 20.0% to 40.0%)"
ANSWERS = {f"q{at}": ["x", "yy", "zzz"] for at in range(12)}


def gold_labels(made: Frames, said: dict[str, Sequence[bool]]) -> pl.DataFrame:
    """The first pairs are gold items; each person is right on them or not, day after day, and skips the rest."""
    pairs = made["pairs"]["pair_id"].to_list()
    rows: list[dict[str, object]] = [
        {"pair_id": pair, "annotator": "gold", "label": "a", "labelled_at": None} for pair in pairs
    ]
    for person, right in said.items():
        rows += [
            {"pair_id": pair, "annotator": person, "label": "a" if ok else "b", "labelled_at": f"2026-01-{at + 1:02}"}
            for at, (pair, ok) in enumerate(zip(pairs, right, strict=False))
        ]
    common = {"queue": "gold", "inclusion_prob": 1.0, "seconds": 5.0}
    return schemas.Labels.validate(schemas.frame("labels", [{**row, **common} for row in rows]))


def row_of(found: pl.DataFrame, **key: str) -> dict[str, object]:
    chosen = found.filter(*(pl.col(name) == value for name, value in key.items()))
    assert chosen.height == 1, key
    return chosen.row(0, named=True)


def test_gold_items_judge_people_and_do_nothing_else() -> None:
    made = world(ANSWERS)
    said = {"good": [True] * 20, "tired": [True] * 10 + [False] * 10}
    rows = gold_labels(made, said)
    found = schemas.Annotators.validate(annotators.table(rows, schemas.frame("agreement", [])))
    good, tired = (row_of(found, annotator=name, measure="gold_accuracy") for name in said)
    # Wilson's interval of 20 of 20: (20 / (20 + 3.8415), 1)
    assert (good["value"], good["n"], good["reference"]) == (1.0, 20, 0.5)
    assert (good["low"], good["high"]) == (pytest.approx(20 / 23.8415, abs=1e-4), pytest.approx(1.0))
    assert (tired["value"], tired["reference"]) == (0.5, 1.0)
    drift = row_of(found, annotator="tired", measure="gold_drift")
    assert drift["value"] == -1.0
    assert float(str(drift["high"])) < -0.5
    assert row_of(found, annotator="good", measure="gold_drift")["value"] == 0.0
    assert row_of(found, annotator="tired", measure="seconds")["value"] == 5.0
    assert row_of(found, annotator="*", measure="share_of_pairs_with_2")["n"] == 20

    # "gold" is nobody: not in the people's mean, not among the annotators
    assert people(rows)["annotators"].max() == 2
    assert set(found["annotator"]) == {"good", "tired", "*"}
    _, certify = split_labels(rows, made["pairs"], 0, 0.5)
    assert certify.is_empty()

    warned = warning.table(*empty("agreement", "bias"), found, *empty("trend"), 0.9)
    texts = dict(warned.select("kind", "text").iter_rows())
    assert set(warned["name"]) == {"tired"}
    assert texts["gold_accuracy"].startswith(
        "annotator tired is right on 50.0% of 20 gold items (29.9% to 70.1%); the others"
    )
    assert texts["gold_drift"].startswith("annotator tired is right 100 points less often on the later half")


def test_two_known_answers_that_differ_are_none() -> None:
    made = world({"q": ["x", "yy"]})
    rows = gold_labels(made, {"ann": [True]})
    second = rows.filter(pl.col("annotator") == "gold").with_columns(
        annotator=pl.lit("gold"), label=pl.lit("b").cast(rows.schema["label"])
    )
    assert annotators.gold_items(rows).height == 1
    assert annotators.gold_items(pl.concat([rows, second])).is_empty()


def test_disagreement_is_kept_as_a_soft_label() -> None:
    made = world({"q": ["x", "yy"]})
    one = labels(made, lambda _a, _b: "a")
    rows = pl.concat(
        [
            one,
            *(
                one.with_columns(annotator=pl.lit(name), label=pl.lit(said).cast(one.schema["label"]))
                for name, said in (("bob", "b"), ("cat", "tie"), ("dan", "a"))
            ),
        ]
    )
    found = people(rows).row(0, named=True)
    # (1 + 0 + 1/2 + 1) / 4
    assert (found["human"], found["for_a"], found["for_b"], found["annotators"]) == (0.625, 0.5, 0.25, 4)


def empty(*names: str) -> list[pl.DataFrame]:
    return [schemas.frame(name, []) for name in names]


def bias_row(measure: str, value: float, low: float, high: float, reference: float | None) -> dict[str, object]:
    ends = {"value": value, "low": low, "high": high, "reference": reference}
    return {"judge": "B", "subset": "all", "measure": measure, "n": 10, "prompts": 5, **ends}


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (
            ("first_slot_rate", 0.71, 0.68, 0.74, 0.5),
            f"{FIRST_SLOT}; 50.0% would be no bias",
        ),
        (
            ("first_slot_rate", 0.3, 0.2, 0.4, 0.5),
            f"{SECOND_SLOT}; 50.0% would be no bias",
        ),
        (("first_slot_rate", 0.71, 0.45, 0.9, 0.5), None),
        (("first_slot_rate", 0.55, 0.54, 0.56, 0.5), None),
        (
            ("length_bias", 0.12, 0.08, 0.16, 0.0),
            "judge B prefers the longer answer 12 points more often than people do on the same pairs (8 to 16 points)",
        ),
        (
            ("length_bias", -0.12, -0.16, -0.08, 0.0),
            "judge B prefers the longer answer 12 points less often than people do on the same pairs (8 to 16 points)",
        ),
        (
            ("self_preference", 0.07, 0.01, 0.13, 0.0),
            f"judge B prefers its own model's answers 7 points more often than {ON_PAIRS} (1 to 13 points)",
        ),
        (("self_preference", -0.07, -0.13, -0.01, 0.0), None),
        (("tie_rate", 0.5, 0.45, 0.55, 0.1), "judge B calls 50.0% ties (45.0% to 55.0%); people call 10.0%"),
        (("tie_rate", 0.5, 0.45, 0.55, None), None),
        (("failure_rate", 0.4, 0.2, 0.6, None), "judge B failed on 4 of 10 judgments"),
        (("failure_rate", 0.005, 0.0, 0.01, None), None),
    ],
)
def test_a_bias_that_matters_and_is_sure_is_told_in_words(
    row: tuple[str, float, float, float, float | None], text: str | None
) -> None:
    rows = schemas.frame("bias", [bias_row(*row)])
    found = warning.table(*empty("agreement"), rows, *empty("annotators", "trend"), 0.9)
    assert found["text"].to_list() == ([] if text is None else [text])


def measured(at: str, value: float, half: float, earlier: pl.DataFrame) -> pl.DataFrame:
    rows = schemas.frame("bias", [bias_row("first_slot_rate", value, value - half, value + half, 0.5)])
    return schemas.Trend.validate(trend.extended(earlier, *empty("agreement"), rows, f"digest {at}", at))


def test_drift_is_the_change_since_the_snapshot_before() -> None:
    first = measured("2026-01-01", 0.5, 0.03, *empty("trend"))
    assert first["difference"].to_list() == [None]
    second = measured("2026-01-02", 0.51, 0.03, first)
    assert warning.table(*empty("agreement", "bias", "annotators"), second, 0.9).is_empty()
    third = measured("2026-01-03", 0.6, 0.04, second)
    newest = row_of(third, measured_at="2026-01-03")
    # .6 - .51, half width sqrt(.03^2 + .04^2) = .05
    assert newest["difference"] == pytest.approx(0.09)
    assert (newest["difference_low"], newest["difference_high"]) == (pytest.approx(0.04), pytest.approx(0.14))
    texts = warning.table(*empty("agreement", "bias", "annotators"), third, 0.9)["text"].to_list()
    assert texts == ["judge B: first_slot_rate moved by +0.09 since the run before (0.04 to 0.14)"]
    # the same judgments and labels again are no new snapshot
    assert trend.extended(third, *empty("agreement", "bias"), "digest 2026-01-01", "2026-01-04").equals(third)


def run_frames() -> Frames:
    made = world(ANSWERS)
    return {
        **made,
        "judgments": judgments(made, {"long": longer, "short": lambda a, b: 1 - longer(a, b)}),
        "labels": labels(made, longer_label),
        "verdicts": decided(made, longer),
    }


def test_the_stage_writes_its_frames_and_a_changed_run_adds_a_snapshot(tmp_path: Path) -> None:
    frames = run_frames()
    with bench(tmp_path, frames) as run:
        done = run_stage(run, "measure")
        assert done.dropped == {}
        assert run_stage(run, "measure").skipped
        found = run.folder.read("agreement")
        best = row_of(found, between="judge_people", rater_1="long", measure="accuracy")
        assert (best["value"], best["n"], best["prompts"]) == (1.0, len(compared(frames)), 12)
        texts = run.folder.read("warnings")["text"].to_list()
        assert (
            "judge short agrees with people on 0.0% (0.0% to 0.0%, n = 36); preferring the longer answer agrees on "
            "100.0%" in texts
        )
        assert any(text.startswith("every labelled pair has one label") for text in texts)
        assert run.folder.read("trend")["snapshot"].n_unique() == 1
        fewer = frames["judgments"].filter(pl.col("judge") == "long")
        run.folder.write_part("judgments", "before", "all", fewer, {})
        run_stage(run, "measure")
        assert run.folder.read("trend")["snapshot"].n_unique() == 2


def test_the_summary_shows_ceiling_floor_and_warnings(tmp_path: Path) -> None:
    frames = run_frames()
    second = frames["labels"].with_columns(annotator=pl.lit("bob"))
    # bob says tie on every pair of the first prompt, so the first person agrees with him there by one half
    first = frames["pairs"].filter(pl.col("prompt_id") == frames["pairs"]["prompt_id"].min())["pair_id"]
    torn = pl.when(pl.col("pair_id").is_in(first.implode())).then(pl.lit("tie")).otherwise(pl.col("label"))
    second = second.with_columns(label=torn.cast(frames["labels"].schema["label"]))
    with bench(tmp_path, {**frames, "labels": pl.concat([frames["labels"], second])}) as run:
        run_stage(run, "measure")
        made = summary.summary(run)
        page = report.write(run)
        assert page["ceiling"] == made["ceiling"]
        html = (run.folder.path / "report.html").read_text()
    # ordered pairs of people whose second is decided: 36 by bob of ann's labels, 3 of them ties, 33 by ann of bob's
    assert (made["ceiling"]["value"], made["ceiling"]["n"]) == (pytest.approx((33 + 1.5 + 33) / 69), 69)
    assert made["floor"]["value"] == 1.0
    text = "\n".join(summary.lines(made, tmp_path))
    assert "ceiling: one of the people agrees with another on 97.8%" in text
    assert "floor: preferring the longer answer agrees on 100.0%" in text
    assert "warning: judge short agrees with people on 0.0%" in text
    assert "judge short agrees with people on 0.0%" in html


def test_a_run_of_the_same_name_beside_it_is_its_past(tmp_path: Path) -> None:
    for folder, name in (("monday", "nightly"), ("tuesday", "nightly"), ("other", "else")):
        target = RunFolder(tmp_path / folder)
        target.write_part("trend", "measure", "all", measured(folder, 0.5, 0.03, *empty("trend")), {})
        target.write_text("config.yaml", yaml.safe_dump({"name": name}))
    (tmp_path / "broken/trend").mkdir(parents=True)
    (tmp_path / "broken/config.yaml").write_text("name: nightly\n")
    (tmp_path / "broken/trend/part-measure-all.parquet").write_bytes(b"no parquet")

    def past(folder: str) -> list[str]:
        with Workbench(Config.model_validate({"name": "nightly"}), tmp_path / folder, tmp_path) as run:
            return sorted(history(run)["measured_at"])

    assert past("tuesday") == ["monday", "tuesday"]
    assert past("new") == ["monday", "tuesday"]


def test_warnings_are_grouped_the_run_s_first_then_the_worst() -> None:
    def row(about: str, name: str, kind: str) -> dict[str, str]:
        return {"about": about, "name": name, "kind": kind, "text": f"{name} {kind}"}

    rows = [
        row("judge", "a", "drift_accuracy"),
        row("judge", "a", "length"),
        row("panel", "panel", "below_floor"),
        row("run", "*", "simulated"),
        row("judge", "b", "position"),
        row("judge", "b", "constant"),
        row("people", "*", "one_label"),
        row("annotator", "ann", "gold_drift"),
        row("run", "*", "incomplete_judge"),
    ]
    found = warning.grouped(rows)
    # b's constant answers, the panel below the floor, a's liking of length; people and ann come after these three
    assert found["shown"] == ["* simulated", "* incomplete_judge", "b constant", "panel below_floor", "a length"]
    assert found["folded"] == [
        {"who": "judge b", "texts": ["b position"]},
        {"who": "judge a", "texts": ["a drift_accuracy"]},
        {"who": "people", "texts": ["* one_label"]},
        {"who": "annotator ann", "texts": ["ann gold_drift"]},
    ]
    assert sum(len(group["texts"]) for group in found["folded"]) + len(found["shown"]) == len(rows)
    assert warning.grouped([]) == {"shown": [], "folded": []}
