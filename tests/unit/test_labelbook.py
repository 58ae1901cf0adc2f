"""Pins down the label book: nobody works twice, no label is lost, what is taken back leaves a trace."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from jurybox.cli import app
from pipeline import ids, schemas
from pipeline.commands import imports
from pipeline.errors import StorageError
from pipeline.labels import book as labelbook
from pipeline.labels.book import CLAIM_S, AnsweredError, LabelBook
from pipeline.labels.names import name_fault, plain_name
from pipeline.labels.queues import prepare
from pipeline.labels.splits import audited
from pipeline.runner import run_stage
from pipeline.workbench import Workbench
from tests.labellers import SEED, label_all
from tests.worlds import Frames, bench, decided, judgments, longer, world

ROOT = Path(__file__).parents[2]


class Clock:
    """Time that stands still until it is moved, s."""

    def __init__(self) -> None:
        self.at = 1_800_000_000.0

    def __call__(self) -> float:
        return self.at


def tasks(queue: str = "audit", count: int = 6, prefix: str = "") -> pl.DataFrame:
    return pl.DataFrame(
        {
            "pair_id": [ids.content_hash(prefix, queue, at) for at in range(count)],
            "queue": [queue] * count,
            "rank": list(range(count)),
            "inclusion_prob": [0.5 if queue == "audit" else 1.0] * count,
        }
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def book(tmp_path: Path, clock: Clock) -> LabelBook:
    made = LabelBook(tmp_path / "run" / labelbook.FILE, SEED, clock)
    made.extend(tasks(), each=1)
    return made


def pair(at: int, queue: str = "audit") -> str:
    return str(tasks(queue)["pair_id"][at])


def test_two_people_never_hold_one_pair_and_a_reload_keeps_it(book: LabelBook, clock: Clock) -> None:
    first = book.take("ann", "audit")
    assert first is not None
    assert first.pair_id == pair(0)
    clock.at += 30
    assert book.take("ann", "audit") == first
    second = book.take("bob", "audit")
    assert second is not None
    assert second.pair_id == pair(1)
    clock.at += 12
    book.answer("ann", first.pair_id, "a")
    row = book.rows().to_dicts()[0]
    assert row == {
        "pair_id": pair(0),
        "annotator": "ann",
        "label": "a",
        "queue": "audit",
        "inclusion_prob": 0.5,
        "seconds": 42.0,
        "labelled_at": "2027-01-15T08:00:42.000Z",
    }
    schemas.Labels.validate(book.rows())


def test_the_same_answer_again_is_nothing_and_another_one_is_refused(book: LabelBook) -> None:
    book.take("ann", "audit")
    for _ in range(3):
        book.answer("ann", pair(0), "a")
    with pytest.raises(AnsweredError, match="labelled this pair already, differently; undo"):
        book.answer("ann", pair(0), "b")
    assert book.rows()["label"].to_list() == ["a"]


def test_a_claim_of_a_dead_browser_goes_free_and_a_renewed_one_does_not(book: LabelBook, clock: Clock) -> None:
    book.take("ann", "audit")
    book.take("bob", "audit")
    clock.at += CLAIM_S - 1
    book.renew("bob")
    clock.at += 2
    third = book.take("cleo", "audit")
    assert third is not None
    assert third.pair_id == pair(0)
    # whoever comes back too late is told, as long as the pair has enough
    book.answer("cleo", pair(0), "b")
    with pytest.raises(AnsweredError, match="given to somebody else"):
        book.answer("ann", pair(0), "a")
    book.answer("bob", pair(1), "a")
    assert book.rows()["annotator"].to_list() in (["cleo", "bob"], ["bob", "cleo"])


def test_a_late_label_counts_while_it_is_wanted(book: LabelBook, clock: Clock) -> None:
    book.take("ann", "audit")
    clock.at += CLAIM_S + 1
    book.take("bob", "active")  # clears dead claims
    book.answer("ann", pair(0), "tie")
    assert book.rows().select("label", "seconds").row(0) == ("tie", None)


def test_what_is_skipped_comes_last_and_goes_to_others_at_once(book: LabelBook) -> None:
    first = book.take("ann", "audit")
    assert first is not None
    book.skip("ann", first.pair_id)
    other = book.take("bob", "audit")
    assert other == book.take("bob", "audit")
    assert other is not None
    assert other.pair_id == first.pair_id
    book.skip("bob", first.pair_id)
    order = []
    while (task := book.take("ann", "audit")) is not None:
        order.append(task.pair_id)
        book.answer("ann", task.pair_id, "a")
    assert order == [pair(at) for at in (1, 2, 3, 4, 5, 0)]


def test_undo_shows_the_pair_again_and_keeps_the_history(book: LabelBook, clock: Clock) -> None:
    assert book.undo("ann", "audit") is None
    for label in ("a", "b"):
        task = book.take("ann", "audit")
        assert task is not None
        clock.at += 5
        book.answer("ann", task.pair_id, label)  # type: ignore[arg-type]
    book.take("ann", "audit")
    assert book.undo("ann", "audit") == pair(1)
    # nobody else gets it in between, and what was on the page is free
    other = book.take("bob", "audit")
    assert other is not None
    assert other.pair_id == pair(2)
    again = book.take("ann", "audit")
    assert again is not None
    assert again.pair_id == pair(1)
    clock.at += 3
    book.answer("ann", pair(1), "tie")
    assert book.rows().filter(pl.col("pair_id") == pair(1)).select("label", "seconds").row(0) == ("tie", 8.0)
    assert [(row["pair_id"], row["label"], row["seconds"]) for row in book.history()] == [(pair(1), "b", 5.0)]
    # further back
    assert book.undo("ann", "audit") == pair(1)
    assert book.undo("ann", "audit") == pair(0)
    assert book.rows().is_empty()
    assert len(book.history()) == 3


def test_sides_follow_from_person_and_pair(book: LabelBook) -> None:
    keys = [ids.content_hash("x", at) for at in range(400)]
    ann, bob = ([book.left(name, key) for key in keys] for name in ("ann", "bob"))
    # binomial(400, 1/2): 200 +- 10; five standard deviations
    assert 150 < ann.count("a") < 250
    assert 150 < sum(one == other for one, other in zip(ann, bob, strict=True)) < 250
    assert ann == [book.left("ann", key) for key in keys]


def test_gold_comes_at_seeded_places_once_each(tmp_path: Path) -> None:
    book = LabelBook(tmp_path / "b.sqlite", SEED)
    book.extend(pl.concat([tasks("audit", 50), tasks("gold", 4)]), each=2)
    places = {}
    for name in ("ann", "bob"):
        seen = []
        while (task := book.take(name, "audit")) is not None:
            seen.append(task.queue)
            book.answer(name, task.pair_id, "a")
        places[name] = [at for at, queue in enumerate(seen) if queue == "gold"]
        assert seen.count("audit") == 50
    # binomial(~54, 1/10) is 5.4 +- 2.2, and there are 4
    assert all(1 <= len(found) <= 4 for found in places.values())
    assert places["ann"] != places["bob"]
    rows = book.rows()
    assert set(rows.filter(pl.col("queue").cast(pl.String) == "gold")["pair_id"]) <= set(tasks("gold", 4)["pair_id"])


def test_only_gold(tmp_path: Path) -> None:
    book = LabelBook(tmp_path / "b.sqlite", SEED)
    book.extend(tasks("gold", 3), each=1)
    for name in ("ann", "bob"):
        assert len(label_all(book, name, "gold")) == 3
    assert book.queues() == {"gold": 3}


def test_extending_is_idempotent_and_active_is_chosen_afresh(book: LabelBook) -> None:
    assert book.extend(tasks(), each=1) == {"audit": 6}
    assert book.extend(tasks(count=9), each=2) == {"audit": 9}
    assert book.extend(tasks("active", 4), each=1) == {"audit": 9, "active": 4}
    task = book.take("ann", "active")
    assert task is not None
    book.answer("ann", task.pair_id, "a")
    book.take("bob", "active")
    assert book.extend(tasks("active", 3, "new"), each=1)["active"] == 5
    # a pair that the audit takes in is labelled there
    moved = tasks("active", 1, "new").with_columns(queue=pl.lit("audit"), rank=pl.lit(9, pl.Int64))
    assert book.extend(moved, each=1) == {"audit": 10, "active": 4}
    assert len(book.pairs()) == 14


def test_labels_from_elsewhere_count(book: LabelBook) -> None:
    def said(name: str, queue: str = "audit") -> dict[str, object]:
        other = {"annotator": name, "label": "a", "queue": queue, "inclusion_prob": 1.0}
        return {"pair_id": pair(0), **other, "seconds": None, "labelled_at": None}

    elsewhere = schemas.frame("labels", [said("ann"), said("gold", "gold")])
    book.extend(tasks(), each=1, elsewhere=elsewhere)
    task = book.take("bob", "audit")
    assert task is not None
    assert task.pair_id == pair(1)
    book.extend(tasks(), each=2, elsewhere=elsewhere)
    task = book.take("ann", "audit")
    assert task is not None
    assert task.pair_id == pair(1)
    cleo = book.take("cleo", "audit")
    assert cleo is not None
    assert cleo.pair_id == pair(0)
    # what the stage read from here is not from elsewhere
    book.answer("cleo", pair(0), "b")
    frame = pl.concat([elsewhere, book.rows()])
    assert book.others(frame).equals(elsewhere)
    book.undo("cleo", "audit")
    assert book.others(frame).equals(elsewhere)


def test_progress(book: LabelBook) -> None:
    book.take("bob", "audit")
    task = book.take("ann", "audit")
    assert task is not None
    book.skip("ann", task.pair_id)
    task = book.take("ann", "audit")
    assert task is not None
    book.answer("ann", task.pair_id, "a")
    found = book.progress("ann", "audit")
    assert (found.mine, found.everyone, found.left, found.skipped) == (1, 1, 4, 1)


def test_no_figure_tells_a_gold_item_from_another(tmp_path: Path) -> None:
    book = LabelBook(tmp_path / "b.sqlite", SEED)
    book.extend(pl.concat([tasks("audit", 30), tasks("gold", 9)]), each=1)
    figures = []
    while (task := book.take("ann", "audit")) is not None:
        found = book.progress("ann", "audit")
        figures.append((found.mine, found.everyone, found.left))
        book.answer("ann", task.pair_id, "a")
    count = len(figures)
    assert count > 30
    assert figures == [(at, at, count - at) for at in range(count)]


def test_what_left_the_run_leaves_the_queue(book: LabelBook) -> None:
    book.take("ann", "audit")
    book.withdraw([pair(0)])
    task = book.take("ann", "audit")
    assert task is not None
    assert task.pair_id == pair(1)
    assert pair(0) not in book.pairs()


@pytest.mark.parametrize("name", ["", " ann", "x" * 101, "gold", "Gold", "*", "people", "a\nb", "sim", "a\u202eb"])
def test_names_that_nobody_has(name: str) -> None:
    assert name_fault(name, ["sim"]) is not None


def test_names_that_people_have() -> None:
    for name in ("ann", "Ann Lee", "a@b.example", "\u5f20\u4f1f", "O'Brien"):
        assert name_fault(name, ["sim"]) is None
    assert plain_name("  Ann \t Lee ") == "Ann Lee"
    assert plain_name("e\u0301") == "\u00e9"


def test_another_versions_book_is_told(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "b.sqlite") as db:
        db.execute("PRAGMA user_version = 9")
    db.close()
    with pytest.raises(StorageError, match="has version 9"):
        LabelBook(tmp_path / "b.sqlite", 0)
    (tmp_path / "c.sqlite").write_text("no database" * 200)
    with pytest.raises(StorageError, match=r"c\.sqlite: cannot be used"):
        LabelBook(tmp_path / "c.sqlite", 0)


def check_work(book: LabelBook, done: dict[str, list[tuple[str, str]]], each: int, people: int, count: int) -> None:
    rows = book.rows()
    found = {(row["annotator"], row["pair_id"]): row["label"] for row in rows.to_dicts()}
    assert found == {(name, key): label for name, given in done.items() for key, label in given}
    assert rows.height == len(found)
    counts = Counter(rows["pair_id"])
    assert max(counts.values()) <= each
    assert set(counts.values()) == {min(each, people)}
    assert len(counts) == count


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(people=st.integers(1, 4), each=st.integers(1, 3), count=st.integers(1, 12))
def test_threads_never_work_twice(people: int, each: int, count: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("book") / "b.sqlite"
    shared = LabelBook(path, SEED)
    shared.extend(tasks(count=count), each=each)
    names = [f"p{at}" for at in range(people)]
    with ThreadPoolExecutor(people) as pool:
        given_ = list(pool.map(lambda name: label_all(shared, name), names))
    # whoever skipped the last pair while another held it may have stopped early: once more, in turn
    for at, name in enumerate(names):
        given_[at] += label_all(shared, name)
    check_work(shared, dict(zip(names, given_, strict=True)), each, people, count)


def labeller(path: Path, name: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.labellers", str(path), name]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def acknowledged(lines: list[str]) -> list[tuple[str, str]]:
    """What a process said, labels taken back left out; a last line that was cut off says nothing."""
    done: dict[str, str] = {}
    for line in lines:
        if line.endswith("\n"):
            first, second = line.split()
            if first == "undo":
                del done[second]
            else:
                done[first] = second
    return list(done.items())


def test_processes_never_work_twice_and_a_kill_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "b.sqlite"
    book = LabelBook(path, SEED)
    book.extend(tasks(count=40), each=2)
    names = ["ann", "bob", "cleo"]
    running = {name: labeller(path, name) for name in names}
    said: dict[str, list[str]] = {name: [] for name in names}

    def listen(name: str) -> None:
        out = running[name].stdout
        assert out is not None
        for line in out:
            said[name].append(line)
            if name == "bob" and len(said[name]) == 5:
                os.kill(running[name].pid, signal.SIGKILL)

    for process in running.values():
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    ears = [threading.Thread(target=listen, args=[name]) for name in names]
    for process, ear in zip(running.values(), ears, strict=True):
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        ear.start()
    for ear in ears:
        ear.join()
    codes = {name: process.wait() for name, process in running.items()}
    for process in running.values():
        process.communicate()
    assert codes == {"ann": 0, "bob": -signal.SIGKILL, "cleo": 0}
    rows = book.rows()
    found = {(row["annotator"], row["pair_id"]): row["label"] for row in rows.to_dicts()}
    for name in names:
        for key, label in acknowledged(said[name]):
            # killed between taking a label back and saying so
            taken_back = name == "bob" and any(row["pair_id"] == key for row in book.history())
            assert found.get((name, key)) == label or taken_back
    assert max(Counter(rows["pair_id"]).values()) <= 2
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
    assert not path.with_name("b.sqlite-wal").exists()


# The stage and the queues.


@pytest.fixture(scope="module")
def made() -> Frames:
    frames = world({f"q{at}": ["x", "yy", "zzz"] for at in range(12)})
    return {
        **frames,
        "judgments": judgments(frames, {"long": longer, "even": lambda _a, _b: 0.5}),
        "verdicts": decided(frames, lambda a, b: 0.5 + 0.4 * (longer(a, b) - 0.5)),
    }


def opened(run: Workbench) -> LabelBook:
    return LabelBook(run.folder.local(labelbook.FILE), run.seed)


def test_the_stage_reads_the_book_and_only_its_labels(made: Frames, tmp_path: Path) -> None:
    with bench(tmp_path, made) as run:
        assert run_stage(run, "labels").rows_out == {"labels": 0}
        book = opened(run)
        prepare(run, book, audit=4)
        assert run_stage(run, "labels").skipped
        task = book.take("ann", "audit")
        assert task is not None
        assert run_stage(run, "labels").skipped
        book.answer("ann", task.pair_id, "b")
        assert run_stage(run, "labels").rows_out == {"labels": 1}
        labels = run.folder.read("labels")
        assert labels.select("pair_id", "annotator", "label").row(0) == (task.pair_id, "ann", "b")
        passed = book.take("ann", "audit")
        assert passed is not None
        book.skip("ann", passed.pair_id)
        assert run_stage(run, "labels").skipped
        book.undo("ann", "audit")
        assert run_stage(run, "labels").rows_out == {"labels": 0}


def test_the_file_goes_first_and_what_repeats_is_dropped(made: Frames, tmp_path: Path) -> None:
    keys = made["pairs"]["pair_id"].to_list()
    given_ = {"pair_id": keys[0], "annotator": "ann", "label": "a"}
    (tmp_path / "l.jsonl").write_text(json.dumps(given_) + "\n")
    with bench(tmp_path, made, labels={"path": "l.jsonl"}) as run:
        book = opened(run)
        chosen = tasks(count=4).with_columns(pair_id=pl.Series([*keys[:3], "0" * 32]))
        book.extend(chosen, each=1)
        for _ in range(4):
            task = book.take("ann", "audit")
            assert task is not None
            book.answer("ann", task.pair_id, "b")
        (tmp_path / "more.jsonl").write_text(json.dumps({**given_, "pair_id": keys[1]}) + "\n")
        imports.run(run, "labels", tmp_path / "more.jsonl")
        done = run_stage(run, "labels")
        assert done.rows_out == {"labels": 2}
        assert done.dropped == {"repeated": 2, "unknown_pair": 1}
        labels = run.folder.read("labels")
        assert dict(labels.select("pair_id", "label").iter_rows()) == {keys[0]: "a", keys[1]: "a", keys[2]: "b"}
        assert run_stage(run, "labels").skipped


def test_the_queues_are_filled_by_what_the_run_has(made: Frames, tmp_path: Path) -> None:
    with bench(tmp_path, made) as run:
        book = opened(run)
        # 12 prompts of 3 pairs; all in the audit, so none is left for the active queue
        assert prepare(run, book) == {"audit": 36}
        assert prepare(run, book) == {"audit": 36}
    with bench(tmp_path / "two", made) as run:
        book = opened(run)
        assert prepare(run, book, audit=3, active=4) == {"audit": 9, "active": 4}
        task = book.take("ann", "active")
        assert task is not None
        book.answer("ann", task.pair_id, "a")
        # four open ones again, and what was begun stays
        assert prepare(run, book, active=4) == {"audit": 9, "active": 5}
        assert prepare(run, book, audit=5)["audit"] == 15
        sample = audited(run.folder.read("pairs"), run.seed, "prompt", 5)["pair_id"].to_list()
        wanted = [key for key in sample if key != task.pair_id]  # one label is wanted, and it has one
        ranked = [book.take(f"p{at}", "audit") for at in range(15)]
        assert [found.pair_id for found in ranked if found is not None] == wanted


def test_gold_items_are_for_everybody(made: Frames, tmp_path: Path) -> None:
    keys = made["pairs"]["pair_id"].to_list()
    known = [{"pair_id": key, "annotator": "gold", "label": "a", "queue": "gold"} for key in keys[:2]]
    (tmp_path / "g.jsonl").write_text("".join(json.dumps(row) + "\n" for row in known))
    with bench(tmp_path, made) as run:
        imports.run(run, "labels", tmp_path / "g.jsonl")
        book = opened(run)
        assert prepare(run, book, gold=5) == {"gold": 2}
        assert [len(label_all(book, name, "gold")) for name in ("ann", "bob")] == [2, 2]
        assert prepare(run, book, gold=5) == {"gold": 2}


def test_the_config_command_runs_what_reads_labels(made: Frames, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("name: small\n")
    with Workbench.open(config, tmp_path / "run") as run:
        for name, rows in made.items():
            run.folder.write_part(name, "before", "all", rows, {})
        book = opened(run)
        prepare(run, book, audit=2)
        label_all(book, "ann")
    done = CliRunner().invoke(app, ["labels", str(config), "--run-dir", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert "6 labels" in done.output
