"""report.html: what a run did and how far to trust it, for people. Reads the run's folder, writes that page.

One self-contained file without scripts, under 5 MB whatever the run holds. Everything that came from models, people or
files is cut to size, made visible and escaped by the template engine. What it shows is in sections.py and judges.py.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from dashboard.charts import Chart
from dashboard.charts.base import Shown
from dashboard.marks import described
from dashboard.report import drawing
from dashboard.report.added import added
from dashboard.report.base import FRAMES, Found, Section
from dashboard.report.sections import sections
from dashboard.tables import Table
from pipeline import shown, summary
from pipeline.figures import share
from pipeline.store import RunFolder
from pipeline.workbench import Workbench

TEMPLATES = Path(__file__).parent
EXAMPLES = 12
LARGEST = 5_000_000
"""Bytes of the page, at most."""


@dataclass(frozen=True)
class Drawn:
    """A chart as the page holds it."""

    svg: str | None
    """None where it is left to its table."""
    description: str


Texts = tuple[str, str, str, str]
"""A prompt, two answers to it, and a figure."""
Parts = list[tuple[Section, list[Drawn | Table]]]


@dataclass(frozen=True)
class Limits:
    """How much of a run the page shows."""

    text: int
    """Characters of a prompt or an answer."""
    cell: int
    """Characters of a table's cell."""
    rows: int
    """Rows of a table."""
    drawings: int
    """Characters of all drawings together; charts beyond are left to their tables."""


LIMITS = (Limits(4000, 300, 400, 2_500_000), Limits(800, 60, 40, 600_000))
"""The second where a page by the first would be too large; it is small enough for any run."""


def write(bench: Workbench) -> dict[str, Any]:
    """Write summary.json and report.html; returns the summary."""
    made = summary.write(bench)
    bench.folder.write_text("report.html", page(bench.folder, made))
    return made


def page(run: RunFolder, made: Mapping[str, Any]) -> str:
    """report.html of the run in the folder *run* with the summary *made*."""
    training = run.read_json("model/training.json") or {}
    found = Found(made, {name: run.read(name) for name in FRAMES}, training.get("loss") or [])
    laid_out = (*sections(found), *added(Shown(made, run.read)))
    parts = [(section, [_drawn(part) for part in section.parts]) for section in laid_out]
    texts = {"examples": _examples(run), "duels": _duels(run)}
    written = ""
    for limits in LIMITS:
        written = _rendered(found, parts, texts, limits)
        if len(written.encode()) < LARGEST:
            break
    return written


def _drawn(part: Chart | Table) -> Drawn | Table:
    if isinstance(part, Table):
        return part
    description = described(part)
    try:
        return Drawn(drawing.drawn(part), description)
    except ValueError:  # too much of it, or Vega refused: what it shows is in the tables
        return Drawn(None, description)


def _rendered(found: Found, parts: Parts, texts: Mapping[str, list[Texts]], limits: Limits) -> str:
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["share"] = share
    environment.filters["text"] = partial(_visible, limit=limits.text)
    environment.filters["cell"] = partial(_visible, limit=limits.cell)
    environment.filters["line"] = partial(_line, limit=limits.cell)
    return environment.get_template("report.html").render(
        made=found.made,
        people=found.people,
        warned=found.made["warned"],
        kept=summary.rows_there(found.made, "kept"),
        pairs=summary.rows_there(found.made, "pairs"),
        sections=list(_laid_out(parts, limits)),
        rows=limits.rows,
        **texts,
    )


def _visible(text: object, limit: int) -> str:
    return shown.visible(str(text), limit)


def _line(text: object, limit: int) -> str:
    return shown.line(str(text), limit)


def _laid_out(parts: Parts, limits: Limits) -> Iterator[tuple[Section, list[Drawn | Table]]]:
    """The sections with the drawings that there is room for, first come first served."""
    room = limits.drawings
    for section, listed in parts:
        kept: list[Drawn | Table] = []
        for part in listed:
            if isinstance(part, Drawn) and part.svg is not None:
                room -= len(part.svg)
                kept.append(part if room >= 0 else Drawn(None, part.description))
            else:
                kept.append(part)
        yield section, kept


def _examples(run: RunFolder) -> list[Texts]:
    """The kept pairs with the largest and the smallest margins."""
    kept = run.read("kept").sort("margin", "pair_id", descending=[True, False])
    some = kept if kept.height <= EXAMPLES else pl.concat([kept.head(EXAMPLES // 2), kept.tail(EXAMPLES // 2)])
    # A run may hold more texts than fit into memory; these are a dozen of them.
    wanted = pl.concat([some["chosen_id"], some["rejected_id"]]).implode()
    texts = run.scan("samples", "sample_id", "completion", "prompt_id").filter(pl.col("sample_id").is_in(wanted))
    texts = texts.collect(engine="streaming").unique("sample_id")
    asked = run.scan("prompts", "prompt_id", "messages").filter(pl.col("prompt_id").is_in(texts["prompt_id"].implode()))
    joined = (
        some.join(texts.rename({"sample_id": "chosen_id", "completion": "chosen"}), on="chosen_id")
        .join(texts.select(rejected_id="sample_id", rejected="completion"), on="rejected_id")
        .join(asked.collect(engine="streaming"), on="prompt_id")
        .sort("margin", descending=True)
    )
    return [
        (row["messages"][-1]["content"], row["chosen"], row["rejected"], f"{row['margin']:.2f}")
        for row in joined.iter_rows(named=True)
    ]


def _duels(run: RunFolder) -> list[Texts]:
    """Answers to held-out prompts before and after training."""
    return [
        (row["question"], row["baseline"], row["trained"], share(row["people"]))
        for row in run.read("duels").head(EXAMPLES).iter_rows(named=True)
    ]
