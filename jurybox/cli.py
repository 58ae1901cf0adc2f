"""The command line. Parses arguments, opens the run, prints; the work is done elsewhere and imported when needed.

Exit codes: 0 done, 1 the job failed, 2 the input is wrong, 130 after Ctrl-C, 143 after SIGTERM.
"""

import contextlib
import errno
import json
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pipeline.workbench import Workbench

app = typer.Typer(
    name="jurybox",
    help="Preference data with LLM judges: calibrated, certified, DPO-ready.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The run's YAML config.")]
RunDir = Annotated[Path | None, typer.Option("--run-dir", help="The run's folder; default runs/<name>.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and no progress.")]
Force = Annotated[bool, typer.Option("--force", help="Do it again even where nothing changed.")]

REFUSED_SHOWN = 60
STAGES = {
    "load": "Read the prompts.",
    "generate": "Sample answers to every prompt.",
    "pair": "Pair different answers to the same prompt.",
    "labels": "Read what people said of the pairs.",
    "judge": "Ask every judge about every pair.",
    "controls": "Put constant answers before the LM judges; flag answers written for them.",
    "aggregate": "Turn votes into a calibrated preference.",
    "measure": "Measure agreement, bias and drift.",
    "gate": "Certify agreement with people.",
    "select": "Keep or drop every pair, with the reason.",
    "export": "Write the dataset.",
    "train": "Train on the dataset.",
    "evaluate": "Compare the trained model with the untrained one.",
}


@contextmanager
def opened(config: Path, run_dir: Path | None, *, quiet: bool) -> "Generator[Workbench]":
    """The run of a config, with progress on standard error."""
    from pipeline.progress import Bars, for_terminal
    from pipeline.workbench import Workbench

    progress = for_terminal(quiet=quiet)
    try:
        with Workbench.open(config, run_dir, progress) as bench:
            yield bench
    finally:
        if isinstance(progress, Bars):
            progress.close()


def say(lines: list[str], value: object, *, as_json: bool) -> None:
    """Print for a person, or for a program: nothing from outside steers the terminal, and no secret is printed."""
    from pipeline.secrets import struck
    from pipeline.shown import printed, printed_json

    if as_json:
        _print(printed_json(struck(json.dumps(value, ensure_ascii=False, default=str))))
    else:
        _print("\n".join(printed(struck(line)) for line in lines))


def _print(text: str) -> None:
    """Raises JobError where standard output takes nothing; a reader that went away (`| head`) is Typer's to end on."""
    try:
        typer.echo(text)
    except OSError as error:
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), 1)  # what is left in the buffer would fail again when Python ends
        if error.errno == errno.EPIPE:
            raise
        from pipeline.errors import JobError

        raise JobError(
            f"standard output cannot be written ({error.strerror}); free space or send it elsewhere: what was done is "
            "kept, and the same command prints it again"
        ) from error


@app.command()
def demo(run_dir: RunDir = None, as_json: Json = False, force: Force = False) -> None:
    """The whole job on the embedded default: no network, key or GPU."""
    config = Path(__file__).parents[1] / "data" / "configs" / "embedded.yaml"
    if not config.is_file():
        from pipeline.errors import InputError

        raise InputError(
            f"{config} is missing: the demo runs from a checkout of the project; clone it and run `make demo`"
        )
    run(config, run_dir=run_dir, as_json=as_json, force=force)


@app.command()
def run(
    config: ConfigFile,
    first: Annotated[str | None, typer.Option("--from", metavar="STAGE", help="First stage.")] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="STAGE", help="Last stage.")] = None,
    run_dir: RunDir = None,
    as_json: Json = False,
    force: Force = False,
) -> None:
    """Run every stage that is not done yet, then print the summary."""
    from jurybox.api import run_pipeline
    from pipeline import summary
    from pipeline.exports import hub

    with opened(config, run_dir, quiet=as_json) as bench:
        run_pipeline(bench, first, last, force=force)
        made = summary.summary(bench)
        lines = summary.lines(made, bench.folder.path)
        if bench.config.push is not None and last is None:
            made["pushed"] = hub.push(bench.folder, bench.config)
            lines += [f"pushed: {url}" for url in made["pushed"]]
    say(lines, made, as_json=as_json)


def _stage_command(name: str) -> Callable[..., None]:
    def command(config: ConfigFile, run_dir: RunDir = None, as_json: Json = False, force: Force = False) -> None:
        from pipeline import summary
        from pipeline.commands.imports import refuse_judges_of_two_kinds
        from pipeline.runner import run_stage

        with opened(config, run_dir, quiet=as_json) as bench:
            refuse_judges_of_two_kinds(bench)
            done = run_stage(bench, name, force=force)
            summary.write(bench)  # drawing the page takes longer than many a stage: `jurybox report` does it
        how = "unchanged, skipped" if done.skipped else f"done in {done.seconds:.1f} s"
        lines = [f"{name}: {how}", *(f"  {count} {frame}" for frame, count in done.rows_out.items())]
        lines += [f"  dropped {count}: {reason}" for reason, count in done.dropped.items()]
        if done.incomplete:
            lines.append(f"  incomplete: {', '.join(done.incomplete)}; run the same command again")
        say(lines, vars(done), as_json=as_json)

    command.__doc__ = STAGES[name]
    return command


for _name in STAGES:
    app.command(_name)(_stage_command(_name))


@app.command("import")
def import_(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="prompts, samples, pairs, judgments or labels.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file, a saved dataset, or one's name on the Hub.")],
    config: Annotated[Path, typer.Option("--config", help="The run's YAML config.")],
    fmt: Annotated[
        str | None, typer.Option("--format", help="Importer (docs/data.md); by default the columns tell.")
    ] = None,
    annotator: Annotated[
        str | None, typer.Option(help="The person whose choices (chosen, rejected, votes) the file holds.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of a saved dataset, or of one on the Hub.")] = None,
    subset: Annotated[str | None, typer.Option(help="Configuration of a dataset on the Hub.")] = None,
    run_dir: RunDir = None,
    as_json: Json = False,
) -> None:
    """Bring prompts, samples, pairs, judgments or labels of your own into the run."""
    from pipeline.commands import imports
    from pipeline.shown import plain

    with opened(config, run_dir, quiet=as_json) as bench:
        made, refused = imports.run(bench, kind, file, fmt, annotator=annotator, split=split, subset=subset)
    told = {
        row: f"{reason} ({refused.details[row]})" if row in refused.details else reason
        for row, reason in sorted(refused.rows.items())
    }
    lines = [f"imported {count} {frame}" for frame, count in made.items()]
    lines += [f"not imported: {plain(row)}: {plain(reason)}" for row, reason in list(told.items())[:REFUSED_SHOWN]]
    if len(told) > REFUSED_SHOWN:
        lines.append(f"not imported: {len(told) - REFUSED_SHOWN} more; all are in {bench.folder.path / 'dropped'}")
    say(lines, {"imported": made, "dropped": refused.rows}, as_json=as_json)


@app.command()
def queue(
    config: ConfigFile,
    audit: Annotated[int, typer.Option(min=0, help="Prompts in the uniform sample, those labelled included.")] = 0,
    active: Annotated[int, typer.Option(min=0, help="Pairs that tell most about the judges; never certify.")] = 0,
    gold: Annotated[int, typer.Option(min=0, help="Pairs whose answer is known, to check annotators.")] = 0,
    each: Annotated[int, typer.Option(min=1, help="People wanted a pair.")] = 1,
    one_pair: Annotated[bool, typer.Option("--one-pair", help="One pair of each audited prompt, not all.")] = False,
    out: Annotated[Path | None, typer.Option(help="File to fill in; `jurybox import labels` reads it.")] = None,
    fmt: Annotated[str, typer.Option("--format", help="jsonl, label_studio or argilla.")] = "jsonl",
    run_dir: RunDir = None,
    as_json: Json = False,
) -> None:
    """Which pairs people should label next, and how many labels the gate still needs."""
    from pipeline.errors import InputError
    from pipeline.labels import queues as labelling

    wanted = bool(audit or active or gold)
    if wanted != (out is not None):
        raise InputError("give --out FILE with at least one of --audit, --active and --gold; or neither, to be told")
    with opened(config, run_dir, quiet=True) as bench:
        told = labelling.state(bench)
        if out is not None:
            rows = labelling.queue(bench, audit=audit, active=active, gold=gold, each=each, one_pair=one_pair)
            told["rows"] = labelling.write(rows, out, fmt, bench.base)
            told["guidelines"] = str(bench.config.labels.guidelines or labelling.GUIDELINES)
    lines = [f"labelled pairs: {told['labelled']}", told["needed"]]
    if out is not None:
        lines += [f"{out}: {count} {name}" for name, count in told["rows"].items()] or [f"{out}: nothing is left"]
        lines.append(f"guidelines for annotators: {told['guidelines']}")
    say(lines, told, as_json=as_json)


@app.command()
def label(
    config: ConfigFile,
    audit: Annotated[int | None, typer.Option(min=0, help="Prompts in the uniform sample in all.")] = None,
    active: Annotated[int | None, typer.Option(min=0, help="Open pairs that tell most about the judges.")] = None,
    gold: Annotated[int | None, typer.Option(min=0, help="Pairs whose answer is known, mixed in.")] = None,
    each: Annotated[int, typer.Option(min=1, help="People wanted a pair.")] = 1,
    one_pair: Annotated[bool, typer.Option("--one-pair", help="One pair of each audited prompt, not all.")] = False,
    host: Annotated[str, typer.Option(help="Address to listen on; others than this machine need a login.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: the first free one from 8501.")] = None,
    export: Annotated[Path | None, typer.Option(help="Write the labels given so far to this file, and end.")] = None,
    fmt: Annotated[str, typer.Option("--format", help="Of --export: jsonl, label_studio or argilla.")] = "jsonl",
    run_dir: RunDir = None,
    as_json: Json = False,
) -> None:
    """The labelling page for one or more people: blind, keys A, B, T, S and Z. Serves until Ctrl-C."""
    from dashboard import serve
    from pipeline.labels import queues as labelling
    from pipeline.labels.book import FILE, LabelBook

    with opened(config, run_dir, quiet=True) as bench:
        if export is not None:
            counts = labelling.export(bench, export, fmt)
            say([f"{export}: {count} {name}" for name, count in counts.items()], counts, as_json=as_json)
            return
        serve.check(host)
        labelling.guidelines(bench.config.labels)
        book = LabelBook(bench.folder.local(FILE), bench.seed)
        queues = labelling.prepare(bench, book, audit=audit, active=active, gold=gold, each=each, one_pair=one_pair)
        folder = bench.folder.path
    say([f"{name}: {count} pairs" for name, count in queues.items()], queues, as_json=as_json)

    page = Path(serve.__file__).with_name("label.py")
    serve.serve(page, [str(config), str(folder)], host, port)


@app.command("hand-over")
def hand_over(
    config: ConfigFile,
    trainer: Annotated[str, typer.Argument(metavar="TRAINER", help="axolotl or llama_factory.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write; default <run>/handover/TRAINER.")] = None,
    run_dir: RunDir = None,
    as_json: Json = False,
) -> None:
    """Write config and data with which another trainer does what `train` would."""
    from pipeline.commands import handover

    with opened(config, run_dir, quiet=True) as bench:
        files = [str(file) for file in handover.run(bench, trainer, out)]
    say([f"wrote {file}" for file in files], {"files": files}, as_json=as_json)


@app.command()
def explain(
    config: ConfigFile,
    pair: Annotated[str, typer.Argument(metavar="PAIR_ID", help="A pair's id, its start, or its imported id.")],
    run_dir: RunDir = None,
    as_json: Json = False,
) -> None:
    """Every vote, weight, rule and call behind one pair."""
    from pipeline.commands import explain as explaining

    with opened(config, run_dir, quiet=True) as bench:
        found = explaining.explain(bench, pair)
    say(explaining.as_text(found), found, as_json=as_json)


@app.command()
def report(config: ConfigFile, run_dir: RunDir = None, as_json: Json = False) -> None:
    """Write report.html and summary.json again and print the summary."""
    from dashboard.report import page
    from pipeline import summary
    from pipeline.errors import InputError

    with opened(config, run_dir, quiet=True) as bench:
        if bench.folder.read_json("manifest.json") is None:
            raise InputError(f"{bench.folder.path} holds no run yet; start it with `jurybox run {config}`")
        made = page.write(bench)
        lines = summary.lines(made, bench.folder.path)
    say(lines, made, as_json=as_json)


@app.command()
def dashboard(
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", help="One run's folder, or a folder of runs; default runs.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: the first free one from 8501.")] = None,
    host: Annotated[str, typer.Option(help="Address; a wider one needs a login (docs/dashboard.md).")] = "127.0.0.1",
) -> None:
    """Pages over all runs, live while one is going on; served until Ctrl-C, to this machine alone."""
    from dashboard.start import start

    start(run_dir or Path("runs"), host, port)


@app.command()
def check(
    config: ConfigFile,
    run_dir: RunDir = None,
    whole: Annotated[
        bool, typer.Option("--run", help="Look at the run's own files instead: is each as it was written?")
    ] = False,
    as_json: Json = False,
) -> None:
    """Is the config valid, are its files there, do its endpoints answer? Makes one smallest call per model."""
    from pipeline.commands import checks

    with opened(config, run_dir, quiet=True) as bench:
        found = checks.whole(bench) if whole else checks.check(bench)
    say([f"ok: {line}" for line in found], {"ok": found}, as_json=as_json)


@app.command()
def plan(
    config: ConfigFile,
    pilot: Annotated[
        int, typer.Option("--pilot", min=0, help="Prompts that models in this process answer first; 0 loads no model.")
    ] = 64,
    run_dir: RunDir = None,
    as_json: Json = False,
) -> None:
    """Calls, tokens, US$ and hours of what is still to be done. Spends nothing."""
    from pipeline.commands import plan as planning

    with opened(config, run_dir, quiet=True) as bench:
        made = planning.plan(bench, pilot)
    say(made.lines(), made.as_json(), as_json=as_json)


@app.command()
def batches(
    config: ConfigFile,
    give_up: Annotated[
        str | None, typer.Option("--give-up", metavar="ID", help="Cancel this batch and read what it has done.")
    ] = None,
    now: Annotated[
        bool, typer.Option("--now", help="With --give-up: do not ask the vendor; all of its calls stay charged.")
    ] = False,
    run_dir: RunDir = None,
    as_json: Json = False,
) -> None:
    """Batches that wait at a vendor's batch API; --give-up ends one, and its calls may be made again."""
    from pipeline.commands import batches as waiting
    from pipeline.errors import InputError

    if now and give_up is None:
        raise InputError("--now goes with --give-up ID")
    with opened(config, run_dir, quiet=True) as bench:
        said = None if give_up is None else waiting.give_up(bench, give_up, now=now)
        rows = waiting.listed(bench)
    lines = ([said] if said else []) + waiting.lines(rows)
    say(lines, {"given_up": said, "open": rows}, as_json=as_json)


@app.command()
def schedule(
    config: ConfigFile,
    cron: Annotated[str, typer.Option("--cron", help='When, e.g. "0 2 * * *".')],
    run_dir: RunDir = None,
) -> None:
    """A Prefect deployment that runs CONFIG on a schedule, served until Ctrl-C; starts a server if there is none."""
    from flows.deployments import schedule as serve

    serve(config, cron, run_dir)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
) -> None:
    """A commented config and a few prompts to start from."""
    from pipeline.commands.starter import write

    for path in write(folder):
        say([f"wrote {path}"], None, as_json=False)


@app.command()
def doctor(as_json: Json = False) -> None:
    """What this machine can run."""
    from pipeline.commands import checks

    found = checks.doctor()
    say([f"{name}: {value}" for name, value in found.items()], found, as_json=as_json)


@app.command()
def schema() -> None:
    """JSON Schema of the config."""
    from pipeline.commands.checks import config_schema

    _print(json.dumps(config_schema(), indent=2))


def main(arguments: list[str] | None = None) -> None:
    """The console script: run a command, turn errors into messages and exit codes."""
    from pipeline.errors import ConfigError, JuryboxError
    from pipeline.interrupts import INTERRUPTED, orderly

    _streams()
    with orderly() as ending:
        try:
            app(arguments)
        except ConfigError as error:  # has a line for each fault
            sys.exit(_fail(str(error).split("\n"), error.exit_code))
        except JuryboxError as error:
            sys.exit(_fail([str(error)], error.exit_code))
        except (KeyboardInterrupt, SystemExit) as end:
            # Typer turns Ctrl-C into this exit code and says nothing.
            if isinstance(end, SystemExit) and end.code != INTERRUPTED:
                raise
            ending.at_once()
            message = "interrupted; what is done is kept, the same command goes on from there"
            sys.exit(_fail([message], ending.code))


def _streams() -> None:
    """Make standard streams that can take any text, whatever the shell closed and whichever encoding it set.

    A file of ours that got the number of a closed stream would be written into by whoever prints to that.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(number, "r" if name == "stdin" else "w", encoding="utf-8", closefd=False))  # noqa: SIM115
        elif name != "stdin" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _fail(lines: list[str], code: int) -> int:
    from pipeline.secrets import struck
    from pipeline.shown import printed

    # All but the first are set in, so that none passes for a line of ours.
    with contextlib.suppress(OSError):  # where nothing can be told, the exit code tells
        typer.echo("error: " + "\n  ".join(printed(struck(line)) for line in lines), err=True)
    return code


def click_app() -> Any:
    """The commands as a click group, for the generated documentation."""
    return typer.main.get_command(app)


if __name__ == "__main__":
    main()
