"""Pins down what a storm does to judging: the run ends by itself, every pair is judged or listed with its cause.

A third of the replies go wrong, in every way that endpoints know; or the endpoint is gone, for a while or for good.
Time runs faster: what waits a minute by the limiter's clock waits a second here. With JURYBOX_SOAK set there are
thousands of calls instead of hundreds.
"""

import hashlib
import json
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
import yaml

from pipeline.calls.limiter import Clock
from pipeline.config_file import load
from pipeline.errors import UnreachableError
from pipeline.labels.splits import split_labels
from pipeline.runner import StageReport, run_stage
from pipeline.store import RunFolder
from pipeline.workbench import Workbench
from tests.endpoints import DROP, Body, Endpoint, Reply, chat
from tests.patience import patience
from tests.recorded_endpoint import jurybox_here

SOAK = bool(os.environ.get("JURYBOX_SOAK"))
PROMPTS, PAIRS_A_PROMPT = (250, 10) if SOAK else (15, 5)
CALLS_IN_ALL = 2 * PROMPTS * PAIRS_A_PROMPT
SPEED = 60.0
TIMEOUT_S = 60.0
STALL_S = 4 * TIMEOUT_S / SPEED
MOST_RUNS = 8
FAULTY = 0.3
REPLY = chat(json.dumps({"rationale": "said", "verdict": "A"}))
FAULTS: dict[str, Reply] = {
    "429": Reply(429, {"error": {"message": "slow down"}}),
    "429 with Retry-After": Reply(429, {"error": {"message": "slow down"}}, 0, {"Retry-After": "5"}),
    "500": Reply(500, {"error": {"message": "oops"}}),
    "dropped": Reply(DROP),
    "dropped in the body": Reply(200, REPLY, cut=True),
    "no JSON": Reply(200, "<html>502 Bad Gateway</html>"),
    "JSON cut off": Reply(200, json.dumps(REPLY)[:100]),
    "stall": Reply(200, REPLY, STALL_S),
    # These two are answers: they are paid for, kept, and never asked again.
    "answer cut off": Reply(200, chat('{"rationale": "sai', finish_reason="length")),
    "refusal": Reply(200, chat(None, refusal="I cannot judge this")),
}
FINAL = ("answer cut off", "refusal")
REFUSED = ("429", "429 with Retry-After", "500")


class Storm:
    """A script: the fault of a request is drawn from its body and from how often it came."""

    def __init__(self) -> None:
        self.came: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.final: dict[str, str] = {}
        """Body -> the last word that was said of it."""
        self._lock = threading.Lock()

    def __call__(self, body: Body) -> Reply:
        text = json.dumps(body, sort_keys=True)
        with self._lock:
            self.came[text] += 1
            drawn = hashlib.sha256(f"{self.came[text]} {text}".encode()).digest()
            if int.from_bytes(drawn[:4]) / 2**32 >= FAULTY:
                return Reply(200, REPLY)
            fault = list(FAULTS)[drawn[4] % len(FAULTS)]
            self.faults[fault] += 1
            if fault in FINAL:
                self.final[text] = fault
            return FAULTS[fault]


NAMES = ("one", "two", "three")


def project(folder: Path, *urls: str, **endpoint: object) -> Path:
    """A config with a judge at each of the endpoints, and its pairs imported."""
    there = {"concurrency": 32, "attempts": 4, "timeout_s": TIMEOUT_S, **endpoint}
    judge = {"kind": "pairwise", "model": "judge", "max_tokens": 60, "price": {"input": 1, "output": 2}}
    config = {
        "name": "storm",
        "endpoints": {f"of_{name}": {"base_url": url, **there} for name, url in zip(NAMES, urls, strict=False)},
        "judges": [{"name": name, "endpoint": f"of_{name}", **judge} for name in NAMES[: len(urls)]],
        "budget": {"usd": 1000},
    }
    (folder / "c.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    rows = [
        {"prompt": f"Question {at}?", "pair_id": f"{at}-{no}", "response_a": f"yes {no}", "response_b": f"no {no}"}
        for at in range(PROMPTS)
        for no in range(PAIRS_A_PROMPT)
    ]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    done = jurybox_here("import", "pairs", "pairs.jsonl", "--config", "c.yaml", "--run-dir", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def judge(folder: Path) -> tuple[StageReport, pl.DataFrame]:
    """One run of the stage, with a fast clock; what it reports, and the judgments there are."""
    with Workbench(load(folder / "c.yaml"), folder / "run", folder) as bench:
        bench.clock = Clock(SPEED)
        report = run_stage(bench, "judge")
        return report, bench.folder.read("judgments")


def to_the_end(folder: Path) -> Iterator[tuple[StageReport, pl.DataFrame]]:
    """Runs, one after the other, until one leaves nothing unanswered."""
    for _ in range(MOST_RUNS):
        report, judgments = judge(folder)
        yield report, judgments
        if not report.incomplete:
            return
    pytest.fail(f"something was still unanswered after {MOST_RUNS} runs")


def assert_listed(report: StageReport, judgments: pl.DataFrame) -> pl.DataFrame:
    """Every pair in both orders, judged or with a cause; the rows without a verdict."""
    assert judgments.height == judgments.select("pair_id", "judge", "order").n_unique() == CALLS_IN_ALL
    failed = judgments.filter(pl.col("preference").is_null())
    assert failed["error"].null_count() == 0
    causes = failed["error"].str.split(":").list.first().unique().to_list()
    assert set(causes) <= {"unanswered", "refused", "cut_off"}, causes
    unanswered = failed.filter(pl.col("error").str.starts_with("unanswered"))
    assert bool(unanswered.height) is bool(report.incomplete)
    return failed


@pytest.mark.slow
@pytest.mark.timeout(patience(3600 if SOAK else 300))
def test_in_a_storm_every_pair_is_judged_or_listed_and_the_next_runs_do_the_rest(tmp_path: Path) -> None:
    storm = Storm()
    with Endpoint(storm) as server:
        folder = project(tmp_path, server.url, attempts=2)
        unanswered: list[int] = []
        for report, judgments in to_the_end(folder):
            failed = assert_listed(report, judgments)
            unanswered.append(failed.filter(pl.col("error").str.starts_with("unanswered")).height)
        with Workbench(load(folder / "c.yaml"), folder / "run", folder) as bench:
            records = bench.records()
            assert records is not None
            with records:
                money = records.money()
    print(f"{CALLS_IN_ALL} calls, {len(server.log)} requests, unanswered by run {unanswered}, {dict(storm.faults)}")
    # With two tries a call, .24 squared of the calls (a fifth of the faults are answers) have none after the first run.
    assert len(unanswered) > 1
    assert 0 < unanswered[0] < CALLS_IN_ALL / 4
    assert set(storm.faults) == set(FAULTS)
    assert len(storm.came) == CALLS_IN_ALL
    # What is left without a verdict is what was answered without one, no more and no less.
    assert failed.height == len(storm.final)
    by_cause = Counter("refusal" if error.startswith("refused") else "answer cut off" for error in failed["error"])
    assert by_cause == Counter(storm.final.values())
    # Each was charged for once: 10 prompt tokens at US$ 1 and 5 at US$ 2 a million. What the endpoint refused cost
    # nothing; every other request left no whole reply, may have been done, and stays charged.
    refused = sum(storm.faults[name] for name in REFUSED)
    assert money.possibly_paid == len(server.log) - CALLS_IN_ALL - refused
    assert money.charged_usd == pytest.approx(CALLS_IN_ALL * 20e-6 + money.possibly_paid_usd)


@pytest.mark.slow
def test_no_committed_answer_is_asked_for_again_in_a_storm(tmp_path: Path) -> None:
    """Once a whole answer was given and taken, its body does not come again; a stalled one may, its answer is lost."""
    storm = Storm()
    taken: Counter[str] = Counter()

    def script(body: Body) -> Reply:
        reply = storm(body)
        if reply.status == 200 and not reply.cut and isinstance(reply.body, dict) and not reply.delay:
            taken[json.dumps(body, sort_keys=True)] += 1
        return reply

    with Endpoint(script) as server:
        for _ in to_the_end(project(tmp_path, server.url)):
            pass
    assert len(taken) == CALLS_IN_ALL
    late = sum(count - 1 for count in taken.values())
    # On a machine that is held up, an answer may come later than the client waits.
    assert late <= CALLS_IN_ALL // 20


class Switch:
    """A script that can be switched off: then every connection is dropped."""

    def __init__(self) -> None:
        self.on = True
        self.off_after: int | None = None
        self.taken: set[str] = set()
        self.hook: Callable[[], None] = lambda: None
        self._count = 0

    def __call__(self, body: Body) -> Reply:
        self._count += 1
        if self.off_after is not None and self._count > self.off_after:
            self.on, self.off_after = False, None
            self.hook()
        if not self.on:
            return Reply(DROP)
        self.taken.add(json.dumps(body, sort_keys=True))
        return Reply(200, REPLY, 0.01)


@pytest.mark.slow
def test_an_outage_that_lasts_ends_the_run_and_the_next_one_does_the_rest(tmp_path: Path) -> None:
    switch = Switch()
    switch.off_after = CALLS_IN_ALL // 2
    with Endpoint(switch) as server:
        folder = project(tmp_path, server.url, concurrency=8)
        report, judgments = judge(folder)
        failed = assert_listed(report, judgments)
        done = set(switch.taken)
        assert CALLS_IN_ALL // 2 - 8 <= len(done) <= CALLS_IN_ALL // 2
        assert failed.height == CALLS_IN_ALL - len(done)
        assert all(error.startswith("unanswered: ") for error in failed["error"])
        # A dead endpoint is looked at now and then, not asked for every call that is left.
        assert len(server.log) - CALLS_IN_ALL // 2 < CALLS_IN_ALL // 2
        switch.on = True
        start = len(server.log)
        report, judgments = judge(folder)
        assert not report.incomplete
        assert assert_listed(report, judgments).is_empty()
        again = {json.dumps(body, sort_keys=True) for body in server.bodies[start:]}
        assert not again & done
        assert len(again) == CALLS_IN_ALL - len(done)


@pytest.mark.slow
def test_an_outage_that_passes_is_waited_out(tmp_path: Path) -> None:
    """Ten seconds by the limiter's clock: longer than a call's own tries take, shorter than the circuit's patience."""
    switch = Switch()
    switch.off_after = CALLS_IN_ALL // 3

    def back() -> None:
        switch.on = True

    switch.hook = lambda: threading.Timer(10 / SPEED, back).start()
    with Endpoint(switch) as server:
        folder = project(tmp_path, server.url, concurrency=8, attempts=6)
        for report, judgments in to_the_end(folder):
            assert_listed(report, judgments)
    assert len(switch.taken) == CALLS_IN_ALL


def nowhere() -> str:
    """The address of an endpoint that is not there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


def config_with(folder: Path, **changed: object) -> None:
    """Change the top level of the project's config."""
    file = folder / "c.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text(encoding="utf-8")), **changed}), encoding="utf-8")


def heard(folder: Path) -> dict[str, Counter[bool]]:
    """Judge -> how many of its judgments there are, unanswered or not."""
    rows = RunFolder(folder / "run").read("judgments").select("judge", pl.col("error").is_not_null())
    return {name: Counter(rows.filter(pl.col("judge") == name)["error"].to_list()) for name in NAMES}


@pytest.mark.slow
def test_where_one_endpoint_is_dead_and_another_dies_the_third_one_judges_everything(tmp_path: Path) -> None:
    """The dead one is said at the end; what the others answered is kept, and not asked for again when it is back."""
    dying, alive = Switch(), Switch()
    dying.off_after = CALLS_IN_ALL // 2
    with Endpoint(dying) as second, Endpoint(alive) as third, Endpoint(lambda _body: Reply(200, REPLY)) as first:
        gone = nowhere()
        folder = project(tmp_path, gone, second.url, third.url, concurrency=8, attempts=2)
        with pytest.raises(UnreachableError, match=rf"'of_one' \({gone}\) cannot be reached .* start it") as found:
            judge(folder)
        assert "of_two" not in str(found.value)
        said = heard(folder)
        assert said["one"] == {}
        assert said["three"] == {False: CALLS_IN_ALL}
        assert said["two"] == {False: len(dying.taken), True: CALLS_IN_ALL - len(dying.taken)}
        assert CALLS_IN_ALL // 2 - 8 <= len(dying.taken) <= CALLS_IN_ALL // 2
        # The command says so, and fails. It has no fast clock, but patience for one try.
        dying.on = True
        there = yaml.safe_load((folder / "c.yaml").read_text(encoding="utf-8"))["endpoints"]
        config_with(folder, endpoints={**there, "of_one": {**there["of_one"], "attempts": 1}})
        done = jurybox_here("judge", "c.yaml", "--run-dir", "run", cwd=folder)
        assert done.returncode == 1
        assert "'of_one'" in done.stderr
        assert "cannot be reached" in done.stderr
        assert heard(folder)["two"] == {False: CALLS_IN_ALL}
        config_with(folder, endpoints={**there, "of_one": {**there["of_one"], "base_url": first.url}})
        report, _ = judge(folder)
        assert not report.incomplete
        assert heard(folder) == {name: {False: CALLS_IN_ALL} for name in NAMES}
        assert len(first.log) == len(third.log) == len(dying.taken) == CALLS_IN_ALL


def for_yes(body: Body) -> Reply:
    """The answer that begins with yes, wherever it stands."""
    text = body["messages"][0]["content"]
    first = text.index(">>\nyes ") < text.index(">>\nno ")
    return Reply(200, chat(json.dumps({"rationale": "said", "verdict": "A" if first else "B"})))


@pytest.mark.slow
def test_an_adaptive_panel_is_not_asked_without_one_of_its_judges(tmp_path: Path) -> None:
    """The others answer for the labelled pairs; which call comes next on the rest depends on the judge that is away."""
    with Endpoint(for_yes) as second, Endpoint(for_yes) as first:
        folder = project(tmp_path, nowhere(), second.url, attempts=2)
        config_with(folder, panel={"mode": "adaptive"})
        pairs = RunFolder(folder / "run").read("pairs").sort("pair_id")
        words = dict(RunFolder(folder / "run").read("samples").select("sample_id", "completion").iter_rows())
        votes = [
            {"pair_id": key, "annotator": "ann", "label": "a" if words[sample].startswith("yes") else "b"}
            for key, sample in pairs.select("pair_id", "sample_a").iter_rows()
        ]
        (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, votes)), encoding="utf-8")
        done = jurybox_here("import", "labels", "labels.jsonl", "--config", "c.yaml", "--run-dir", "run", cwd=folder)
        assert done.returncode == 0, done.stderr
        with Workbench(load(folder / "c.yaml"), folder / "run", folder) as bench:
            (fit, _) = split_labels(bench.folder.read("labels"), pairs, bench.config.seed, 0.4)
        for _ in range(2):
            with pytest.raises(UnreachableError, match="'of_one'"):
                judge(folder)
            assert len(second.log) == 2 * fit["pair_id"].n_unique()
            assert heard(folder)["two"] == {False: 2 * fit["pair_id"].n_unique()}
        there = yaml.safe_load((folder / "c.yaml").read_text(encoding="utf-8"))["endpoints"]
        config_with(folder, endpoints={**there, "of_one": {**there["of_one"], "base_url": first.url}})
        report, judgments = judge(folder)
        assert not report.incomplete
        assert judgments["pair_id"].n_unique() == PROMPTS * PAIRS_A_PROMPT
