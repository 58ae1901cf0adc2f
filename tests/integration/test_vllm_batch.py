"""The real vLLM's run-batch as an engine. Starts processes."""

import importlib.util
import os
from pathlib import Path

import pytest

from pipeline.config import ModelConfig
from pipeline.engines.base import Request
from pipeline.engines.vllm_batch import VllmBatchEngine
from pipeline.errors import StageError
from tests.worlds import bench

JUDGE = Path(__file__).parents[2] / "data" / "models" / "judge"
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None and os.environ.get("JURYBOX_REQUIRE_VLLM") != "1",
        reason="vLLM is not installed; install the `vllm` extra, or its CPU build as .ci/run does",
    ),
]


def engine(folder: Path, **arguments: object) -> VllmBatchEngine:
    options = ModelConfig(model=str(JUDGE), engine="vllm_batch", engine_args=arguments)
    return VllmBatchEngine(options, bench(folder))


def test_run_batch_answers_text_choices_and_what_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    arguments = {"max_model_len": 512, "enforce_eager": True, "gpu_memory_utilization": 0.3}
    wanted = [
        Request((("user", "Which is better?"),), 8),
        Request((("user", "Which is better, A or B?"),), 1, choices=("A", "B")),
        Request((("user", "word " * 3000),), 8),
    ]
    steps: list[int] = []
    said, chosen, long = engine(tmp_path, **arguments).complete(wanted, steps.append)
    assert said.text
    assert said.call.completion_tokens is not None
    assert 0 < said.call.completion_tokens <= 8
    assert chosen.choice_logprobs
    assert all(value <= 0 for value in chosen.choice_logprobs.values())
    assert long.reason == "too_long"
    assert steps == [3]


def test_a_wrong_option_is_told(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="ended with exit code"):
        engine(tmp_path, no_such_option=1).complete([Request((("user", "Q"),), 8)], lambda _done: None)
