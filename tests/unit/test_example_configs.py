"""Every example config parses, names kinds that exist, and its judges can be made: rubrics and files are there."""

from pathlib import Path

import pytest

from pipeline import config_file, discovery
from pipeline.stages import judge
from pipeline.workbench import Workbench

DATA = Path(__file__).parents[2] / "data" / "configs"
EXAMPLES = sorted(DATA.glob("[!.]*.yaml"))


def test_there_are_the_examples_that_the_readme_names() -> None:
    assert {path.stem for path in EXAMPLES} >= {"embedded", "concise-8b", "local", "own-data", "mt-bench"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_parses_and_its_judges_can_be_made(path: Path, tmp_path: Path) -> None:
    parsed = config_file.load(path)
    with Workbench.open(path, tmp_path / "run") as bench:
        for options in parsed.judges:
            assert judge.make(options, bench).judge
            assert [str(file) for file in options.files(bench.base) if not file.is_file()] == []
    for kind in parsed.export:
        assert discovery.find("pipeline.exports", kind, "export")
    for generator in parsed.generators:
        if generator.engine == "transformers":
            assert Path(generator.model).is_dir(), "a shipped model is a folder that exists"
