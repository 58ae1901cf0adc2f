"""Pins down what a config file may do to its reader: nothing but be refused in words."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import config_file
from pipeline.config_file import DEEPEST, MOST_BYTES, load, mapping
from pipeline.errors import ConfigError

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
"""Stands for 10 ** 12 values."""
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 12))


def fault(tmp_path: Path, text: str | bytes) -> str:
    file = tmp_path / "c.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as found:
        load(file)
    return str(found.value).replace(str(file), "c.yaml")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: x\nseed: &a [*a]\n", "c.yaml:2: the anchor here holds an alias"),
        ("name: x\na: &a\n  b: &b {c: [*a]}\n", "c.yaml:2: the anchor here holds an alias"),
        ("name: x\n" + BOMB, "c.yaml:6: stands for more than 100,000 values"),
        ("name: x\n" + MERGED, "stands for more than 100,000 values"),
        ("name: x\nseed: " + "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), f"is nested more than {DEEPEST} deep"),
        ("name: x\nseed: " + "[" * 50_000, "is nested too deeply"),
        ("name: x\nseed: " + "9" * 5000, "c.yaml:2: is not valid YAML: the value cannot be read"),
        ("name: x\nseed: " + "9" * 4000, "c.yaml:2: seed: "),
        ("name: x\nseed: 0x" + "f" * 5000, "found a number of thousands of digits"),
        ("name: x\nseed: 2026-02-31\n", "found '2026-02-31'"),
        ("name: x\nseed: !!timestamp 2026-02-31\n", "c.yaml:2: is not valid YAML: the value cannot be read"),
        ("name: x\nseed: 9223372036854775808\n", "c.yaml:2: seed: "),
        ("name: x\nbudget: {usd: .inf}\n", "c.yaml:2: budget.usd: "),
        ("name: x\nbudget: {usd: .nan}\n", "c.yaml:2: budget.usd: "),
        ("name: x\n'a\x1b[2Jb': 1\n", "is not valid YAML"),
        ('name: x\n"a\\e[2Jb": 1\n', "c.yaml:2: a\\u001b[2Jb: unknown key"),
        ('name: x\nseed: "a\\nerror: b"\n', "found 'a\\nerror: b'"),
        ("name: x\nseed: !!python/object/apply:os.system [ls]\n", "c.yaml:2: is not valid YAML: could not determine"),
        ("name: " + "x" * MOST_BYTES, "is larger than 1,000,000 bytes"),
        (b"name: \xff\n", "cannot be read"),
    ],
    ids=range(20),
)
def test_a_file_that_would_hurt_its_reader_is_refused_in_words(tmp_path: Path, text: str | bytes, told: str) -> None:
    said = fault(tmp_path, text)
    assert told in said
    assert len(said) < 1000
    assert "\x1b" not in said


def test_aliases_that_mean_little_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("name: x\ngate: &g {delta: 0.2}\naggregate: {method: majority}\nselect: {min_margin: 0.1}\n")
    assert load(file).gate.delta == 0.2
    file.write_text("name: x\njudges:\n  - &j {name: a, kind: length}\n  - {<<: *j, name: b}\n")
    assert [judge.name for judge in load(file).judges] == ["a", "b"]


def test_the_config_that_lies_in_a_run_is_a_mapping_or_nothing(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    assert mapping(file) == {}
    file.write_text("- 1\n")
    assert mapping(file) == {}
    file.write_text("name: x\n")
    assert mapping(file) == {"name": "x"}
    file.write_text("name: [\n")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        mapping(file)


PIECES = (
    *("name: x", "seed", ": ", "\n", "  ", "- ", "&a ", "*a", "[", "]", "{", "}", "'", '"', "<<: *a", "!!int ", "x"),
    *("judges", "endpoints", "base_url", "null", "1e999", "0o7", "2026-02-31", "? ", "|", ">", "#", "\t", "\x00", "%"),
)


@given(st.lists(st.sampled_from(PIECES), max_size=40))
def test_any_text_is_a_config_or_refused_in_words(tmp_path_factory: pytest.TempPathFactory, pieces: list[str]) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    file.write_text("".join(pieces), encoding="utf-8")
    told = None
    try:
        load(file)
    except ConfigError as error:
        told = str(error)
    assert told is None or str(file) in told


def test_any_bytes_are_a_config_or_refused_in_words(tmp_path: Path) -> None:
    example = Path(config_file.__file__).parents[1] / "data" / "configs" / "concise-8b.yaml"
    whole, draw, file = example.read_bytes(), random.Random(0), tmp_path / "c.yaml"
    told: list[str] = []
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(draw.randrange(1, 4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        file.write_bytes(damaged)
        try:
            load(file)
        except ConfigError as error:
            told.append(str(error))
    assert told
    assert all(str(file) in one for one in told)
