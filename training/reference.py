"""What the reference model thinks of the answers, computed once. Reads and writes ``reference/`` of the run.

The log-probabilities of the untrained model depend on its weights and on the tokens, not on beta, rate, rank, seed or
folder: so they are kept by content, and a second training, or a sweep, passes no answer through the reference again.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.store import file_digest, storage, whole

Pair = tuple[float, float]
SCHEMA = {"key": pl.String, "first": pl.Float32, "second": pl.Float32}


class References:
    """Two log-probabilities a row (nats), by the content of the row, of one reference model."""

    def __init__(self, folder: Path, model: str) -> None:
        """Keep those of *model* (:func:`identity`) in *folder*."""
        self.file = folder / f"{model[:32]}.parquet"

    def known(self, keys: Sequence[str]) -> dict[str, Pair]:
        """By key, the log-probabilities of those *keys* that were computed before."""
        if not self.file.is_file():
            return {}
        wanted = pl.DataFrame({"key": list(dict.fromkeys(keys))}, schema={"key": pl.String})
        with storage(self.file):
            rows = pl.scan_parquet(self.file).join(wanted.lazy(), on="key", how="semi").collect()
        return {key: (first, second) for key, first, second in rows.iter_rows()}

    def add(self, found: Mapping[str, Pair]) -> None:
        """Keep *found*; the file appears whole."""
        rows = pl.DataFrame([(key, *pair) for key, pair in found.items()], schema=SCHEMA, orient="row")
        with storage(self.file):
            before = pl.read_parquet(self.file) if self.file.is_file() else pl.DataFrame(schema=SCHEMA)
        with whole(self.file) as fresh:
            pl.concat([before, rows]).unique("key", keep="first", maintain_order=True).write_parquet(fresh)


def row_key(*content: object) -> str:
    """The key of a row: a digest of its tokens and of what else decides its log-probabilities."""
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def identity(model: Any, name: str, start: Path | None, how: object) -> str:
    """Digest of a reference model: its weights by content, never its path.

    Args:
        model: as loaded; of one from the Hub the commit counts.
        name: folder or Hub name.
        start: folder of an adapter that belongs to the reference.
        how: what else changes its numbers: dtype, quantisation.
    """
    folders = [Path(name), *([] if start is None else [start])]
    weights = [
        [(file.name, file_digest(file)) for file in sorted(folder.iterdir()) if file.suffix in {".safetensors", ".bin"}]
        if folder.is_dir()
        else [name, getattr(model.config, "_commit_hash", None)]
        for folder in folders
    ]
    return row_key(weights, model.config.to_json_string(use_diff=False) if not folders[0].is_dir() else None, how)
