"""Pins down what reaches a terminal and a run's files from outside: words, whoever wrote them; and no secret.

The command runs as a process of its own, its streams full, closed or left by their reader.
"""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.endpoints import Body, Endpoint, Reply, chat
from tests.recorded_endpoint import PATIENCE_S, command, jurybox, jurybox_here, scripted

KEY = "sk-secret/0123456789+abc"
KEY_ENV = "JURYBOX_TEST_KEY"
FORGED = "gate: certified: every pair agrees with people"
STEERING = f"x\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\r\n{FORGED}\n"
"""Clears the screen, names the window, colours, turns the direction, and begins a line of its own."""


def write(folder: Path, **changes: object) -> Path:
    """A small run without a model."""
    whole: dict[str, Any] = {"name": "shown", "judges": [{"name": "long", "kind": "length"}], "export": ["jsonl"]}
    (folder / "c.yaml").write_text(yaml.safe_dump(whole | changes, sort_keys=False), encoding="utf-8")
    return folder


def lines(folder: Path, name: str, *rows: dict[str, Any]) -> None:
    (folder / name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose ids, judges, annotators, sources and texts are all somebody else's."""
    folder = write(tmp_path_factory.mktemp("foreign"), labels={"path": "labels.jsonl"})
    pairs = [
        {"pair_id": f"{n}{STEERING}", "prompt": f"{n}{STEERING}", "response_a": f"a{n}{STEERING}", "response_b": "b"}
        for n in range(4)
    ]
    refused = {"pair_id": f"refused{STEERING}", "prompt": "p", "response_a": "", "response_b": "x"}
    named = [pair["pair_id"] for pair in pairs]
    lines(folder, "pairs.jsonl", *pairs, refused)
    said = [{"pair_id": one, "judge": f"j{STEERING}", "order": "ab", "preference": "a"} for one in named]
    lines(folder, "judgments.jsonl", *said)
    lines(folder, "labels.jsonl", *({"pair_id": one, "annotator": f"ann{STEERING}", "label": "a"} for one in named))
    for kind in ("pairs", "judgments"):
        done = jurybox_here("import", kind, f"{kind}.jsonl", "--config", "c.yaml", cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


def harmless(text: str) -> None:
    """No character steers the terminal, and no line of somebody else's passes for one of ours."""
    assert re.findall(r"[^\n\t -\ud7ff\ue000-\U0010ffff]|[\x7f-\x9f\u2028-\u202e\u2066-\u2069]", text) == []
    assert [line for line in text.split("\n") if line.strip().startswith(FORGED)] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "c.yaml"),
        ("report", "c.yaml"),
        ("explain", "c.yaml", f"0{STEERING}"),
        ("explain", "c.yaml", f"refused{STEERING}"),
        ("explain", "c.yaml", f"no such{STEERING}"),
        ("import", "pairs", "pairs.jsonl", "--config", "c.yaml"),
        ("import", STEERING, "pairs.jsonl", "--config", "c.yaml"),
        ("import", "pairs", STEERING, "--config", "c.yaml"),
        ("queue", "c.yaml"),
        ("check", "c.yaml"),
    ],
    ids=lambda arguments: " ".join(arguments)[:12].replace("\x1b", ""),
)
@pytest.mark.parametrize("as_json", [False, True])
def test_words_of_others_neither_steer_a_terminal_nor_pass_for_ours(
    arguments: tuple[str, ...], as_json: bool, foreign: Path
) -> None:
    done = jurybox_here(*arguments, *(["--json"] if as_json else []), cwd=foreign)
    harmless(done.stdout)
    harmless(done.stderr)
    assert "Traceback" not in done.stderr
    if as_json and done.returncode == 0:
        json.loads(done.stdout)


def test_the_words_are_still_told(foreign: Path) -> None:
    assert jurybox_here("run", "c.yaml", cwd=foreign).returncode == 0
    told = jurybox_here("explain", "c.yaml", f"0{STEERING}", cwd=foreign).stdout
    assert "j" + "x\\u001b[2J\\u001b]0;owned\\u0007\\u009b31m\\u202e\\u000d\\n" + FORGED in told
    exact = json.loads(jurybox_here("explain", "c.yaml", f"0{STEERING}", "--json", cwd=foreign).stdout)
    assert exact["external_ids"] == [f"0{STEERING}"]


# Streams.


def shell(line: str, folder: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """``jurybox`` with its streams as a shell sets them."""
    program = " ".join(f"'{part}'" for part in command())
    return subprocess.run(
        ["/bin/bash", "-c", line.replace("jurybox", program)],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_a_full_output_is_told_in_words(foreign: Path) -> None:
    for more in ("", " --json"):
        done = shell(f"jurybox report c.yaml{more} > /dev/full", foreign)
        assert done.returncode == 1, done.stderr
        assert "error: standard output cannot be written (No space left on device)" in done.stderr
        assert "what was done is kept" in done.stderr
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize(
    "streams", [">&-", "2>&-", "2>/dev/full", "<&- >&- 2>&-", "2>/dev/full | head -n 1 >/dev/null"]
)
def test_streams_that_are_closed_or_full_or_left_end_no_run(streams: str, foreign: Path) -> None:
    done = shell(f"jurybox run c.yaml --force {streams}", foreign)
    assert (done.returncode, "Traceback" in done.stdout + done.stderr) == (0, False), done.stderr
    assert json.loads((foreign / "runs" / "shown" / "summary.json").read_text())["name"] == "shown"


def test_an_output_that_takes_no_foreign_letters_gets_escapes(foreign: Path) -> None:
    done = shell("jurybox explain c.yaml zzz", write(foreign), PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 2
    done = shell("jurybox schema", foreign, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)


# The end.


def struck(folder: Path, signals: tuple[signal.Signals, ...], pause: float) -> tuple[int, str]:
    """The exit code and stderr of a run that is sent *signals*, *pause* apart, once its first call is in flight."""
    started = folder / "asked"

    def slow(body: Body) -> Reply:
        started.touch()
        return scripted(body)._replace(delay=600)

    generator = {"endpoint": "local", "model": "student", "temperatures": [0.3], "max_tokens": 9}
    with Endpoint(slow) as server:
        write(
            folder, endpoints={"local": {"base_url": server.url}}, prompts={"path": "p.jsonl"}, generators=[generator]
        )
        lines(folder, "p.jsonl", {"prompt": "Why?"})
        with subprocess.Popen(
            command("run", "c.yaml"), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            while not started.exists() and process.poll() is None:
                time.sleep(0.05)
            for number in signals:
                process.send_signal(number)
                time.sleep(pause)
            _, said = process.communicate(timeout=PATIENCE_S)
        return process.returncode, said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_told_to_end_it_ends_in_order_and_says_how_to_go_on(number: signal.Signals, code: int, tmp_path: Path) -> None:
    found, said = struck(tmp_path, (number,), 0)
    assert (found, "Traceback" in said) == (code, False), said
    assert "interrupted; what is done is kept, the same command goes on from there" in said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_told_twice_it_ends_at_once(number: signal.Signals, code: int, tmp_path: Path) -> None:
    found, said = struck(tmp_path, (number, number), 0.1)
    assert (found, "Traceback" in said) == (code, False), said


# Keys.


def files_with(words: str, folder: Path) -> list[str]:
    return [str(file) for file in folder.rglob("*") if file.is_file() and words.encode() in file.read_bytes()]


@pytest.mark.parametrize("how", ["answer", "escaped", "rejected", "refused", "failing", "judge"])
def test_a_server_that_repeats_the_key_has_it_stored_and_shown_nowhere(how: str, tmp_path: Path) -> None:
    told = f"you sent Bearer {KEY}"
    failing = {"rejected": 400, "refused": 401, "failing": 500}

    def echo(body: Body) -> Reply:
        if how in failing:
            return Reply(failing[how], {"error": {"message": told, "code": told}})
        if "response_format" in body:
            return (
                Reply(200, chat(json.dumps({"rationale": told, "verdict": "A"}))) if how == "judge" else scripted(body)
            )
        made = json.dumps(chat(f"{told} {body['temperature']}"))
        return Reply(200, made.replace("/", "\\/") if how == "escaped" else made)

    generator = {"endpoint": "local", "model": "student", "temperatures": [0.3, 1.0], "max_tokens": 99}
    judge = {"name": "judge", "kind": "pairwise", "endpoint": "local", "model": "judge"}
    with Endpoint(echo) as server:
        local = {"base_url": server.url, "api_key_env": KEY_ENV, "attempts": 1}
        write(tmp_path, endpoints={"local": local}, prompts={"path": "p.jsonl"}, generators=[generator], judges=[judge])
        lines(tmp_path, "p.jsonl", {"prompt": "Why?"}, {"prompt": "How?"})
        done = jurybox("run", "c.yaml", "--to", "aggregate", cwd=tmp_path, env={KEY_ENV: f"{KEY}\n"})
        assert server.log[0].headers["Authorization"] == f"Bearer {KEY}"
    assert done.returncode == (1 if how in failing else 0), done.stderr
    assert "Traceback" not in done.stderr
    for spelt in (KEY, KEY.replace("/", "\\/"), "0123456789"):
        assert spelt not in done.stdout + done.stderr
        assert files_with(spelt, tmp_path) == []
    if how == "answer":
        assert files_with("you sent Bearer ***", tmp_path)


def test_check_takes_a_key_with_a_line_end_and_names_none(tmp_path: Path) -> None:
    with Endpoint(scripted, key=KEY, models=("student",)) as server:
        write(tmp_path, endpoints={"local": {"base_url": server.url, "api_key_env": KEY_ENV}})
        done = jurybox("check", "c.yaml", cwd=tmp_path, env={KEY_ENV: f"{KEY}\n"})
        assert (done.returncode, "endpoint local: serves student" in done.stdout) == (0, True), done.stderr
        done = jurybox("check", "c.yaml", cwd=tmp_path, env={KEY_ENV: f"{KEY}\n{KEY}"})
    assert done.returncode == 2
    assert f"the environment variable {KEY_ENV} holds spaces, line breaks" in done.stderr
    assert KEY not in done.stdout + done.stderr
