"""Pins down the command line and the Python API: help, init, check, explain, schema, JSON, exact reruns."""

import ast
import json
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import polars as pl
import pytest
import yaml

import jurybox as jb
from jurybox.api import run_pipeline
from jurybox.cli import click_app
from pipeline.config_file import load
from pipeline.schemas import ORDER
from pipeline.store import RunFolder
from pipeline.workbench import Workbench
from tests.endpoints import Endpoint
from tests.recorded_endpoint import ROOT, jurybox, jurybox_here, scripted

COMMANDS = sorted(click_app().commands)
HELP_CPU_S = 0.4
CONFIG: dict[str, Any] = {
    "name": "small",
    "prompts": {"path": "prompts.jsonl"},
    "generators": [{"endpoint": "local", "model": "student", "temperatures": [0.3, 0.6, 1.0], "max_tokens": 16}],
    "judges": [
        {"name": "judge", "kind": "pairwise", "endpoint": "local", "model": "judge"},
        {"name": "long", "kind": "length"},
    ],
    "export": ["jsonl"],
}
PROMPTS = 6


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with Endpoint(scripted, models=("student", "judge")) as server:
        yield server


def write(folder: Path, url: str, **changes: object) -> Path:
    """Write the small config with top-level keys replaced; returns its path."""
    settings = CONFIG | {"endpoints": {"local": {"base_url": url}}} | changes
    (folder / "c.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    lines = (json.dumps({"prompt": f"Question {number}?"}) for number in range(PROMPTS))
    (folder / "prompts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder / "c.yaml"


@pytest.fixture(scope="module")
def finished(endpoint: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a project with a finished run, as the console script made it."""
    folder = tmp_path_factory.mktemp("finished")
    write(folder, endpoint.url)
    script = Path(sys.executable).parent / "jurybox"
    done = subprocess.run([script, "run", "c.yaml"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def run_of(folder: Path) -> RunFolder:
    return RunFolder(folder / "runs" / "small")


# Help.


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, tmp_path: Path) -> None:
    done = jurybox_here(command, "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage" in done.stdout
    assert (click_app().commands[command].help or "").split(".")[0] in " ".join(done.stdout.split())


def test_the_stages_are_commands() -> None:
    assert set(ORDER) <= set(COMMANDS)


def test_help_is_quick() -> None:
    """CPU seconds of the child, best of three: other work on the machine slows a process, nothing hastens it."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "jurybox", "--help"], cwd=ROOT, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < HELP_CPU_S


def test_the_module_is_the_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jurybox", "run", "none.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "none.yaml" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("run",), "CONFIG"),
        (("rum", "c.yaml"), "rum"),
        (("run", "c.yaml", "--from", "nowhere"), "'nowhere' is no stage; allowed: load, generate"),
        (("run", "c.yaml", "--from", "select", "--to", "pair"), "--from select comes after --to pair"),
        (("import", "verdicts", "c.yaml", "--config", "c.yaml"), "allowed: prompts, samples, pairs, judgments, labels"),
        (("import", "pairs", "none.jsonl", "--config", "c.yaml"), "none.jsonl: does not exist"),
    ],
)
def test_wrong_arguments_are_wrong_input(arguments: tuple[str, ...], told: str, tmp_path: Path) -> None:
    write(tmp_path, "http://127.0.0.1:9/v1")
    done = jurybox_here(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert told in " ".join(done.stderr.split())


# init, check, schema.


def test_init_writes_a_config_that_parses_and_overwrites_nothing(tmp_path: Path) -> None:
    assert jurybox_here("init", "new", cwd=tmp_path).returncode == 0
    config = load(tmp_path / "new" / "jurybox.yaml")
    assert config.prompts is not None
    assert config.prompts.path.is_file()
    assert config.judges
    again = jurybox_here("init", "new", cwd=tmp_path)
    assert (again.returncode, "exists already" in again.stderr) == (2, True)


def test_check_names_what_is_in_order(endpoint: Endpoint, tmp_path: Path) -> None:
    before = len(endpoint.log)
    write(tmp_path, endpoint.url)
    done = jurybox_here("check", "c.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for told in (
        "config small",
        f"{PROMPTS} usable, 0 not",
        "judge long: length",
        "endpoint local: serves student, judge",
    ):
        assert told in done.stdout
    assert len(endpoint.log) == before + 2  # the smallest call of each model


def test_check_fails_on_an_endpoint_that_is_not_there(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        write(tmp_path, url)
        done = jurybox_here("check", "c.yaml", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert [word for word in ("'local'", url, "start it") if word not in done.stderr] == []


def test_schema_is_a_json_schema_that_knows_every_kind_of_judge(tmp_path: Path) -> None:
    """The kinds are told from the files: one that defines a class <Kind>Judge, but for the protocol's own."""
    done = jurybox_here("schema", cwd=tmp_path)
    schema = json.loads(done.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    kinds = {
        file.stem
        for file in (ROOT / "judges").glob("*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == file.stem.title().replace("_", "") + "Judge"
    }
    named = {title.removeprefix("judges:") for title in schema["$defs"] if title.startswith("judges:")}
    assert {"pairwise", "length", "verifier", "reward_model"} <= kinds == named
    local = {"base_url": "http://127.0.0.1:9/v1"}
    jsonschema.validate(CONFIG | {"endpoints": {"local": local}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(CONFIG | {"judges": [{"name": "j", "kind": "length", "scael": 3}]}, schema)


# Output.


@pytest.mark.parametrize(
    "arguments",
    [("run", "c.yaml"), ("aggregate", "c.yaml"), ("report", "c.yaml"), ("check", "c.yaml"), ("doctor",)],
)
def test_json_prints_one_object_and_nothing_else(arguments: tuple[str, ...], finished: Path) -> None:
    done = jurybox_here(*arguments, "--json", cwd=finished)
    assert (done.returncode, done.stderr) == (0, "")
    assert isinstance(json.loads(done.stdout), dict)
    assert done.stdout.count("\n") == 1


def test_without_a_terminal_progress_is_plain_lines(finished: Path) -> None:
    done = jurybox("run", "c.yaml", cwd=finished)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    assert "judge: unchanged, skipped: " in done.stderr


# explain.


def test_explain_shows_votes_weights_and_calls(finished: Path) -> None:
    run = run_of(finished)
    kept = run.read("kept").row(0, named=True)
    done = jurybox_here("explain", "c.yaml", kept["pair_id"], "--json", cwd=finished)
    found = json.loads(done.stdout)
    assert (found["outcome"], found["chosen"]) == ("kept", kept["chosen_id"])
    assert [(vote["judge"], vote["order"]) for vote in found["votes"]] == [
        ("judge", "ab"),
        ("judge", "ba"),
        ("long", "ab"),
    ]
    assert all(vote["weight"] is not None for vote in found["votes"])
    assert [len(vote["calls"]) for vote in found["votes"]] == [1, 1, 0]
    by_start = jurybox_here("explain", "c.yaml", kept["pair_id"][:12], cwd=finished)
    assert by_start.stdout.startswith(f"pair {kept['pair_id']}: kept")
    assert "(chosen)" in by_start.stdout


def test_explain_says_why_a_pair_was_dropped(finished: Path) -> None:
    stage, key, reason = run_of(finished).read("dropped").filter(pl.col("stage") == "select").row(0)[:3]
    done = jurybox_here("explain", "c.yaml", key, cwd=finished)
    assert done.stdout.startswith(f"pair {key}: dropped by {stage}: {reason}")


def test_explain_knows_imported_ids_and_refused_rows(tmp_path: Path) -> None:
    write(tmp_path, "http://127.0.0.1:9/v1", prompts=None, generators=[], judges=[{"name": "long", "kind": "length"}])
    pairs = [
        {"pair_id": "mine-1", "prompt": "p", "response_a": "short", "response_b": "much longer"},
        {"pair_id": "mine-2", "prompt": "p", "response_a": "", "response_b": "x"},
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8")
    jurybox_here("import", "pairs", "pairs.jsonl", "--config", "c.yaml", cwd=tmp_path)
    assert jurybox_here("run", "c.yaml", cwd=tmp_path).returncode == 0
    found = json.loads(jurybox_here("explain", "c.yaml", "mine-1", "--json", cwd=tmp_path).stdout)
    side = "a" if found["a"]["completion"] == "much longer" else "b"
    assert (found["external_ids"], found["chosen"]) == (["mine-1"], found[side]["sample_id"])
    refused = jurybox_here("explain", "c.yaml", "mine-2", cwd=tmp_path)
    assert refused.stdout.strip() == "pair mine-2: dropped by import: response_a_empty"


def test_explain_of_an_unknown_pair_is_wrong_input_with_an_example(finished: Path) -> None:
    done = jurybox_here("explain", "c.yaml", "zzz", cwd=finished)
    assert done.returncode == 2
    assert f"an example is {run_of(finished).read('pairs')['pair_id'][0]}" in done.stderr


# Reruns.


def test_a_stage_again_skips_and_force_pays_nothing(finished: Path, endpoint: Endpoint) -> None:
    before, manifest = len(endpoint.log), (run_of(finished).path / "manifest.json").read_bytes()
    for stage in ("generate", "judge", "select"):
        done = jurybox_here(stage, "c.yaml", cwd=finished)
        assert (done.returncode, f"{stage}: unchanged, skipped" in done.stdout) == (0, True), done.stderr
    assert (run_of(finished).path / "manifest.json").read_bytes() == manifest
    samples = run_of(finished).read("samples")
    forced = jurybox_here("generate", "c.yaml", "--force", "--json", cwd=finished)
    assert json.loads(forced.stdout)["skipped"] is False
    assert run_of(finished).read("samples").equals(samples)
    assert len(endpoint.log) == before


AFTER_AGGREGATE = {"aggregate", "measure", "gate", "select", "export"}
STUDENT = CONFIG["generators"][0]
JUDGE, LONG = CONFIG["judges"]


@pytest.mark.parametrize(
    ("changes", "reruns"),
    [
        ({}, set()),
        ({"export": ["jsonl", "kto"]}, {"export"}),
        ({"test_fraction": 0.5}, {"export"}),
        ({"gate": {"delta": 0.2}}, {"gate", "select", "export"}),
        ({"select": {"strategy": "all"}}, {"gate", "select", "export"}),
        ({"aggregate": {"method": "majority"}}, AFTER_AGGREGATE),
        ({"labels": {"judge_floor": 0.6}}, {"aggregate"}),
        ({"judges": [JUDGE, LONG | {"scale": 5.0}]}, {"judge", *AFTER_AGGREGATE}),
        ({"judges": [JUDGE | {"rubric": "concision"}, LONG]}, {"judge", "controls", *AFTER_AGGREGATE}),
        ({"generators": [STUDENT | {"price": {"input": 1, "output": 2}}]}, set()),
        (
            {"budget": {"usd": 1}, "generators": [STUDENT | {"price": {"input": 1, "output": 2}}], "judges": [LONG]},
            None,
        ),
    ],
)
def test_an_edited_key_reruns_exactly_the_stages_that_read_it(
    changes: dict[str, Any], reruns: set[str] | None, endpoint: Endpoint, tmp_path: Path
) -> None:
    """The stages that ran again, by the runner and by the manifest; no request that was answered is sent again.

    A rerun whose result is the same stops there: a floor that removes no judge changes no verdict.
    """
    path = write(tmp_path, endpoint.url)
    with Workbench.open(path, tmp_path / "run") as bench:
        run_pipeline(bench)
    before = json.loads((tmp_path / "run" / "manifest.json").read_text())["stages"]
    sent = {json.dumps(body, sort_keys=True) for body in endpoint.bodies}
    start = len(endpoint.log)
    path = write(tmp_path, endpoint.url, **changes)
    with Workbench.open(path, tmp_path / "run") as bench:
        again = {report.stage for report in run_pipeline(bench) if not report.skipped}
    after = json.loads((tmp_path / "run" / "manifest.json").read_text())["stages"]
    new = [json.dumps(body, sort_keys=True) for body in endpoint.bodies[start:]]
    assert sent.isdisjoint(new)
    if reruns is None:  # a judge fewer: nothing is asked, and generation stands
        assert (again.isdisjoint({"load", "generate", "pair"}), new) == (True, [])
        return
    assert again == reruns
    assert {name for name in after if after[name]["stamp"] != before[name]["stamp"]} == reruns
    pairs = pl.concat([pl.read_parquet(part) for part in (tmp_path / "run" / "pairs").glob("*.parquet")]).height
    rubric_changed = any(judge.get("rubric") for judge in changes.get("judges", ()))
    constant = RunFolder(tmp_path / "run").read("controls").height  # a row an order, by the one judge that is asked
    assert len(new) == (2 * pairs + constant if rubric_changed else 0)


def test_a_temperature_more_asks_for_its_answers_only(endpoint: Endpoint, tmp_path: Path) -> None:
    """By hand: one request more per prompt, and two per new pair; the old ones come from the ledger."""
    path = write(tmp_path, endpoint.url)
    with Workbench.open(path, tmp_path / "run") as bench:
        run_pipeline(bench, last="judge")
        pairs = set(bench.folder.read("pairs")["pair_id"])
    start = len(endpoint.log)
    path = write(tmp_path, endpoint.url, generators=[STUDENT | {"temperatures": [*STUDENT["temperatures"], 0.9]}])
    with Workbench.open(path, tmp_path / "run") as bench:
        run_pipeline(bench, last="judge")
        more = set(bench.folder.read("pairs")["pair_id"]) - pairs
    asked = [body["model"] for body in endpoint.bodies[start:]]
    assert (asked.count("student"), asked.count("judge")) == (PROMPTS, 2 * len(more))
    assert more


# The Python API.

ROWS = [
    {"prompt": "p", "response_a": "x" * 50, "response_b": "y" * 10},
    {"prompt": "p", "response_a": "x" * 10, "response_b": "y" * 50},
    {"prompt": "q", "response_a": "same size", "response_b": "size same"},
]
LENGTH_LOGIT = {"0": 1.0, "1": -1.0, "2": 0.0}
"""(50 - 10) / 40, (10 - 50) / 40, 0: difference in characters over the length judge's default scale."""


@pytest.mark.parametrize("kind", ["list", "datasets", "polars"])
def test_judge_takes_rows_of_any_kind_and_answers_in_their_own_order(kind: str, tmp_path: Path) -> None:
    """Without labels p_a is the judge's own logistic of the logit, in terms of the row's own response_a."""
    import datasets
    import numpy as np

    path = write(tmp_path, "http://127.0.0.1:9/v1", judges=[LONG])
    made = {"list": list, "datasets": datasets.Dataset.from_list, "polars": pl.DataFrame}[kind](ROWS)
    found = jb.judge(made, path)
    expected = {key: float(1 / (1 + np.exp(-logit))) for key, logit in LENGTH_LOGIT.items()}
    assert dict(found.select("pair_id", "p_a").iter_rows()) == pytest.approx(expected)
    assert found["margin"].to_list() == pytest.approx([abs(2 * p - 1) for p in expected.values()])


def test_judge_keeps_a_run_so_that_no_answer_is_paid_twice(endpoint: Endpoint, tmp_path: Path) -> None:
    path, start = write(tmp_path, endpoint.url, judges=[JUDGE]), len(endpoint.log)
    first = jb.judge(ROWS, path, tmp_path / "kept")
    assert len(endpoint.log) - start == 2 * len(ROWS)
    assert jb.judge(ROWS, path, tmp_path / "kept").equals(first)
    assert len(endpoint.log) - start == 2 * len(ROWS)


def test_run_returns_the_summary(endpoint: Endpoint, tmp_path: Path) -> None:
    made = jb.run(write(tmp_path, endpoint.url), tmp_path / "run")
    assert made == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert made["rows"]["load"]["out"]["prompts"] == PROMPTS
