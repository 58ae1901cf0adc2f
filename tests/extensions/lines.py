"""Export `lines`: a line a pair, the better answer first. Writes one file."""

from pathlib import Path

import polars as pl


def export(rows: pl.DataFrame, path: Path, seed: int) -> Path:
    """Write *rows* (``pipeline.stages.export.dataset_rows``) as ``<path>.txt`` and return that file."""
    del seed
    target = path.with_name(f"{path.name}.txt")
    pairs = rows.sort("pair_id").select("chosen", "rejected").iter_rows()
    target.write_text("".join(f"{chosen} > {rejected}\n" for chosen, rejected in pairs), encoding="utf-8")
    return target
