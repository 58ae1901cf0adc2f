"""Pins down stamps: what a stage reads of the config, and what its paths hold, decides whether it is done."""

import inspect
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from pipeline import runner
from pipeline.contents import by_content, file_digest, sources
from pipeline.runner import run_stage, stage
from pipeline.workbench import Workbench
from tests.worlds import FAKE_ENGINE

STAGES = ("load", "generate", "pair", "labels", "judge", "controls", "aggregate", "measure", "gate", "select", "export")
AGGREGATION = """
from pipeline.aggregation.base import Fitted
import numpy as np
from level import LEVEL
class Flat:
    needs_labels = False
    def __init__(self, options): pass
    def fit_predict(self, votes, labels):
        p = np.full(len(votes.pair_ids), LEVEL)
        return Fitted(p, p, {name: 1.0 for name in votes.judges}, {})
"""
PAIRING = """
from pipeline.pairing.all import AllPairing
class Mine(AllPairing):
    pass
"""
PEOPLE = """
class People:
    names = ("one", "two")
    def label(self, **about):
        return "a"
"""
FREE = {"name", "licence"}
"""Keys that a stage may read without being made from them: what a run is called changes no row."""
SHOWN = {"judges.0.price", "generators.0.price", "judges.0.endpoint", "generators.0.endpoint", "budget"}
"""Money and who is asked for it: a price changes what calls cost, not what they answered."""


class Watched:
    """A config that remembers which keys were read, by its own methods too; models inside are watched likewise."""

    def __init__(self, model: BaseModel, at: str, seen: set[str]) -> None:
        self._model, self._at, self._seen = model, at, seen

    def __getattr__(self, name: str) -> Any:
        kind = type(self._model)
        if name in kind.model_fields:
            return watched(getattr(self._model, name), f"{self._at}{name}", self._seen)
        found = inspect.getattr_static(kind, name, None)
        if inspect.isfunction(found) and found.__module__ == kind.__module__:
            return found.__get__(self)
        if isinstance(found, property) and found.fget is not None and found.fget.__module__ == kind.__module__:
            return found.fget(self)
        return getattr(self._model, name)

    @property
    def __class__(self) -> Any:
        return type(self._model)


def watched(value: Any, at: str, seen: set[str]) -> Any:
    if isinstance(value, BaseModel):
        return Watched(value, f"{at}.", seen)
    if isinstance(value, tuple | list):
        return [watched(one, f"{at}.{number}", seen) for number, one in enumerate(value)]
    seen.add(at)
    return value


def settings() -> dict[str, Any]:
    model = {"model": "m", "engine": "./engine.py:Fake"}
    return {
        "name": "small",
        "prompts": {"path": "prompts.jsonl"},
        "generators": [{**model, "temperatures": [0.5, 1.0]}],
        "pairing": {"strategy": "./pairing.py:Mine"},
        "judges": [{**model, "name": "lm", "kind": "pairwise", "verdict": "text"}],
        "controls": {"number": 0},
        "labels": {"simulated": {"kind": "./people.py:People", "prompts": 4}},
        "aggregate": {"method": "./flat.py:Flat"},
        "select": {"strategy": "all", "min_margin": 0.0},
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    for name, text in (
        ("engine.py", FAKE_ENGINE),
        ("flat.py", AGGREGATION),
        ("level.py", "LEVEL = 0.9\n"),
        ("pairing.py", PAIRING),
        ("people.py", PEOPLE),
        ("prompts.jsonl", "".join(json.dumps({"prompt": f"Question {at}?"}) + "\n" for at in range(6))),
        ("c.yaml", yaml.safe_dump(settings())),
    ):
        (home / name).write_text(text)
    return home


def ran(home: Path) -> list[str]:
    """Run all stages; those that were not skipped."""
    with Workbench.open(home / "c.yaml", home / "run") as run:
        return [name for name in STAGES if not run_stage(run, name).skipped]


def changed(value: Any) -> Any:
    """Something else of about the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return f"{value}x"
    return "changed"


def edited(model: Any, path: Sequence[str]) -> Any:
    """*model* with the value at *path* changed; nothing is validated."""
    if not path:
        return changed(model)
    key, rest = path[0], path[1:]
    if isinstance(model, tuple | list):
        inner = list(model)
        inner[int(key)] = edited(inner[int(key)], rest)
        return type(model)(inner)
    return model.model_copy(update={key: edited(getattr(model, key), rest)})


def leaves(seen: set[str]) -> Iterator[str]:
    yield from sorted(key for key in seen if key.partition(".")[0] not in FREE and key not in SHOWN)


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # keys are changed to what no config may hold
@pytest.mark.parametrize("name", ["pair", "aggregate", "measure", "gate", "select", "export"])
def test_every_key_that_a_stage_reads_is_in_its_stamp(folder: Path, name: str) -> None:
    ran(folder)
    with Workbench.open(folder / "c.yaml", folder / "run") as run:
        what = stage(name)
        seen: set[str] = set()
        config = run.config
        lent = run.lent(name, what.readable, what.scratch)
        for shard, _ in runner.plan(run, what).values():
            what.run(shard, Watched(config, "", seen), lent)  # type: ignore[arg-type]
        before = {key: stamp for key, (_, stamp) in runner.plan(run, what).items()}
        assert seen
        missing: list[str] = []
        for key in leaves(seen):
            run.config = edited(config, key.split("."))
            after = {one: stamp for one, (_, stamp) in runner.plan(run, what).items()}
            if after == before:
                missing.append(key)
        # Handed on by `select`, which draws only where its strategy is one of chance.
        assert missing == (["seed"] if name == "select" else [])


@pytest.mark.parametrize(
    ("file", "text", "first"),
    [
        ("pairing.py", PAIRING + "    pass\n", "pair"),
        ("people.py", PEOPLE.replace('"a"', '"b"'), "labels"),
        ("level.py", "LEVEL = 0.2\n", "aggregate"),  # what a plug-in imports from beside it
        ("engine.py", FAKE_ENGINE + "\n", "generate"),
    ],
)
def test_edited_plug_in_code_makes_its_stage_again(folder: Path, file: str, text: str, first: str) -> None:
    assert ran(folder) == list(STAGES)
    assert ran(folder) == []
    (folder / file).write_text(text)
    assert ran(folder)[0] == first


def test_a_moved_checkout_makes_nothing_again(folder: Path, tmp_path: Path) -> None:
    assert ran(folder) == list(STAGES)
    shutil.move(folder, tmp_path / "elsewhere")
    assert ran(tmp_path / "elsewhere") == []


def test_weights_count_and_where_they_lie_does_not(tmp_path: Path) -> None:
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "model.safetensors").write_bytes(b"weights")
    one, two = ({"model": str(tmp_path / place), "max_tokens": 5} for place in ("one", "two"))
    assert by_content(one, tmp_path) == by_content(two, tmp_path)
    assert by_content(one, tmp_path) == {"model": file_digest(tmp_path / "one"), "max_tokens": 5}
    (tmp_path / "two/model.safetensors").write_bytes(b"weights, trained on")
    assert by_content(one, tmp_path) != by_content(two, tmp_path)


def test_names_that_are_no_paths_stay_as_they_are(tmp_path: Path) -> None:
    told: Mapping[str, object] = {
        "model": "org/name",
        "stop": ["\n", "a:b"],
        "n": 1,
        "of": None,
        "file": "gone.py:Mine",
    }
    assert by_content(told, tmp_path) == told


def test_a_plug_in_is_its_file_and_what_it_imports_from_beside_it(tmp_path: Path) -> None:
    for name, text in (("a.py", "import b\nimport json\n"), ("b.py", "from c import x\n"), ("c.py", "import a\n")):
        (tmp_path / name).write_text(text)
    (tmp_path / "d.py").write_text("")
    assert [file.name for file in sources(tmp_path / "a.py")] == ["a.py", "b.py", "c.py"]
