"""export: kept pairs -> dataset/<format>/{train,test}.* and its card. Writes the folder ``dataset``.

Text meets verdict here and nowhere before: chosen and rejected are joined by id, as the verdict named them.
Every kept pair lands in exactly one split, so kept = train + test; one that cannot be joined stops the stage. Formats
of single answers (``kto``) take in besides what people called good or bad and no kept pair holds.
"""

from importlib import import_module
from pathlib import Path

import polars as pl

from pipeline import discovery
from pipeline.config import Config
from pipeline.errors import ConfigError, StageError
from pipeline.exports import card
from pipeline.labels.splits import is_test
from pipeline.labels.unpaired import unpaired_rows
from pipeline.schemas import ORDER, THUMB
from pipeline.stages.base import Frames, Result, Shard, Stage, installed_versions
from pipeline.store import slice_digest
from pipeline.workbench import Workbench

COLUMNS = (
    "pair_id",
    "prompt_id",
    "messages",
    "whole",
    "chosen",
    "rejected",
    "margin",
    "p_chosen",
    "judges",
    "agreement",
    "chosen_model",
    "rejected_model",
    "chosen_temperature",
    "rejected_temperature",
    "chosen_finish_reason",
    "rejected_finish_reason",
    "split",
)
REASONING = ("chosen_reasoning", "rejected_reasoning")
"""Columns that are there only where ``export: {reasoning: keep}`` asks for them."""
SPLITS = ("train", "test")
SHOWN = 3


def dataset_rows(
    kept: pl.DataFrame,
    pairs: pl.DataFrame,
    samples: pl.DataFrame | pl.LazyFrame,
    prompts: pl.DataFrame | pl.LazyFrame,
    *,
    seed: int,
    test_fraction: float,
    reasoning: bool = False,
) -> pl.DataFrame:
    """The dataset: one row per kept pair, sorted by ``pair_id``; the row order of the inputs changes nothing.

    Args:
        kept: the frame ``kept``; ``chosen_id`` and ``rejected_id`` decide the sides.
        pairs: the frame ``pairs``.
        samples: the frame ``samples``; of a lazy one only the answers that are kept are held.
        prompts: the frame ``prompts``, likewise.
        seed: of the split.
        test_fraction: share of prompts in the split `test`, as ``pipeline.labels.splits.is_test`` draws them.
        reasoning: whether :data:`REASONING` stand beside the answers.

    Returns:
        :data:`COLUMNS`. ``whole`` holds messages as a file had them (``pipeline.turns.exported``); ``chosen`` and
        ``rejected`` are text, ``p_chosen`` is the probability that people, as they are, prefer the chosen answer (below
        one half only where ``decide_by`` holds length at zero), ``margin`` that of the probability that decided.

    Raises:
        StageError: a kept pair does not fit the other frames (missing pair, answer or prompt; answers of
            another pair; two answers with the same words).
    """
    wanted = pl.concat([kept["chosen_id"], kept["rejected_id"]]).unique().to_frame("sample_id")
    answers = (
        samples.lazy()
        .select(
            "sample_id",
            pl.col("prompt_id").alias("answered"),
            pl.col("completion").alias("text"),
            "model",
            "temperature",
            "finish_reason",
            "reasoning",
        )
        .join(wanted.lazy(), on="sample_id", how="semi")
        .collect(engine="streaming")
        .unique("sample_id")
    )
    joined = kept.join(pairs.select("pair_id", "prompt_id", "sample_a", "sample_b"), on="pair_id", how="left")
    for side in ("chosen", "rejected"):
        named = answers.rename({name: f"{side}_{name}" for name in answers.columns if name != "sample_id"})
        joined = joined.join(named, left_on=f"{side}_id", right_on="sample_id", how="left")
    asked = joined.select("prompt_id").drop_nulls().unique()
    questions = prompts.lazy().select("prompt_id", "messages", "whole").join(asked.lazy(), on="prompt_id", how="semi")
    joined = joined.join(questions.collect(engine="streaming"), on="prompt_id", how="left")
    _check(joined)
    tests = [is_test(prompt, seed, test_fraction) for prompt in asked["prompt_id"]]
    joined = joined.join(asked.with_columns(pl.Series("tests", tests, dtype=pl.Boolean)), on="prompt_id", how="left")
    chose_a = pl.col("chosen_id") == pl.col("sample_a")
    return (
        joined.with_columns(
            pl.when(chose_a).then("p_a").otherwise(1 - pl.col("p_a")).alias("p_chosen"),
            pl.col("chosen_text").alias("chosen"),
            pl.col("rejected_text").alias("rejected"),
            pl.when("tests").then(pl.lit("test")).otherwise(pl.lit("train")).alias("split"),
        )
        .select(*COLUMNS, *(REASONING if reasoning else ()))
        .sort("pair_id")
    )


def _check(joined: pl.DataFrame) -> None:
    ends = (pl.col("sample_a"), pl.col("sample_b"))
    faults = {
        "is not in pairs/": pl.col("prompt_id").is_null(),
        "has an answer that is not in samples/": pl.any_horizontal(pl.col("chosen_text", "rejected_text").is_null()),
        "has a prompt that is not in prompts/": pl.col("messages").is_null(),
        "has chosen and rejected answers that are not the pair's own two": ~(
            pl.col("chosen_id").is_in(pl.concat_list(ends)) & pl.col("rejected_id").is_in(pl.concat_list(ends))
        )
        | (pl.col("chosen_id") == pl.col("rejected_id")),
        "has answers to another prompt": pl.any_horizontal(
            pl.col("chosen_answered", "rejected_answered") != pl.col("prompt_id")
        ),
        "has the same words as chosen and as rejected": pl.col("chosen_text") == pl.col("rejected_text"),
    }
    for fault, wrong in faults.items():
        found = joined.filter(wrong)["pair_id"].sort().to_list()
        if found:
            named = ", ".join(found[:SHOWN]) + (", ..." if len(found) > SHOWN else "")
            raise StageError(
                f"{len(found)} of {joined.height} kept pairs cannot be exported: each {fault} ({named}); a "
                "kept pair needs its prompt and its own two different answers, so run the stages from "
                "`generate` on again (or import the data again)"
            )


def write_format(rows: pl.DataFrame, folder: Path, kind: str, seed: int, base: Path) -> card.Written:
    """Write both splits of *rows* in the format *kind* under *folder*.

    Raises:
        ConfigError: there is no such kind.
        StageError: a user's own exporter did not write the file that it named.
    """
    export = discovery.find("pipeline.exports", kind, "export", base)
    name = folder_name(kind)
    (folder / name).mkdir()
    files: dict[str, str] = {}
    for split in SPLITS:
        written = export(rows.filter(pl.col("split") == split), folder / name / split, seed)
        if not isinstance(written, Path) or not written.is_file() or written.parent != folder / name:
            raise StageError(
                f"the exporter {kind!r} returned {written!r} for the split {split!r}; it must write one file "
                "beside the path it is given and return that file"
            )
        files[split] = written.relative_to(folder).as_posix()
    return card.Written(name, files)


def _takes_single(kind: str) -> bool:
    """Whether a format has a place for an answer that is in no pair: its module says ``SINGLE = True``."""
    return ":" not in kind and getattr(import_module(f"pipeline.exports.{kind}"), "SINGLE", False)


def folder_name(kind: str) -> str:
    """Folder of a format under ``dataset/``: the kind, or the name in a user's own ``./file.py:name``."""
    return kind.rpartition(":")[2]


def _shards(frames: Frames, config: Config, bench: Workbench) -> list[Shard]:
    """One shard, which also counts what the stages before dropped."""
    names = [folder_name(kind) for kind in config.export]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"export names {', '.join(twice)} more than once; each format has its own folder, so name it "
            "once or give your own exporter another name"
        )
    for kind in config.export:
        discovery.find("pipeline.exports", kind, "export", bench.base)
    counts = _dropped(bench).group_by("stage", "reason").len().sort("stage", "reason").collect(engine="streaming")
    ratings = bench.folder.scan("ratings").filter(pl.col("aspect") == THUMB).collect(engine="streaming")
    return [Shard("all", frames, [counts.rows(), slice_digest({"ratings": ratings})])]


def _dropped(bench: Workbench) -> pl.LazyFrame:
    """``stage`` and ``reason`` of what the stages before dropped."""
    return bench.folder.scan("dropped", "stage", "reason").filter(
        ~pl.col("stage").is_in(ORDER[ORDER.index("export") :])
    )


def _run(shard: Shard, config: Config, bench: Workbench) -> Result:
    frames = shard.frames
    samples, prompts = bench.folder.scan("samples"), bench.folder.scan("prompts")
    seed, fraction = config.seed, config.test_fraction
    single = unpaired_rows(
        bench.folder.scan("ratings"), samples, prompts, frames["kept"], seed=seed, test_fraction=fraction
    )
    if frames["kept"].is_empty() and (single.is_empty() or not all(map(_takes_single, config.export))):
        raise StageError(
            "nothing was kept, so there is no dataset to write; the reasons are in dropped/ and in "
            "`jurybox report CONFIG` (a lower select.min_margin or gate.target_agreement keeps more)"
        )
    rows = dataset_rows(
        frames["kept"],
        frames["pairs"],
        samples,
        prompts,
        seed=seed,
        test_fraction=fraction,
        reasoning=config.export_reasoning == "keep",
    )
    used = prompts.join(
        pl.concat([rows.select("prompt_id"), single.select("prompt_id")]).lazy().unique(), on="prompt_id", how="semi"
    )
    made = card.Provenance(
        name=config.name,
        licence=config.licence,
        rows=rows,
        single=single.select("prompt_id", "split"),
        samples=samples.select("sample_id", "model", "temperature").unique("sample_id").collect(engine="streaming"),
        sources=used.select(pl.col("source").unique().sort()).collect()["source"].to_list(),
        dropped=_dropped(bench).collect(),
        panel=bench.folder.read_json("panel.json"),
        certificate=bench.folder.read_json("certificate.json"),
        versions=installed_versions(),
    )

    def build(folder: Path) -> None:
        everything = pl.concat([rows, single], how="diagonal_relaxed") if single.height else rows
        formats = [
            write_format(everything if _takes_single(kind) else rows, folder, kind, config.seed, bench.base)
            for kind in config.export
        ]
        (folder / "README.md").write_text(card.dataset_card(made, formats), encoding="utf-8")

    return Result({}, folders={"dataset": build})


STAGE = Stage(
    name="export",
    inputs=("prompts", "samples", "pairs", "kept"),
    outputs=(),
    run=_run,
    reads=lambda config: [
        config.export,
        config.export_reasoning,
        config.test_fraction,
        config.seed,
        config.licence,
        config.name,
    ],
    shards=_shards,
    artefacts_in=("certificate.json", "panel.json"),
    artefacts_out=("dataset",),
    beside=("dropped", "ratings"),
)
