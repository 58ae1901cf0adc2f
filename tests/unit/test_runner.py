"""Pins down reruns: what did not change is skipped, an edited key reruns its readers, half-done work is done again."""

import json
import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from pipeline import runner
from pipeline.commands import checks, imports
from pipeline.errors import InputError, StorageError
from pipeline.runner import run_stage, stages_of
from pipeline.store import RunFolder, UndeclaredError
from pipeline.workbench import Workbench
from tests.worlds import FAKE_ENGINE, requests_of

STAGES = ("load", "generate", "pair", "labels", "judge", "controls", "aggregate", "measure", "gate", "select", "export")
PROMPTS = [f"Question {at}?" for at in range(6)]
Settings = dict[str, Any]


def settings() -> Settings:
    model = {"model": "m", "engine": "./engine.py:Fake"}
    return {
        "name": "small",
        "prompts": {"path": "prompts.jsonl"},
        "generators": [{**model, "temperatures": [0.5, 1.0]}],
        "judges": [
            {**model, "name": "lm", "kind": "pairwise", "verdict": "text", "rubric": "rubric.md"},
            {"name": "length", "kind": "length"},
        ],
        "controls": {"number": 0},
        "select": {"strategy": "all"},
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "engine.py").write_text(FAKE_ENGINE)
    (tmp_path / "rubric.md").write_text("{prompt} {first} {second}")
    ask(tmp_path, PROMPTS)
    return tmp_path


def ask(folder: Path, questions: list[str]) -> None:
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": one}) + "\n" for one in questions))


def opened(folder: Path, config: Settings) -> Workbench:
    (folder / "c.yaml").write_text(yaml.safe_dump(config))
    return Workbench.open(folder / "c.yaml", folder / "run")


def went(folder: Path, config: Settings, stages: tuple[str, ...] = STAGES, *, force: bool = False) -> list[str]:
    """Run *stages* and return those that were not skipped."""
    with opened(folder, config) as run:
        return [name for name in stages if not run_stage(run, name, force=force).skipped]


def test_an_unchanged_run_skips_every_stage(folder: Path) -> None:
    assert went(folder, settings()) == list(STAGES)
    asked = len(requests_of(folder))
    assert asked == 6 * 2 + 6 * 2  # 6 prompts at 2 temperatures; 6 pairs in 2 orders
    manifest = (folder / "run/manifest.json").read_bytes()
    assert went(folder, settings()) == []
    assert len(requests_of(folder)) == asked
    assert (folder / "run/manifest.json").read_bytes() == manifest


def change(*path: str | int, to: Any) -> Callable[[Settings], None]:
    def edit(config: Settings) -> None:
        inner: Any = config
        for key in path[:-1]:
            inner = inner.setdefault(key, {}) if isinstance(inner, dict) else inner[key]
        inner[path[-1]] = to

    return edit


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (change("licence", to="mit"), "export"),
        (change("test_fraction", to=0.5), "export"),
        (change("evaluate", "temperature", to=0.1), ""),
        (change("budget", to={"usd": 5}), ""),
        (change("judges", 0, "price", to={"input": 1, "output": 1}), ""),
        (change("endpoints", to={"e": {"base_url": "http://h"}}), ""),
        (change("labels", "judge_floor", to=0.1), "aggregate"),
        # the certificate names the rule, and the dataset's card the certificate
        (change("gate", "delta", to=0.05), "gate select export"),
        (change("gate", "required", to=False), ""),
        (change("select", "min_margin", to=0.001), "gate select export"),
        (change("aggregate", "decide_by", to="p_a_lc"), "aggregate measure gate select export"),
        (change("aggregate", "method", to="majority"), "aggregate measure gate select export"),
        (change("judges", 0, "max_tokens", to=9), "judge aggregate measure"),
        (change("judges", 1, "scale", to=41.0), "judge aggregate measure gate select export"),
        (
            change("generators", 0, "temperatures", to=[0.5, 0.9]),
            "generate pair judge controls aggregate measure gate select export",
        ),
        (change("seed", to=1), "generate pair labels judge controls aggregate measure gate select export"),
        (change("prompts", "near_duplicates", to=1.0), "load"),
    ],
)
def test_an_edited_key_reruns_exactly_the_stages_that_read_it(
    folder: Path, edit: Callable[[Settings], None], expected: str
) -> None:
    went(folder, settings())
    edited = settings()
    edit(edited)
    found = went(folder, edited)
    if expected.startswith("generate"):
        # whether the labels stage looks again at other pairs when there are no labels is its own business
        found = [name for name in found if name != "labels" or "labels" in expected]
    assert found == expected.split()


def test_one_more_prompt_and_an_edited_rubric(folder: Path) -> None:
    went(folder, settings())
    before = len(requests_of(folder))
    (folder / "rubric.md").write_text("Now better: {prompt} {first} {second}")
    # other words, other calls behind the judgments, but the same verdicts
    assert went(folder, settings()) == ["judge", "aggregate", "measure"]
    assert len(requests_of(folder)) == before + 12
    ask(folder, [*PROMPTS, "One more?"])
    assert went(folder, settings())[:3] == ["load", "generate", "pair"]


def test_a_new_judge_runs_alone(folder: Path) -> None:
    went(folder, settings())
    config = settings()
    config["judges"].append({**config["judges"][0], "name": "second", "max_tokens": 7})
    before = len(requests_of(folder))
    assert "judge" in went(folder, config)
    assert len(requests_of(folder)) == before + 12  # 6 pairs in 2 orders, by the new judge only
    assert set(RunFolder(folder / "run").read("judgments")["judge"]) == {"lm", "length", "second"}
    # and one that left takes its judgments along
    assert "judge" not in went(folder, settings(), ("judge",))
    assert set(RunFolder(folder / "run").read("judgments")["judge"]) == {"lm", "length"}


def test_judges_whose_names_look_alike_keep_their_own_parts(folder: Path) -> None:
    config = settings()
    names = ["m-1", "m_1", "m:1", "m+1", "m.1"]
    config["judges"] = [{"name": name, "kind": "length"} for name in names]
    went(folder, config)
    assert sorted(set(RunFolder(folder / "run").read("judgments")["judge"])) == sorted(names)
    assert went(folder, config) == []


@pytest.mark.parametrize("frame", ["samples", "calls", "dropped"])
def test_a_part_cut_in_half_is_made_again(folder: Path, frame: str) -> None:
    went(folder, settings())
    run = RunFolder(folder / "run")
    whole = run.read("samples")
    (part,) = [path for path in run.parts(frame) if "generate" in path.name]
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    if frame == "dropped":
        assert went(folder, settings(), ("load", "generate")) == ["generate"]
    else:
        assert "generate" in went(folder, settings(), ("generate",))
    assert run.read("samples").equals(whole)


def test_a_missing_part_or_artefact_is_made_again(folder: Path) -> None:
    went(folder, settings())
    (folder / "run/certificate.json").unlink()
    assert went(folder, settings(), ("gate",)) == ["gate"]
    for path in (folder / "run/kept").iterdir():
        path.unlink()
    assert went(folder, settings(), ("select",)) == ["select"]


def test_parts_of_two_makings_never_pass_for_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made, edited, killed between two writes, edited back: the first result must come back."""
    went(folder, settings())
    first = RunFolder(folder / "run").read("samples")
    edited = settings()
    edited["generators"][0]["temperatures"] = [0.1, 0.2]
    write = RunFolder.write_part

    def killed(self: RunFolder, frame: str, *rest: Any) -> None:
        if frame == "dropped":
            raise KeyboardInterrupt
        write(self, frame, *rest)

    monkeypatch.setattr(RunFolder, "write_part", killed)
    with pytest.raises(KeyboardInterrupt):
        went(folder, edited, ("generate",))
    monkeypatch.undo()
    assert not RunFolder(folder / "run").read("samples").equals(first)
    assert went(folder, settings(), ("generate",)) == ["generate"]
    assert RunFolder(folder / "run").read("samples").equals(first)


def test_artefacts_of_two_makings_never_pass_for_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    went(folder, settings())
    first = RunFolder(folder / "run").read_json("panel.json")
    edited = settings()
    edited["aggregate"] = {"method": "majority"}

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "write_part", killed)
    with pytest.raises(KeyboardInterrupt):
        went(folder, edited, ("aggregate",))
    monkeypatch.undo()
    assert RunFolder(folder / "run").read_json("panel.json") != first
    assert went(folder, settings(), ("aggregate",)) == ["aggregate"]
    assert RunFolder(folder / "run").read_json("panel.json") == first


def test_an_incomplete_shard_is_asked_again_and_only_that_counts_as_incomplete(folder: Path) -> None:
    (folder / "silent.txt").write_text("Question 3?")
    with opened(folder, settings()) as run:
        run_stage(run, "load")
        report = run_stage(run, "generate")
        assert report.incomplete == ["0-m-0000of0001"]
        assert report.dropped == {"unanswered": 2}
        assert run.folder.read("samples").height == 10
    (folder / "silent.txt").unlink()
    with opened(folder, settings()) as run:
        report = run_stage(run, "generate")
        assert (report.skipped, report.incomplete, report.dropped) == (False, [], {})
        assert run.folder.read("samples").height == 12
        assert run_stage(run, "generate").skipped


def test_force_does_it_again(folder: Path) -> None:
    went(folder, settings(), ("load", "generate"))
    assert went(folder, settings(), ("generate",), force=True) == ["generate"]
    assert len(requests_of(folder)) == 24


def test_the_manifest_accounts_for_every_row(folder: Path) -> None:
    went(folder, settings())
    stages = json.loads((folder / "run/manifest.json").read_text())["stages"]
    assert list(stages) == list(STAGES)
    assert stages["generate"]["rows_in"] == {"prompts": 6}
    assert stages["generate"]["rows_out"] == {"samples": 12, "calls": 12}
    kept, dropped = stages["select"]["rows_out"]["kept"], sum(stages["select"]["dropped"].values())
    assert kept + dropped == stages["aggregate"]["rows_out"]["verdicts"] == 6
    assert all(len(row["stamp"]) == 64 for row in stages.values())


def test_a_damaged_input_is_named_with_the_remedy(folder: Path) -> None:
    went(folder, settings())
    (part,) = RunFolder(folder / "run").parts("verdicts")
    part.write_bytes(b"no parquet")
    with pytest.raises(StorageError, match=r"verdicts.part-aggregate-all.parquet: is damaged .*run its stage again"):
        went(folder, settings(), ("gate",))


@pytest.mark.parametrize("frame", ["pairs", "samples", "judgments"])
def test_a_damaged_part_that_nobody_recorded_is_named_by_a_stage_that_scans_it(folder: Path, frame: str) -> None:
    went(folder, settings())
    (folder / "run/checksums.json").unlink()
    for part in RunFolder(folder / "run").parts(frame):
        # after `PAR1`: the first page
        part.write_bytes(b"PAR1" + b"\xff" * 40 + part.read_bytes()[44:])
    with pytest.raises(
        StorageError, match=rf"{frame}: a part cannot be read .*delete the folder and run the stage again"
    ):
        went(folder, settings(), ("aggregate",))


def flipped(file: Path, at: float) -> None:
    """Turn one bit of *file* over, *at* a share of its length."""
    held = bytearray(file.read_bytes())
    held[int(at * len(held))] ^= 0x10
    file.write_bytes(held)


@pytest.mark.parametrize("at", [0.1, 0.5, 0.97])
def test_a_flipped_bit_in_what_a_stage_made_is_found_and_made_again(folder: Path, at: float) -> None:
    went(folder, settings())
    for name, stages in (
        ("verdicts/part-aggregate-all.parquet", ["aggregate"]),
        ("panel.json", ["aggregate"]),
        ("certificate.json", ["gate"]),
        ("trend/part-measure-all.parquet", ["measure"]),
        ("dropped/part-export-all.parquet", ["export"]),
        ("dataset/README.md", ["export"]),
        ("dataset/trl_dpo/train.parquet", ["export"]),
    ):
        before = RunFolder(folder / "run").digest("dataset")
        flipped(folder / "run" / name, at)
        again = went(folder, settings())
        assert set(stages) <= set(again), name
        assert RunFolder(folder / "run").digest("dataset") == before
        assert went(folder, settings()) == [], name


def test_a_runs_files_are_looked_at_one_by_one(folder: Path) -> None:
    with opened(folder, settings()) as run:
        with pytest.raises(InputError, match="holds no run"):
            checks.whole(run)
        for stage in STAGES:
            run_stage(run, stage)
        (told,) = checks.whole(run)
        assert "files are as they were written" in told
        flipped(folder / "run/dataset/README.md", 0.5)
        (folder / "run/panel.json").unlink()
        with pytest.raises(StorageError) as found:
            checks.whole(run)
    assert "panel.json: is gone" in str(found.value)
    assert "README.md: is damaged" in str(found.value)


SILENT = {"checksums.json", "config.yaml", "status.json", ".lock", "ledger.sqlite"}
"""Files that are written anew by every run, or look after themselves (the ledger's own tests)."""


def test_whatever_bit_turns_in_a_runs_files_the_next_run_ends_with_the_same_dataset(folder: Path) -> None:
    went(folder, settings())
    files = sorted(file for file in (folder / "run").rglob("*") if file.is_file() and file.name not in SILENT)
    before = RunFolder(folder / "run").digest("dataset")
    places = random.Random(7)
    for _ in range(500 if os.environ.get("JURYBOX_SOAK") else 5):
        file, at = places.choice(files), places.random()
        flipped(file, at)
        went(folder, settings())
        assert RunFolder(folder / "run").digest("dataset") == before, (file, at)
        with opened(folder, settings()) as run:
            checks.whole(run)


def test_an_imported_part_with_a_flipped_bit_stops_the_run_with_the_remedy(folder: Path) -> None:
    config = {**settings(), "generators": []}
    del config["prompts"]
    (folder / "pairs.jsonl").write_text(
        "".join(
            json.dumps({"pair_id": str(at), "prompt": f"q{at}", "response_a": "x", "response_b": f"y{at}"}) + "\n"
            for at in range(4)
        )
    )
    with opened(folder, config) as run:
        imports.run(run, "pairs", folder / "pairs.jsonl")
    (part,) = RunFolder(folder / "run").parts("samples")
    flipped(part, 0.5)
    with pytest.raises(StorageError, match=r"is damaged .*import its file again"):
        went(folder, config, ("judge",))


def test_a_folder_whose_name_is_a_pattern_is_that_folder_alone(folder: Path) -> None:
    with opened(folder, settings()) as run:
        for stage in ("load", "generate", "pair"):
            run_stage(run, stage)
    ask(folder, ["Another question?"])
    (folder / "c.yaml").write_text(yaml.safe_dump(settings()))
    (folder / "run").rename(folder / "run1")
    with Workbench.open(folder / "c.yaml", folder / "run[1]") as run:
        for stage in STAGES:
            run_stage(run, stage)
        assert run.folder.scan("prompts").collect().height == run.folder.read("prompts").height == 1


def test_a_second_writer_waits_for_the_first_and_then_skips(folder: Path) -> None:
    heard: list[str] = []
    with opened(folder, settings()) as first, opened(folder, settings()) as second:
        second.progress.note = heard.append  # type: ignore[method-assign]
        with ThreadPoolExecutor(1) as other, first.writing():
            later = other.submit(lambda: [run_stage(second, name).skipped for name in STAGES])
            while not heard:
                assert not later.done()
            for name in STAGES:
                run_stage(first, name)
            assert not later.done()
        assert all(later.result())
    assert "another process writes this run" in heard[0]


def test_what_a_killed_writer_left_half_written_is_swept(folder: Path) -> None:
    went(folder, settings(), ("load",))
    nobody = 2**22 + 1  # above every process number
    (folder / f"run/prompts/.part-load-all.parquet.{nobody}.ab.tmp").write_bytes(b"half")
    (folder / f"run/.dataset.{nobody}.ab.tmp").mkdir()
    being_written = folder / f"run/.summary.json.{os.getpid()}.ab.tmp"
    being_written.write_bytes(b"half")
    went(folder, settings(), ("load",))
    assert list((folder / "run").rglob("*.tmp")) == [being_written]


def test_a_stage_that_touches_what_it_does_not_declare_is_told(folder: Path) -> None:
    went(folder, settings())
    with opened(folder, settings()) as run:
        lent = run.lent("select", ("verdicts", "certificate.json"))
        assert lent.folder.read("verdicts").height == 6
        for touch in (
            lambda: lent.folder.read("pairs"),
            lambda: lent.folder.read_json("panel.json"),
            lambda: lent.folder.path,
            lambda: lent.folder.write_json("certificate.json", {}),
            lambda: lent.past("trend"),
            lambda: lent.scratch,
        ):
            with pytest.raises(UndeclaredError):
                touch()


def test_two_generators_that_write_the_same_words_make_one_sample(folder: Path) -> None:
    config = settings()
    config["generators"] = [{**config["generators"][0], "samples": 1}, {**config["generators"][0], "price": None}]
    went(folder, config)
    run = RunFolder(folder / "run")
    assert run.read("samples")["sample_id"].is_unique().all()
    assert run.read("pairs").height == 6


def test_the_stages_of_a_run() -> None:
    from pipeline.config import Config

    plain = Config(name="x")
    assert stages_of(plain) == list(STAGES)
    assert stages_of(plain, "judge", "gate") == ["judge", "controls", "aggregate", "measure", "gate"]
    assert stages_of(Config.model_validate({"name": "x", "train": {}}))[-2:] == ["train", "evaluate"]
    with pytest.raises(InputError, match=r"'jugde' is no stage; allowed: load, generate"):
        stages_of(plain, "jugde")
    with pytest.raises(InputError, match="comes after"):
        stages_of(plain, "gate", "judge")


def test_every_stage_of_the_order_is_there() -> None:
    assert [runner.stage(name).name for name in runner.ORDER] == list(runner.ORDER)


def test_row_order_on_disk_changes_no_stamp(folder: Path) -> None:
    went(folder, settings())
    run = RunFolder(folder / "run")
    (part,) = run.parts("samples")
    notes = run.notes("samples", "generate", "0-m-0000of0001")
    rows = pl.read_parquet(part)
    run.write_part("samples", "generate", "0-m-0000of0001", rows.sample(fraction=1, shuffle=True, seed=3), notes)
    assert went(folder, settings()) == []
