"""hand-over: config and data for another trainer, from the run's dataset. Writes the folder it is given."""

from pathlib import Path

from pipeline import discovery
from pipeline.errors import ConfigError
from pipeline.store import storage, whole
from pipeline.workbench import Workbench
from training import rows
from training.base import base_model
from training.handover import hand_over


def run(bench: Workbench, trainer: str, out: Path | None) -> list[Path]:
    """Write what *trainer* needs into *out* (``<run>/handover/<trainer>`` by default); returns the files.

    Raises:
        ConfigError: the config trains nothing or more than one method, or the trainer cannot do it.
        StageError: there is no dataset.
    """
    config = bench.config
    if len(config.train) != 1:
        raise ConfigError(
            f"hand-over takes the one method of `train`, and the config has {len(config.train)}; another trainer does "
            "one at a time"
        )
    (step,) = config.train
    method = discovery.find("training.methods", step.method, "{Kind}Method", bench.base)(step)
    pairs = {
        split: rows.pairs(bench.folder.path / name) for split, name in (("train", rows.TRAIN), ("test", rows.TEST))
    }
    made = hand_over(trainer, method, base_model(config), pairs)
    folder = out or bench.folder.path / "handover" / trainer
    with storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, text in made.items():
        with whole(folder / name) as fresh:
            fresh.write_text(text, encoding="utf-8")
    return [folder / name for name in made]
