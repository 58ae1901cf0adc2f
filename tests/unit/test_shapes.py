"""Pins down files of other origin: every shape is known by its columns and read alike however it is stored."""

import csv
import gzip
import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from pipeline.commands import imports
from pipeline.commands.explain import explain
from pipeline.errors import DataError, StageError
from pipeline.importers.base import Refused
from pipeline.importers.reading.seat import shapes, sniffed
from pipeline.importers.reading.tables import Source, hub, table
from pipeline.labels.unpaired import unpaired_rows
from pipeline.runner import run_stage
from pipeline.sampling.turns import with_system
from pipeline.schemas import THUMB
from pipeline.stages.export import SPLITS
from pipeline.workbench import Workbench
from tests.files import SHAPES, Rows, said, user
from tests.worlds import bench, world

DOCS = Path(__file__).parents[2] / "docs" / "data.md"


def lines(rows: Rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def stored(folder: Path, rows: Rows, name: str = "file.jsonl") -> Path:
    file = folder / name
    file.write_text(lines(rows), encoding="utf-8")
    return file


def opinions(run: Workbench) -> list[tuple[str, str, float | str]]:
    """(who, the words of the file's first answer, what was said of it), whichever way round the run keeps the pair."""
    pairs = run.folder.read("pairs")
    texts = dict(run.folder.read("samples").select("sample_id", "completion").iter_rows())
    first = {
        row["pair_id"]: texts[row["sample_b" if row["external_flipped"] else "sample_a"]]
        for row in pairs.iter_rows(named=True)
    }
    flipped = dict(pairs.select("pair_id", "external_flipped").iter_rows())
    turned: dict[str, str] = {"a": "b", "b": "a", "tie": "tie"}
    found: list[tuple[str, str, float | str]] = []
    for row in run.folder.read("judgments").iter_rows(named=True):
        share = 1 - row["preference"] if flipped[row["pair_id"]] else row["preference"]
        found.append((row["judge"], first[row["pair_id"]], share))
    for row in run.folder.read("labels").iter_rows(named=True):
        label = turned[row["label"]] if flipped[row["pair_id"]] else row["label"]
        found.append((row["annotator"], first[row["pair_id"]], label))
    return found


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_known_and_read(name: str, tmp_path: Path) -> None:
    shape = SHAPES[name]
    file = stored(tmp_path, shape.rows)
    known = {one: fits for one, (fits, _) in shapes().items()}
    assert sniffed(table(Source(file)), shape.kind, known) == shape.importer  # type: ignore[arg-type]
    with bench(tmp_path) as run:
        made, _ = imports.run(run, shape.kind, file)
        wanted = shape.made
        assert {frame: made.get(frame) for frame in wanted} == wanted
        assert sorted(opinions(run), key=str) == sorted(shape.opinions, key=str)


@pytest.mark.parametrize("name", [name for name, shape in SHAPES.items() if shape.kind == "pairs"])
def test_the_importer_can_be_named_and_every_kind_of_command_reads_a_shape(name: str, tmp_path: Path) -> None:
    shape = SHAPES[name]
    file = stored(tmp_path, shape.rows)
    for kind in ("prompts", "samples", "judgments"):
        with bench(tmp_path / kind) as run:
            if kind == "judgments" and name == "Chatbot Arena votes":
                # two voters' judgments of one pair, by name
                assert imports.run(run, kind, file, shape.importer)[0]["judgments"] == 2
                continue
            made, _ = imports.run(run, kind, file, shape.importer)
            assert made["prompts"]
            assert kind == "prompts" or made["samples"] >= 2


@pytest.mark.parametrize(
    "name", ["TRL, explicit prompt", "HH-RLHF transcripts", "HelpSteer 3, preferences", "OpenAI, DPO"]
)
def test_a_choice_is_the_label_of_the_annotator_named_in_the_command(name: str, tmp_path: Path) -> None:
    file = stored(tmp_path, SHAPES[name].rows)
    for kind in ("pairs", "labels"):
        with bench(tmp_path / kind) as run:
            imports.run(run, kind, file, annotator="ann")
            assert opinions(run) == [("ann", "A soft metal.", "a")]
            assert run.folder.read("labels")["queue"].to_list() == ["audit"]
    with bench(tmp_path / "none") as run, pytest.raises(DataError, match=r"annotator_missing.*--annotator"):
        imports.run(run, "labels", file)


def test_marks_are_judgments_beside_the_label_of_the_annotator(tmp_path: Path) -> None:
    file = stored(tmp_path, SHAPES["UltraFeedback, binarized"].rows, "uf binarized.jsonl")
    with bench(tmp_path) as run:
        imports.run(run, "pairs", file, annotator="ann")
        assert sorted(opinions(run)) == [("ann", "A soft metal.", "a"), ("uf-binarized", "A soft metal.", 1.0)]


def test_marks_of_answers_are_ratings(tmp_path: Path) -> None:
    file = stored(tmp_path, SHAPES["HelpSteer 2, ratings"].rows, "train.jsonl")
    with bench(tmp_path) as run:
        imports.run(run, "samples", file)
        rows = run.folder.read("ratings")
        assert set(rows["judge"]) == {"train"}
        assert sorted(rows.filter(pl.col("aspect") == "helpfulness")["score"]) == [1.0, 4.0]


def test_thumbs_on_single_answers_are_a_dataset_for_kto(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Q{at}?", "completion": f"answer {at}", "label": label}
        for at, label in enumerate((True, False, True, False, True))
    ]
    file = stored(tmp_path, [*rows, {**rows[0], "label": False}])  # one person likes answer 0 and another does not
    with bench(tmp_path, export=["kto"], test_fraction=0.4) as run:
        made, refused = imports.run(run, "samples", file)
        assert (made["samples"], made["ratings"], refused.rows) == (5, 5, {"file.jsonl:6": "duplicate"})
        run_stage(run, "export")
        found = pl.concat(
            [pl.read_parquet(run.folder.path / "dataset" / "kto" / f"{split}.parquet") for split in SPLITS]
        )
        told = sorted((row["completion"][0]["content"], row["label"]) for row in found.iter_rows(named=True))
        assert told == [(row["completion"], row["label"]) for row in rows[1:]]
        assert "4 single answers" in (run.folder.path / "dataset" / "README.md").read_text()
    with bench(tmp_path / "pairs", export=["kto", "jsonl"]) as run:
        imports.run(run, "samples", file)
        with pytest.raises(StageError, match="nothing was kept"):
            run_stage(run, "export")


def test_a_single_answer_that_is_in_a_kept_pair_comes_once(tmp_path: Path) -> None:
    made = world({"q": ["x", "yy", "zzz"]})
    (one, other, third) = sorted(made["samples"]["sample_id"])
    ratings = pl.DataFrame(
        [{"sample_id": key, "judge": "f", "aspect": THUMB, "score": 1.0, "call_keys": []} for key in (one, third)],
        schema_overrides={"call_keys": pl.List(pl.String)},
    )
    kept = pl.DataFrame({"chosen_id": [one], "rejected_id": [other]})
    frames = (ratings.lazy(), made["samples"].lazy(), made["prompts"].lazy())
    rows = unpaired_rows(*frames, kept, seed=0, test_fraction=0.0)
    assert rows.select("pair_id", "rejected", "split").rows() == [(third, None, "train")]


# How rows are stored.

PAIR = {"prompt": "P", "response_a": "x", "response_b": "y"}
ROWS: Rows = [
    {"pair_id": 1, "prompt": "Wie heißt du?", "response_a": 'Ä, "so"\nund so', "response_b": "B", "model_a": None},
    {"pair_id": 2, "prompt": "P", "response_a": "x", "response_b": "y", "model_a": "m"},
]


def as_csv(separator: str = ",") -> str:
    import io

    out = io.StringIO()
    writer = csv.DictWriter(out, list(ROWS[0]), delimiter=separator)
    writer.writeheader()
    writer.writerows(ROWS)
    return out.getvalue()


def parquet(folder: Path) -> bytes:
    pl.DataFrame(ROWS).write_parquet(folder / "raw")
    return (folder / "raw").read_bytes()


def zstd(raw: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(raw)
    return sink.getvalue().to_pybytes()


STORED = {
    "f.jsonl": lambda _: lines(ROWS).encode(),
    "mark.jsonl": lambda _: b"\xef\xbb\xbf" + lines(ROWS).encode(),
    "crlf.jsonl": lambda _: lines(ROWS).replace("\n", "\r\n").encode(),
    "u16.jsonl": lambda _: (
        json.dumps(ROWS[0], ensure_ascii=False).encode("utf-16") + ("\n" + lines(ROWS[1:])).encode("utf-16-le")
    ),
    "u16be.jsonl": lambda _: lines(ROWS).encode("utf-16-be"),
    "list.json": lambda _: json.dumps(ROWS, indent=1).encode(),
    "f.csv": lambda _: as_csv().encode(),
    "f.tsv": lambda _: as_csv("\t").encode("utf-8-sig"),
    "semicolon.csv": lambda _: as_csv(";").encode(),
    "f.parquet": parquet,
    "f.jsonl.gz": lambda _: gzip.compress(lines(ROWS).encode()),
    "f.csv.gz": lambda _: gzip.compress(as_csv().encode()),
    "f.jsonl.zst": lambda _: zstd(lines(ROWS).encode()),
    "f.parquet.zst": lambda folder: zstd(parquet(folder)),
}


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("place", ["plain", "a[1]*?"])
def test_rows_are_the_same_however_they_are_stored_and_wherever(name: str, place: str, tmp_path: Path) -> None:
    folder = tmp_path / place
    folder.mkdir()
    raw = STORED[name](tmp_path)
    (folder / name).write_bytes(raw)
    (tmp_path / "a1").mkdir()
    with bench(tmp_path) as run:
        imports.run(run, "pairs", folder / name)
        pairs, samples = run.folder.read("pairs"), run.folder.read("samples")
        assert sorted(pairs["external_id"]) == ["1", "2"]
        assert set(samples["model"]) == {"m", "imported"}
        text = 'Ä, "so"\nund so'
        assert text in samples["completion"].to_list()


def test_a_saved_dataset_and_a_folder_of_files(tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    made = datasets.Dataset.from_list(ROWS)
    folder = tmp_path / "saved[1]"
    folder.mkdir()
    made.save_to_disk(str(folder / "one"))
    datasets.DatasetDict({"train": made, "test": made.select([0])}).save_to_disk(str(folder / "many"))
    datasets.DatasetDict({"a": made, "b": made}).save_to_disk(str(folder / "no_train"))
    (folder / "files").mkdir()
    for at, row in enumerate(ROWS):
        stored(folder / "files", [row], f"train-0000{at}-of-00002.jsonl")
    stored(folder / "files", ROWS[:1], "test-00000-of-00001.jsonl")
    for source, count in (
        (Source(folder / "one"), 2),
        (Source(folder / "many"), 2),
        (Source(folder / "many", "test"), 1),
        (Source(folder / "files"), 2),
        (Source(folder / "files", "test"), 1),
    ):
        rows = table(source).rows
        assert len(rows) == count
        assert "model_a" not in rows[0][1]
    with pytest.raises(DataError, match="no split 'train'; allowed: a, b; name one with --split"):
        table(Source(folder / "no_train"))
    (folder / "one" / "state.json").write_text("{")
    with pytest.raises(DataError, match="no whole saved dataset"):
        table(Source(folder / "one"))


def test_a_dataset_on_the_hub_goes_through_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub is not reachable in tests: a folder with a repository's layout goes the same way."""
    import datasets

    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "repo").mkdir()
    datasets.Dataset.from_list(ROWS).to_parquet(str(tmp_path / "repo" / "train.parquet"))
    rows = list(hub(str(tmp_path / "repo"), Source(Path("org/name"))))
    assert [row["pair_id"] for _, row in rows] == [1, 2]

    def missing(name: str, subset: str | None) -> None:
        raise FileNotFoundError(f"Dataset '{name}' doesn't exist on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", missing)
    with pytest.raises(DataError, match=r"org/name: is no file or folder here.*doesn't exist on the Hub"):
        table(Source(Path("org/name")))


@pytest.mark.parametrize(
    ("name", "raw", "hint"),
    [
        ("cut.jsonl.gz", gzip.compress(b'{"a": 1}\n', mtime=0)[:-9], "cannot be unpacked"),
        ("cut.jsonl.zst", b"\x28\xb5\x2f\xfdxxxx", "cannot be unpacked"),
        ("cut.parquet", b"PAR1xxxx", "no whole .parquet file"),
        ("f.csv", b"a,b\n1,2,3\n", "f.csv:2: has more cells than the header names"),
        ("f.jsonl", b'{"a": "\xff"}', "save it as UTF-8"),
        ("empty.csv", b"a,b\n", "is empty"),
        ("empty.json", b"[]", "is empty"),
    ],
)
def test_a_broken_file_is_named(name: str, raw: bytes, hint: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(DataError, match=hint) as found:
        table(Source(tmp_path / name))
    assert name in str(found.value)


# Columns of other names, and values as files spell them.


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    rows = [{"q": {"text": "What is tin?"}, "better": "A soft metal.", "worse": "No idea."}]
    names = {"prompt": "q.text", "chosen": "better", "rejected": "worse"}
    with bench(tmp_path, columns=names) as run:
        imports.run(run, "pairs", stored(tmp_path, rows), annotator="ann")
        assert opinions(run) == [("ann", "A soft metal.", "a")]


def test_all_missing_columns_are_named_at_once(tmp_path: Path) -> None:
    with bench(tmp_path) as run, pytest.raises(DataError) as found:
        imports.run(run, "pairs", stored(tmp_path, [{"prompt": "P", "first": "x"}]))
    told = str(found.value)
    assert "missing columns: pair_id, response_a, response_b; found: prompt, first" in told
    assert "columns: {pair_id: their name}" in told
    assert "ultrafeedback" in told


def test_a_file_of_which_nothing_can_be_read_says_why_per_kind_of_fault(tmp_path: Path) -> None:
    good = {"pair_id": "1", "annotator": "ann", "label": "a"}
    rows = [{**good, "label": 1}, {**good, "label": True}, {**good, "annotator": None}]
    with bench(tmp_path) as run, pytest.raises(DataError) as found:
        imports.run(run, "labels", stored(tmp_path, rows))
    told = str(found.value)
    assert "none of 3 rows can be imported" in told
    assert "annotator_missing 1 times" in told
    assert "label_unknown 2 times: file.jsonl:1: found 1, allowed: a, b, tie" in told


SPELT = {
    "a": ("A", "model_a", "response_1", "[[A]]"),
    "b": ("model_b", " b ", "B"),
    "tie": ("Tie", "tie (bothbad)", "both_bad"),
    None: (1, -1, True, "1", "c"),
}
THUMBS = {
    True: (True, 1, 1.0, "True", "up", "thumbs_up", "\N{THUMBS UP SIGN}"),
    False: (False, 0, -1, "bad", "thumbs-down"),
    None: (0.5, "maybe"),
}


@pytest.mark.parametrize(("spelt", "label"), [(one, label) for label, many in SPELT.items() for one in many])
def test_a_label_is_understood_or_refused_with_its_value(spelt: object, label: str | None, tmp_path: Path) -> None:
    pairs = [{"pair_id": 7, "prompt": "P", "response_a": "x", "response_b": "y"}]
    good = {"pair_id": "7.0", "annotator": "one", "label": "tie"}
    rows = [good, {**good, "annotator": "two", "label": spelt}]
    with bench(tmp_path) as run:
        imports.run(run, "pairs", stored(tmp_path, pairs, "p.jsonl"))
        _, refused = imports.run(run, "labels", stored(tmp_path, rows))
        if label is None:
            assert refused.rows == {"file.jsonl:2": "label_unknown"}
            assert refused.details == {"file.jsonl:2": f"found {spelt!r}, allowed: a, b, tie"}
        else:
            assert [said for who, _, said in opinions(run) if who == "two"] == [label]


@pytest.mark.parametrize(("spelt", "good"), [(one, good) for good, many in THUMBS.items() for one in many])
def test_thumbs(spelt: object, good: bool | None, tmp_path: Path) -> None:
    base = {"prompt": "P", "completion": "x", "label": True}
    rows = [base, {**base, "completion": "y", "label": spelt}]
    with bench(tmp_path) as run:
        _, refused = imports.run(run, "samples", stored(tmp_path, rows), "trl")
        marks = dict(
            run.folder.read("ratings")
            .join(run.folder.read("samples"), on="sample_id")
            .select("completion", "score")
            .iter_rows()
        )
        assert marks.get("y") == (None if good is None else float(good))
        assert refused.rows == ({"file.jsonl:2": "label_unknown"} if good is None else {})


# Every row is somewhere.


def counted(made: dict[str, int], refused: Refused, *frames: str) -> int:
    return sum(made.get(frame, 0) for frame in frames) + len(refused.rows)


def test_every_row_has_one_reason(tmp_path: Path) -> None:
    sample = {"prompt": "P", "completion": "c"}
    rows: Rows = [
        sample,
        {**sample, "completion": "d", "id": "x"},
        sample,  # a repeat without an id
        {**sample, "id": "x"},  # a repeat under an id that is taken
        {"prompt": "P", "id": "bad"},
        {"prompt": "P", "id": "bad"},
        {"prompt": "", "id": "bad"},
    ]
    with bench(tmp_path) as run:
        made, refused = imports.run(run, "samples", stored(tmp_path, rows))
        assert made["samples"] == 2
        assert refused.rows == {
            "file.jsonl:3": "duplicate",
            "x": "duplicate",
            "bad": "completion_missing",
            "file.jsonl:6": "completion_missing",
            "file.jsonl:7": "prompt_empty",
        }
        dropped = run.folder.read("dropped")
        assert dict(dropped.select("id", "reason").iter_rows()) == refused.rows

        pair = {"pair_id": "p1", "prompt": "P", "response_a": "x", "response_b": "y"}
        pairs = [
            pair,
            pair,
            {**pair, "pair_id": "p2"},
            {**pair, "pair_id": "p3", "response_b": "x"},
            {**pair, "pair_id": None},
        ]
        made, refused = imports.run(run, "pairs", stored(tmp_path, pairs, "p.jsonl"))
        assert counted(made, refused, "pairs", "aliases") == len(pairs)

        label = {"pair_id": "p1", "annotator": "ann", "label": "a"}
        labels = [label, label, label, {**label, "pair_id": "no"}, {**label, "pair_id": "no"}, {**label, "label": "?"}]
        made, refused = imports.run(run, "labels", stored(tmp_path, labels, "l.jsonl"))
        assert counted(made, refused, "labels") == len(labels)

        judgment = {"pair_id": "p1", "judge": "j", "preference": "a"}
        judgments = [judgment, judgment, judgment, {**judgment, "pair_id": "no"}, {**judgment, "pair_id": "no"}]
        made, refused = imports.run(run, "judgments", stored(tmp_path, judgments, "j.jsonl"))
        assert counted(made, refused, "judgments") == len(judgments)

        # what another file brought before is known, not lost
        made, refused = imports.run(run, "pairs", stored(tmp_path, [*pairs, {**pair, "pair_id": "p4"}], "q.jsonl"))
        assert counted(made, refused, "pairs", "aliases") == len(pairs) + 1
        assert refused.rows["p1"] == "known"
        made, refused = imports.run(run, "prompts", stored(tmp_path, [{"prompt": "P"}, {"prompt": "Q"}], "r.jsonl"))
        assert (made, refused.rows) == ({"prompts": 1}, {"r.jsonl:1": "known"})


def test_an_opinion_of_the_other_kind_is_a_reason(tmp_path: Path) -> None:
    file = stored(tmp_path, SHAPES["MT-Bench human judgments"].rows)
    with bench(tmp_path) as run:
        made, refused = imports.run(run, "labels", file)
        assert made["labels"] == 1
        assert refused.rows == {"file.jsonl:2": "earlier_answers_differ", "file.jsonl:3": "no_label"}
        with pytest.raises(DataError, match="holds no pairs; import it as samples"):
            imports.run(run, "pairs", stored(tmp_path, SHAPES["AlpacaEval outputs"].rows, "outputs.jsonl"))


def test_a_file_with_two_shapes_asks_for_one(tmp_path: Path) -> None:
    row = {"conversations": [{"from": "human", "value": "Q?"}], "messages": [user("Q?"), said("A.")]}
    file = stored(tmp_path, [row])
    with bench(tmp_path) as run:
        with pytest.raises(DataError, match="may have the shape of openai_chats or sharegpt; name one with --format"):
            imports.run(run, "prompts", file)
        assert imports.run(run, "prompts", file, "sharegpt")[0] == {"prompts": 1}


def test_a_developer_turn_is_a_system_message(tmp_path: Path) -> None:
    turns = (("developer", "Be short."), ("user", "Q?"))
    assert with_system(turns, "Be long.") == turns
    assert with_system(turns[1:], "Be long.") == (("system", "Be long."), turns[1])


# Several ids of one pair.


def test_every_id_of_a_pair_finds_it_the_right_way_round(tmp_path: Path) -> None:
    pair = {"prompt": "Q?", "response_a": "short", "response_b": "long and full"}
    swapped = {"prompt": "Q?", "response_a": "long and full", "response_b": "short"}
    files = [
        [{**pair, "pair_id": "v1"}, {**swapped, "pair_id": "v2"}],
        [{**pair, "pair_id": "v3"}, {**swapped, "pair_id": "v4"}],
    ]
    votes = [("v1", "b"), ("v2", "a"), ("v3", "b"), ("v4", "a")]
    with bench(tmp_path) as run:
        for at, rows in enumerate(files):
            made, refused = imports.run(run, "pairs", stored(tmp_path, rows, f"{at}.jsonl"))
            assert (made["pairs"], made["aliases"], refused.rows) == ((1, 1, {}) if at == 0 else (0, 2, {}))
        labels = [{"pair_id": key, "annotator": f"p{key}", "label": label} for key, label in votes]
        assert imports.run(run, "labels", stored(tmp_path, labels, "l.jsonl"))[0] == {"labels": 4}
        judgments = [{"pair_id": key, "judge": f"j{key}", "preference": label, "order": "ab"} for key, label in votes]
        assert imports.run(run, "judgments", stored(tmp_path, judgments, "j.jsonl"))[0] == {"judgments": 4}
        # everybody prefers the same words
        assert {said for who, _, said in opinions(run) if who.startswith("p")} == {"b"}
        assert {said for who, _, said in opinions(run) if who.startswith("j")} == {0.0}
        # what v2 and v4 showed first is the other answer
        orders = dict(run.folder.read("judgments").select("judge", "order").cast({"order": pl.String}).iter_rows())
        assert orders["jv1"] == orders["jv3"] != orders["jv2"] == orders["jv4"]
        other = {"pair_id": "v3", "prompt": "Q?", "response_a": "x", "response_b": "y"}
        with pytest.raises(DataError, match="id_taken"):
            imports.run(run, "pairs", stored(tmp_path, [other], "o.jsonl"))


def test_rows_without_an_id_do_not_clash_with_another_file_of_the_same_name(tmp_path: Path) -> None:
    with bench(tmp_path) as run:
        for at, text in enumerate(("x", "y")):
            (tmp_path / str(at)).mkdir()
            rows = [{"prompt": "P", "chosen": text, "rejected": "z"}]
            made, refused = imports.run(run, "pairs", stored(tmp_path / str(at), rows, "train.jsonl"), annotator="ann")
            assert (made["pairs"], made["labels"], refused.rows) == (1, 1, {})
        assert run.folder.read("pairs")["external_id"].n_unique() == 2


# Messages.

CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
TOOLED = [
    {"role": "developer", "content": "Use tools."},
    user("Weather?"),
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "4 degrees"},
]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]


def test_tool_calls_pass_whole_to_judges_and_exports(tmp_path: Path) -> None:
    from pipeline.exports import jsonl, kto, openai_dpo, trl_dpo
    from pipeline.stages.export import dataset_rows
    from tests.worlds import compared, decided

    plain_row = {"messages": [user("Hi?")], "response_a": "x", "response_b": "longer", "pair_id": "2"}
    row = {"messages": TOOLED, "tools": TOOLS, "response_a": "Cold.", "response_b": "It is 4 degrees.", "pair_id": "1"}
    with bench(tmp_path) as run:
        imports.run(run, "pairs", stored(tmp_path, [row, plain_row]))
        frames = {name: run.folder.read(name) for name in ("prompts", "samples", "pairs")}
    shown = next(item.messages for item in compared(frames) if len(item.messages) > 1)
    assert [role for role, _ in shown] == ["developer", "user", "assistant", "tool"]
    assert '"name": "weather"' in shown[0][1]
    assert shown[2][1] == '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'
    assert shown[3][1] == "4 degrees"

    verdicts = decided(frames, lambda a, b: float(len(a) > len(b)))
    kept = verdicts.join(frames["pairs"], on="pair_id").with_columns(
        chosen_id=pl.when(pl.col("p_a") > 0.5).then("sample_a").otherwise("sample_b"),
        rejected_id=pl.when(pl.col("p_a") > 0.5).then("sample_b").otherwise("sample_a"),
    )
    rows = dataset_rows(
        kept.select(*verdicts.columns, "chosen_id", "rejected_id"),
        frames["pairs"],
        frames["samples"],
        frames["prompts"],
        seed=0,
        test_fraction=0.0,
    )
    told = [json.loads(line) for line in openai_dpo.export(rows, tmp_path / "o", 0).read_text().splitlines()]
    inputs = {len(one["input"]["messages"]): one["input"] for one in told}
    assert inputs[4]["messages"] == TOOLED
    assert inputs[4]["tools"] == TOOLS
    assert inputs[1] == {"messages": [user("Hi?")], "tools": [], "parallel_tool_calls": True}
    for made in (trl_dpo.export(rows, tmp_path / "t", 0), kto.export(rows, tmp_path / "k", 0)):
        table = pl.read_parquet(made)
        (prompt, tools) = next(pair for pair in table.select("prompt", "tools").iter_rows() if len(pair[0]) > 1)
        assert prompt[2]["tool_calls"] == [CALL]
        assert (prompt[3]["tool_call_id"], prompt[3]["content"]) == ("c1", "4 degrees")
        assert [json.loads(one) for one in tools] == TOOLS
    words = [json.loads(line)["prompt"] for line in jsonl.export(rows, tmp_path / "j", 0).read_text().splitlines()]
    assert any("[developer]" in text and "<tool_call>" in text and "[tool]\n4 degrees" in text for text in words)


def test_parts_of_text_are_joined_and_images_are_refused_by_name(tmp_path: Path) -> None:
    text = {"type": "text", "text": "What is "}
    rows: Rows = [
        {"messages": [{"role": "user", "content": [text, {"type": "text", "text": "tin?"}]}]},
        {"messages": [{"role": "user", "content": [text, {"type": "image_url", "image_url": {"url": "data:,"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
        {"prompt": [{"role": "user", "content": [{"type": "image"}, text]}], "images": ["x"]},
        {"conversations": [{"from": "system", "value": ""}, {"from": "human", "value": "Hi?"}]},
    ]
    with bench(tmp_path) as run:
        _, refused = imports.run(run, "prompts", stored(tmp_path, rows[:4]))
        assert run.folder.read("prompts")["messages"].to_list() == [[user("What is tin?")]]
        assert refused.rows == {
            "file.jsonl:2": "image_part",
            "file.jsonl:3": "audio_part",
            "file.jsonl:4": "image_part",
        }
        imports.run(run, "prompts", stored(tmp_path, rows[4:], "share.jsonl"))
        assert [user("Hi?")] in run.folder.read("prompts")["messages"].to_list()


def test_the_page_of_the_docs_names_every_shape() -> None:
    rows = [line.split("|")[1:-1] for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    told = {cells[0].strip(): re.findall(r"`([\w ]+)`", cells[1])[0] for cells in rows if cells[0].strip() in SHAPES}
    assert told == {name: shape.importer for name, shape in SHAPES.items()}
    importers = {name for line in rows for name in re.findall(r"`(\w+)`", line[1])}
    assert set(shapes()) <= importers


def test_a_choice_does_not_hang_on_which_side_it_stood(tmp_path: Path) -> None:
    found: list[Any] = []
    for at, (a, b, winner) in enumerate((("A metal.", "Metal.", "model_a"), ("Metal.", "A metal.", "model_b"))):
        chats = {f"conversation_{side}": [user("Tin?"), said(text)] for side, text in (("a", a), ("b", b))}
        row = {"model_a": "m", "model_b": "m", "winner": winner, "judge": "v", **chats}
        with bench(tmp_path / str(at)) as run:
            imports.run(run, "pairs", stored(tmp_path, [row]))
            found.append(run.folder.read("labels").drop("labelled_at").rows())
    assert found[0] == found[1]


def test_a_labels_file_in_the_config_tells_why_nothing_of_it_can_be_used(tmp_path: Path) -> None:
    rows = [{"pair_id": "1", "annotator": "ann", "label": label} for label in ("yes", "no")]
    stored(tmp_path, rows)
    with bench(tmp_path, labels={"path": "file.jsonl"}) as run:
        imports.run(run, "pairs", stored(tmp_path, [{**PAIR, "pair_id": "1"}], "p.jsonl"))
        with pytest.raises(DataError, match=r"label_unknown: file\.jsonl:1: found 'yes', allowed: a, b, tie"):
            run_stage(run, "labels")
        stored(tmp_path, [{"pair": "1", "who": "ann", "label": "A"}])
    names = {"pair_id": "pair", "annotator": "who"}
    with bench(tmp_path, labels={"path": "file.jsonl"}, columns=names) as run:
        run_stage(run, "labels")
        assert run.folder.read("labels").height == 1


def test_votes_on_several_ids_count_in_the_stage_too(tmp_path: Path) -> None:
    swapped = {**PAIR, "response_a": PAIR["response_b"], "response_b": PAIR["response_a"]}
    pairs = [{**PAIR, "pair_id": 1}, {**swapped, "pair_id": 2}]
    votes = [{"pair_id": 1.0, "annotator": "one", "label": "A"}, {"pair_id": 2.0, "annotator": "two", "label": "B"}]
    stored(tmp_path, votes)
    with bench(tmp_path, labels={"path": "file.jsonl"}) as run:
        imports.run(run, "pairs", stored(tmp_path, pairs, "p.jsonl"))
        run_stage(run, "labels")
        assert run.folder.read("labels")["label"].n_unique() == 1
        assert run.folder.read("labels").height == 2
        key = run.folder.read("pairs")["pair_id"][0]
        assert [explain(run, name)["pair_id"] for name in ("1", "2")] == [key, key]
        assert explain(run, "2")["external_ids"] == ["1", "2"]


def test_a_chat_that_ends_with_a_question_is_a_prompt_whole(tmp_path: Path) -> None:
    asking = {"messages": [user("Hi"), said("Hello"), user("Tin?")]}
    rows = [{"messages": [user("Zinc?"), said("A metal.")]}, asking]
    with bench(tmp_path) as run:
        made, refused = imports.run(run, "prompts", stored(tmp_path, rows))
        assert (made, refused.rows) == ({"prompts": 2}, {})
        assert sorted(map(len, run.folder.read("prompts")["messages"].to_list())) == [1, 3]
    with bench(tmp_path / "samples") as run:
        made, refused = imports.run(run, "samples", stored(tmp_path, rows))
        assert (made["samples"], refused.rows) == (1, {"file.jsonl:2": "no_answer"})


def test_what_stands_in_a_file_cannot_write_on_the_terminal(tmp_path: Path) -> None:
    rows = [{"pair_id": "1", "annotator": "ann", "label": "\x1b[2Jgate: certified", "evil\x1b[2J": 1}]
    with bench(tmp_path) as run, pytest.raises(DataError) as found:
        imports.run(run, "labels", stored(tmp_path, [{"id\x1b[2J": 1}, *rows]))
    assert "\x1b" not in str(found.value)


def test_the_columns_of_the_config_hold_for_every_file_that_names_none_of_its_own(tmp_path: Path) -> None:
    settings = {
        "columns": {"prompt": "q"},
        "prompts": {"path": "p.csv"},
        "labels": {"path": "l.csv", "columns": {"label": "vote"}},
        "evaluate": {"prompts": {"path": "e.csv"}},
    }
    with bench(tmp_path, **settings) as run:
        config = run.config
        assert config.prompts is not None
        assert config.evaluate.prompts is not None
        assert config.prompts.columns == config.evaluate.prompts.columns == {"prompt": "q"}
        assert config.labels.columns == {"label": "vote"}
        (tmp_path / "p.csv").write_text('q,reference\n"What, then?",\nWhy?,Because\n')
        run_stage(run, "load")
        rows = run.folder.read("prompts").sort("reference")
        assert rows["messages"].to_list() == [[user("What, then?")], [user("Why?")]]
        assert rows["reference"].to_list() == [None, "Because"]
