"""MT-Bench's 80 two-turn questions through a local OpenAI-compatible server: 160 prompts, every row accounted for."""

import json
import os
from pathlib import Path

import polars as pl
import pytest

import jurybox
from pipeline.store import RunFolder
from tests.endpoints import Endpoint, Reply, chat

SHARED = Path(os.environ.get("JURYBOX_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
QUESTIONS = SHARED / "mt_bench" / "question.jsonl"

pytestmark = pytest.mark.skipif(not QUESTIONS.is_file(), reason=f"{QUESTIONS} is not there")

CONFIG = """
name: mt-bench
prompts: {{path: {path}, format: mt_bench}}
endpoints: {{local: {{base_url: "{url}"}}}}
generators: [{{endpoint: local, model: student, temperatures: [0.3, 1.0], max_tokens: 64}}]
judges: [{{name: longer, kind: length}}]
"""


def answer(body: dict) -> Reply:
    """Words that depend on the last turn, and on the temperature by their number."""
    return Reply(200, chat("ja " * (1 + int(10 * body["temperature"])) + body["messages"][-1]["content"][:40]))


def test_the_first_answer_is_frozen_into_the_second_prompt_and_nothing_is_lost(tmp_path: Path) -> None:
    questions = [json.loads(line) for line in QUESTIONS.read_text().splitlines()]
    with Endpoint(answer) as server:
        config = tmp_path / "config.yaml"
        config.write_text(CONFIG.format(path=QUESTIONS, url=server.url))
        jurybox.run(config, tmp_path / "run")
        # 80 greedy first turns, then 160 prompts at two temperatures.
        assert len(server.log) == 80 + 160 * 2
        jurybox.run(config, tmp_path / "run")
        assert len(server.log) == 80 + 160 * 2
    run = RunFolder(tmp_path / "run")
    found = {tuple(turn["content"] for turn in row["messages"]) for row in run.read("prompts").to_dicts()}
    expected = {(q["turns"][0],) for q in questions}
    expected |= {(q["turns"][0], "ja " + q["turns"][0][:40], q["turns"][1]) for q in questions}
    assert found == expected
    dropped = run.read("dropped")
    assert run.read("samples").height == 320
    assert run.read("pairs").height + dropped.filter(pl.col("reason").is_in(["identical", "duplicate"])).height == 160
    assert run.read("kept").height + dropped.filter(pl.col("stage") == "select").height == run.read("verdicts").height
