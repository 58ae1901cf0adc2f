"""docs/extending.md, tried: each of its ten changes is one file, as a user's own file and as one of the house.

The files lie in tests/extensions/. A tiny run with all of them goes once with each named as `./file.py:Name` beside the
config, and once with each dropped into its folder of a copy of the code, where nothing else is touched.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline import discovery
from pipeline.store import RunFolder

ROOT = Path(__file__).parents[2]
EXTENSIONS = ROOT / "tests" / "extensions"
PACKAGES = ("jurybox", "flows", "dashboard", "pipeline", "judges", "training")


@dataclass(frozen=True)
class Change:
    """A row of the page's table."""

    package: str
    """Where the file lies."""
    file: str
    name: str
    """What a user's own file is asked for."""

    @property
    def kind(self) -> str:
        return self.file.removesuffix(".py")


CHANGES = {
    "judge": Change("judges", "vowels.py", "VowelsJudge"),
    "export": Change("pipeline.exports", "lines.py", "export"),
    "pairing": Change("pipeline.pairing", "star.py", "StarPairing"),
    "importer": Change("pipeline.importers", "questions.py", "read_prompts"),
    "engine": Change("pipeline.engines", "canned.py", "CannedEngine"),
    "aggregation": Change("pipeline.aggregation", "boldest.py", "BoldestAggregation"),
    "training method": Change("training.methods", "rote.py", "RoteMethod"),
    "filter": Change("pipeline.filters", "shouting.py", "ShoutingFilter"),
    "chart": Change("dashboard.charts", "kept_bar.py", "panel"),
}
"""The tenth, a drop reason, is a word in the file that drops: of an importer, a filter and a method here, of a stage in
the copy of the code."""
REASON = ("pipeline/stages/pair.py", '"identical"', '"same_words"')
ASKED = ("Why?", "How?", "Who?", "When?", "Where?", "What?", "Which?", "Whose?")
CONFIG = """
name: extended
prompts: {{path: questions.jsonl, format: "{importer}"}}
generators: [{{engine: "{engine}", model: canned, temperatures: [0, 1], samples: 2}}]
pairing: {{strategy: "{pairing}", centre: 1}}
judges: [{{name: by-vowels, kind: "{judge}", sure: 0.8}}]
aggregate: {{method: "{aggregation}"}}
select: {{strategy: all, filters: [{{kind: "{filter}", capitals: 4}}]}}
export: ["{export}"]
test_fraction: 0
train: {{method: "{method}", dataset: {folder}}}
"""
DRIVER = """
import json, sys
from pathlib import Path
from dashboard.charts.base import Shown, panels
import yaml
from jsonschema import Draft202012Validator
from jurybox.api import run_pipeline
from pipeline import discovery
from pipeline.commands.checks import check, config_schema, doctor
from pipeline.config_file import load
from pipeline.errors import ConfigError
from pipeline.workbench import Workbench

config, run = map(Path, sys.argv[1:])
told = {"kinds": {package: discovery.kinds(package) for package in discovery.KINDS}, "refused": {}}
text = config.read_text()
schema = Draft202012Validator(config_schema())
told["schema"] = [error.message for error in schema.iter_errors(yaml.safe_load(text))]
told["doctor"] = doctor()
for key in ("centre", "sure", "capitals", "dataset"):
    wrong = config.with_name("wrong.yaml")
    wrong.write_text(text.replace(f"{key}:", f"{key}s:"))
    try:
        load(wrong)
    except ConfigError as error:
        told["refused"][key] = str(error)
    if not list(schema.iter_errors(yaml.safe_load(wrong.read_text()))):
        told["schema"].append(f"{key}s passes")
with Workbench.open(config, run) as bench:
    told["checked"] = check(bench)
    run_pipeline(bench, None, "train")
    shown = Shown(bench.folder.read_json("summary.json"), bench.folder.read)
    told["panels"] = [panel.title for _, panel in panels(shown, "Overview")]
    told["elsewhere"] = [panel.title for _, panel in panels(shown, "Gate")]
    told["done"] = [not report.skipped for report in run_pipeline(bench, None, "train")]
Path(sys.argv[2], "told.json").write_text(json.dumps(told))
"""


@dataclass(frozen=True)
class Tried:
    """What came of the tiny run."""

    run: RunFolder
    told: dict[str, Any]


def tiny_run(folder: Path, code: Path, kinds: dict[str, str], exported: str) -> Tried:
    rows = [*({"question_text": asked, "known_answer": "so"} for asked in ASKED), {"known_answer": "alone"}]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    keys = {("method" if name == "training method" else name): kind for name, kind in kinds.items()}
    config = folder / "extended.yaml"
    config.write_text(CONFIG.format(**keys, folder=exported), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(config), str(folder / "run")],
        cwd=code,
        env={**os.environ, "PYTHONPATH": str(code)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Tried(RunFolder(folder / "run"), json.loads((folder / "run" / "told.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Tried:
    """Every file is the user's, beside the config."""
    folder = tmp_path_factory.mktemp("own")
    kinds: dict[str, str] = {}
    for name, change in CHANGES.items():
        if name != "chart":  # no config names a chart
            shutil.copy(EXTENSIONS / change.file, folder)
            kinds[name] = f"./{change.file}:{change.name}"
    return tiny_run(folder, ROOT, kinds, "export")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Tried:
    """Every file lies in its folder of a copy of the code."""
    folder, code = tmp_path_factory.mktemp("house"), tmp_path_factory.mktemp("code")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
    for change in CHANGES.values():
        shutil.copy(EXTENSIONS / change.file, code / change.package.replace(".", "/"))
    file, before, after = REASON
    text = (code / file).read_text(encoding="utf-8")
    assert text.count(before) == 1
    (code / file).write_text(text.replace(before, after), encoding="utf-8")
    return tiny_run(folder, code, {name: change.kind for name, change in CHANGES.items()}, "lines")


@pytest.fixture(params=["own", "house"])
def tried(request: pytest.FixtureRequest) -> Tried:
    return request.getfixturevalue(request.param)


def texts(tried: Tried, frame: str, *columns: str) -> list[tuple[Any, ...]]:
    """Rows of a frame of pairs: the two answers, then *columns*."""
    words = tried.run.read("samples").select("sample_id", "completion")
    rows = tried.run.read(frame)
    if "sample_a" not in rows.columns:
        rows = rows.join(tried.run.read("pairs").select("pair_id", "sample_a", "sample_b"), on="pair_id")
    for side in ("a", "b"):
        rows = rows.join(words.rename({"sample_id": f"sample_{side}", "completion": side}), on=f"sample_{side}")
    return rows.select("a", "b", *columns).rows()


def dropped(tried: Tried, stage: str) -> list[str]:
    return (
        tried.run.read("dropped").filter(pl.col("stage").cast(pl.String) == stage)["reason"].cast(pl.String).to_list()
    )


def test_an_importer(tried: Tried) -> None:
    asked = tried.run.read("prompts").select(pl.col("messages").list.last().struct.field("content"), "reference").rows()
    assert sorted(asked) == sorted((question, "so") for question in ASKED)


def test_an_engine(tried: Tried) -> None:
    said = tried.run.read("samples")["completion"].to_list()
    # Each of 2 temperatures x 2 samples has its word.
    assert sorted(said) == sorted(f"{word} {asked}" for word in ("aeiou", "aei", "LOUD", "aeiou") for asked in ASKED)


def test_a_pairing(tried: Tried) -> None:
    pairs = tried.run.read("pairs")
    # Three different answers a prompt: the one in the middle meets two.
    assert pairs.height == 2 * len(ASKED)
    for _, rows in pairs.group_by("prompt_id"):
        ends = [{a, b} for a, b in rows.select("sample_a", "sample_b").rows()]
        (centre,) = ends[0] & ends[1]
        assert centre == sorted(ends[0] | ends[1])[1]


def test_a_judge(tried: Tried) -> None:
    rows = texts(tried, "judgments", "judge", "preference")
    assert len(rows) == 2 * len(ASKED)
    order = ("aeiou", "aei", "LOUD")  # by vowels: 5, 3, none
    for a, b, judge, preference in rows:
        first = order.index(a.split()[0]) < order.index(b.split()[0])
        assert (judge, preference) == ("by-vowels", pytest.approx(0.8 if first else 0.2))


def test_an_aggregation(tried: Tried) -> None:
    assert {round(p, 9) for *_, p in texts(tried, "verdicts", "p_a")} <= {0.99, 0.01}
    panel = tried.run.read_json("panel.json")
    assert panel is not None
    assert panel["weights"] == {"by-vowels": 1.0}


def test_a_filter(tried: Tried) -> None:
    loud = sum("LOUD" in a + b for a, b in texts(tried, "verdicts"))
    assert loud > 0
    assert dropped(tried, "select") == ["shouting"] * loud
    assert not any("LOUD" in a + b for a, b in texts(tried, "kept"))
    assert tried.run.read("kept").height == 2 * len(ASKED) - loud
    assert loud < 2 * len(ASKED)


def test_an_export(tried: Tried) -> None:
    (folder,) = (path for path in (tried.run.path / "dataset").iterdir() if path.is_dir())
    lines = (folder / "train.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == tried.run.read("kept").height
    assert all(re.fullmatch(r"aeiou (\w+\?) > aei \1", line) for line in lines)
    assert f"{folder.name}/train.txt" in (tried.run.path / "dataset" / "README.md").read_text(encoding="utf-8")


def test_a_training_method(tried: Tried) -> None:
    known = (tried.run.path / "model" / "known.txt").read_text(encoding="utf-8").splitlines()
    assert len(known) == tried.run.read("kept").height
    assert all(line.startswith("aeiou ") for line in known)


def test_a_drop_reason(tried: Tried, request: pytest.FixtureRequest) -> None:
    stage = "same_words" if "house" in request.node.name else "identical"
    told = {"load": ["no_question"], "pair": [stage] * len(ASKED), "train": ["by_heart"]}
    assert {name: dropped(tried, name) for name in told} == told
    made = tried.run.read_json("summary.json")
    assert made is not None
    page = (tried.run.path / "report.html").read_text(encoding="utf-8")
    for name, reasons in told.items():
        assert made["dropped"][name] == {reasons[0]: len(reasons)}
        assert reasons[0] in page


def test_a_chart(house: Tried, own: Tried) -> None:
    assert house.told["panels"] == ["Kept in a bar"]
    assert house.told["elsewhere"] == own.told["panels"] == []
    page = (house.run.path / "report.html").read_text(encoding="utf-8")
    assert "Kept in a bar" in page
    assert f'aria-label="{house.run.read("kept").height} pairs are kept."' in page


def test_each_is_found_by_its_name_and_no_other_kind_came_with_it(house: Tried) -> None:
    for change in CHANGES.values():
        there = discovery.kinds(change.package)
        assert house.told["kinds"][change.package] == sorted([*there, change.kind])
    assert house.told["kinds"].keys() == {change.package for change in CHANGES.values()}


def test_its_keys_are_checked_with_the_config(tried: Tried) -> None:
    wrong = tried.told["refused"]
    assert wrong.keys() == {"centre", "sure", "capitals", "dataset"}
    for key, message in wrong.items():
        assert f"unknown key; did you mean '{key}'?" in message


def test_the_schema_and_doctor_know_them(house: Tried) -> None:
    assert house.told["schema"] == []
    for change in CHANGES.values():
        assert change.kind in house.told["doctor"][change.package.removeprefix("pipeline.").replace(".", " ")]


def test_check_names_them_and_a_second_run_does_nothing(tried: Tried) -> None:
    assert any(line.startswith("judge by-vowels: ") for line in tried.told["checked"])
    assert any(line.startswith("engine ") and "canned" in line for line in tried.told["checked"])
    assert not any(tried.told["done"])


def test_the_page_names_the_folder_of_each() -> None:
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    for name, change in CHANGES.items():
        row = next(line for line in page.splitlines() if re.match(rf"\| (a|an) {name} \|", line))
        assert f"`{change.package.replace('.', '/')}/" in row
        assert f"../tests/extensions/{change.file}" in row
    assert "| a drop reason |" in page
