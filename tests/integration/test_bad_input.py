"""Pins down what bad input does: a message that names what was found and the remedy, an exact exit code, nothing lost.

The command runs as a process of its own, but for the many cases that end before it has begun. Exit codes: 0 done,
1 the job failed, 2 the input is wrong.
"""

import contextlib
import json
import os
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from pipeline.store import RunFolder
from tests.endpoints import Body, Endpoint, Reply, chat
from tests.recorded_endpoint import jurybox, jurybox_here, scripted

KEY_ENV = "JURYBOX_TEST_KEY"
KEY = "sk-THIS-IS-A-SECRET-0123456789"
CONTEXT = 400
"""Characters that the endpoint takes; a longer prompt is refused in OpenAI's words."""
QUESTIONS = ("What is a hash table?", "Name a prime above ten.", "Say hello politely.")
CONCURRENCY = 4


def answer(body: Body) -> Reply:
    """The scripted student and judge, a judge that talks nonsense, and a limit on the prompt's length."""
    if body["model"] == "mad":
        return Reply(200, chat("banana"))
    if body["model"] == "student" and sum(len(message["content"]) for message in body["messages"]) > CONTEXT:
        message = f"This model's maximum context length is {CONTEXT} tokens."
        return Reply(400, {"error": {"message": message, "code": "context_length_exceeded"}})
    return scripted(body)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with Endpoint(answer, models=("student", "judge", "mad")) as server:
        yield server


def config(url: str, **changes: object) -> dict[str, Any]:
    """A small run at an endpoint; *changes* replace top-level keys, None removes one."""
    whole: dict[str, Any] = {
        "name": "bad",
        "prompts": {"path": "prompts.jsonl"},
        "endpoints": {"local": {"base_url": url, "concurrency": CONCURRENCY, "attempts": 2}},
        "generators": [{"endpoint": "local", "model": "student", "temperatures": [0.3, 1.0], "max_tokens": 16}],
        "judges": [{"name": "judge", "kind": "pairwise", "endpoint": "local", "model": "judge"}],
        "export": ["jsonl"],
    }
    return {key: value for key, value in (whole | changes).items() if value is not None}


def project(folder: Path, settings: dict[str, Any] | str, prompts: tuple[str, ...] = QUESTIONS) -> Path:
    text = settings if isinstance(settings, str) else yaml.safe_dump(settings, sort_keys=False)
    (folder / "c.yaml").write_text(text, encoding="utf-8")
    (folder / "prompts.jsonl").write_text("\n".join(json.dumps({"prompt": one}) for one in prompts), encoding="utf-8")
    return folder


def run_of(folder: Path) -> RunFolder:
    return RunFolder(folder / "runs" / "bad")


def dropped(folder: Path, stage: str) -> dict[str, str]:
    """What a stage dropped: id -> reason."""
    return dict(run_of(folder).read("dropped").filter(pl.col("stage") == stage).select("id", "reason").iter_rows())


# The config.

SMALL = "name: bad\nprompts:\n  path: prompts.jsonl\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SMALL + "select: {min_margn: 0.2}\n", ["c.yaml:4", "select.min_margn", "unknown key", "'min_margin'"]),
        (SMALL + "selct: {min_margin: 0.2}\n", ["c.yaml:4", "selct", "unknown key", "'select'"]),
        (SMALL + "zzz: 1\n", ["c.yaml:4", "zzz", "unknown key", "allowed:", "generators"]),
        ("prompts: {path: prompts.jsonl}\n", ["c.yaml", "name", "required key is missing"]),
        (
            SMALL + "judges:\n- {name: j, kind: length}\n- kind: length\n",
            ["c.yaml:6", "name", "required key is missing"],
        ),
        (SMALL + "judges: [{name: j, kind: lenght}]\n", ["c.yaml:4", "'lenght'", "allowed:", "length"]),
        (SMALL + "gate: {delta: 2}\n", ["c.yaml:4", "gate.delta", "less than 1", "found 2"]),
        (SMALL + "gate: {delta: [\n", ["c.yaml", "not valid YAML", "c.yaml:4"]),
        ("- a\n- b\n", ["c.yaml", "list", "mapping"]),
        ("", ["c.yaml", "mapping"]),
    ],
)
def test_a_wrong_config_is_named_by_file_line_and_key(tmp_path: Path, text: str, told: list[str]) -> None:
    done = jurybox_here("run", "c.yaml", cwd=project(tmp_path, text))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert [word for word in told if word not in done.stderr] == []
    assert not (tmp_path / "runs").exists()


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    done = jurybox("run", "nowhere.yaml", cwd=tmp_path)
    assert (done.returncode, "nowhere.yaml" in done.stderr, "Traceback" in done.stderr) == (2, True, False)


# The prompts.


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", ["prompts.jsonl", "is empty", "one JSON object a line"]),
        (b"\n \n", ["prompts.jsonl", "is empty"]),
        (
            b'{"prompt": "a"}\n\n{"prompt": "b"\n',
            ["prompts.jsonl:3", "is not JSON", '{"prompt": "b"', "correct or delete"],
        ),
        (b'{"prompt": "a"}\n"b"\n', ["prompts.jsonl:2", "expected a JSON object", "str"]),
        (b'{"prompt": ""}\n{"question": "b"}\n', ["prompts.jsonl", "none of 2 rows", "prompt_empty", "prompt_missing"]),
        (b'{"prompt": "\xff"}\n', ["prompts.jsonl", "cannot be read", "UTF-8"]),
        (None, ["prompts.jsonl", "cannot be read", "No such file"]),
    ],
)
def test_a_wrong_prompts_file_is_named_by_file_and_line(
    tmp_path: Path, endpoint: Endpoint, content: bytes | None, told: list[str]
) -> None:
    project(tmp_path, config(endpoint.url))
    if content is None:
        (tmp_path / "prompts.jsonl").unlink()
    else:
        (tmp_path / "prompts.jsonl").write_bytes(content)
    done = jurybox_here("run", "c.yaml", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert [word for word in told if word not in done.stderr] == []


def test_a_prompt_longer_than_the_context_is_a_counted_drop(tmp_path: Path, endpoint: Endpoint) -> None:
    """One prompt of four is refused at both temperatures: two drops with a reason, and the run goes on to a dataset."""
    project(
        tmp_path, config(endpoint.url, judges=[{"name": "long", "kind": "length"}]), (*QUESTIONS, "word " * CONTEXT)
    )
    done = jurybox("run", "c.yaml", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert sum(made["dropped"]["generate"].values()) == 2
    assert set(made["dropped"]["generate"]) <= {"too_long", "rejected"}
    assert made["rows"]["generate"]["out"]["samples"] == 2 * len(QUESTIONS)
    assert (run_of(tmp_path).path / "dataset" / "jsonl").is_dir()


def test_hostile_texts_go_through(tmp_path: Path) -> None:
    """Null bytes, right-to-left overrides, 200 kB, half a surrogate pair: as prompts and as a model's answers."""
    hostile = (
        "null \x00 byte",
        "\u202eright to left\u2066",
        "é" * 100_000,
        "{{7*7}} {second} <script>\"'",
        "\U0001f600" * 50,
    )
    half = '{"prompt": "half \\ud83d a pair"}'

    def echo(body: Body) -> Reply:
        if "response_format" in body:
            return scripted(body)
        text = f"{body['messages'][-1]['content']} {body['temperature']}"
        return Reply(200, json.dumps(chat(text)).replace("0.5", "\\ud83d"))

    with Endpoint(echo) as server:
        student = {"endpoint": "local", "model": "student", "temperatures": [0.3, 0.5, 1.0], "max_tokens": 16}
        project(tmp_path, config(server.url, generators=[student]), hostile)
        with (tmp_path / "prompts.jsonl").open("a", encoding="utf-8") as file:
            file.write("\n" + half)
        done = jurybox("run", "c.yaml", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert dropped(tmp_path, "load") == {"prompts.jsonl:6": "prompt_not_unicode"}
    run = run_of(tmp_path)
    samples = run.read("samples")
    # The answers at 0.5 held half a surrogate pair: dropped with a reason, or kept as text that can be encoded.
    assert samples.height + len(dropped(tmp_path, "generate")) == 3 * len(hostile)
    texts = dict(
        run.read("prompts").select("prompt_id", pl.col("messages").list.last().struct.field("content")).iter_rows()
    )
    assert set(texts.values()) == set(hostile)
    for prompt, heat, text in samples.select("prompt_id", "temperature", "completion").iter_rows():
        if heat != 0.5:
            assert text == f"{texts[prompt]} {heat}"
    assert "<script>" not in (run.path / "report.html").read_text(encoding="utf-8")


# Endpoints and keys.


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_an_unreachable_endpoint_fails_with_the_remedy(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    done = jurybox("run", "c.yaml", cwd=project(tmp_path, config(url)))
    assert done.returncode == 1, done.stderr
    assert [word for word in (url, "cannot be reached", "start it") if word not in done.stderr] == []
    assert "Traceback" not in done.stderr


def files_with(secret: str, folder: Path) -> list[str]:
    return [str(file) for file in folder.rglob("*") if file.is_file() and secret.encode() in file.read_bytes()]


def test_a_wrong_key_is_refused_and_never_shown(tmp_path: Path) -> None:
    with Endpoint(answer, key="another") as server:
        local = {"base_url": server.url, "api_key_env": KEY_ENV}
        project(tmp_path, config(server.url, endpoints={"local": local}))
        done = jurybox("run", "c.yaml", cwd=tmp_path, env={KEY_ENV: KEY})
        assert done.returncode == 1, done.stderr
        assert [word for word in (KEY_ENV, "401", "valid key") if word not in done.stderr] == []
        assert "Traceback" not in done.stderr
        assert server.log[0].headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in done.stdout + done.stderr
    assert (run_of(tmp_path).path / "ledger.sqlite").is_file()
    assert files_with(KEY, tmp_path) == []


def test_a_right_key_is_written_nowhere(tmp_path: Path) -> None:
    with Endpoint(answer, key=KEY) as server:
        local = {"base_url": server.url, "api_key_env": KEY_ENV}
        project(tmp_path, config(server.url, endpoints={"local": local}))
        done = jurybox("run", "c.yaml", cwd=tmp_path, env={KEY_ENV: KEY})
    assert done.returncode == 0, done.stderr
    assert KEY not in done.stdout + done.stderr
    assert files_with(KEY, tmp_path) == []


def test_a_missing_key_variable_is_named_before_anything_is_sent(tmp_path: Path, endpoint: Endpoint) -> None:
    before = len(endpoint.log)
    local = {"base_url": endpoint.url, "api_key_env": "JURYBOX_NO_SUCH_KEY"}
    done = jurybox("run", "c.yaml", cwd=project(tmp_path, config(endpoint.url, endpoints={"local": local})))
    assert (done.returncode, len(endpoint.log)) == (2, before), done.stderr
    assert [word for word in ("JURYBOX_NO_SUCH_KEY", "not set", "export it") if word not in done.stderr] == []


def test_an_unknown_model_is_named(tmp_path: Path) -> None:
    def refuse(body: Body) -> Reply:
        return Reply(404, {"error": {"message": f"The model `{body['model']}` does not exist"}})

    with Endpoint(refuse) as server:
        done = jurybox("run", "c.yaml", cwd=project(tmp_path, config(server.url)))
    assert done.returncode == 1, done.stderr
    assert [word for word in ("'student'", "404", "check model") if word not in done.stderr] == []


# Judges and labels.

MAD = {"name": "mad", "kind": "pairwise", "endpoint": "local", "model": "mad"}


def test_a_judge_that_talks_nonsense_leaves_the_panel_and_the_others_go_on(tmp_path: Path, endpoint: Endpoint) -> None:
    judges = [*config(endpoint.url)["judges"], MAD]
    done = jurybox("run", "c.yaml", "--json", cwd=project(tmp_path, config(endpoint.url, judges=judges)))
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["judges"]["mad"]["in_panel"] is False
    assert made["judges"]["mad"]["failures"] == made["judges"]["mad"]["judgments"] == 2 * len(QUESTIONS)
    assert any("mad" in warning and "6 of 6" in warning for warning in made["warnings"])
    failed = run_of(tmp_path).read("judgments").filter(pl.col("judge") == "mad")
    assert set(failed["rationale"]) == {"banana"}
    assert failed["preference"].null_count() == failed.height


def test_nonsense_alone_fails_the_job_and_names_the_judge(tmp_path: Path, endpoint: Endpoint) -> None:
    done = jurybox("run", "c.yaml", cwd=project(tmp_path, config(endpoint.url, judges=[MAD])))
    assert done.returncode == 1, done.stderr
    assert [word for word in ("mad", "none of 6 judgments", "mend the judges") if word not in done.stderr] == []


def test_without_labels_nothing_is_called_validated_and_the_dataset_is_made(tmp_path: Path, endpoint: Endpoint) -> None:
    done = jurybox("run", "c.yaml", cwd=project(tmp_path, config(endpoint.url)))
    assert done.returncode == 0, done.stderr
    assert "NOT CERTIFIED" in done.stdout
    assert "not validated" in done.stdout
    run = run_of(tmp_path)
    certificate, panel = run.read_json("certificate.json"), run.read_json("panel.json")
    assert certificate is not None
    assert panel is not None
    assert (certificate["certified"], panel["validated"]) == (False, False)
    assert (
        sum(len(file.read_text().splitlines()) for file in (run.path / "dataset").rglob("*.jsonl"))
        == run.read("kept").height
    )
    assert "not validated" in (run.path / "report.html").read_text(encoding="utf-8")


# The disk.

LIMIT = "resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))"


def requests_where(condition: str, ledger: Path) -> set[str]:
    """Bodies of the ledger's calls that meet a condition."""
    with contextlib.closing(sqlite3.connect(ledger)) as db:
        rows = db.execute(f"select request from calls where {condition}").fetchall()  # noqa: S608  our own words
    return {json.dumps(json.loads(request), sort_keys=True) for (request,) in rows}


def answered(ledger: Path) -> set[str]:
    return requests_where("status = 'answered'", ledger)


def possibly_paid(ledger: Path) -> set[str]:
    return requests_where("lost_claims > 0", ledger)


@pytest.mark.parametrize("limit", [300_000, 500_000, 800_000])
def test_a_full_disk_fails_cleanly_and_nothing_committed_is_paid_again(tmp_path: Path, limit: int) -> None:
    """No file may grow beyond *limit*: the ledger fails in the middle. With the limit lifted the run completes."""
    prompts = tuple(f"Question {number}: what is {number} times {number}? {'Think. ' * 30}" for number in range(24))
    with Endpoint(scripted) as server:
        project(tmp_path, config(server.url), prompts)
        full = jurybox("run", "c.yaml", cwd=tmp_path, first=LIMIT.format(limit))
        assert full.returncode == 1, full.stderr
        assert [word for word in ("cannot be", "free space", "error:") if word not in full.stderr] == []
        assert "Traceback" not in full.stderr
        paid, sent = answered(run_of(tmp_path).path / "ledger.sqlite"), len(server.log)
        done = jurybox("run", "c.yaml", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        bodies = [json.dumps(body, sort_keys=True) for body in server.bodies]
    assert paid
    assert paid <= set(bodies[:sent])
    assert paid.isdisjoint(bodies[sent:])
    # What was in flight when the disk was full may be asked again, nothing else is, and the ledger lists it.
    again = set(bodies[:sent]) & set(bodies[sent:])
    assert len(again) <= CONCURRENCY
    assert again <= possibly_paid(run_of(tmp_path).path / "ledger.sqlite")
    assert len(bodies) == len(set(bodies)) + len(again)


def test_a_full_disk_while_frames_are_written_leaves_no_half_file(tmp_path: Path, endpoint: Endpoint) -> None:
    """Without the ledger in play: an import whose Parquet part does not fit."""
    project(tmp_path, config(endpoint.url))
    pairs = [
        {"pair_id": str(n), "prompt": f"q {n}", "response_a": os.urandom(40).hex(), "response_b": "b"}
        for n in range(50)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8")
    full = jurybox("import", "pairs", "pairs.jsonl", "--config", "c.yaml", cwd=tmp_path, first=LIMIT.format(2000))
    assert full.returncode == 1, full.stderr
    assert [word for word in (".parquet", "cannot be written", "free space") if word not in full.stderr] == []
    assert "Traceback" not in full.stderr
    for file in (tmp_path / "runs").rglob("*"):
        assert file.is_dir() or file.name == ".lock" or pl.read_parquet(file).height
    done = jurybox("import", "pairs", "pairs.jsonl", "--config", "c.yaml", cwd=tmp_path)
    assert (done.returncode, "imported 50 pairs" in done.stdout) == (0, True), done.stderr


def test_a_run_folder_that_cannot_be_written_is_named(tmp_path: Path, endpoint: Endpoint) -> None:
    """A file stands where the run's folder should be (permissions do not stop root, who runs CI)."""
    project(tmp_path, config(endpoint.url))
    (tmp_path / "taken").write_text("a file")
    done = jurybox("run", "c.yaml", "--run-dir", "taken/run", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert [word for word in ("taken", "cannot be written", "permissions") if word not in done.stderr] == []
    assert "Traceback" not in done.stderr
