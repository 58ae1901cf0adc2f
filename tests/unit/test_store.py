"""Pins down the run's folder: files whole or absent, parts that carry what they were made from, digests of content."""

from pathlib import Path

import polars as pl
import pytest
from dataframely.exc import ValidationError

from pipeline import schemas, store
from pipeline.errors import StorageError
from pipeline.store import RunFolder, slice_digest, whole
from tests.worlds import samples


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


ROWS = samples({"q": ["x", "yy"], "r": ["zzz"]})


def test_a_frame_without_parts_is_empty(run: RunFolder) -> None:
    assert run.read("samples").equals(schemas.frame("samples", []))


def test_parts_come_back_with_their_notes(run: RunFolder) -> None:
    run.write_part("samples", "generate", "0-m", ROWS, {"stamp": "s"})
    assert run.read("samples").equals(ROWS)
    assert run.notes("samples", "generate", "0-m") == {"stamp": "s"}
    assert run.notes("samples", "generate", "1-m") == {}


@pytest.mark.parametrize("names", [("a-b", "a_b"), ("a/b", "a:b"), ("a b", "a+b"), ("a%2Fb", "a/b"), ("é", "e")])
def test_two_shards_never_share_a_file(run: RunFolder, names: tuple[str, str]) -> None:
    parts = {run.part("samples", "generate", name) for name in names}
    assert len(parts) == 2
    assert {part.parent for part in parts} == {run.path / "samples"}
    for name, row in zip(names, (ROWS.head(1), ROWS.tail(2)), strict=True):
        run.write_part("samples", "generate", name, row, {})
    assert run.read("samples").sort("sample_id").equals(ROWS)


def test_a_failed_write_leaves_what_was_there(run: RunFolder) -> None:
    run.write_text("a.txt", "before")

    def half() -> None:
        with whole(run.path / "a.txt") as file:
            file.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert (run.path / "a.txt").read_text() == "before"
    assert [path.name for path in run.path.iterdir()] == ["a.txt"]


def test_a_full_disk_is_a_storage_error_with_a_remedy(run: RunFolder) -> None:
    with pytest.raises(StorageError, match=r"a\.txt: cannot be written .*free space"), whole(run.path / "a.txt"):
        raise OSError(28, "No space left on device")
    assert list(run.path.iterdir()) == []


def test_a_replaced_folder_is_old_or_new(run: RunFolder) -> None:
    run.replace_folder("dataset", lambda folder: (folder / "a").write_text("1") and None)
    with pytest.raises(RuntimeError):
        run.replace_folder("dataset", lambda _folder: (_ for _ in ()).throw(RuntimeError()))
    assert [path.name for path in (run.path / "dataset").iterdir()] == ["a"]
    run.replace_folder("dataset", lambda folder: (folder / "b").write_text("2") and None)
    assert [path.name for path in (run.path / "dataset").iterdir()] == ["b"]
    assert sorted(path.name for path in run.path.iterdir()) == ["dataset"]


def test_a_part_that_breaks_its_schema_is_never_written(run: RunFolder) -> None:
    with pytest.raises(Exception, match="sample_id"):
        run.write_part("samples", "generate", "all", ROWS.with_columns(pl.lit("short").alias("sample_id")), {})
    assert run.parts("samples") == []


def test_pruning_takes_the_owners_parts_alone(run: RunFolder) -> None:
    for owner in ("pair", "import"):
        for shard in ("a", "b"):
            run.write_part("samples", owner, shard, ROWS, {})
    run.prune("samples", "pair", {"a"})
    assert [path.name for path in run.parts("samples")] == [
        "part-import-a.parquet",
        "part-import-b.parquet",
        "part-pair-a.parquet",
    ]


def test_digests_hang_on_rows_and_not_on_their_order() -> None:
    shuffled = ROWS.sample(fraction=1, shuffle=True, seed=2)
    assert slice_digest({"samples": ROWS}) == slice_digest({"samples": shuffled})
    changed = ROWS.with_columns(pl.lit("other").alias("completion"), pl.lit(5).alias("characters"))
    assert slice_digest({"samples": changed}) != slice_digest({"samples": ROWS})


def test_artefacts(run: RunFolder) -> None:
    assert run.read_json("a.json") is None
    run.write_json("a.json", {"b": "é", "a": 1})
    assert (run.path / "a.json").read_text() == '{\n  "b": "é",\n  "a": 1\n}\n'
    assert run.read_json("a.json") == {"a": 1, "b": "é"}
    before = run.digest("a.json")
    run.write_json("a.json", {"a": 2})
    assert run.digest("a.json") != before
    (run.path / "a.json").write_text("{")
    with pytest.raises(StorageError, match="delete it and run its stage again"):
        run.read_json("a.json")


def test_a_parts_digest_hangs_on_its_rows_alone(run: RunFolder) -> None:
    def digest(rows: pl.DataFrame, **notes: str) -> str:
        run.write_part("samples", "generate", "all", rows, notes)
        return run.digest("samples")

    first = digest(ROWS, seconds="1.0", stamp="x")
    assert digest(ROWS, seconds="2.25", stamp="another, and longer") == first
    assert digest(ROWS.sample(fraction=1, shuffle=True, seed=2)) == first
    # however the rows were put together in memory
    assert digest(pl.concat([ROWS[:1], ROWS[1:]], rechunk=False)) == first
    assert digest(ROWS.with_columns(pl.lit("other").alias("completion"), pl.lit(5).alias("characters"))) != first
    assert digest(ROWS.head(1)) != first
    run.parts("samples")[0].write_bytes(b"PAR1 cut")
    with pytest.raises(StorageError, match=r"is no whole Parquet file\); delete the folder and run the stage again"):
        run.digest("samples")


def verdicts(rows: int) -> pl.DataFrame:
    """Verdicts by judges of long and short names, by all of them, some or none."""
    judges = [["gpt", "a judge with a long name"], [], ["gpt"], ["a judge with a long name"], ["gpt", "claude"]]
    made = {
        "pair_id": pl.Series([f"{at:032x}" for at in range(rows)]),
        "judges": pl.Series(judges).gather([at % len(judges) for at in range(rows)]),
    }
    constant = {"p_a": 0.9, "p_a_lc": 0.8, "margin": 0.8, "calls": 2, "agreement": 1.0}
    return schemas.frame(
        "verdicts", pl.DataFrame(made).with_columns(**{key: pl.lit(constant[key]) for key in constant})
    )


@pytest.mark.parametrize(("rows", "size"), [(7, 2), (7, 7), (7, 1 << 17), (100_000, 1 << 16), (40_000, 1 << 17)])
def test_equal_lists_are_equal_bytes(run: RunFolder, monkeypatch: pytest.MonkeyPatch, rows: int, size: int) -> None:
    monkeypatch.setattr(store, "PIECE", size)
    made = verdicts(rows)

    def digest(rows: pl.DataFrame) -> str:
        run.write_part("verdicts", "aggregate", "all", rows, {})
        assert run.read("verdicts").equals(made)
        return run.digest("verdicts")

    first = digest(made)
    # a part of a longer column, and one put together of several
    longer = pl.concat([made, made], rechunk=True)
    assert digest(longer.slice(rows)) == first
    assert digest(pl.concat([longer.head(3), longer.slice(rows + 3)], rechunk=False)) == first


def test_a_long_frame_lies_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PIECE", 3)
    made = pl.concat([verdicts(7).head(2), verdicts(7).slice(2)], rechunk=False)
    found = store.pieces(made)
    assert found.equals(made)
    assert [found[name].chunk_lengths() for name in ("pair_id", "judges")] == [[3, 3, 1]] * 2
    assert store.pieces(made.clear()).equals(made.clear())


def test_heights_are_those_of_what_is_read(run: RunFolder) -> None:
    assert run.height("samples") == run.height("verdicts") == 0
    assert run.scan("samples").collect().equals(run.read("samples"))
    run.write_part("samples", "generate", "0", ROWS, {})
    run.write_part("samples", "generate", "1", ROWS, {})  # another generator wrote the same
    assert run.height("samples") == run.read("samples").height == ROWS.height
    assert run.scan("samples", "sample_id").collect().shape == (2 * ROWS.height, 1)


def test_a_key_that_is_there_twice_is_refused_among_sorted_rows_too(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_part("samples", "load", "one", ROWS, {})
    with pytest.raises(ValidationError):
        run.write_part("samples", "load", "two", pl.concat([ROWS, ROWS.head(1)]), {})
    assert not run.part("samples", "load", "two").exists()
    with pytest.raises(ValidationError):
        run.write_part("samples", "load", "two", ROWS.with_columns(sample_index=pl.lit(-1)), {})


def test_a_sample_whose_length_is_not_that_of_its_text_is_refused(run: RunFolder) -> None:
    with pytest.raises(ValidationError, match="counted"):
        run.write_part("samples", "import", "a", ROWS.with_columns(characters=pl.lit(99)), {})
