"""The export stage and its four formats: by hand, row by row."""

import importlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pytest

from pipeline import discovery
from pipeline.config import Config
from pipeline.errors import ConfigError, StageError
from pipeline.exports import jsonl, kto, openai_dpo, trl_dpo
from pipeline.labels.splits import is_test
from pipeline.runner import run_stage
from pipeline.stages import export
from pipeline.workbench import Workbench
from tests.export_frames import Choice, asked, frames, numbered

FORMATS = {"jsonl": jsonl, "kto": kto, "openai_dpo": openai_dpo, "trl_dpo": trl_dpo}
TALK = (("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello."), ("user", "And now?"))
AWKWARD = 'a "quoted"\nline\u2028 and é'


def rows_of(made: Mapping[str, pl.DataFrame], seed: int = 0, test_fraction: float = 0.0) -> pl.DataFrame:
    return export.dataset_rows(
        made["kept"],
        made["pairs"],
        made["samples"],
        made["prompts"],
        seed=seed,
        test_fraction=test_fraction,
    )


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def bench_of(tmp_path: Path, made: Mapping[str, pl.DataFrame], **config: object) -> Workbench:
    bench = Workbench(Config.model_validate({"name": "small", **config}), tmp_path / "run", tmp_path)
    for name, rows in made.items():
        bench.folder.write_part(name, "before", "all", rows, {})
    return bench


def test_the_formats_are_found_by_name() -> None:
    assert discovery.kinds("pipeline.exports") == sorted(FORMATS)
    for name, module in FORMATS.items():
        assert discovery.find("pipeline.exports", name, "export") is module.export


def test_trl_dpo_row_by_hand(tmp_path: Path) -> None:
    made = frames([Choice(TALK, "Now tea.", AWKWARD, p_chosen=0.75)])
    written = trl_dpo.export(rows_of(made), tmp_path / "train", 0)
    assert written == tmp_path / "train.parquet"
    assert pl.read_parquet(written).to_dicts() == [
        {
            "prompt": [{"role": role, "content": content} for role, content in TALK],
            "chosen": [{"role": "assistant", "content": "Now tea."}],
            "rejected": [{"role": "assistant", "content": AWKWARD}],
            "margin": 0.5,  # |2 * 0.75 - 1|
            "p_chosen": 0.75,
            "judges": ["gpt", "rm"],
            "agreement": 1.0,
            "chosen_model": "writer",
            "rejected_model": "writer",
            "chosen_temperature": 0.3,
            "rejected_temperature": 1.0,
            "chosen_finish_reason": "stop",
            "rejected_finish_reason": "stop",
            "pair_id": made["pairs"]["pair_id"][0],
            "prompt_id": made["prompts"]["prompt_id"][0],
        }
    ]


def test_bug_13_the_prompt_is_never_repeated_inside_chosen(tmp_path: Path) -> None:
    made = frames([Choice(TALK, "Now tea.", "No."), *numbered(5)])
    table = pl.read_parquet(trl_dpo.export(rows_of(made), tmp_path / "train", 0))
    for side in ("chosen", "rejected"):
        assert [[message["role"] for message in turn] for turn in table[side]] == [["assistant"]] * 6
        texts = {turn[0]["content"] for turn in table[side]}
        assert texts <= set(made["samples"]["completion"])


def test_jsonl_is_plain_strings(tmp_path: Path) -> None:
    made = frames([Choice(TALK, "Now tea.", AWKWARD), Choice(asked("Why?"), "So.", "No.")])
    written = jsonl.export(rows_of(made), tmp_path / "test", 0)
    assert written == tmp_path / "test.jsonl"
    found = {row["chosen"]: row for row in lines(written)}
    talk = "[system]\nBe kind.\n\n[user]\nHi\n\n[assistant]\nHello.\n\n[user]\nAnd now?"
    assert found["Now tea."].items() >= {"prompt": talk, "rejected": AWKWARD}.items()
    assert found["So."].items() >= {"prompt": "Why?", "rejected": "No."}.items()
    assert {row["pair_id"] for row in found.values()} == set(made["pairs"]["pair_id"])
    assert all(list(row) == ["prompt", "chosen", "rejected", "pair_id"] for row in found.values())


def test_openai_dpo_has_exactly_the_documented_keys(tmp_path: Path) -> None:
    made = frames([Choice(TALK, "Now tea.", AWKWARD)])
    written = openai_dpo.export(rows_of(made), tmp_path / "train", 0)
    assert written == tmp_path / "train.jsonl"
    assert lines(written) == [
        {
            "input": {
                "messages": [{"role": role, "content": content} for role, content in TALK],
                "tools": [],
                "parallel_tool_calls": True,
            },
            "preferred_output": [{"role": "assistant", "content": "Now tea."}],
            "non_preferred_output": [{"role": "assistant", "content": AWKWARD}],
        }
    ]


def test_kto_unpairs_each_pair_into_a_good_and_a_bad_row(tmp_path: Path) -> None:
    made = frames([Choice(TALK, "Now tea.", "No."), Choice(asked("Why?"), "So.", "Because.")])
    table = pl.read_parquet(kto.export(rows_of(made), tmp_path / "train", 3))
    found = {(row["completion"][0]["content"], row["label"]): row for row in table.iter_rows(named=True)}
    assert set(found) == {("Now tea.", True), ("No.", False), ("So.", True), ("Because.", False)}
    assert all(row["completion"][0]["role"] == "assistant" for row in found.values())
    assert [turn["content"] for turn in found["No.", False]["prompt"]] == [text for _, text in TALK]
    assert found["So.", True]["pair_id"] == found["Because.", False]["pair_id"]


def test_kto_shows_both_classes_from_the_first_rows_on(tmp_path: Path) -> None:
    table = pl.read_parquet(kto.export(rows_of(frames(numbered(60))), tmp_path / "train", 3))
    good = table["label"].cast(pl.Int64).cum_sum()
    for length in range(2, 121):
        # of n rows ceil(n / 2) or floor(n / 2) are good
        assert good[length - 1] in {length // 2, (length + 1) // 2}
    starts = Counter(table["label"].gather_every(2).to_list())
    assert min(starts[True], starts[False]) >= 15  # 60 fair coins: 15 or fewer on a side is four sigma away


def test_kto_shuffles_by_content_and_seed(tmp_path: Path) -> None:
    rows = rows_of(frames(numbered(60)))
    first = kto.export(rows, tmp_path / "first", 3).read_bytes()
    assert kto.export(rows.reverse(), tmp_path / "again", 3).read_bytes() == first
    assert kto.export(rows, tmp_path / "other", 4).read_bytes() != first
    table = pl.read_parquet(tmp_path / "first.parquet")
    apart = table["pair_id"] == table["pair_id"].shift()
    # a pair's two answers meet about once or twice in 119 neighbours: TRL's KL term mixes neighbours
    assert (apart.sum() or 0) <= 6


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_an_empty_split_keeps_the_columns(name: str, tmp_path: Path) -> None:
    rows = rows_of(frames(numbered(2)))
    full = FORMATS[name].export(rows, tmp_path / "train", 0)
    empty = FORMATS[name].export(rows.clear(), tmp_path / "test", 0)
    if empty.suffix == ".parquet":
        assert pl.read_parquet(empty).height == 0
        assert pl.read_parquet_schema(empty) == pl.read_parquet_schema(full)
    else:
        assert empty.read_bytes() == b""


@pytest.mark.parametrize("name", ["trl_dpo", "jsonl", "openai_dpo"])
def test_rows_are_sorted_by_pair_id(name: str, tmp_path: Path) -> None:
    rows = rows_of(frames(numbered(20)))
    straight = FORMATS[name].export(rows, tmp_path / "straight", 0)
    turned = FORMATS[name].export(rows.reverse(), tmp_path / "turned", 0)
    assert straight.read_bytes() == turned.read_bytes()
    if name != "openai_dpo":
        read = pl.read_parquet if straight.suffix == ".parquet" else pl.read_ndjson
        assert read(straight)["pair_id"].is_sorted()


def test_chosen_follows_the_verdict_and_never_the_position() -> None:
    made = frames(numbered(12))
    chosen_is_a = made["kept"].join(made["pairs"], on="pair_id").select(pl.col("chosen_id") == pl.col("sample_a"))
    assert 0 < chosen_is_a["chosen_id"].sum() < 12  # both positions occur
    rows = rows_of(made)
    assert rows["chosen"].str.starts_with("Good").all()
    assert rows["rejected"].str.starts_with("Bad").all()
    assert rows["p_chosen"].to_list() == pytest.approx([0.9] * 12)
    assert set(rows["chosen_temperature"]) == {0.3}
    assert set(rows["rejected_temperature"]) == {1.0}


def test_p_chosen_is_people_as_they_are_even_when_length_is_held_at_zero() -> None:
    made = frames([Choice(asked("Why?"), "So.", "No.")])
    first = made["kept"].join(made["pairs"], on="pair_id").select(pl.col("chosen_id") == pl.col("sample_a")).item()
    # people give the chosen answer .4; with the length difference at zero they would give it .7
    kept = made["kept"].with_columns(p_a=pl.lit(0.4 if first else 0.6), p_a_lc=pl.lit(0.7 if first else 0.3))
    rows = rows_of(made | {"kept": kept})
    assert rows["chosen"].to_list() == ["So."]
    assert rows["p_chosen"].to_list() == pytest.approx([0.4])


def test_the_split_is_the_coin_of_the_prompt() -> None:
    made = frames(numbered(40))
    rows = rows_of(made, seed=5, test_fraction=0.25)
    for prompt, split in rows.select("prompt_id", "split").iter_rows():
        assert (split == "test") == is_test(prompt, 5, 0.25)
    assert 2 <= (rows["split"] == "test").sum() <= 19  # 10 expected, 2.7 is one sigma
    assert set(rows_of(made, test_fraction=0.0)["split"]) == {"train"}


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("pairs", "is not in pairs/"),
        ("samples", "has an answer that is not in samples/"),
        ("prompts", "has a prompt that is not in prompts/"),
    ],
)
def test_a_kept_pair_that_cannot_be_joined_stops_the_stage(name: str, fault: str) -> None:
    made = frames(numbered(3))
    with pytest.raises(StageError, match=fault) as raised:
        rows_of(made | {name: made[name].head(made[name].height - 1)})
    assert "1 of 3 kept pairs" in str(raised.value)
    assert raised.value.exit_code == 1


def test_answers_of_another_pair_stop_the_stage() -> None:
    made = frames(numbered(2))
    first, second = made["kept"]["chosen_id"]
    swapped = made["kept"].with_columns(chosen_id=pl.Series([second, first]))
    with pytest.raises(StageError, match="not the pair's own two"):
        rows_of(made | {"kept": swapped})
    doubled = made["kept"].with_columns(chosen_id="rejected_id")
    with pytest.raises(StageError, match="not the pair's own two"):
        rows_of(made | {"kept": doubled})


def test_answers_to_another_prompt_stop_the_stage() -> None:
    made = frames(numbered(2))
    moved = made["samples"].with_columns(prompt_id=pl.lit(made["prompts"]["prompt_id"][0]))
    with pytest.raises(StageError, match=r"1 of 2 kept pairs .* has answers to another prompt"):
        rows_of(made | {"samples": moved})


def test_bug_1_equal_words_are_never_chosen_and_rejected() -> None:
    made = frames([Choice(asked("Why?"), "Same.", "Same.")])
    with pytest.raises(StageError, match="the same words as chosen and as rejected"):
        rows_of(made)


def test_the_stage_writes_every_format_and_the_card(tmp_path: Path) -> None:
    made = frames(numbered(30))
    with bench_of(tmp_path, made, export=[*FORMATS], test_fraction=0.3, seed=2) as bench:
        report = run_stage(bench, "export")
        assert report.rows_in["kept"] == 30
        dataset = bench.folder.path / "dataset"
        expected = rows_of(made, seed=2, test_fraction=0.3)
        for name, module in FORMATS.items():
            for split in ("train", "test"):
                part = expected.filter(pl.col("split") == split)
                alone = module.export(part, tmp_path / split, 2)
                assert (dataset / name / alone.name).read_bytes() == alone.read_bytes()
        sizes = [pl.read_parquet(dataset / "trl_dpo" / f"{split}.parquet").height for split in ("train", "test")]
        assert sum(sizes) == 30
        assert (dataset / "README.md").read_text(encoding="utf-8").startswith("---\npretty_name: small\n")
        assert run_stage(bench, "export").skipped
    with Workbench(bench.config.model_copy(update={"export": ("jsonl",)}), bench.folder.path, tmp_path) as bench:
        assert not run_stage(bench, "export").skipped
        assert sorted(path.name for path in dataset.iterdir()) == ["README.md", "jsonl"]


def test_a_new_drop_before_the_export_renews_the_card(tmp_path: Path) -> None:
    with bench_of(tmp_path, frames(numbered(3))) as bench:
        run_stage(bench, "export")
        for stage, skipped in (("select", False), ("evaluate", True)):
            drop = pl.DataFrame({"stage": [stage], "id": ["x"], "reason": ["tie"]})
            bench.folder.write_part("dropped", stage, "all", drop, {})
            assert run_stage(bench, "export").skipped is skipped
        assert "| select | tie | 1 |" in (bench.folder.path / "dataset" / "README.md").read_text()


def test_nothing_kept_says_where_the_reasons_are(tmp_path: Path) -> None:
    made = frames(numbered(2))
    with (
        bench_of(tmp_path, made | {"kept": made["kept"].clear()}) as bench,
        pytest.raises(StageError, match=r"nothing was kept.*dropped/.*jurybox report"),
    ):
        run_stage(bench, "export")
    assert not (bench.folder.path / "dataset").exists()


OWN = """
def short(rows, path, seed):
    target = path.with_suffix(".txt")
    target.write_text("WORD" * rows.height)
    return target

def lost(rows, path, seed):
    return path
"""


def test_a_users_own_format_is_a_folder_of_its_name(tmp_path: Path) -> None:
    own = tmp_path / "mine.py"
    own.write_text(OWN)
    with bench_of(tmp_path, frames(numbered(3)), export=["./mine.py:short"], test_fraction=0.0) as bench:
        run_stage(bench, "export")
        train = bench.folder.path / "dataset" / "short" / "train.txt"
        assert train.read_text() == "WORD" * 3
        assert run_stage(bench, "export").skipped
        own.write_text(OWN.replace("WORD", "words"))
        importlib.reload(discovery)  # as a later process would find it
        assert not run_stage(bench, "export").skipped
        assert train.read_text() == "words" * 3


def test_a_users_own_format_that_writes_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    with (
        bench_of(tmp_path, frames(numbered(3)), export=["./mine.py:lost"]) as bench,
        pytest.raises(StageError, match=r"'./mine.py:lost' returned .* must write one file"),
    ):
        run_stage(bench, "export")
    assert not (bench.folder.path / "dataset").exists()


@pytest.mark.parametrize(
    ("formats", "message"),
    [
        (["./none.py:short"], "which does not exist"),
        (["kto", "kto"], "names kto more than once"),
    ],
)
def test_wrong_formats_are_refused_before_anything_is_written(formats: list[str], message: str, tmp_path: Path) -> None:
    with (
        bench_of(tmp_path, frames(numbered(2)), export=formats) as bench,
        pytest.raises(ConfigError, match=message),
    ):
        run_stage(bench, "export")
    assert not (bench.folder.path / "dataset").exists()
