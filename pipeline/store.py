"""The run's folder: frames as Parquet parts, JSON artefacts. Touches that folder and nothing else.

A file appears whole or not at all (write beside, fsync, rename). Every part carries in its metadata the
stamp of what it was made from, so the files themselves say what is done: after a crash nothing has to be
reconstructed. Parts are named ``part-<owner>-<shard>.parquet``; the owner is a stage or ``import``.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, cast
from urllib.parse import quote

import numpy as np
import polars as pl
from filelock import FileLock, Timeout

from pipeline import schemas
from pipeline.arrays import PIECE, together
from pipeline.contents import file_digest
from pipeline.errors import StorageError
from pipeline.secrets import STRUCK, spellings, struck

JSON = Mapping[str, Any]
FAST = 1
"""Compression level (zstd) of parts: half the time of the usual one for a few per cent more bytes."""
CHECKSUMS = "checksums.json"
"""File of the run -> SHA-256 of its bytes when it was written."""
LOCK = ".lock"
"""Held by the process that writes the run; the system lets it go when that process dies."""
UNFINISHED = ".tmp"
"""How the names of what is not whole yet end."""
FOOTER = 8
"""Bytes at the end of a Parquet file: the length of its metadata, and `PAR1`."""
CHUNK = 1 << 20


class UndeclaredError(LookupError):
    """A stage touched what it does not declare: a fault of the stage, not of the run."""


class RunFolder:
    """Reads and writes one run's folder."""

    def __init__(self, path: Path) -> None:
        self._root = path
        self._digests: dict[tuple[Path, int, int, int], tuple[str, str]] = {}
        self._lock = FileLock(path / LOCK, thread_local=False)

    def __str__(self) -> str:
        return str(self._root)

    @property
    def path(self) -> Path:
        """The folder itself, for the door and the pages; stages name what they read."""
        return self._root

    def only(self, stage: str, names: Iterable[str]) -> "RunFolder":
        """This folder with nothing in it but the frames and artefacts *names*, for the stage *stage* to read."""
        return _Declared(self, stage, frozenset(names))

    def _at(self, name: str) -> Path:
        """Where the frame or artefact *name* lies; the one way from a name to a path."""
        return self._root / name

    def local(self, name: str) -> Path:
        """The artefact *name*, a file or folder, as a path of this machine, there or not."""
        return self._at(name)

    def read(self, frame: str) -> pl.DataFrame:
        """All parts of *frame*, columns as in its schema; empty when there is none.

        Raises:
            StorageError: a part is unreadable or of another schema.
        """
        empty = schemas.frame(frame, [])
        parts = self.parts(frame)
        try:
            loaded = [pl.read_parquet(part, glob=False).select(empty.columns) for part in parts]
            rows = pl.concat([empty, *loaded], how="vertical")
        except (OSError, pl.exceptions.PolarsError) as error:
            raise StorageError(
                f"{self._at(frame)}: a part cannot be read ({error}); delete the folder and run the stage again"
            ) from error

        # Two generators of one model may write the same words: that is one sample.
        return rows.unique("sample_id", keep="first", maintain_order=True) if frame == "samples" else rows

    def scan(self, frame: str, *columns: str) -> pl.LazyFrame:
        """All parts of *frame* to be read piece by piece, these columns or all; equal samples are not merged.

        What is wrong with a part is told when the result is collected, by Polars.
        """
        empty = schemas.frame(frame, [])
        parts = self.parts(frame)
        return (pl.scan_parquet(parts, glob=False) if parts else empty.lazy()).select(columns or empty.columns)

    def height(self, frame: str) -> int:
        """How many rows :meth:`read` gives; no more of the parts is read than that takes."""
        if frame == "samples" and len(self.parts(frame)) > 1:
            return self.scan(frame, "sample_id").unique().select(pl.len()).collect(engine="streaming").item()
        return self.scan(frame).select(pl.len()).collect(engine="streaming").item()

    def parts(self, frame: str) -> list[Path]:
        """Part files of *frame*, sorted by name."""
        return sorted(self._at(frame).glob("part-*.parquet"))

    def part(self, frame: str, owner: str, shard: str) -> Path:
        """Where the part of *frame* made by *owner* for *shard* lies."""
        return self._at(frame) / f"part-{owner}-{quote(shard, safe='+')}.parquet"

    def others(self, frame: str, owner: str) -> pl.DataFrame:
        """What is in *frame* besides the parts of *owner*.

        Raises:
            StorageError: a part is unreadable.
        """
        empty = schemas.frame(frame, [])
        found = [part for part in self.parts(frame) if not part.name.startswith(f"part-{owner}-")]
        try:
            return pl.concat([empty, *(pl.read_parquet(part, glob=False).select(empty.columns) for part in found)])
        except (OSError, pl.exceptions.PolarsError) as error:
            raise StorageError(f"{self._at(frame)}: a part cannot be read ({error}); import the file again") from error

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
        except (OSError, ValueError, pl.exceptions.PolarsError):
            return {}

    def prune(self, frame: str, owner: str, keep: set[str]) -> None:
        """Remove the parts of *owner* that belong to none of the shards *keep*."""
        wanted = {self.part(frame, owner, shard) for shard in keep}
        for path in self._at(frame).glob(f"part-{owner}-*.parquet"):
            if path not in wanted:
                path.unlink()

    def files(self, name: str) -> list[Path]:
        """The files of the frame, file or folder *name*, sorted; none when it is absent."""
        if name in schemas.FRAMES:
            return self.parts(name)
        path = self._at(name)
        if path.is_dir():
            return sorted(file for file in path.rglob("*") if file.is_file())
        return [path] if path.is_file() else []

    def digest(self, name: str) -> str:
        """SHA-256 over the frame's parts, or over the file or folder *name*; of nothing when it is absent."""
        total = hashlib.sha256()
        for file in self.files(name):
            if name in schemas.FRAMES:
                total.update(self._digested(file)[0].encode())
            else:
                total.update(self._name(file).encode() + self._digested(file)[1].encode())
        return total.hexdigest()

    def _name(self, file: Path) -> str:
        return file.relative_to(self._root).as_posix()

    def _digested(self, file: Path) -> tuple[str, str]:
        """(digest of a part's rows, of all bytes), once for a file: files are replaced, never changed."""
        status = file.stat()
        key = (file, status.st_ino, status.st_size, status.st_mtime_ns)
        if key not in self._digests:
            is_part = file.suffix == ".parquet" and file.name.startswith("part-")
            self._digests[key] = part_digests(file) if is_part else ("", file_digest(file))
        return self._digests[key]

    def checksums(self) -> dict[str, str]:
        """File -> SHA-256 of its bytes when it was written; what is not in it has not been recorded yet."""
        try:
            return cast("dict[str, str]", _json(self._root / CHECKSUMS) or {})
        except StorageError:
            return {}

    def damaged(self, files: Iterable[Path]) -> list[Path]:
        """Those of *files* that are there and not what was written."""
        known = self.checksums()
        return [file for file in files if self._is_damaged(file, known)]

    def _is_damaged(self, file: Path, known: Mapping[str, str]) -> bool:
        recorded = known.get(self._name(file))
        if recorded is None or not file.is_file():
            return False
        try:
            return self._digested(file)[1] != recorded
        except StorageError:
            return True

    def faults(self) -> list[str]:
        """What is wrong with the files that were recorded, a line each."""
        known = self.checksums()
        gone = [f"{self._root / name}: is gone" for name in known if not (self._root / name).is_file()]
        return gone + [_damage(file) for file in self.damaged(self._root / name for name in known)]

    def verify(self, names: Iterable[str]) -> None:
        """Look whether the files of the frames and artefacts *names* are those that were written.

        Raises:
            StorageError: one is not.
        """
        for file in self.damaged(file for name in names for file in self.files(name)):
            raise StorageError(_damage(file))

    def record(self, files: Iterable[Path], fresh: Collection[Path] = ()) -> None:
        """Remember what *files* hold: those that are *fresh* as they are now, others unless they are known already."""
        before = self.checksums()
        known = {name: one for name, one in before.items() if (self._root / name).is_file()}
        for file in files:
            name = self._name(file)
            if file.is_file() and (file in fresh or name not in known):
                known[name] = self._digested(file)[1]
        if known != before:
            self.write_json(CHECKSUMS, dict(sorted(known.items())))

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The artefact *name*, or None when there is none.

        Raises:
            StorageError: it is no JSON object.
        """
        return _json(self._at(name))

    def write_json(self, name: str, value: JSON) -> None:
        """Write the artefact *name*, keys in the order given."""
        self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write the text file *name*, UTF-8."""
        with whole(self._at(name)) as file:
            file.write_text(struck(text), encoding="utf-8")

    def replace_folder(self, name: str, build: Callable[[Path], None]) -> None:
        """Let *build* fill a fresh folder, then put it in the place of *name*."""
        target = self._at(name)
        fresh, old = unfinished(target), unfinished(target)
        with storage(target):
            fresh.mkdir(parents=True)
            try:
                build(fresh)
                if target.exists():
                    target.rename(old)
                fresh.rename(target)
            finally:
                for leftover in (fresh, old):
                    shutil.rmtree(leftover, ignore_errors=True)

    def remove(self, name: str) -> None:
        """Remove the file or folder *name* of the run, if it is there."""
        path = self._at(name)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    @contextmanager
    def writing(self, waits: Callable[[str], None]) -> Generator[None]:
        """Hold the run's folder against other writers; a writer that dies holds it no longer.

        Args:
            waits: told who holds it when there is a wait.

        Raises:
            StorageError: the folder cannot be written.
        """
        with storage(self._at(LOCK)):
            self._root.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(blocking=False)
            except Timeout:
                waits(f"{self}: another process writes this run{self._holder()}; waiting until it has finished")
                self._lock.acquire()
        try:
            if self._lock.lock_counter == 1:
                self._sweep()
            yield
        finally:
            self._lock.release()

    def _holder(self) -> str:
        try:
            told = self.read_json("status.json") or {}
        except StorageError:
            told = {}
        return f" (process {told['pid']} on {told['host']})" if {"pid", "host"} <= told.keys() else ""

    def _sweep(self) -> None:
        """Remove what writers that were killed left half-written."""
        for leftover in (*self._root.glob(f".*{UNFINISHED}"), *self._root.glob(f"*/.*{UNFINISHED}")):
            # Small files, such as the summary, are written without holding the folder.
            if _lives(leftover.name.split(".")[-3]):
                continue
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


class _Declared(RunFolder):
    """What one stage may read of a run's folder; it writes nothing."""

    def __init__(self, whole: RunFolder, stage: str, names: frozenset[str]) -> None:
        super().__init__(whole.path)
        self._stage, self._names = stage, names

    @property
    def path(self) -> Path:
        raise UndeclaredError(f"stage {self._stage} asks for the run's folder; it may read {self._allowed()} by name")

    def _at(self, name: str) -> Path:
        if name.partition("/")[0] not in self._names:
            raise UndeclaredError(
                f"stage {self._stage} touches {name!r}, which it does not declare; it declares {self._allowed()} "
                "(inputs, artefacts_in, beside of its Stage)"
            )
        return super()._at(name)

    def _allowed(self) -> str:
        return ", ".join(sorted(self._names)) or "nothing"

    def _refused(self, *_: object, **__: object) -> NoReturn:
        raise UndeclaredError(f"stage {self._stage} writes by itself; what it made belongs into its Result")

    write_part = prune = record = write_json = write_text = replace_folder = remove = writing = _refused


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        found: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StorageError(f"{path}: cannot be read ({error}); delete it and run its stage again") from error
    if not isinstance(found, dict):
        raise StorageError(f"{path}: holds no JSON object; delete it and run its stage again")
    return cast("dict[str, Any]", found)


def _damage(file: Path) -> str:
    owner = file.name.split("-")[1] if file.name.startswith("part-") and "-" in file.name else None
    remedy = "import its file again" if owner == "import" else "delete it and run its stage again"
    return f"{file}: is damaged (its bytes are not those that were written); {remedy}"


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


def _lives(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def unfinished(target: Path) -> Path:
    """A name beside *target* that nobody else has, for what is to take its place."""
    return target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}{UNFINISHED}")


@contextmanager
def whole(target: Path) -> Generator[Path]:
    """A temporary file beside *target* that takes its place, flushed to disk, when the block ends well."""
    fresh = unfinished(target)
    with storage(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            yield fresh
            with fresh.open("rb+") as file:
                os.fsync(file.fileno())
            fresh.replace(target)
        finally:
            fresh.unlink(missing_ok=True)


def part_digests(part: Path) -> tuple[str, str]:
    """SHA-256 of a part's rows as they are encoded, and of all its bytes.

    The notes in its footer, such as seconds, do not count among the rows. Parts are written by one writer from sorted
    rows, so equal rows are equal bytes; a new writer may encode them otherwise, which costs one more run of a stage.

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
        rows = total.hexdigest()
        while chunk := file.read(CHUNK):
            total.update(chunk)
    return rows, total.hexdigest()


def slice_digest(frames: Mapping[str, pl.DataFrame]) -> str:
    """SHA-256 over the rows of *frames*, whatever their row order."""
    total = hashlib.sha256()
    for name in sorted(frames):
        total.update(name.encode() + _rows_digest(schemas.frame(name, frames[name])).encode())
    return total.hexdigest()


def _rows_digest(rows: pl.DataFrame) -> str:
    return hashlib.sha256(rows.write_ndjson().encode()).hexdigest()
