"""The whole job as a Prefect flow, one task per shard. Talks to Prefect's API; the run's folder is the runner's.

    python -m flows.preference CONFIG [--run-dir DIR] [--from STAGE] [--to STAGE] [--force]

Prefect shows what happens and when; what is done, and with what it was made, the run's folder says alone. So a
flow run that was killed is simply started again, and a finished one skips everything.
"""

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from dashboard.report import page as report
from pipeline import runner
from pipeline import summary as figures
from pipeline.commands.imports import refuse_judges_of_two_kinds
from pipeline.errors import InputError, JuryboxError, StageError
from pipeline.exports import hub
from pipeline.interrupts import orderly
from pipeline.secrets import struck
from pipeline.shown import escaped, printed
from pipeline.stages.base import Shard
from pipeline.workbench import Workbench

AGREEMENT_KEY = "judge-agreement"
SUMMARY_KEY = "run-summary"
REPORT_KEY = "run-report"
SCHEDULED_CONFIG, SCHEDULED_RUN_DIR = "JURYBOX_SCHEDULED_CONFIG", "JURYBOX_SCHEDULED_RUN_DIR"
"""Variables by which `jurybox schedule` tells the processes that it starts what they run."""
LAST_S = 40.0
"""Seconds that a run gets to end when the process that started it is gone."""
SHARE_COLUMNS = ("Agreement", "Low", "High")


class _Clean(logging.Filter):
    """Strikes secrets from what is logged, and the traceback of an error that says all in its message."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], JuryboxError):
            record.exc_info = None
        record.msg, record.args = struck(record.getMessage()), None
        if record.exc_info:
            record.exc_text = struck(logging.Formatter().formatException(record.exc_info))
        return True


CLEAN = _Clean()
for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(CLEAN)


_opened: dict[tuple[Path, Path], Workbench] = {}
"""The runs that this process has open."""
_lock = threading.RLock()


def _open(config_path: Path, run_dir: Path, *, fresh: bool = False) -> Workbench:
    """The one workbench of this process for a run, so that its shards share what the engines hold."""
    with _lock:
        if fresh:
            _close(config_path, run_dir)
        key = (config_path, run_dir)
        if key not in _opened:
            _opened[key] = Workbench.open(config_path, run_dir)
        return _opened[key]


def _close(config_path: Path, run_dir: Path) -> None:
    with _lock:
        found = _opened.pop((config_path, run_dir), None)
    if found is not None:
        with found:  # leaving it closes engines and ledger
            pass


def _planned(config_path: Path, run_dir: Path, stage: str, name: str, stamp: str) -> tuple[Workbench, Shard]:
    """The shard as the flow planned it; a process that has not planned it, or planned something older, plans."""
    for fresh in (False, True):
        bench = _open(config_path, run_dir, fresh=fresh)
        with _lock:
            if stage not in bench.planned:
                bench.planned[stage] = runner.plan(bench, runner.stage(stage))
        shard, found = bench.planned[stage].get(name, (None, ""))
        if shard is not None and found == stamp:
            return bench, shard
    raise StageError(
        f"shard {name!r} of {stage} is no longer what the flow planned: the config or its input changed meanwhile; "
        "start the flow again"
    )


# The run's folder is the only cache: a result that Prefect remembered could outlive the files it stands for.
@task(task_run_name="{stage}: {shard_name}", cache_policy=NO_CACHE, persist_result=False)
def shard_task(config_path: Path, run_dir: Path, stage: str, shard_name: str, stamp: str) -> bool:
    """Do one shard of a stage; returns whether it is complete.

    Args:
        config_path: the run's config.
        run_dir: the run's folder.
        stage: the stage's name.
        shard_name: the shard's name within the stage.
        stamp: what the shard was planned to be made from.

    Raises:
        JuryboxError: the stage failed; what other shards wrote stays.
    """
    bench, shard = _planned(config_path, run_dir, stage, shard_name, stamp)
    return runner.run_shard(bench, runner.stage(stage), shard, stamp)


@task(cache_policy=NO_CACHE, persist_result=False)
def push_task(config_path: Path, run_dir: Path) -> list[str]:
    """Send dataset and adapter to the Hub; returns their addresses."""
    bench = _open(config_path, run_dir)
    return hub.push(bench.folder, bench.config)


@flow(name="preference", persist_result=False)
def preference(
    config_path: Path,
    run_dir: Path | None = None,
    from_stage: str | None = None,
    to_stage: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Run every stage that is not done yet; returns the content of summary.json.

    Args:
        config_path: the run's YAML config.
        run_dir: the run's folder; default ``runs/<name>``.
        from_stage: first stage.
        to_stage: last stage.
        force: do it again even where nothing changed. Answers in the ledger are never paid for again.

    Raises:
        JuryboxError: a stage failed or its input is wrong; what was done before stays.
    """
    config_path = config_path.resolve()
    folder = Workbench.open(config_path, run_dir).folder.path.resolve()
    bench = _open(config_path, folder, fresh=True)
    try:
        stages = runner.stages_of(bench.config, from_stage, to_stage)
        refuse_judges_of_two_kinds(bench)
        with bench.writing():
            summary = _run_stages(bench, config_path, stages, force=force)
        if bench.config.push is not None and to_stage is None:
            summary["pushed"] = push_task(config_path, folder)
        return summary
    finally:
        _close(config_path, folder)


@flow(name="preference-schedule", persist_result=False)
def scheduled(from_stage: str | None = None, to_stage: str | None = None, force: bool = False) -> dict[str, Any]:
    """:func:`preference` of the config that `jurybox schedule` serves; no parameter names a path.

    Args:
        from_stage: first stage.
        to_stage: last stage.
        force: do it again even where nothing changed. Answers in the ledger are never paid for again.

    Raises:
        InputError: it was not started by `jurybox schedule`.
        JuryboxError: a stage failed or its input is wrong; what was done before stays.
    """
    config_path, run_dir = os.environ.get(SCHEDULED_CONFIG), os.environ.get(SCHEDULED_RUN_DIR)
    if not config_path or not run_dir:
        raise InputError("this flow runs what `jurybox schedule CONFIG` serves, and was not started by it; start that")
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    return preference.fn(Path(config_path), Path(run_dir), from_stage, to_stage, force)


def _end_with_parent(parent: int) -> None:
    """End this process when *parent*, which started it, is gone: nobody would hear of its run."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LAST_S)
    os._exit(1)


def _run_stages(bench: Workbench, config_path: Path, stages: Sequence[str], *, force: bool) -> dict[str, Any]:
    """Run *stages*; the summary, report and artifacts are written even when one of them fails."""
    bench.folder.write_text("config.yaml", bench.source)
    summary: dict[str, Any] = {}
    done = 0
    try:
        for name in stages:
            _run_stage(bench, config_path, name, force=force)
            done += 1
    finally:
        if done:
            summary = report.write(bench)
            _publish(summary, bench.folder.path)
    return summary


def _run_stage(bench: Workbench, config_path: Path, name: str, *, force: bool) -> None:
    """One stage, each of its shards a task.

    Not at the same time: a shard holds hundreds of calls that are in flight together already, the limits of an
    endpoint (calls in flight, calls a minute) and the memory of a GPU are meant for one, and the first that fails
    stops the rest before they cost anything (``runner.in_turn``).
    """

    def task_of(shard: Shard, stamp: str) -> bool:
        return shard_task(config_path, bench.folder.path, name, shard.name, stamp)

    done = runner.run_stage(bench, name, force=force, do=task_of)
    made = ", ".join(f"{count} {frame}" for frame, count in done.rows_out.items()) or "no rows of its own"
    get_run_logger().info("%s: %s: %s", name, "unchanged, skipped" if done.skipped else "done", made)


def _publish(summary: Mapping[str, Any], folder: Path) -> None:
    """Show the judges' agreement and the summary on the flow run's page, and where its report lies."""
    create_link_artifact(
        (folder / "report.html").resolve().as_uri(),
        link_text="report.html",
        key=REPORT_KEY,
        description=f"The report of {escaped(summary['name'])}, on the machine that ran it",
    )
    create_markdown_artifact(
        agreement_markdown(summary),
        key=AGREEMENT_KEY,
        description=f"How often each judge of {escaped(summary['name'])} agrees with people",
    )
    create_markdown_artifact(
        summary_markdown(summary, folder),
        key=SUMMARY_KEY,
        description=f"What the run {escaped(summary['name'])} did",
    )


def agreement_markdown(summary: Mapping[str, Any]) -> str:
    """The judges' agreement with people as a Markdown table; every word from elsewhere is escaped."""
    people = "simulated people" if summary["simulated_people"] else "people"
    judges: Mapping[str, Mapping[str, Any]] = summary["judges"]
    if not judges:
        return f"No judge has been compared with {people} yet."
    header = ("Judge", *SHARE_COLUMNS, "Labelled pairs", "Weight", "In the panel", "Reason")
    rows = [
        (
            escaped(name),
            *(_share(judge[column.lower()]) for column in SHARE_COLUMNS),
            str(judge["n"]),
            "" if judge["weight"] is None else f"{judge['weight']:.2f}",
            "yes" if judge["in_panel"] else "no",
            escaped(judge["reason"] or ""),
        )
        for name, judge in judges.items()
    ]
    beside = (
        ("ceiling", f"*Ceiling: one of the {people} against another*"),
        ("floor", "*Floor: preferring the longer answer*"),
    )
    rows += [
        (name, *(_share(found[key]) for key in ("value", "low", "high")), str(found["n"]), "", "", "")
        for key, name in beside
        if (found := summary[key]) is not None
    ]
    return f"Agreement with {people}, with its 95 % interval.\n\n{_table(header, rows)}"


def summary_markdown(summary: Mapping[str, Any], folder: Path) -> str:
    """The run's summary as Markdown; every word from elsewhere is escaped."""
    rows: list[tuple[str, ...]] = []
    for stage, counts in summary["rows"].items():
        dropped = (f"{count} {escaped(reason)}" for reason, count in summary["dropped"].get(stage, {}).items())
        came, went = (
            ", ".join(f"{count} {escaped(frame)}" for frame, count in counts[side].items()) for side in ("in", "out")
        )
        rows.append((escaped(stage), came, went, ", ".join(dropped), f"{summary['stage_seconds'][stage]:.1f}"))
    parts = [_table(("Stage", "In", "Out", "Dropped", "Seconds"), rows)]
    # The terminal's own lines say the rest: calls, judges, gate, win rate, warnings, report.
    rest = [line for line in figures.lines(summary, folder) if not line.startswith((" ", "run ", "judge "))]
    parts.append("\n".join(f"- {escaped(line)}" for line in rest))
    return "\n\n".join(parts)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the flow of a config from the command line; returns 0 done, 1 the job failed, 2 the input is wrong."""
    parser = argparse.ArgumentParser(prog="python -m flows.preference", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", type=Path, metavar="CONFIG", help="the run's YAML config")
    parser.add_argument("--run-dir", type=Path, help="the run's folder; default runs/<name>")
    parser.add_argument("--from", dest="first", metavar="STAGE", help="first stage")
    parser.add_argument("--to", dest="last", metavar="STAGE", help="last stage")
    parser.add_argument("--force", action="store_true", help="do it again even where nothing changed")
    given = parser.parse_args(arguments)
    with orderly() as ending:
        try:
            # A wrong input is told at once, not after the seconds in which Prefect starts a server.
            bench = Workbench.open(given.config, given.run_dir)
            runner.stages_of(bench.config, given.first, given.last)
            made = preference(given.config, given.run_dir, given.first, given.last, given.force)
        except JuryboxError as error:
            return _fail(str(error), error.exit_code)
        except KeyboardInterrupt:
            return _fail("interrupted; what is done is kept, the same command goes on from there", ending.code)
    lines = figures.lines(made, bench.folder.path)
    lines += [f"pushed: {address}" for address in made.get("pushed", [])]
    sys.stdout.write("\n".join(printed(struck(line)) for line in lines) + "\n")
    return 0


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"error: {printed(struck(message))}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
