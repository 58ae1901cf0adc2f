"""Pins down how judging is cut: a shard keeps its endpoint busy for some round trips, and 128 prompts where it does."""

from pathlib import Path

import pytest

from pipeline.config import Config
from pipeline.stages.judge import STAGE
from pipeline.workbench import Workbench
from tests.worlds import labels, longer_label, world

PROMPTS = 600


# One pair a prompt in both orders is 2 calls a prompt. 4 round trips of 1000 calls are more than there are: one shard;
# of 100, 400 calls of 200 prompts: the power of two above 600 / 200 is 4; of 8, less than 128 prompts make: 8 shards.
@pytest.mark.parametrize(("concurrency", "shards"), [(1000, 1), (100, 4), (8, 8)])
def test_a_shard_keeps_its_endpoint_busy(tmp_path: Path, concurrency: int, shards: int) -> None:
    made = world({f"Question {at}?": ["one", "other"] for at in range(PROMPTS)})
    endpoint = {"base_url": "http://127.0.0.1:9/v1", "concurrency": concurrency}
    judges = [
        {"name": "far", "kind": "pairwise", "model": "m", "endpoint": "e"},
        {"name": "near", "kind": "length"},
    ]
    config = Config.model_validate({"name": "x", "endpoints": {"e": endpoint}, "judges": judges})
    frames = {**made, "labels": labels(made, longer_label).head(0)}
    assert STAGE.shards is not None
    with Workbench(config, tmp_path / "run", tmp_path) as bench:
        cut = STAGE.shards(frames, config, bench)
    far = [shard for shard in cut if shard.name.startswith("far-")]
    assert len(far) == shards
    assert all(shard.endpoints == {"e"} for shard in far)
    near = [shard for shard in cut if shard.name.startswith("near-")]
    assert len(near) == 8
    assert all(not shard.endpoints for shard in near)
    for each in (far, near):
        keys = [key for shard in each for key in shard.frames["pairs"]["pair_id"]]
        assert sorted(keys) == sorted(made["pairs"]["pair_id"])
