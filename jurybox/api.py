"""What ``import jurybox`` offers. Opens a run's folder, or a temporary one."""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

    from pipeline.runner import StageReport
    from pipeline.workbench import Workbench


def run(config: str | Path, run_dir: str | Path | None = None) -> dict[str, Any]:
    """Run every stage of a config file that is not done yet; returns the content of summary.json.

    Raises:
        InputError: the config or a file it names is wrong.
        JobError: a stage failed; what was done before is kept.
    """
    from pipeline import summary
    from pipeline.workbench import Workbench

    with Workbench.open(Path(config), None if run_dir is None else Path(run_dir)) as bench:
        run_pipeline(bench)
        return summary.summary(bench)


def _named(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    """*row*, its number its id where it has none of its own: null is absent."""
    given = {key: value for key, value in row.items() if value is not None}
    return {"pair_id": str(number), **given}


def judge(
    dataset: "Iterable[Mapping[str, Any]] | pl.DataFrame", config: str | Path, run_dir: str | Path | None = None
) -> "pl.DataFrame":
    """Judge pairs with the judges of a config.

    Args:
        dataset: a Polars frame, a Hugging Face dataset or any iterable of rows with ``prompt`` (text) or ``messages``,
            ``response_a``, ``response_b`` and optionally ``pair_id``.
        config: a config file; its ``judges``, ``endpoints`` and ``aggregate`` are used.
        run_dir: where the run is kept, so that no answer is paid for twice; a temporary folder if None.

    Returns:
        one row per judged pair: ``pair_id`` (as given, or the row number), ``p_a``, ``p_a_lc``, ``margin``,
        ``agreement``, in terms of the dataset's own response_a.

    Raises:
        InputError: a column is missing or no row is usable.
        JobError: nothing could be judged.
    """
    import json

    import polars as pl

    from pipeline.commands import imports
    from pipeline.runner import run_stage
    from pipeline.workbench import Workbench

    rows = dataset.to_dicts() if isinstance(dataset, pl.DataFrame) else [dict(row) for row in dataset]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "pairs.jsonl"
        lines = (json.dumps(_named(row, number), default=str) for number, row in enumerate(rows))
        file.write_text("\n".join(lines), encoding="utf-8")
        folder = Path(scratch) / "run" if run_dir is None else Path(run_dir)
        with Workbench.open(Path(config), folder) as bench:
            imports.run(bench, "pairs", file, "jsonl")
            for stage in ("judge", "aggregate"):
                run_stage(bench, stage)
            pairs, aliases = bench.folder.read("pairs"), bench.folder.read("aliases")
            given = pairs.select("pair_id", external_id="external_id", flipped="external_flipped")
            names = pl.concat([given, aliases.select(given.columns)])
            verdicts = names.join(bench.folder.read("verdicts"), on="pair_id")
    flipped = pl.col("flipped")
    return verdicts.select(
        pl.col("external_id").alias("pair_id"),
        *(pl.when(flipped).then(1 - pl.col(name)).otherwise(pl.col(name)).alias(name) for name in ("p_a", "p_a_lc")),
        "margin",
        "agreement",
    ).sort("pair_id")


def run_pipeline(
    bench: "Workbench", first: str | None = None, last: str | None = None, *, force: bool = False
) -> "list[StageReport]":
    """Run the stages from *first* to *last*, then write the summary and the report, even of a run that failed.

    Raises:
        JuryboxError: a stage failed or its input is wrong; what was done before stays.
    """
    from dashboard.report import page as report
    from pipeline.commands.imports import refuse_judges_of_two_kinds
    from pipeline.runner import run_stage, stages_of

    refuse_judges_of_two_kinds(bench)
    done: list[StageReport] = []
    with bench.writing():
        bench.folder.write_text("config.yaml", bench.source)
        try:
            for name in stages_of(bench.config, first, last):
                done.append(run_stage(bench, name, force=force))  # noqa: PERF401  what is done counts if one fails
        finally:
            if done:
                report.write(bench)
    return done
