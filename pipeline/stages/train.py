"""train: dataset -> model/, by the config's training method. Writes ``model``, and ``training`` until that is there.

A killed training goes on from its last checkpoint. Drop reasons (ids are pairs of the dataset): what the method
says of a row it cannot learn from (``too_long``, ``end_inside``).
"""

import json
import shutil
from pathlib import Path
from typing import Any

from pipeline import discovery, ids
from pipeline.card import adapter_card
from pipeline.config import Config
from pipeline.errors import StageError
from pipeline.runner import Frames, Result, Shard, Stage, digest
from pipeline.stages.load import dropped_frame
from pipeline.store import storage
from pipeline.workbench import Workbench
from training.methods.base import Lesson, Method, base_model

PARTS = 100
"""Units of progress that a method reports."""


def _method(config: Config, bench: Workbench) -> Method:
    if config.train is None:
        raise StageError("the config has no `train`, so nothing is trained; add train: {method: dpo}")
    return discovery.find("training.methods", config.train.method, "{Kind}Method", bench.base)(config.train)


def _shards(frames: Frames, config: Config, bench: Workbench) -> list[Shard]:
    # Only what the method reads counts: another export format, or a new card, trains nothing again.
    made_from = {name: bench.folder.digest(name) for name in _method(config, bench).reads}
    return [Shard("all", frames, {"model": base_model(config), "dataset": made_from}, PARTS)]


def _run(shard: Shard, config: Config, bench: Workbench) -> Result:
    run = bench.folder.path
    stamp = digest([_reads(config), shard.reads])[:16]
    folder, result = run / "training" / stamp, run / "training" / f"{stamp}.result"
    lesson = Lesson(
        dataset=run / "dataset",
        model=base_model(config),
        seed=ids.seed_from(config.seed, "train"),
        folder=folder,
        advance=bench.advance,
    )
    shutil.rmtree(result, ignore_errors=True)
    dropped = _method(config, bench).train(lesson, result)
    _card(config, result)

    def move(fresh: Path) -> None:
        shutil.copytree(result, fresh, dirs_exist_ok=True)

    bench.folder.replace_folder("model", move)
    # Checkpoints of older settings lie here too; none is of use once the adapter is in place.
    shutil.rmtree(run / "training", ignore_errors=True)
    return Result({"dropped": dropped_frame("train", dropped)})


def _card(config: Config, folder: Path) -> None:
    """Write README.md: what training knows; who pushes the adapter writes it again with what only then is known."""

    def told(name: str) -> dict[str, Any]:
        file = folder / name
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    text = adapter_card(
        dataset=None,
        licence=config.licence,
        base_model=base_model(config),
        adapter=told("adapter_config.json"),
        training={} if config.train is None else config.train.model_dump(mode="json", exclude={"model"}),
        evaluation=None,
        report=told("training.json") or None,
    )
    with storage(folder):
        (folder / "README.md").write_text(text, encoding="utf-8")


def _reads(config: Config) -> object:
    return [
        config.train and config.train.model_dump(mode="json", exclude={"model"}),
        config.seed,
    ]


STAGE = Stage(
    name="train",
    inputs=(),
    outputs=(),
    artefacts_out=("model",),
    run=_run,
    reads=_reads,
    shards=_shards,
)
