"""The embedded default, whole: every stage, every row accounted for, the figures of the summary, a run that skips."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from pipeline import schemas
from pipeline.schemas import ORDER
from pipeline.store import RunFolder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "run"
    if made := os.environ.get("JURYBOX_DEMO_RUN"):  # CI has just run `make demo`; its folder serves
        shutil.copytree(made, folder)
    done = subprocess.run(
        [sys.executable, "-m", "jurybox", "demo", "--run-dir", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "win rate of trained over untrained, by simulated people" in done.stdout
    return folder


@pytest.fixture(scope="module")
def summary(demo: Path) -> dict:
    return json.loads((demo / "summary.json").read_text())


def test_every_stage_ran_and_every_frame_is_valid(demo: Path, summary: dict) -> None:
    assert list(summary["rows"]) == list(ORDER)
    run = RunFolder(demo)
    for name, schema in schemas.FRAMES.items():
        schema.validate(run.read(name))


def test_every_row_is_accounted_for(demo: Path) -> None:
    run = RunFolder(demo)
    dropped = run.read("dropped")

    def gone(stage: str) -> int:
        return dropped.filter(pl.col("stage") == stage).height

    # 400 prompts x 4 temperatures, one sample each.
    assert run.read("prompts").height == 400
    assert run.read("samples").height + gone("generate") == 400 * 4
    # A text that a prompt has twice is one answer; its twin is dropped, and every two different answers are a pair.
    per_prompt = run.read("samples").group_by("prompt_id").agg(pl.len().alias("all"), pl.col("completion").n_unique())
    possible = sum(n * (n - 1) // 2 for n in per_prompt["completion"])
    single = dropped.filter((pl.col("stage") == "pair") & (pl.col("reason") == "single_answer")).height
    assert run.read("pairs").height == possible
    assert gone("pair") - single == (per_prompt["all"] - per_prompt["completion"]).sum()
    assert run.read("verdicts").height + gone("aggregate") == run.read("pairs").height
    assert run.read("kept").height + gone("select") == run.read("verdicts").height
    rows = [pl.read_parquet(demo / "dataset" / "trl_dpo" / f"{split}.parquet").height for split in ("train", "test")]
    assert sum(rows) == run.read("kept").height


def test_the_panel_found_the_biased_judge(summary: dict) -> None:
    assert not summary["judges"]["longer"]["in_panel"]
    assert "below judge_floor" in summary["judges"]["longer"]["reason"]
    for name in ("lm", "verifier", "reward"):
        assert summary["judges"][name]["in_panel"]
        assert summary["judges"][name]["low"] > 0.5


def test_the_figures_are_there_and_the_student_is_better(demo: Path, summary: dict) -> None:
    assert summary["win_rate_low"] > 0.5
    assert summary["win_rate_low"] <= summary["win_rate"] <= summary["win_rate_high"]
    assert summary["n"] == 300
    assert summary["verifier"]["after"] >= summary["verifier"]["before"]
    assert summary["reward_accuracy"] > 0.5  # on pairs that it was not trained on
    assert summary["kl"] > 0
    assert summary["simulated_people"]
    assert summary["certificate"]["simulated"]
    page = (demo / "report.html").read_text()
    assert "simulated people" in page
    assert "<script" not in page
    assert len(page) < 5_000_000


def test_the_plan_foretells_it(demo: Path, tmp_path: Path) -> None:
    """Before anything is made, from what the models in this process say to 64 of the 400 prompts."""
    config = Path(__file__).parents[2] / "data" / "configs" / "embedded.yaml"
    command = [sys.executable, "-m", "jurybox", "plan", str(config), "--run-dir", str(tmp_path / "run"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    made = RunFolder(demo).read("calls")
    manifest = json.loads((demo / "manifest.json").read_text())["stages"]
    for stage in ("generate", "judge"):
        planned = sum(row["calls"] for row in told["rows"] if row["stage"] == stage)
        print(f"{stage}: {planned} calls planned, {manifest[stage]['calls']} made")
        assert planned == pytest.approx(manifest[stage]["calls"], rel=0.1)
    tokens = int(made["prompt_tokens"].sum() + made["completion_tokens"].sum())
    total = told["total"]
    planned = total["prompt_tokens"] + total["completion_tokens"]
    print(f"{total['calls']} calls planned, {made.height} made; {planned} tokens planned, {tokens} used")
    assert total["calls"] == pytest.approx(made.height, rel=0.1)
    assert planned == pytest.approx(tokens, rel=0.1)
    assert total["usd"] == total["usd_most"] == 0


def test_a_second_run_skips_everything(demo: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo.rglob("part-*.parquet")}
    done = subprocess.run(
        [sys.executable, "-m", "jurybox", "demo", "--run-dir", str(demo)], capture_output=True, text=True, check=True
    )
    assert done.stderr.count("unchanged, skipped") == len(ORDER)
    assert {path: path.stat().st_mtime_ns for path in demo.rglob("part-*.parquet")} == before


def test_an_edited_key_reruns_exactly_what_reads_it(demo: Path, tmp_path: Path) -> None:
    configs = Path(__file__).parents[2] / "data" / "configs"
    copy = tmp_path / "run"
    shutil.copytree(demo, copy)
    # Beside the shipped config, for its paths are relative to it.
    config = configs / ".edited.yaml"
    shipped = (configs / "embedded.yaml").read_text()
    config.write_text(shipped.replace("target_agreement: 0.8", "target_agreement: 0.75"))
    command = [sys.executable, "-m", "jurybox", "run", str(config), "--run-dir", str(copy), "--to", "select"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    finally:
        config.unlink()
    skipped = [line.split(":")[0] for line in done.stderr.splitlines() if "unchanged, skipped" in line]
    assert skipped == ["load", "generate", "pair", "labels", "judge", "controls", "aggregate"]
    assert json.loads((copy / "certificate.json").read_text())["target_agreement"] == 0.75
