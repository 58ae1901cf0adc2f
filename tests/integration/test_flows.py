"""The Prefect flow against a real Prefect server: tasks, artifacts, skipping, failing. Uses a temporary database."""

import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact, FlowRun
from prefect.client.schemas.sorting import ArtifactSort, FlowRunSort
from prefect.testing.utilities import prefect_test_harness

from flows import preference as flows
from pipeline import frames, runner
from pipeline.errors import StageError
from pipeline.store import RunFolder
from tests.patience import patience

pytestmark = pytest.mark.slow
PROMPTS = 12
LATE_S = patience(90)
"""Task runs are written behind the flow."""

# An engine that answers with the temperature, and a judge that likes the colder answer; no model is needed. One
# prompt gets an error whose reason is what a hostile endpoint might say.
PLUG_INS = """
import hashlib, pathlib
from judges.base import Judgment, Opinions
from pipeline.config import JudgeConfig
from pipeline.engines.base import Answer, Call
from pipeline.errors import StageError

HERE = pathlib.Path(__file__).parent

def note(name):
    with (HERE / name).open("a") as file:
        file.write("x")

class Parrot:
    def __init__(self, options, toolbox):
        note("loaded")

    def complete(self, requests, advance):
        if (HERE / "broken").exists():
            raise StageError("the parrot is broken; mend it")
        advance(len(requests))
        return [self.answer(request) for request in requests]

    def answer(self, request):
        call = Call(hashlib.sha256(repr(request).encode()).hexdigest(), "answered", 1, 0, 1)
        question = request.messages[-1][1]
        if question.startswith("Question 0 "):
            return Answer(call, reason="refused", error="<script>alert(1)</script>|[x](http\\\\://evil) *bold*: detail")
        return Answer(call, f"{question} answered at {request.temperature}", "stop", -1.0)

    def close(self):
        note("closed")

class Colder:
    Options = JudgeConfig

    def __init__(self, options, toolbox):
        pass

    def fit(self, labelled):
        pass

    def requests(self, comparisons):
        return iter(())

    def judge(self, comparisons):
        heat = lambda text: float(text.rsplit(" ", 1)[1])
        return Opinions([
            Judgment(one.pair_id, "ab", 0.9 if heat(one.completion_a) < heat(one.completion_b) else 0.1)
            for one in comparisons
        ])
"""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SyncPrefectClient]:
    """A Prefect server with an empty database, which every flow of this module uses."""
    with prefect_test_harness(server_startup_timeout=round(patience(120))), get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of several shards per stage that takes no time."""
    monkeypatch.setattr(frames, "SHARD_PROMPTS", 4)
    (tmp_path / "plug_ins.py").write_text(PLUG_INS)
    lines = (f'{{"prompt": "Question {number} of twelve?"}}' for number in range(PROMPTS))
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    path = tmp_path / "config.yaml"
    path.write_text(
        textwrap.dedent("""
            name: flow_test
            prompts: {path: prompts.jsonl}
            generators: [{engine: "./plug_ins.py:Parrot", model: parrot, temperatures: [0.3, 1.0]}]
            judges:
              - {name: colder, kind: "./plug_ins.py:Colder"}
              - {name: length_1, kind: length}
        """)
    )
    return path


def parts(folder: Path) -> set[str]:
    """``stage: shard`` of everything the run's folder says was done."""
    names = {path.stem.removeprefix("part-") for path in (folder / "dropped").glob("part-*.parquet")}
    return {re.sub("-", ": ", name, count=1) for name in names}


def latest(api: SyncPrefectClient) -> FlowRun:
    return api.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)[0]


def tasks(api: SyncPrefectClient, run: FlowRun, expected: int) -> list[str]:
    """Names of a flow run's task runs, once there are as many as expected or time is up."""
    until = time.monotonic() + LATE_S
    while True:
        query = {"flow_runs": {"id": {"any_": [str(run.id)]}}, "limit": 200}
        found = api.request("POST", "/task_runs/filter", json=query).json()
        if len(found) >= expected or time.monotonic() > until:
            return [row["name"] for row in found]
        time.sleep(1)


def artifact(api: SyncPrefectClient, key: str) -> Artifact:
    wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
    return api.read_artifacts(artifact_filter=wanted, sort=ArtifactSort.CREATED_DESC, limit=1)[0]


def counted(folder: Path, name: str) -> int:
    return len((folder / name).read_text()) if (folder / name).exists() else 0


def test_a_run_is_one_task_per_shard_with_artifacts_and_a_second_run_skips_everything(
    api: SyncPrefectClient, config: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    summary = flows.preference(config, folder)

    stages = [name for name in runner.ORDER if name not in {"train", "evaluate"}]
    assert list(summary["rows"]) == stages
    # 12 prompts, of which one gets no answer; 2 temperatures; so 11 pairs, one a prompt.
    assert summary["rows"]["generate"]["out"]["samples"] == 22
    assert summary["rows"]["pair"]["out"]["pairs"] == 11
    done = parts(folder)
    assert sum(name.startswith("generate: ") for name in done) > 1
    names = tasks(api, latest(api), len(done))
    assert sorted(names) == sorted(done)
    assert latest(api).state_name == "Completed"

    # One engine for all shards of a stage, closed by its end.
    assert counted(tmp_path, "loaded") == 1
    assert counted(tmp_path, "closed") == 1

    chosen = (
        RunFolder(folder)
        .read("kept")
        .join(RunFolder(folder).read("samples"), left_on="chosen_id", right_on="sample_id")
    )
    assert chosen["temperature"].to_list() == pytest.approx([0.3] * chosen.height)

    shown = str(artifact(api, flows.SUMMARY_KEY).data)
    assert "| generate |" in shown
    assert "2 refused" in shown
    assert "<script" not in shown.replace("\\<script", "")
    assert f"[report.html]({(folder / 'report.html').as_uri()})" in str(artifact(api, flows.REPORT_KEY).data)
    assert (folder / "report.html").is_file()
    agreement = str(artifact(api, flows.AGREEMENT_KEY).data)
    assert "| colder |" in agreement
    assert "| length\\_1 |" in agreement

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("part-*.parquet")}
    again = flows.preference(config, folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("part-*.parquet")} == before
    assert again["rows"] == summary["rows"]
    assert counted(tmp_path, "loaded") == 1
    assert tasks(api, latest(api), 0) == []


def test_a_slice_runs_its_stages_only_and_force_repeats_them(
    api: SyncPrefectClient, config: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    flows.preference(config, folder, to_stage="pair")
    assert {name.split(":")[0] for name in parts(folder)} == {"load", "generate", "pair"}
    flows.preference(config, folder, from_stage="generate", to_stage="generate", force=True)
    assert counted(tmp_path, "loaded") == 2


def test_a_failing_stage_fails_the_flow_run_keeps_what_was_done_and_exits_1(
    api: SyncPrefectClient, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    (tmp_path / "broken").touch()
    assert flows.main([str(config), "--run-dir", str(folder)]) == 1
    shown = capsys.readouterr().err
    assert "error: the parrot is broken; mend it" in shown
    assert "Traceback" not in shown
    failed = latest(api)
    assert failed.state_name == "Failed"
    assert failed.state is not None
    assert "the parrot is broken" in str(failed.state.message)
    assert RunFolder(folder).read("prompts").height == PROMPTS
    assert (folder / "summary.json").is_file()

    # The same command goes on from there.
    (tmp_path / "broken").unlink()
    assert flows.main([str(config), "--run-dir", str(folder)]) == 0
    assert "run flow_test" in capsys.readouterr().out
    assert latest(api).state_name == "Completed"


def test_an_empty_slice_is_wrong_input(
    api: SyncPrefectClient, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(config), "--run-dir", str(tmp_path / "run"), "--from", "judge", "--to", "load"]
    assert flows.main(given) == 2
    assert "--from judge comes after --to load" in capsys.readouterr().err


def test_a_shard_that_is_not_as_planned_is_refused(api: SyncPrefectClient, config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flows.preference(config, folder, to_stage="load")
    with pytest.raises(StageError, match="no longer what the flow planned"):
        flows.shard_task.fn(config, folder, "load", "all", "another stamp")
    flows._close(config, folder)


def test_another_process_plans_the_shard_itself(api: SyncPrefectClient, config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flows.preference(config, folder, to_stage="load")
    bench = flows._open(config, folder)
    (name, (_, stamp)), *_ = runner.plan(bench, runner.stage("generate")).items()
    assert flows.shard_task.fn(config, folder, "generate", name, stamp)
    assert not RunFolder(folder).read("samples").is_empty()
    flows._close(config, folder)


def test_the_command_tells_a_wrong_config_before_it_starts_a_server(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("name: x\njugdes: []\n")
    command = [sys.executable, "-m", "flows.preference", str(tmp_path / "wrong.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=patience(120))
    assert done.returncode == 2
    assert "did you mean 'judges'" in done.stderr
    assert "Traceback" not in done.stderr
    assert "server" not in done.stderr


def summary_with(**changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "name": "x",
        "rows": {},
        "dropped": {},
        "judges": {},
        "calibration": None,
        "controls": {},
        "flags": {},
        "ceiling": None,
        "floor": None,
        "certificate": None,
        "calls": 0,
        "cost_usd": 0.0,
        "charged_usd": 0.0,
        "reported_usd": 0.0,
        "seconds": 0.0,
        "stage_seconds": {},
        "simulated_people": False,
        "win_rate": None,
        "warned": {"shown": [], "folded": []},
    }
    return plain | changes


@pytest.mark.parametrize("render", [lambda s: flows.summary_markdown(s, Path("run")), flows.agreement_markdown])
def test_artifacts_escape_every_word_from_elsewhere(render: Callable[[dict[str, Any]], str]) -> None:
    hostile = "<img src=x>|[a](http://evil)\n# big `code`"
    judge = {"agreement": 0.5, "low": 0.4, "high": 0.6, "n": 9, "weight": None, "in_panel": False, "reason": hostile}
    text = render(
        summary_with(
            judges={hostile: judge}, warned={"shown": [hostile], "folded": [{"who": hostile, "texts": [hostile]}]}
        )
    )
    for raw in ("<img", "](", "http://evil", "\n# ", " `code`"):
        assert raw not in text.replace(f"\\{raw}", "")


def test_agreement_stands_beside_its_ceiling_and_floor() -> None:
    judge = {"agreement": 0.7, "low": 0.6, "high": 0.8, "n": 90, "weight": 1.5, "in_panel": True, "reason": None}
    beside = {
        name: {"value": value, "low": 0.5, "high": 0.9, "n": 40} for name, value in (("ceiling", 0.8), ("floor", 0.55))
    }
    text = flows.agreement_markdown(summary_with(judges={"lm": judge}, simulated_people=True, **beside))
    *_, one, ceiling, floor = text.splitlines()
    assert one == "| lm | 70.0% | 60.0% | 80.0% | 90 | 1.50 | yes |  |"
    assert ceiling == "| *Ceiling: one of the simulated people against another* | 80.0% | 50.0% | 90.0% | 40 |  |  |  |"
    assert floor == "| *Floor: preferring the longer answer* | 55.0% | 50.0% | 90.0% | 40 |  |  |  |"


def test_agreement_without_judges_says_so() -> None:
    assert flows.agreement_markdown(summary_with()) == "No judge has been compared with people yet."
