"""Where a file meets its importer: named, or found by its columns. Reads the user's files.

A shape is a module of ``pipeline.importers`` that defines ``fits`` and ``read``: a new one is one new file.
"""

import importlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from pipeline import discovery
from pipeline.errors import DataError
from pipeline.importers.base import Asked, Batch, Kind, Own, Read, Refused, Row, Table
from pipeline.importers.reading.tables import Source, table
from pipeline.importers.reading.values import shown

PACKAGE = "pipeline.importers"
LOOKED_AT = 50
"""Rows by which a shape is known."""
OURS = "jsonl"
SHOWN = 3
Fits = Callable[[Row, Kind], int]


def shapes() -> dict[str, tuple[Fits, Read]]:
    """Importer -> how it knows its shape and how it reads it."""
    modules = {name: importlib.import_module(f"{PACKAGE}.{name}") for name in discovery.kinds(PACKAGE)}
    return {
        name: (cast("Fits", module.fits), cast("Read", module.read))
        for name, module in modules.items()
        if hasattr(module, "fits") and hasattr(module, "read")
    }


def read(source: Source, fmt: str | None, kind: Kind, annotator: str | None, base: Path) -> Batch:
    """What *source* holds for an import of *kind*; *fmt* names the importer, else the columns tell.

    Raises:
        ConfigError: there is no such importer.
        DataError: the file is missing or broken, or no one shape is plain from its columns.
    """
    if fmt is not None and ":" in fmt:
        return _own(cast("Own", discovery.find(PACKAGE, fmt, "", base)), source, kind)
    if fmt is not None:
        discovery.check(PACKAGE, fmt, base)
    known = shapes()
    rows = table(source)
    name = fmt or sniffed(rows, kind, {shape: fits for shape, (fits, _) in known.items()})
    return replace(known[name][1](rows, Asked(kind, source.name, annotator)), columns=rows.columns)


def sniffed(rows: Table, kind: Kind, known: dict[str, Fits]) -> str:
    """The importer whose shape most of the first rows have, and of those the one that explains most columns.

    Where none fits it is our own, which then says what is missing.

    Raises:
        DataError: several fit alike.
    """
    seen = [row for _, row in rows.rows[:LOOKED_AT]]
    scores = {name: [fits(row, kind) for row in seen] for name, fits in known.items()}
    ranked = {name: (sum(map(bool, told)), sum(told)) for name, told in scores.items() if any(told)}
    best = max(ranked.values(), default=(0, 0))
    names = sorted(name for name, rank in ranked.items() if rank == best)
    if len(names) > 1 and OURS not in names:
        raise DataError(f"{rows.name}: may have the shape of {' or '.join(names)}; name one with --format")
    return OURS if not names or OURS in names else names[0]


def why_nothing(refused: Refused, needs: Sequence[str], columns: Sequence[str] | None) -> str:
    """Why nothing of a file could be used: each kind of fault with an example, and all columns that are missing."""
    counts = Counter(refused.rows.values())
    told = [_fault(refused, reason, count, len(counts)) for reason, count in sorted(counts.items())]
    text = f"none of {len(refused.rows)} rows can be imported ({', '.join(told)})"
    missing = [need for need in needs if columns is not None and not set(need.split("|")) & set(columns)]
    if columns is None or not missing:
        return text
    wanted = ", ".join(need.replace("|", " or ") for need in missing)
    there, example = ", ".join(map(shown, columns)), missing[0].partition("|")[0]
    return (
        f"{text}; missing columns: {wanted}; found: {there}; say under `columns` in the config what they are called "
        f"(columns: {{{example}: their name}}), or name the shape with --format ({', '.join(sorted(shapes()))})"
    )


def _fault(refused: Refused, reason: str, count: int, kinds: int) -> str:
    name = next(name for name, why in refused.rows.items() if why == reason)
    detail = refused.details.get(name)
    times = f" {count} times" if kinds > 1 else ""
    return f"{reason}{times}: {shown(name)}: {detail}" if detail else f"{reason}{times}"


def _own(function: Own, source: Source, kind: Kind) -> Batch:
    """What a user's own importer found; it is given the path."""
    if not source.path.exists():
        raise DataError(f"{source.path}: does not exist; give a file that the importer can read")
    rows, refused = function(source.path)
    batch = Batch(refused=refused)
    cast("dict[str, list[Any]]", vars(batch))[kind].extend(rows)
    return batch
