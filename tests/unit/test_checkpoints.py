"""Pins down that a damaged checkpoint is named in words before anything in it is read as a model."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from pipeline.errors import StageError
from training.checkpoints import require_sound


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint-20"
    folder.mkdir()
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 20}))
    (folder / "adapter_model.safetensors").write_bytes(save({"weight": np.arange(64, dtype=np.float32)}))
    torch.save({"state": torch.arange(64)}, folder / "optimizer.pt")
    torch.save({"seed": 7}, folder / "rng_state.pth")
    (folder / "README.md").write_text("words")
    return folder


def test_a_whole_checkpoint_is_taken(checkpoint: Path) -> None:
    assert require_sound(checkpoint) == checkpoint


@pytest.mark.parametrize("name", ["trainer_state.json", "adapter_model.safetensors", "optimizer.pt", "rng_state.pth"])
@pytest.mark.parametrize("left", [0, 7, 0.5])
def test_a_file_cut_short_is_named_with_the_remedy(checkpoint: Path, name: str, left: float) -> None:
    whole = (checkpoint / name).read_bytes()
    (checkpoint / name).write_bytes(whole[: int(left * len(whole)) if isinstance(left, float) else left])
    with pytest.raises(StageError, match=f"{name}: cannot be read .*delete that folder"):
        require_sound(checkpoint)


def test_a_bit_flipped_in_an_archives_parts_is_found(checkpoint: Path) -> None:
    file = checkpoint / "optimizer.pt"
    whole, draw = file.read_bytes(), random.Random(0)
    at = whole.index(torch.arange(64).numpy().tobytes())
    for _ in range(20):
        damaged = bytearray(whole)
        damaged[at + draw.randrange(64 * 8)] ^= 1 << draw.randrange(8)
        file.write_bytes(damaged)
        with pytest.raises(StageError, match=r"optimizer\.pt: cannot be read \(the checksum of"):
            require_sound(checkpoint)


def test_what_a_file_says_is_never_run(checkpoint: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (checkpoint / "ran",)  # type: ignore[return-value]

    torch.save({"state": Evil()}, checkpoint / "optimizer.pt")
    require_sound(checkpoint)
    assert not (checkpoint / "ran").exists()
