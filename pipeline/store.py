"""The run's folder: frames as Parquet parts, JSON artefacts. Touches that folder and nothing else.

A file appears whole or not at all (write beside, fsync, rename). Every part carries in its metadata the
stamp of what it was made from, so the files themselves say what is done: after a crash nothing has to be
reconstructed. Parts are named ``part-<owner>-<shard>.parquet``; the owner is a stage or ``import``.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import numpy as np
import polars as pl

from pipeline import schemas
from pipeline.blocks import PIECE, together
from pipeline.errors import StorageError
from pipeline.secrets import STRUCK, spellings, struck

JSON = Mapping[str, Any]
FAST = 1
"""Compression level (zstd) of parts: half the time of the usual one for a few per cent more bytes."""
FOOTER = 8
"""Bytes at the end of a Parquet file: the length of its metadata, and `PAR1`."""
CHUNK = 1 << 20


class RunFolder:
    """Reads and writes one run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digests: dict[tuple[Path, int, int, int], str] = {}

    def read(self, frame: str) -> pl.DataFrame:
        """All parts of *frame*, columns as in its schema; empty when there is none.

        Raises:
            StorageError: a part is unreadable or of another schema.
        """
        empty = schemas.frame(frame, [])
        parts = self.parts(frame)
        try:
            loaded = [pl.read_parquet(part).select(empty.columns) for part in parts]
            rows = pl.concat([empty, *loaded], how="vertical")
        except (OSError, pl.exceptions.PolarsError) as error:
            raise StorageError(
                f"{self.path / frame}: a part cannot be read ({error}); delete the folder and run the stage again"
            ) from error

        # Two generators of one model may write the same words: that is one sample.
        return rows.unique("sample_id", keep="first", maintain_order=True) if frame == "samples" else rows

    def scan(self, frame: str, *columns: str) -> pl.LazyFrame:
        """All parts of *frame* to be read piece by piece, these columns or all; equal samples are not merged.

        What is wrong with a part is told when the result is collected, by Polars.
        """
        empty = schemas.frame(frame, [])
        parts = self.parts(frame)
        return (pl.scan_parquet(parts) if parts else empty.lazy()).select(columns or empty.columns)

    def height(self, frame: str) -> int:
        """How many rows :meth:`read` gives; no more of the parts is read than that takes."""
        if frame == "samples" and len(self.parts(frame)) > 1:
            return self.scan(frame, "sample_id").unique().select(pl.len()).collect(engine="streaming").item()
        return self.scan(frame).select(pl.len()).collect(engine="streaming").item()

    def parts(self, frame: str) -> list[Path]:
        """Part files of *frame*, sorted by name."""
        return sorted((self.path / frame).glob("part-*.parquet"))

    def part(self, frame: str, owner: str, shard: str) -> Path:
        """Where the part of *frame* made by *owner* for *shard* lies."""
        return self.path / frame / f"part-{owner}-{quote(shard, safe='+')}.parquet"

    def write_part(self, frame: str, owner: str, shard: str, rows: pl.DataFrame, notes: Mapping[str, str]) -> None:
        """Validate *rows* and write them as one part with *notes* (stamp, seconds) as metadata."""
        made = pieces(struck_rows(schemas.frame(frame, rows)))
        metadata = {"jurybox": json.dumps(notes)}

        def write() -> None:
            # Nobody asks for minima.
            made.write_parquet(file, metadata=metadata, compression_level=FAST, statistics=False)

        # The file takes its place only when the rows have been found to follow the rules.
        with whole(self.part(frame, owner, shard)) as file:
            together(lambda: schemas.valid(frame, made), write)

    def notes(self, frame: str, owner: str, shard: str) -> dict[str, str]:
        """The notes of a part; empty when it does not exist or is no whole Parquet file."""
        path = self.part(frame, owner, shard)
        if not path.is_file():
            return {}
        try:
            return cast("dict[str, str]", json.loads(pl.read_parquet_metadata(path).get("jurybox", "{}")))
        except (OSError, pl.exceptions.PolarsError):
            return {}

    def prune(self, frame: str, owner: str, keep: set[str]) -> None:
        """Remove the parts of *owner* that belong to none of the shards *keep*."""
        wanted = {self.part(frame, owner, shard) for shard in keep}
        for path in (self.path / frame).glob(f"part-{owner}-*.parquet"):
            if path not in wanted:
                path.unlink()

    def digest(self, name: str) -> str:
        """SHA-256 over the frame's parts, or over the file or folder *name*; of nothing when it is absent."""
        path = self.path / name
        files = self.parts(name) if name in schemas.FRAMES else _files(path)
        total = hashlib.sha256()
        for file in files:
            if name in schemas.FRAMES:
                total.update(self._pages_digest(file).encode())
            else:
                total.update(str(file.relative_to(self.path)).encode() + file_digest(file).encode())
        return total.hexdigest()

    def _pages_digest(self, part: Path) -> str:
        """pages_digest, once for a file: parts are never changed, they are replaced."""
        status = part.stat()
        key = (part, status.st_ino, status.st_size, status.st_mtime_ns)
        if key not in self._digests:
            self._digests[key] = pages_digest(part)
        return self._digests[key]

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The artefact *name*, or None when there is none.

        Raises:
            StorageError: it cannot be read, or is no JSON object.
        """
        path = self.path / name
        if not path.is_file():
            return None
        try:
            found: object = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise StorageError(f"{path}: cannot be read ({error}); delete it and run its stage again") from error
        if not isinstance(found, dict):
            raise StorageError(
                f"{path}: holds {type(found).__name__}, where an object was written; delete it and run its stage again"
            )
        return cast("dict[str, Any]", found)

    def write_json(self, name: str, value: JSON) -> None:
        """Write the artefact *name*, keys in the order given."""
        self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write the text file *name*, UTF-8."""
        with whole(self.path / name) as file:
            file.write_text(struck(text), encoding="utf-8")

    def replace_folder(self, name: str, build: Callable[[Path], None]) -> None:
        """Let *build* fill a fresh folder, then put it in the place of *name*."""
        target = self.path / name
        fresh, old = target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")
        with storage(target):
            for leftover in (fresh, old):
                shutil.rmtree(leftover, ignore_errors=True)
            fresh.mkdir(parents=True)
            build(fresh)
            if target.exists():
                target.rename(old)
            fresh.rename(target)
            shutil.rmtree(old, ignore_errors=True)


def pieces(rows: pl.DataFrame) -> pl.DataFrame:
    """*rows* in pieces of blocks.PIECE, so that equal rows are equal bytes however they were put together.

    Lists are copied: Polars 2.1 writes lists that are a part of a longer column as other bytes, and many times slower.
    """
    lists = [name for name, kind in rows.schema.items() if isinstance(kind, pl.List)]

    def piece(start: int) -> pl.DataFrame:
        made = rows.slice(start, PIECE).rechunk()
        return made.with_columns(made[name].gather(np.arange(made.height, dtype=np.uint32)) for name in lists)

    return pl.concat([piece(start) for start in range(0, max(rows.height, 1), PIECE)], rechunk=False)


def struck_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """*rows* with every known secret struck from their texts, those in lists included."""
    known = list(spellings())
    if not known:
        return rows

    def clean(text: pl.Expr, kind: pl.DataType) -> pl.Expr:
        if isinstance(kind, pl.List):
            return text.list.eval(clean(pl.element(), cast("pl.DataType", kind.inner)))
        if isinstance(kind, pl.Struct):
            return text.struct.with_fields(
                clean(pl.field(field.name), cast("pl.DataType", field.dtype)).alias(field.name) for field in kind.fields
            )
        return text.str.replace_many(known, [STRUCK], leftmost=True) if kind == pl.String else text

    made = rows.with_columns(clean(pl.col(name), kind) for name, kind in rows.schema.items())
    return rows if made.equals(rows) else made


@contextmanager
def storage(path: Path) -> Generator[None]:
    """Turn what the file system refuses into a StorageError that names the file and the remedy."""
    try:
        yield
    except (OSError, pl.exceptions.ComputeError) as error:
        raise StorageError(
            f"{path}: cannot be written ({error}); free space or mend permissions, then run the same command again"
        ) from error


@contextmanager
def whole(target: Path) -> Generator[Path]:
    """A temporary file beside *target* that takes its place, flushed to disk, when the block ends well."""
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    with storage(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            yield fresh
            with fresh.open("rb+") as file:
                os.fsync(file.fileno())
            fresh.replace(target)
        finally:
            fresh.unlink(missing_ok=True)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pages_digest(part: Path) -> str:
    """SHA-256 of a Parquet file's rows as they are encoded; the notes in its footer, such as seconds, do not count.

    Parts are written by one writer from sorted rows, so equal rows are equal bytes; a new writer may encode them
    otherwise, which costs a stage that runs once more.

    Raises:
        StorageError: it is no whole Parquet file.
    """
    total = hashlib.sha256()
    with part.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - FOOTER, 0))
        length, magic = int.from_bytes(file.read(4), "little"), file.read(4)
        left = size - FOOTER - length
        if magic != b"PAR1" or left < 0:
            raise StorageError(
                f"{part.parent}: a part cannot be read ({part.name} is no whole Parquet file); delete the folder and "
                "run the stage again"
            )
        file.seek(0)
        while chunk := file.read(min(left, CHUNK)):
            total.update(chunk)
            left -= len(chunk)
    return total.hexdigest()


def slice_digest(frames: Mapping[str, pl.DataFrame]) -> str:
    """SHA-256 over the rows of *frames*, whatever their row order."""
    total = hashlib.sha256()
    for name in sorted(frames):
        total.update(name.encode() + _rows_digest(schemas.frame(name, frames[name])).encode())
    return total.hexdigest()


def _rows_digest(rows: pl.DataFrame) -> str:
    return hashlib.sha256(rows.write_ndjson().encode()).hexdigest()


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    return [path] if path.is_file() else []
