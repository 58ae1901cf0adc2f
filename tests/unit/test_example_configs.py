"""Every example config parses and names kinds that exist."""

from pathlib import Path

import pytest

from pipeline import config_file, discovery

DATA = Path(__file__).parents[2] / "data" / "configs"
EXAMPLES = sorted(DATA.glob("[!.]*.yaml"))


def test_there_are_the_examples_that_the_readme_names() -> None:
    assert {path.stem for path in EXAMPLES} >= {"embedded", "concise-8b", "local", "own-data", "mt-bench"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_parses(path: Path) -> None:
    parsed = config_file.load(path)
    for kind in parsed.export:
        assert discovery.find("pipeline.exports", kind, "export")
    for generator in parsed.generators:
        if generator.engine == "transformers":
            assert Path(generator.model).is_dir(), "a shipped model is a folder that exists"
