"""Ten million judgments aggregated, certified, selected and exported, against one bare group-by of the same file.

    python benchmarks/scale.py [--pairs 1000000] [--rounds 3] [--layout judged] [--half] [--json]

Makes a simulated run (four answers of 100 words to each prompt, all six pairs of them, five judges, both orders, 400
audited pairs) in a temporary folder, then measures, each in a process of its own: Polars' streaming group-by of the
judgments by pair and judge, and the real stages `aggregate`, `gate`, `select` and `export` as the command line runs
them, planning, validation and writing included; importing libraries is not counted on either side. Both take turns,
`--rounds` times; figures are medians over rounds. `seconds` are those of `aggregate` and `select`; `gate_seconds` and
`export_seconds` (which joins and writes the text) stand beside it. The judgments lie as `jurybox import` writes them,
in one sorted part, or with `--layout judged` as the stage `judge` does, a part for each judge and 256th of the
prompts; both sides read the same parts. `--half` does all of it with half the pairs too. The last line is JSON:
`ratio_to_bare_group_by`, `peak_rss_mb` (of the process that ran the stages), `seconds` and what is behind them. The
bar: a ratio of at most 3, at most 3,000 MB, twice the rows in twice the time. CPU seconds stand beside the others, for
machines that have something else to do.
"""

import argparse
import importlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline import schemas
from pipeline.config import Config
from pipeline.frames import bucketed
from pipeline.runner import run_stage
from pipeline.store import RunFolder
from pipeline.workbench import Workbench

ANSWERS, JUDGES, LABELS = 4, ("gpt", "claude", "qwen", "llama", "rm"), 400
STAGES = ("aggregate", "gate", "select", "export")
CONFIG = Config.model_validate(
    {
        "name": "scale",
        "gate": {"target_agreement": 0.7},
        "select": {"strategy": "best_vs_worst", "min_margin": 0.1},
        "export": ["trl_dpo"],
    }
)


def ids(count: int, random: np.random.Generator) -> pl.Series:
    """Random ids of the right form, sorted; what is hashed is not measured here."""
    digits = np.frombuffer(random.bytes(16 * count).hex().encode(), dtype="S32")
    return pl.Series(digits).cast(pl.String).sort()


def written(folder: Path, frame: str, rows: pl.DataFrame) -> None:
    """*rows* as the one part of *frame*, as an import writes it."""
    (folder / frame).mkdir()
    schemas.frame(frame, rows).write_parquet(folder / frame / f"part-import-{frame}.parquet")


def texts(count: int, random: np.random.Generator) -> pl.Series:
    """Answers of 100 words: ten of 20,000 sentences of ten words each."""
    letters = np.array(list("etaoinshrdlu"))
    words = ["".join(random.choice(letters, size)) for size in random.integers(2, 9, 5000)]
    sentences = pl.Series([" ".join(random.choice(words, 10)) for _ in range(20_000)])
    columns = {f"{at}": sentences.gather(random.integers(0, len(sentences), count)) for at in range(10)}
    return pl.DataFrame(columns).select(pl.concat_str(pl.all(), separator=". ")).to_series()


def as_judged(folder: Path) -> None:
    """Split the judgments into the parts that the stage `judge` writes: one a judge and bucket of prompts."""
    (file,) = (folder / "judgments").glob("*.parquet")
    rows = pl.read_parquet(file)
    owner = pl.read_parquet(folder / "pairs" / "part-import-pairs.parquet", columns=["pair_id", "prompt_id"])
    owned = rows.join(owner, on="pair_id", maintain_order="left")
    run = RunFolder(folder)
    for name, part in bucketed(owned):
        for judge in JUDGES:
            run.write_part("judgments", "judge", f"{judge}-{name}", part.filter(pl.col("judge") == judge), {})
    file.unlink()


def make(pairs: int, folder: Path, layout: str) -> None:
    """A simulated run of *pairs* pairs (about) in *folder*, up to its judgments and labels."""
    random = np.random.default_rng(0)
    prompts = round(pairs / 6)
    prompt = ids(prompts, random)
    message = pl.lit([{"role": "user", "content": "Why does the sea rise and fall?"}])
    rows = prompt.to_frame("prompt_id").with_columns(
        messages=message, reference=None, whole=None, source=pl.lit("scale"), tags=pl.lit([], dtype=pl.List(pl.String))
    )
    written(folder, "prompts", rows)
    sample = ids(ANSWERS * prompts, random)
    # A prompt's answers stand anywhere in the order of ids, as hashes do.
    placed = random.permutation(ANSWERS * prompts).reshape(prompts, ANSWERS)
    placed.sort(axis=1)
    owner = np.empty(ANSWERS * prompts, np.int64)
    owner[placed.ravel()] = np.repeat(np.arange(prompts), ANSWERS)
    strength = random.normal(0, 1, ANSWERS * prompts)
    rows = pl.DataFrame(
        {"sample_id": sample, "prompt_id": prompt.gather(owner), "completion": texts(len(sample), random)}
    )
    rows = rows.with_columns(
        characters=pl.col("completion").str.len_chars(),
        model=pl.lit("writer"), temperature=0.7, sample_index=0, seed=0, finish_reason=pl.lit("stop"),
        completion_tokens=130, logprob=None, external_id=None,
    )  # fmt: skip
    written(folder, "samples", rows)
    del rows
    first, second = np.triu_indices(ANSWERS, 1)
    a, b = placed[:, first].ravel(), placed[:, second].ravel()
    order = random.permutation(len(a))
    a, b = a[order], b[order]
    pair = ids(len(a), random)
    rows = pl.DataFrame({"pair_id": pair, "prompt_id": prompt.gather(owner[a]), "sample_a": sample.gather(a)})
    rows = rows.with_columns(sample_b=sample.gather(b), external_id=None, external_flipped=False)
    written(folder, "pairs", rows)
    truth = strength[a] - strength[b]
    judges = sorted(JUDGES)
    shape = (len(a), len(judges), 2)
    noise = random.normal(0, np.linspace(0.5, 2, len(judges))[None, :, None], shape)
    lean = np.array([0.3, -0.3])  # what stands first is liked a little more
    preference = (1 / (1 + np.exp(-(truth[:, None, None] + lean + noise)))).ravel()
    cells = np.arange(len(preference))
    rows = pl.DataFrame(
        {
            "pair_id": pair.gather(cells // (2 * len(judges))),
            "judge": pl.Series(judges).gather(cells // 2 % len(judges)),
            "order": pl.Series(["ab", "ba"], dtype=pl.Enum(["ab", "ba"])).gather(cells % 2),
            "preference": preference,
        }
    )
    (folder / "judgments").mkdir()
    rows.with_columns(
        rationale=pl.lit(None, pl.String), error=pl.lit(None, pl.String), call_keys=pl.lit([], dtype=pl.List(pl.String))
    ).write_parquet(folder / "judgments" / "part-import-judgments.parquet")
    told = random.choice(len(a), LABELS, replace=False)
    liked = random.random(LABELS) < 1 / (1 + np.exp(-3 * truth[told]))
    rows = pl.DataFrame({"pair_id": pair.gather(told), "label": pl.Series(["b", "a"]).gather(liked.astype(np.int64))})
    rows = rows.with_columns(
        annotator=pl.lit("someone"),
        queue=pl.lit("audit"),
        inclusion_prob=LABELS / len(a),
        seconds=None,
        labelled_at=None,
    )
    written(folder, "labels", rows)
    if layout == "judged":
        as_judged(folder)


def peak() -> float:
    """Most memory this process ever held, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def clocks() -> tuple[float, float]:
    """The wall's clock and this process's CPU clock, s."""
    return time.perf_counter(), time.process_time()


def since(started: tuple[float, float]) -> dict[str, float]:
    """Seconds on both clocks."""
    wall, cpu = clocks()
    return {"seconds": wall - started[0], "cpu_seconds": cpu - started[1]}


def bare(folder: Path) -> dict[str, Any]:
    """The group-by that the stages are measured against."""
    files = sorted((folder / "judgments").glob("*.parquet"))
    started = clocks()
    mean = pl.col("preference").mean()
    rows = pl.scan_parquet(files).group_by("pair_id", "judge").agg(mean).collect(engine="streaming")
    return {**since(started), "peak_rss_mb": peak(), "rows": rows.height}


def stages(folder: Path) -> dict[str, Any]:
    """Every stage's seconds, the memory held up to then, and what it made."""
    found: dict[str, Any] = {}
    for module in ("pipeline.aggregation.calibrated", *(f"pipeline.stages.{name}" for name in STAGES)):
        importlib.import_module(module)
    with Workbench(CONFIG, folder, folder) as bench:
        for name in STAGES:
            started = clocks()
            report = run_stage(bench, name, force=True)
            found[name] = {**since(started), "peak_rss_mb": peak(), **report.rows_out, "dropped": report.dropped}
        found["certified"] = (bench.folder.read_json("certificate.json") or {})["certified"]
    return found


def alone(what: str, folder: Path) -> dict[str, Any]:
    """*what* in a process of its own."""
    command = [sys.executable, __file__, "--only", what, "--folder", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measured(pairs: int, rounds: int, layout: str) -> dict[str, Any]:
    """All figures for *pairs* pairs."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_process = [sys.executable, __file__, "--only", "make", "--folder", scratch, "--pairs", str(pairs)]
        make_process += ["--layout", layout]
        subprocess.run(make_process, check=True, stdout=subprocess.DEVNULL)
        references, made = [alone("bare", folder)], list[dict[str, Any]]()
        for _ in range(rounds):
            made.append(alone("stages", folder))
            references.append(alone("bare", folder))

    def spent(clock: str, *names: str) -> float:
        return statistics.median(sum(one[name][clock] for name in names) for one in made)

    seconds, cpu = (spent(clock, "aggregate", "select") for clock in ("seconds", "cpu_seconds"))
    bare_seconds, bare_cpu = (
        statistics.median(one[clock] for one in references) for clock in ("seconds", "cpu_seconds")
    )
    return {
        "ratio_to_bare_group_by": round(seconds / bare_seconds, 2),
        "peak_rss_mb": round(max(one["export"]["peak_rss_mb"] for one in made)),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "gate_seconds": round(spent("seconds", "gate"), 2),
        "export_seconds": round(spent("seconds", "export"), 2),
        "ratio_in_cpu_seconds": round(cpu / bare_cpu, 2),
        "bare_group_by": references,
        "judgments": 2 * len(JUDGES) * made[0]["aggregate"]["verdicts"],
        "stages": made,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layout", choices=("imported", "judged"), default="imported", help="parts of the judgments")
    parser.add_argument("--half", action="store_true", help="half the pairs too, for how the time grows")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    parser.add_argument("--only", choices=("make", "bare", "stages"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only == "make":
        make(arguments.pairs, arguments.folder, arguments.layout)
    elif arguments.only is not None:
        print(json.dumps({"bare": bare, "stages": stages}[arguments.only](arguments.folder)))
    else:
        found = measured(arguments.pairs, arguments.rounds, arguments.layout)
        if arguments.half:
            half = measured(arguments.pairs // 2, arguments.rounds, arguments.layout)
            found["half"] = half
            found["growth"] = round(found["seconds"] / half["seconds"], 2)
            found["growth_in_cpu_seconds"] = round(found["cpu_seconds"] / half["cpu_seconds"], 2)
        if not arguments.json:
            for name, one in found["stages"][-1].items():
                print(name, one)
        print(json.dumps(found))


if __name__ == "__main__":
    main()
