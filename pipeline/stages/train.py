"""train: dataset -> model/, by the config's training methods. Writes ``model``, and ``training`` until that is there.

Several methods go on from one another. A killed training goes on from its last checkpoint. ``reference/`` keeps what
the untrained model thought of the answers, for the next training. Drop reasons (ids are rows of the dataset): what the
methods say of a row they cannot learn from (``too_long``, ``end_inside``, ``not_a_step``).
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import discovery, ids
from pipeline.config import Config
from pipeline.contents import file_digest
from pipeline.errors import ConfigError, StageError
from pipeline.exports.card import adapter_card
from pipeline.ids import digest
from pipeline.stages.base import Frames, Result, Shard, Stage, dropped_frame
from pipeline.store import storage
from pipeline.workbench import Workbench
from training.base import Lesson, Method, base_model

PARTS = 100
"""Units of progress that a method reports."""


def _methods(config: Config, bench: Workbench) -> list[Method]:
    if not config.train:
        raise StageError("the config has no `train`, so nothing is trained; add train: {method: dpo}")
    shapes = {json.dumps(shape) for step in config.train if (shape := step.model_dump(mode="json").get("lora"))}
    if len(shapes) > 1:
        raise ConfigError(
            f"the methods of `train` share one adapter, and its shape differs: {', '.join(sorted(shapes))}; give each "
            "the same `lora`"
        )
    return [discovery.find("training.methods", step.method, "{Kind}Method", bench.base)(step) for step in config.train]


def _shards(frames: Frames, config: Config, bench: Workbench) -> list[Shard]:
    # Only what the methods read counts: another export format, or a new card, trains nothing again.
    methods = _methods(config, bench)
    names = dict.fromkeys(name for method in methods for name in method.reads)
    made_from = {
        name: _outside(Path(name)) if Path(name).is_absolute() else bench.folder.digest(name) for name in names
    }
    return [Shard("all", frames, {"model": base_model(config), "dataset": made_from}, PARTS * len(methods))]


def _outside(file: Path) -> str | None:
    return file_digest(file) if file.is_file() else None


def _run(shard: Shard, config: Config, bench: Workbench) -> Result:
    dropped: dict[str, str] = {}
    start: Path | None = None
    reports: list[dict[str, Any]] = []
    for at, method in enumerate(_methods(config, bench)):
        stamp = digest(bench.by_content([_reads(config)[0][: at + 1], config.seed, shard.reads]))[:16]
        result = bench.scratch / f"{stamp}.result"
        if result.is_dir():
            bench.advance(PARTS)
        else:
            lesson = Lesson(
                dataset=bench.folder.local("dataset"),
                model=base_model(config),
                seed=ids.seed_from(config.seed, "train"),
                folder=bench.scratch / stamp,
                cache=bench.cache("reference"),
                advance=bench.advance,
                start=start,
            )
            _train(method, lesson, result)
        dropped |= json.loads((result / DROPPED).read_text(encoding="utf-8"))
        reports.append(_told(result, "training.json"))
        start = result
    folders = {} if start is None else {"model": _model(start, reports, config)}
    return Result({"dropped": dropped_frame("train", dropped)}, folders=folders)


DROPPED = "dropped.json"


def _train(method: Method, lesson: Lesson, result: Path) -> None:
    """Let *method* fill the folder *result*, which appears whole."""
    fresh = result.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    dropped = method.train(lesson, fresh)
    with storage(fresh):
        (fresh / DROPPED).write_text(json.dumps(dropped), encoding="utf-8")
        fresh.rename(result)


def _model(made: Path, reports: list[dict[str, Any]], config: Config) -> Callable[[Path], None]:
    """Fills a fresh ``model`` with what the last method *made*, a card and the reports of all methods."""
    report = {**reports[-1], **({"before": reports[:-1]} if reports[:-1] else {})}
    # Whoever pushes the model writes the card again, with what only then is known.
    card = adapter_card(
        dataset=None,
        licence=config.licence,
        base_model=base_model(config),
        adapter=_told(made, "adapter_config.json"),
        training=[step.model_dump(mode="json", exclude={"model"}) for step in config.train],
        evaluation=None,
        report=report,
    )

    def fill(fresh: Path) -> None:
        shutil.copytree(made, fresh, dirs_exist_ok=True, ignore=shutil.ignore_patterns(DROPPED))
        (fresh / "training.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        (fresh / "README.md").write_text(card, encoding="utf-8")

    return fill


def _told(folder: Path, name: str) -> dict[str, Any]:
    file = folder / name
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _reads(config: Config) -> tuple[list[object], int]:
    return [step.model_dump(mode="json", exclude={"model"}) for step in config.train], config.seed


STAGE = Stage(
    name="train",
    inputs=(),
    outputs=(),
    artefacts_out=("model",),
    run=_run,
    reads=_reads,
    shards=_shards,
    beside=("dataset",),
    # Checkpoints of older settings lie there too; none is of use once the adapter is in place.
    scratch="training",
)
