"""Pins down that real judges' opinions survive the whole judging path, and real files the importers, intact.

Reads ``../shared/data`` (or JURYBOX_SHARED_DATA) and is skipped with a reason where that is absent.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.store import RunFolder
from tests.recorded_endpoint import (
    SURE,
    UNREADABLE,
    RecordedJudges,
    Recording,
    Shown,
    jurybox,
    jurybox_here,
    rows_of,
    shared,
)

JUDGES = {
    "gpt4": ("GPT-4/Vanilla", "json"),
    "palm2": ("PaLM2/Vanilla_NoRules", "logprob"),
    "chatgpt": ("ChatGPT/CoT", "text"),
}
"""Name in the config -> name on record (one without a null, two with), and the form its verdict is asked for in."""
PAIRS = 281
CONFIG = """\
name: llmbar
endpoints: {{recorded: {{base_url: "{url}", concurrency: 16}}}}
judges:
{judges}
controls: {{number: 0}}
gate: {{target_agreement: 0.8}}
select: {{strategy: all}}
export: [jsonl]
"""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[RecordedJudges]:
    with RecordedJudges(shared("llmbar")) as server:
        yield server


@pytest.fixture(scope="module")
def judged(endpoint: RecordedJudges, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a project whose run has judged all of LLMBar over HTTP."""
    project = tmp_path_factory.mktemp("llmbar")
    lines = [
        f"  - {{name: {name}, kind: pairwise, endpoint: recorded, model: {model}, verdict: {verdict}}}"
        for name, (model, verdict) in JUDGES.items()
    ]
    (project / "c.yaml").write_text(CONFIG.format(url=endpoint.url, judges="\n".join(lines)), encoding="utf-8")
    for kind, file in (("pairs", "pairs.jsonl"), ("labels", "human.jsonl")):
        done = jurybox("import", kind, shared("llmbar") / file, "--config", "c.yaml", cwd=project)
        assert done.returncode == 0, done.stderr
    done = jurybox("run", "c.yaml", "--to", "select", cwd=project)
    assert done.returncode == 0, done.stderr
    return project


def run_of(project: Path) -> RunFolder:
    return RunFolder(project / "runs" / "llmbar")


def recorded(judge: str) -> dict[tuple[str, str], str | None]:
    """(pair_id, order) -> a, b or None of the file, for the judge with that name on record."""
    model, mode = judge.split("/")
    rows = rows_of(shared("llmbar") / "judgments.jsonl")
    return {(r["pair_id"], r["order"]): r["preference"] for r in rows if (r["judge"], r["mode"]) == (model, mode)}


def as_in_file(run: RunFolder) -> dict[str, bool]:
    """Our pair_id -> whether our a is the file's response_a, told from the words and nothing else."""
    texts = dict(run.read("samples").select("sample_id", "completion").iter_rows())
    file = {row["pair_id"]: row for row in rows_of(shared("llmbar") / "pairs.jsonl")}
    same: dict[str, bool] = {}
    for row in run.read("pairs").iter_rows(named=True):
        ours = (texts[row["sample_a"]], texts[row["sample_b"]])
        theirs = (file[row["external_id"]]["response_a"], file[row["external_id"]]["response_b"])
        assert ours in {theirs, theirs[::-1]}
        same[row["pair_id"]] = ours == theirs
    return same


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("Rules first.\nWhat is 2?\nOne:\n2\nTwo:\n2\nand more", "ab"),
        ("What is 2?\n2\nand more\n2", "ba"),
        ("[fence 2]\nWhat is 2?\n[2]\n2\nand more\n[2]\n2\nWhich?", "ba"),
    ],
)
def test_the_endpoint_tells_order_from_positions_alone(tmp_path: Path, text: str, order: str) -> None:
    """Even where one response (`2`) stands at the head of the other (`2`, `and more`)."""
    row = {"pair_id": "p", "prompt": "What is 2?", "response_a": "2", "response_b": "2\nand more"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (tmp_path / "judgments.jsonl").write_text("", encoding="utf-8")
    assert Recording(tmp_path).shown(text) == Shown("p", order)


def test_the_endpoint_refuses_to_guess(tmp_path: Path) -> None:
    row = {"pair_id": "p", "prompt": "What?", "response_a": "x", "response_b": "y"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (tmp_path / "judgments.jsonl").write_text("", encoding="utf-8")
    for text in ("What?\nx\ny\nx", "What?\nx", "x\ny"):
        with pytest.raises(ValueError, match="pairs and orders"):
            Recording(tmp_path).shown(text)


@pytest.mark.parametrize("name", JUDGES)
def test_every_preference_is_the_recorded_one(judged: Path, name: str) -> None:
    run = run_of(judged)
    external = dict(run.read("pairs").select("pair_id", "external_id").iter_rows())
    same = as_in_file(run)
    model, verdict = JUDGES[name]
    on_record = recorded(model)
    found = run.read("judgments").filter(pl.col("judge") == name)
    assert found.height == 2 * PAIRS
    seen: set[tuple[str, str]] = set()
    for row in found.iter_rows(named=True):
        key = row["pair_id"]
        # A pair whose a is the file's b was seen in the file's other order when we call it ab.
        order = row["order"] if same[key] else row["order"][::-1]
        seen.add((external[key], order))
        said = on_record[external[key], order]
        if said is None:
            assert (row["preference"], row["error"] is None) == (None, False)
            continue
        prefers_ours = (said == "a") == same[key]
        sure = SURE if verdict == "logprob" else 1.0
        assert row["preference"] == pytest.approx(sure if prefers_ours else 1 - sure), (external[key], order)
    assert seen == set(on_record)


def test_unreadable_verdicts_are_failures_with_their_words_and_call_kept(judged: Path) -> None:
    failed = run_of(judged).read("judgments").filter(pl.col("error").is_not_null())
    expected = {name: sum(v is None for v in recorded(model).values()) for name, (model, _) in JUDGES.items()}
    counted = dict(failed.group_by("judge").len().iter_rows())
    assert {name: counted.get(name, 0) for name in JUDGES} == expected
    assert expected == {"gpt4": 0, "palm2": 8, "chatgpt": 3}
    assert set(failed["rationale"]) == {UNREADABLE}
    assert failed["call_keys"].list.len().to_list() == [1] * failed.height


def test_every_question_was_asked_once(judged: Path, endpoint: RecordedJudges) -> None:
    del judged
    asked = [json.dumps(body, sort_keys=True) for body in endpoint.bodies]
    assert len(asked) == len(set(asked)) == 2 * PAIRS * len(JUDGES)


def test_a_second_run_makes_no_call_even_when_forced(judged: Path, endpoint: RecordedJudges) -> None:
    before, judgments = len(endpoint.log), run_of(judged).read("judgments")
    again = jurybox("run", "c.yaml", "--to", "select", cwd=judged)
    assert (again.returncode, again.stderr.count("unchanged, skipped")) == (0, 10), again.stderr
    forced = jurybox_here("judge", "c.yaml", "--force", cwd=judged)
    assert (forced.returncode, "skipped" in forced.stdout) == (0, False), forced.stderr
    assert len(endpoint.log) == before
    assert run_of(judged).read("judgments").equals(judgments)


def test_agreement_is_that_of_an_independent_count_and_the_report_shows_it(judged: Path) -> None:
    """Agreement by hand: both orders right 1, one of two 1/2, over the 281 adjudicated labels (none is a tie)."""
    human = {row["pair_id"]: row["label"] for row in rows_of(shared("llmbar") / "human.jsonl")}
    on_record = recorded("GPT-4/Vanilla")
    right = [sum(on_record[pair, order] == label for order in ("ab", "ba")) / 2 for pair, label in human.items()]
    expected = sum(right) / len(right)
    panel = json.loads((run_of(judged).path / "panel.json").read_text(encoding="utf-8"))
    found = panel["judges"]["gpt4"]
    assert (found["agreement"], found["n"]) == (pytest.approx(expected), PAIRS)
    assert found["low"] < expected < found["high"]
    page = (run_of(judged).path / "report.html").read_text(encoding="utf-8")
    row = re.search(r'<th scope="row"><bdi>gpt4</bdi></th><td class="n">([\d.]+)', page)
    assert row is not None
    assert row.group(1) == f"{100 * expected:.1f}"


def test_imported_verdicts_and_asked_ones_are_the_same_votes(judged: Path, tmp_path: Path) -> None:
    """What the endpoint path yields for GPT-4/Vanilla equals what the importer makes of the same rows of the file."""
    rows = [r for r in rows_of(shared("llmbar") / "judgments.jsonl") if (r["judge"], r["mode"]) == ("GPT-4", "Vanilla")]
    (tmp_path / "one.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "c.yaml").write_text("name: llmbar\n", encoding="utf-8")
    for kind, file in (("pairs", shared("llmbar") / "pairs.jsonl"), ("judgments", tmp_path / "one.jsonl")):
        assert jurybox_here("import", kind, file, "--config", "c.yaml", cwd=tmp_path).returncode == 0
    columns = ["pair_id", "order", "preference"]
    imported = run_of(tmp_path).read("judgments").select(columns).sort(columns)
    asked = run_of(judged).read("judgments").filter(pl.col("judge") == "gpt4").select(columns).sort(columns)
    assert imported.equals(asked)


def dirty(row: dict[str, Any]) -> str | None:
    """Why a row of pairs.jsonl cannot be used, by this test's own reading; None when it can."""
    for key in ("response_a", "response_b"):
        if not isinstance(row[key], str):
            return f"{key}_not_text"
        if not row[key].strip():
            return f"{key}_empty"
    return None


@pytest.mark.parametrize("name", ["llmbar", "vicuna80", "pandalm"])
def test_files_of_real_pairs_are_imported_to_the_last_row(name: str, tmp_path: Path) -> None:
    """Imported + refused = rows of the file for every file; then the run reaches a dataset and its funnel adds up."""
    folder = shared(name)
    (tmp_path / "c.yaml").write_text(f"name: {name}\nexport: [jsonl]\ngate: {{target_agreement: 0.7}}\n")
    refused: dict[str, dict[str, str]] = {}
    for kind, frame, file in (
        ("pairs", "pairs", "pairs.jsonl"),
        ("judgments", "judgments", "judgments.jsonl"),
        ("labels", "labels", "human.jsonl"),
    ):
        done = jurybox_here("import", kind, folder / file, "--config", "c.yaml", "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        kept_rows = said["imported"][frame] + said["imported"].get("aliases", 0)
        assert kept_rows + len(said["dropped"]) == len(rows_of(folder / file))
        refused[kind] = said["dropped"]
    rows = rows_of(folder / "pairs.jsonl")
    faults = {row["pair_id"]: why for row in rows if (why := dirty(row))}
    assert refused["pairs"] == faults
    out = set(refused["pairs"])
    for kind, file in (("judgments", "judgments.jsonl"), ("labels", "human.jsonl")):
        lost = [row for row in rows_of(folder / file) if row["pair_id"] in out]
        # Two rows of the file may be about the same two answers: a judge or person counts once for a pair.
        assert set(refused[kind].values()) <= {"unknown_pair", "repeated"}
        assert sum(why == "unknown_pair" for why in refused[kind].values()) == len(lost)
    if name == "pandalm":
        assert sum(why.endswith("_empty") for why in faults.values()) == 25
        assert sum(why.endswith("_not_text") for why in faults.values()) == 6

    done = jurybox_here("run", "c.yaml", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    run = RunFolder(tmp_path / "runs" / name)
    kept, dropped = run.read("kept"), run.read("dropped")
    decided = set(kept["pair_id"]) | set(dropped.filter(pl.col("stage").is_in(["aggregate", "select"]))["id"])
    assert decided == set(run.read("pairs")["pair_id"])
    assert kept.height + sum(made["dropped"].get("select", {}).values()) == run.read("verdicts").height
    splits = [rows_of(run.path / "dataset" / "jsonl" / f"{split}.jsonl") for split in ("train", "test")]
    assert sum(map(len, splits)) == kept.height > 0
    reported = dropped.filter(pl.col("stage") == "import")
    assert reported.height == sum(map(len, refused.values()))


def test_refused_rows_are_named_on_the_terminal(tmp_path: Path) -> None:
    """Each line names a row's id and the reason; what does not fit is counted, with the place where it stands."""
    (tmp_path / "c.yaml").write_text("name: pandalm\n")
    file = shared("pandalm") / "pairs.jsonl"
    done = jurybox("import", "pairs", file, "--config", "c.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = dict(re.findall(r"not imported: (pandalm-\d+): (\w+)", done.stdout))
    more = re.search(r"not imported: (\d+) more; all are in (\S+)", done.stdout)
    dropped = RunFolder(tmp_path / "runs" / "pandalm").read("dropped")
    assert len(shown) + (int(more.group(1)) if more else 0) == dropped.height
    written = dict(dropped.select("id", "reason").iter_rows())
    assert shown.items() <= written.items()
    faults = {row["pair_id"]: why for row in rows_of(file) if (why := dirty(row))}
    assert faults.items() <= written.items()
