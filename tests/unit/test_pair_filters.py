"""Filters of one's own: each drop with the filter's reason, after the built-in words and before the margins."""

from pathlib import Path

import polars as pl
import pytest

from pipeline.config import Config, SelectConfig
from pipeline.errors import StageError
from pipeline.runner import plan, stage
from pipeline.stages.select import decide, filters_of
from pipeline.workbench import Workbench
from tests.worlds import bench, decided, world

SHOUTING = '''
"""Drops pairs with an answer in capitals."""

from pydantic import Field

from pipeline.config import FilterConfig


class Shouting:
    class Options(FilterConfig):
        share: float = Field(default=1.0, gt=0, le=1)

    reason = "shouting"

    def __init__(self, options):
        self.share = options.share

    def drops(self, pairs):
        loud = [pairs[side].str.count_matches("[A-Z]") / pairs[side].str.len_chars() for side in ("chosen", "rejected")]
        return (loud[0] >= self.share) | (loud[1] >= self.share)
'''
ANSWERS = {"loud?": ["AAAA", "calm"], "calm?": ["calm words", "Kind"]}


def written(folder: Path, source: str = SHOUTING) -> Path:
    (folder / "loud.py").write_text(source, encoding="utf-8")
    return folder


def rule(folder: Path, **keys: object) -> SelectConfig:
    told = {"name": "small", "select": {"strategy": "all", **keys}}
    return Config.model_validate(told, context={"base": folder}).select


def reasons(folder: Path, select: SelectConfig, margin: float = 0.9) -> dict[str, str | None]:
    """Question -> why its pair goes, the first answer being preferred with *margin*."""
    made = world(ANSWERS)
    verdicts = decided(made, lambda one, other: (1 + margin * (1 if len(one) >= len(other) else -1)) / 2)
    filters = filters_of(select, folder)
    rows = decide(
        verdicts, made["pairs"], made["samples"], select, "p_a", None, prompts=made["prompts"], filters=filters
    )
    asked = made["prompts"].select("prompt_id", pl.col("messages").list.last().struct.field("content").alias("asked"))
    return dict(rows.join(asked, on="prompt_id").select("asked", "reason").iter_rows())


def test_a_filter_drops_with_its_own_reason(tmp_path: Path) -> None:
    select = rule(written(tmp_path), filters=[{"kind": "./loud.py:Shouting"}])
    assert reasons(tmp_path, select) == {"loud?": "shouting", "calm?": None}


def test_a_bare_kind_is_enough_and_its_keys_are_its_own(tmp_path: Path) -> None:
    assert reasons(written(tmp_path), rule(tmp_path, filters=["./loud.py:Shouting"])) == {
        "loud?": "shouting",
        "calm?": None,
    }
    # one capital of four letters in "Kind"
    strict = rule(tmp_path, filters=[{"kind": "./loud.py:Shouting", "share": 0.25}])
    assert reasons(tmp_path, strict) == {"loud?": "shouting", "calm?": "shouting"}


def test_built_in_words_come_before_it_and_margins_after(tmp_path: Path) -> None:
    filters = ["./loud.py:Shouting"]
    # "calm words" has 10 characters, "Kind" 4: a ratio of 2.5; the loud pair has 1.
    assert reasons(written(tmp_path), rule(tmp_path, filters=filters, max_length_ratio=2)) == {
        "loud?": "shouting",
        "calm?": "length_ratio",
    }
    assert reasons(tmp_path, rule(tmp_path, filters=filters, min_margin=0.5), margin=0.4) == {
        "loud?": "shouting",
        "calm?": "low_margin",
    }


def test_a_key_that_it_does_not_have_and_a_file_that_is_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="loudness"):
        rule(written(tmp_path), filters=[{"kind": "./loud.py:Shouting", "loudness": 1}])
    with pytest.raises(ValueError, match=r"names the file .*soft\.py, which does not exist"):
        rule(tmp_path, filters=["./soft.py:Soft"])
    with pytest.raises(ValueError, match="unknown filters kind 'loud'; allowed: "):
        rule(tmp_path, filters=["loud"])


@pytest.mark.parametrize("wrong", ["[True, False]", "pairs['chosen']", "pairs['chosen'].is_null().head(1)", "None"])
def test_a_filter_that_does_not_answer_is_named(tmp_path: Path, wrong: str) -> None:
    start = SHOUTING.index("        loud = ")
    select = rule(written(tmp_path, f"{SHOUTING[:start]}        return {wrong}\n"), filters=["./loud.py:Shouting"])
    with pytest.raises(StageError, match=r"the filter Shouting returned .* for 2 pairs; it must return a Polars"):
        reasons(tmp_path, select)


def test_without_prompts_it_says_which_command_makes_them(tmp_path: Path) -> None:
    select = rule(written(tmp_path), filters=["./loud.py:Shouting"])
    made = world(ANSWERS)
    verdicts = decided(made, lambda _a, _b: 0.9)
    filters = filters_of(select, tmp_path)
    with pytest.raises(StageError, match="jurybox load CONFIG"):
        decide(verdicts, made["pairs"], made["samples"], select, "p_a", None, filters=filters)


@pytest.mark.parametrize("name", ["select", "gate"])
def test_an_edited_filter_is_another_rule(tmp_path: Path, name: str) -> None:
    written(tmp_path)

    def stamp(run: Workbench) -> str:
        return plan(run, stage(name))["all"][1]

    run = bench(tmp_path, world(ANSWERS), select={"filters": ["./loud.py:Shouting"]})
    before = stamp(run)
    assert stamp(run) == before
    written(tmp_path, f"{SHOUTING}\n# edited\n")
    assert stamp(run) != before


def test_a_filter_without_its_name_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="defines no 'Quiet'"):
        rule(written(tmp_path), filters=["./loud.py:Quiet"])
