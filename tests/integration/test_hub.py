"""Pushing dataset and adapter, by the real client over real HTTP, to a stand-in for the Hub."""

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard, ModelCard, constants

from pipeline.config import Config
from pipeline.errors import ConfigError, JobError, StorageError
from pipeline.exports.hub import push
from pipeline.runner import run_stage
from pipeline.workbench import Workbench
from tests.export_frames import frames, numbered
from tests.hub_stand_in import HubStandIn

# huggingface_hub 2.4 hands a large file to httpx2 as `data=`, which httpx2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")

TOKEN = "hf_rightAndSecret"  # noqa: S105  a made-up one
WRONG = "hf_wrongAndSecret"
WEIGHTS = bytes(range(256)) * 64


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with HubStandIn(TOKEN) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running


def config(**changes: object) -> Config:
    return Config.model_validate(
        {
            "name": "small",
            "seed": 2,
            "export": ["trl_dpo", "jsonl", "kto", "openai_dpo"],
            "test_fraction": 0.3,
            "licence": "MIT",
            "push": "org/prefs",
            **changes,
        }
    )


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Workbench]:
    with Workbench(config(), tmp_path / "run", tmp_path) as opened:
        for name, rows in frames(numbered(20)).items():
            opened.folder.write_part(name, "before", "all", rows, {})
        run_stage(opened, "export")
        yield opened


def add_adapter(bench: Workbench, base: str = "org/base") -> None:
    model = bench.folder.path / "model"
    (model / "checkpoint-10").mkdir(parents=True)
    (model / "checkpoint-10" / "optimizer.pt").write_bytes(b"left at home")
    (model / "adapter_model.safetensors").write_bytes(WEIGHTS)
    adapter = {"base_model_name_or_path": base, "r": 64, "lora_alpha": 128, "target_modules": ["q_proj"]}
    (model / "adapter_config.json").write_text(json.dumps(adapter))


def local(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_dataset_arrives_byte_for_byte(hub: HubStandIn, bench: Workbench) -> None:
    assert push(bench.folder, config()) == [f"{hub.url}/datasets/org/prefs"]
    (key, arrived) = next(iter(hub.repositories.items()))
    assert key == ("datasets", "org/prefs")
    assert arrived.private
    assert arrived.files == local(bench.folder.path / "dataset")
    assert len(arrived.files) == 9  # four formats of two splits, and the card
    assert len(hub.repositories) == 1
    # the two Parquet formats went the way of large files, and no commit named one that was not verified
    assert {"PUT"} <= {request.split()[0] for request in hub.requests}
    assert len(hub.verified) == 4


def test_what_arrived_loads_by_its_own_card(hub: HubStandIn, bench: Workbench, tmp_path: Path) -> None:
    push(bench.folder, config())
    copy = tmp_path / "copy"
    for name, content in hub.repositories["datasets", "org/prefs"].files.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content)
    told = DatasetCard.load(copy / "README.md").text
    for name, rows in (("trl_dpo", 20), ("kto", 40), ("jsonl", 20), ("openai_dpo", 20)):
        # the call that the card tells its reader
        (call,) = re.findall(rf"\| {name} \| `load_dataset\(REPOSITORY, (.*)\)` \|", told.replace("\\_", "_"))
        how = {"data_files": json.loads(call.removeprefix("data_files="))} if "=" in call else {"name": name}
        loaded = load_dataset(str(copy), **how, cache_dir=str(tmp_path / "cache"))
        assert loaded["train"].num_rows + loaded["test"].num_rows == rows
    default = load_dataset(str(copy), cache_dir=str(tmp_path / "cache"))
    assert "p_chosen" in default["train"].column_names


def test_the_adapter_arrives_with_a_card(hub: HubStandIn, bench: Workbench) -> None:
    add_adapter(bench)
    bench.folder.write_json("evaluation.json", {"win_rate": 0.6, "win_rate_low": 0.55, "win_rate_high": 0.65, "n": 90})
    urls = push(bench.folder, config(train={"method": "dpo", "beta": 0.2}))
    assert urls == [f"{hub.url}/datasets/org/prefs", f"{hub.url}/org/prefs-adapter"]
    arrived = hub.repositories["models", "org/prefs-adapter"].files
    assert set(arrived) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert arrived["adapter_model.safetensors"] == WEIGHTS
    made = ModelCard(arrived["README.md"].decode())
    assert made.data.base_model == "org/base"
    assert made.data.datasets == ["org/prefs"]
    assert "60.0%" in made.text
    assert "| train.beta | 0.2 |" in made.text
    assert not (bench.folder.path / "model" / "README.md").exists()


@pytest.mark.parametrize(("written", "kept"), [("# Mine\n", True), ("# Model Card for Model ID\n", False)])
def test_a_card_that_training_wrote_is_kept_unless_it_is_unfilled(
    hub: HubStandIn, bench: Workbench, written: str, *, kept: bool
) -> None:
    add_adapter(bench, base="/home/me/secret/student")
    text = f"---\nlicense: mit\n---\n{written}"
    (bench.folder.path / "model" / "README.md").write_text(text)
    push(bench.folder, config())
    arrived = hub.repositories["models", "org/prefs-adapter"].files["README.md"].decode()
    assert (arrived == text) is kept
    assert "/home/me" not in arrived


def test_pushing_again_commits_nothing_and_a_change_commits_once(hub: HubStandIn, bench: Workbench) -> None:
    push(bench.folder, config())
    push(bench.folder, config())
    assert hub.repositories["datasets", "org/prefs"].commits == 1
    changed = bench.folder.path / "dataset" / "jsonl" / "train.jsonl"
    changed.write_text("{}\n")
    with pytest.raises(StorageError, match=r"train.jsonl: is damaged"):
        push(bench.folder, config())
    bench.folder.record([changed], [changed])  # as the stage that writes it does
    push(bench.folder, config())
    assert hub.repositories["datasets", "org/prefs"].commits == 2
    assert hub.repositories["datasets", "org/prefs"].files["jsonl/train.jsonl"] == b"{}\n"


def test_a_public_repository_and_a_token_of_another_name(
    hub: HubStandIn, bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    push(bench.folder, config(push={"repo": "org/prefs", "private": False, "token_env": "MY_TOKEN"}))
    assert not hub.repositories["datasets", "org/prefs"].private


def refused(bench: Workbench, made: Config | None = None) -> str:
    """The message of the JobError, which names no token anywhere in its chain."""
    with pytest.raises(JobError) as raised:
        push(bench.folder, made or config())
    error: BaseException | None = raised.value
    while error is not None:
        assert TOKEN not in str(error)
        assert WRONG not in str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return str(raised.value)


def test_a_wrong_token_is_named_by_its_variable(
    hub: HubStandIn, bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", WRONG)
    message = refused(bench)
    assert "HTTP 401" in message
    assert "does not accept the token in HF_TOKEN" in message
    assert "Invalid credentials: Bearer ***" in message
    assert hub.repositories == {}


def test_a_long_message_is_not_cut_through_the_token(
    hub: HubStandIn, bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", WRONG)
    # messages are cut at 300 characters, which here fall into the token
    hub.preamble = "x" * (300 - len("Invalid credentials: Bearer hf_wrong"))
    message = refused(bench)
    assert "hf_w" not in message
    assert "***" in message


def test_an_organisation_of_others_is_refused(hub: HubStandIn, bench: Workbench) -> None:
    message = refused(bench, config(push="strangers/prefs"))
    assert "HTTP 403" in message
    assert "may not write to strangers" in message


@pytest.mark.parametrize(
    ("part", "status", "words"),
    [
        ("commit", 500, "the Hub has a fault; push again later"),
        ("commit", 403, "may not write to org"),
        ("preupload", 404, "there is no org that this token can see"),
        ("create", 429, "wait some minutes"),
        ("lfs", 400, "the Hub found the request wrong"),
    ],
)
def test_refusals_name_status_and_remedy(hub: HubStandIn, bench: Workbench, part: str, status: int, words: str) -> None:
    hub.fail = {part: status}
    message = refused(bench)
    assert f"HTTP {status}" in message
    assert words in message
    hub.fail = {}
    push(bench.folder, config())
    assert hub.repositories["datasets", "org/prefs"].files == local(bench.folder.path / "dataset")


def test_a_broken_card_is_refused_before_anything_is_uploaded(hub: HubStandIn, bench: Workbench) -> None:
    (bench.folder.path / "dataset" / "README.md").write_text("---\nlicense: [\n---\n")
    assert "README.md" in refused(bench)
    assert hub.objects == {}


def test_an_unreachable_hub(hub: HubStandIn, bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        assert "pushing to the dataset repository org/prefs failed" in refused(bench)


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("", "HF_TOKEN is not set"),
        ("  ", "HF_TOKEN is not set"),
        (f"{WRONG}\nmore", "HF_TOKEN holds spaces, line breaks or characters that no key has"),
    ],
)
def test_a_missing_or_broken_token_is_found_before_any_request(
    hub: HubStandIn, bench: Workbench, monkeypatch: pytest.MonkeyPatch, token: str, words: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    assert words in refused(bench)
    assert hub.requests == []


def test_without_a_dataset_there_is_nothing_to_push(hub: HubStandIn, tmp_path: Path) -> None:
    with Workbench(config(), tmp_path / "empty", tmp_path) as bench:
        assert "run `jurybox export CONFIG` first" in refused(bench)
    assert hub.requests == []


def test_without_push_in_the_config_there_is_nowhere_to_push(hub: HubStandIn, bench: Workbench) -> None:
    with pytest.raises(ConfigError, match="`push` is not set"):
        push(bench.folder, config(push=None))
