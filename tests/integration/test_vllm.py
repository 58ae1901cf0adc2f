"""The real vLLM (the CPU build serves): as an engine for the student, as a server for the judge. Starts processes."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from judges.base import Judgment
from judges.pairwise import PairwiseJudge
from pipeline import schemas
from pipeline.comparison import Comparison
from pipeline.config import Config, GeneratorConfig
from pipeline.engines.base import Answer, Request
from pipeline.engines.transformers import TransformersEngine
from pipeline.engines.vllm import VllmEngine
from pipeline.errors import ConfigError
from pipeline.runner import run_stage
from pipeline.workbench import Workbench
from tests.patience import patience
from tests.tiny_models import tiny_model, tiny_reward_model

DATA = Path(__file__).parents[2] / "data"
STUDENT, JUDGE = DATA / "models" / "student", DATA / "models" / "judge"
TEMPERATURES = (0.3, 0.5, 0.7, 1.0)
PROMPTS = 24
# float32, so that other engines can be compared with; a small share of a GPU, since two are up at a time.
ARGUMENTS = {
    "dtype": "float32",
    "max_model_len": 512,
    "enforce_eager": True,
    "gpu_memory_utilization": 0.3,
}
READY_S = patience(400)
INSTALLED = importlib.util.find_spec("vllm") is not None
REQUIRED = os.environ.get("JURYBOX_REQUIRE_VLLM") == "1"

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(
        not INSTALLED and not REQUIRED,
        reason="vLLM is not installed; install the `vllm` extra, or its CPU build as .ci/run does",
    ),
    # vLLM's own imports touch deprecated names of torch and others.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def _small_cache() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        yield


def engine_processes() -> list[str]:
    """The processes of vLLM below this one that still run."""
    below = psutil.Process().children(recursive=True)
    return [one.name() for one in below if "VLLM" in one.name() and one.status() != psutil.STATUS_ZOMBIE]


def nothing(done: int) -> None:
    """Progress is not looked at."""


# --- the student through a run


def test_a_run_samples_the_student_at_all_temperatures_in_one_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (DATA / "demo" / "prompts.jsonl").read_text().splitlines()[:PROMPTS]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    generator = {
        "engine": "vllm",
        "model": str(STUDENT),
        "temperatures": TEMPERATURES,
        "max_tokens": 64,
        "engine_args": ARGUMENTS,
    }
    config = Config.model_validate(
        {
            "name": "student",
            "prompts": {"path": tmp_path / "prompts.jsonl"},
            "generators": [generator],
        }
    )
    batches: list[int] = []
    generate = VllmEngine._generate

    def watched(self: VllmEngine, prompts: list[list[int]], requests: list[Request]) -> list[Any]:
        batches.append(len(requests))
        return generate(self, prompts, requests)

    monkeypatch.setattr(VllmEngine, "_generate", watched)
    with Workbench(config, tmp_path / "run", tmp_path) as bench:
        run_stage(bench, "load")
        report = run_stage(bench, "generate")
        samples = bench.folder.read("samples")

    assert batches == [PROMPTS * len(TEMPERATURES)]
    assert samples.height + sum(report.dropped.values()) == PROMPTS * len(TEMPERATURES)
    assert samples.height > PROMPTS * len(TEMPERATURES) * 0.9
    schemas.Samples.validate(samples)
    assert set(samples["temperature"]) == set(TEMPERATURES)
    assert samples["logprob"].null_count() == 0
    # Hotter answers are less likely ones: the mean over 24 prompts falls by far more than its noise.
    by_heat = {heat: samples.filter(samples["temperature"] == heat)["logprob"].mean() for heat in (0.3, 1.0)}
    assert by_heat[0.3] > by_heat[1.0]
    assert engine_processes() == [], "the stage's end gives the memory back"


# --- the engine itself, with an adapter on top


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random adapter of the default training's rank, strong enough to change every answer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    settings = LoraConfig(
        r=64, lora_alpha=64, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"
    )
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(STUDENT), settings)
    model.save_pretrained(folder)
    return folder


def options(engine: str, **arguments: Any) -> GeneratorConfig:
    return GeneratorConfig(model=str(STUDENT), engine=engine, engine_args=arguments)


@pytest.fixture(scope="module")
def adapted(adapter: Path) -> Iterator[VllmEngine]:
    engine = VllmEngine(options("vllm", adapter=str(adapter), **ARGUMENTS), None)  # type: ignore[arg-type]
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def reference(adapter: Path) -> TransformersEngine:
    return TransformersEngine(options("transformers", adapter=str(adapter), dtype="float32"), None)  # type: ignore[arg-type]


def asked(text: str, **how: Any) -> Request:
    return Request((("user", text),), **{"max_tokens": 24, **how})


def texts(answers: Sequence[Answer]) -> list[str | None]:
    return [answer.text for answer in answers]


def test_equal_seeds_give_equal_text_whatever_else_is_in_the_batch(adapted: VllmEngine) -> None:
    requests = [
        asked(f"What do {number} lamps cost?", temperature=heat, seed=number)
        for number in range(6)
        for heat in TEMPERATURES
    ]
    once = texts(adapted.complete(requests, nothing))
    backwards = texts(adapted.complete(requests[::-1], nothing))[::-1]
    assert once == backwards
    assert texts(adapted.complete(requests[5:6], nothing)) == once[5:6]
    other = [asked("What do 3 lamps cost?", temperature=1.0, seed=seed) for seed in range(8)]
    assert len(set(texts(adapted.complete(other, nothing)))) > 1


def test_the_adapter_lies_on_top(adapted: VllmEngine, reference: TransformersEngine) -> None:
    requests = [asked("When does my scarf arrive?", max_tokens=8), asked("What do I pay?", max_tokens=8)]
    assert texts(adapted.complete(requests, nothing)) == texts(reference.complete(requests, nothing))


def test_choices_have_the_probabilities_that_transformers_gives_them(
    adapted: VllmEngine, reference: TransformersEngine
) -> None:
    requests = [asked(f"Choose A or B, {number}", max_tokens=1, choices=("A", "B")) for number in range(5)]
    for ours, theirs in zip(adapted.complete(requests, nothing), reference.complete(requests, nothing), strict=True):
        assert ours.choice_logprobs == pytest.approx(theirs.choice_logprobs, abs=1e-3)
        assert ours.text == theirs.text
        assert ours.call.completion_tokens == 1


def test_a_prompt_that_leaves_no_room_is_a_failed_answer_and_the_others_are_made(adapted: VllmEngine) -> None:
    requests = [asked("Why? " * 1000), asked("Why?"), asked("Why?", max_tokens=512)]
    long, fine, greedy = adapted.complete(requests, nothing)
    assert long.text is None
    assert long.reason == "too_long"
    assert str(long.error).startswith("prompt of ")
    assert str(long.error).endswith("of answer exceed the context of 512")
    assert fine.error is None
    assert greedy.reason == "too_long"
    assert adapted.complete([], nothing) == []


def test_a_folder_without_a_model_or_adapter_is_a_wrong_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"adapter_config\.json is no LoRA adapter"):
        VllmEngine(options("vllm", adapter=str(tmp_path)), None)  # type: ignore[arg-type]
    nowhere = GeneratorConfig(model=str(tmp_path / "nowhere"), engine="vllm")
    with pytest.raises(ConfigError, match="cannot be loaded by vLLM"):
        VllmEngine(nowhere, None)  # type: ignore[arg-type]


# --- the judge behind a server


@contextmanager
def serving(folder: Path, model: str, *arguments: str) -> Iterator[str]:
    """*model*, called "judge", behind vLLM's OpenAI-compatible server that logs in *folder*; gives its base URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    log = folder / "log.txt"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", model, "--served-model-name", "judge", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", "float32", "--enforce-eager", "--gpu-memory-utilization", "0.3", *arguments]
    with log.open("w") as output:
        started = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        until = time.monotonic() + READY_S
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert started.poll() is None, f"the server ended:\n{log.read_text()[-4000:]}"
            assert time.monotonic() < until, f"the server is not ready:\n{log.read_text()[-4000:]}"
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(started.pid, signal.SIGTERM)
        try:
            started.wait(patience(30))
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The tiny judge behind a server."""
    with serving(tmp_path_factory.mktemp("server"), str(JUDGE), "--max-model-len", "1024") as url:
        yield url


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.HTTPError:
        return False


COMPARISONS = [
    Comparison(
        pair_id=f"{number:032x}",
        prompt_id=f"{number + 100:032x}",
        messages=(("user", question),),
        reference=None,
        sample_a="a" * 32,
        sample_b="b" * 32,
        completion_a=first,
        completion_b=second,
    )
    for number, (question, first, second) in enumerate(
        [
            ("The heater costs 23 euros and shipping is 2 euros. What do I pay?", "You pay 25 euros.", "27 euros!"),
            ("My scarf leaves on Wednesday and takes 2 days. When does it arrive?", "Monday.", "On Friday."),
            ("Until when is the warranty of my phone?", "It ends in July, thank you so much for asking!", "July."),
        ]
    )
]


def judged(judge: dict[str, Any], endpoints: dict[str, Any], folder: Path) -> list[Judgment]:
    """The verdicts of the tiny judge on both orders of every pair."""
    rubric = {"rubric": str(DATA / "demo" / "rubric.md"), "kind": "pairwise", "verdict": "logprob", "name": "judge"}
    config = Config.model_validate({"name": "judging", "endpoints": endpoints, "judges": [rubric | judge]})
    with Workbench(config, folder, folder) as bench:
        return PairwiseJudge(config.judges[0], bench).judge(COMPARISONS).judgments  # type: ignore[arg-type]


def test_the_served_judge_gives_the_probabilities_of_the_local_one(server: str, tmp_path: Path) -> None:
    served = judged({"endpoint": "local", "model": "judge"}, {"local": {"base_url": server}}, tmp_path / "served")
    local = judged(
        {"engine": "transformers", "model": str(JUDGE), "engine_args": {"dtype": "float32"}}, {}, tmp_path / "local"
    )
    assert [one.error for one in served] == [None] * 2 * len(COMPARISONS)
    assert [(one.pair_id, one.order) for one in served] == [(one.pair_id, one.order) for one in local]
    assert [one.preference for one in served] == pytest.approx([one.preference for one in local], abs=2e-3)


# --- every kind of judge on the same pairs


@pytest.mark.timeout(patience(1800))  # four starts of vLLM, each a minute or two on a busy machine
def test_served_judges_reward_models_and_a_verifier_judge_the_same_pairs(server: str, tmp_path: Path) -> None:
    lines = (DATA / "demo" / "prompts.jsonl").read_text().splitlines()[:4]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    (tmp_path / "rubric.md").write_text("Correct first, then short, then friendly.\n")
    model = tiny_reward_model(tmp_path / "reward", max_position_embeddings=1024)
    untrained = tiny_model(tmp_path / "untrained", head_dim=64, max_position_embeddings=2048)
    served = {"endpoint": "lm", "model": "judge", "rubric": "rubric.md", "verdict": "logprob"}
    arguments = {"dtype": "float32", "enforce_eager": True, "gpu_memory_utilization": 0.3}
    with serving(tmp_path, model, "--runner", "pooling", "--max-model-len", "1024") as rewards:
        settings = {
            "name": "kinds",
            "prompts": {"path": "prompts.jsonl"},
            "generators": [{"engine": "transformers", "model": str(STUDENT), "max_tokens": 64}],
            "endpoints": {"lm": {"base_url": server}, "rewards": {"base_url": rewards}},
            "judges": [
                {"name": "pair", "kind": "pairwise", **served, "rubric": str(DATA / "demo" / "rubric.md")},
                # An untrained model says every digit as soon as any other token: its expected scores are about 5.
                {
                    "name": "point",
                    "kind": "pointwise",
                    "engine": "vllm",
                    "engine_args": {**arguments, "max_model_len": 2048},
                    "model": untrained,
                    "rubric": "rubric.md",
                    "verdict": "logprob",
                    "scale": 9,
                },
                {"name": "reference", "kind": "reference_guided", **served},
                # Its grammar forces a weak model into the shape; words it may write until it is cut off.
                {"name": "list", "kind": "listwise", **served, "verdict": "json", "max_tokens": 64},
                {"name": "plain", "kind": "reward_model", "model": model},
                {
                    "name": "pooled",
                    "kind": "reward_model",
                    "model": model,
                    "engine": "vllm",
                    "engine_args": arguments,
                },
                {"name": "remote", "kind": "reward_model", "model": "judge", "endpoint": "rewards"},
                {"name": "verifier", "kind": "verifier", "program": f"{DATA / 'demo' / 'tasks.py'}:verify"},
            ],
        }
        config = Config.model_validate(settings, context={"base": tmp_path})
        servers = engine_processes()
        with Workbench(config, tmp_path / "run", tmp_path) as bench:
            for stage in ("load", "generate", "pair", "labels", "judge"):
                run_stage(bench, stage)
            assert engine_processes() == servers, "the stage's end gives the memory back"
            frames = {name: bench.folder.read(name) for name in ("pairs", "judgments", "ratings", "calls")}
    schemas.Judgments.validate(frames["judgments"])
    schemas.Ratings.validate(frames["ratings"])
    pairs, judgments = frames["pairs"], frames["judgments"]
    assert pairs.height > 4
    orders = {"pair": 2, "reference": 2, "list": 2}
    for judge in config.judges:
        rows = judgments.filter(judgments["judge"] == judge.name)
        assert rows.height == pairs.height * orders.get(judge.name, 1)
        assert set(rows["pair_id"]) == set(pairs["pair_id"])
        if judge.name != "list":
            assert rows["error"].null_count() == rows.height, rows["error"].drop_nulls().to_list()[:3]
    # The weak model either ranks by the strict shape or fails; the endpoint itself refused nothing.
    listed = judgments.filter(judgments["judge"] == "list")
    errors = listed["error"].drop_nulls().to_list()
    assert [
        error for error in errors if not error.startswith(("the reply was cut off", "expected ", "cut_off: "))
    ] == []
    scores = {
        name: dict(
            frames["ratings"].filter(frames["ratings"]["judge"] == name).select("sample_id", "score").iter_rows()
        )
        for name in ("plain", "pooled", "remote", "point", "verifier")
    }
    assert scores["pooled"] == pytest.approx(scores["plain"], abs=1e-3)
    assert scores["remote"] == pytest.approx(scores["plain"], abs=1e-3)
    assert all(1 < score < 9 for score in scores["point"].values())
    assert set(scores["verifier"].values()) <= {0.0, 1.0}
    counts = dict(frames["calls"].group_by("judge").len().iter_rows())
    answers_judged = len(scores["plain"])
    assert (counts["pair"], counts["point"], counts["remote"]) == (pairs.height * 2, answers_judged, answers_judged)
