"""What holds rows: JSON lines, JSON, CSV, Parquet, gzip, zstd, saved datasets, the Hub. Reads the user's files.

Null is absent: Arrow and pandas write what is missing as null, and NaN is theirs too. No path is ever a pattern.
"""

import codecs
import csv
import gzip
import hashlib
import io
import json
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import polars as pl

from pipeline.errors import DataError
from pipeline.importers.base import Row, Table

HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
"""How a dataset on the Hub is called."""
GZIP, ZSTD, PARQUET, ARROW = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1", b"ARROW1"
PACKED = {".gz", ".zst", ".zstd"}
SUFFIXES = {".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", *PACKED}
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
SHARD = re.compile(r"-\d+-of-\d+$")
EXPECTED = "give a file of one JSON object a line, JSON, CSV or Parquet (.gz and .zst too), or a saved dataset"


@dataclass(frozen=True, slots=True)
class Source:
    """Where rows are, and what the config calls their columns."""

    path: Path
    """A file, a folder, or the name of a dataset on the Hub."""
    split: str | None = None
    subset: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict[str, str])
    """Our name of a column -> the file's."""

    @property
    def name(self) -> str:
        """Its name without folder and kind, for a judge that is named after it."""
        bare = self.path.name
        while Path(bare).suffix in SUFFIXES:
            bare = Path(bare).stem
        return re.sub(r"[^\w.:+-]+", "-", bare).strip("-.") or "file"

    def files(self) -> list[Path]:
        """The files that are read, sorted; none where they are on the Hub."""
        if self.path.is_dir():
            return sorted(file for file in self.path.rglob("*") if file.is_file())
        return [self.path] if self.path.is_file() else []

    def digest(self) -> str:
        """SHA-256 of what is read; of its name where it is on the Hub."""
        total = hashlib.sha256(f"{self.split}\x00{self.subset}\x00".encode())
        for file in self.files():
            with file.open("rb") as opened:
                total.update(hashlib.file_digest(opened, "sha256").digest())
        return total.hexdigest() if self.files() else hashlib.sha256(f"{self}".encode()).hexdigest()


def table(source: Source) -> Table:
    """All rows of *source*.

    Raises:
        DataError: it is missing, empty or broken; names file and line.
    """
    if source.path.is_dir():
        rows = _folder(source)
    elif source.path.exists():
        rows = _file(source.path)
    elif HUB.fullmatch(str(source.path)) and source.path.suffix not in SUFFIXES:
        rows = hub(str(source.path), source)
    else:
        raise DataError(
            f"{source.path}: does not exist and cannot be read (No such file or folder); {EXPECTED}, or the name of a "
            "dataset on the Hub (org/name)"
        )
    made = [(f"{source.path.name}:{number}", _mapped(row, source.columns)) for number, row in rows]
    if not made:
        raise DataError(f"{source.path}: is empty; {EXPECTED}")
    columns = tuple(dict.fromkeys(name for _, row in made for name in row))
    return Table(source.path.name, [(where, _present(row)) for where, row in made], columns)


def json_lines(path: Path) -> Iterator[tuple[int, Row]]:
    """(1-based line, object) of every line that is not blank.

    Raises:
        DataError: the file is missing, empty or no text, or a line is no JSON object; names file and line.
    """
    try:
        text = _decoded(path.read_bytes(), path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); {EXPECTED}") from error
    yield from _lines(text, path)


def _present(row: Row) -> Row:
    return {key: value for key, value in row.items() if value is not None and value == value}  # noqa: PLR0124  NaN


def _mapped(row: Row, columns: Mapping[str, str]) -> Row:
    """*row* with the columns that the config names under our names."""
    if not columns:
        return row
    found = {ours: value for ours, theirs in columns.items() if (value := _at(row, theirs)) is not None}
    return {key: value for key, value in row.items() if key not in columns.values()} | found


def _at(row: Row, name: str) -> object:
    """The value of a column, or by dots of a key inside one."""
    value: Any = row
    for part in [name] if name in row else name.split("."):
        value = cast("Row", value).get(part) if isinstance(value, dict) else None
    return value


def _file(path: Path) -> Iterable[tuple[int, Row]]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); {EXPECTED}") from error
    kind = path.suffix.lower()
    if kind in PACKED or raw[:2] == GZIP or raw[:4] == ZSTD:
        raw, kind = _unpacked(raw, path), Path(path.stem).suffix.lower()
    if raw[:4] == PARQUET or raw[:6] == ARROW:
        return _frame(raw, path)
    text = _decoded(raw, path)
    if kind in {".csv", ".tsv"}:
        return _cells(text, path)
    return _json(text, path)


def _unpacked(raw: bytes, path: Path) -> bytes:
    try:
        if raw[:2] == GZIP:
            return gzip.decompress(raw)
        import pyarrow as pa

        arrow = cast("Any", pa)
        with arrow.CompressedInputStream(arrow.BufferReader(raw), "zstd") as stream:
            return stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be unpacked ({error}); copy it again, it may have been cut") from error


def _decoded(raw: bytes, path: Path) -> str:
    """The text, whatever a byte-order mark or the zeros of UTF-16 say it is written in."""
    codec = next((codec for mark, codec in MARKS if raw.startswith(mark)), "utf-8")
    if codec == "utf-8" and b"\x00" in raw[:2]:
        codec = "utf-16-be" if raw[:1] == b"\x00" else "utf-16-le"
    try:
        return raw.decode(codec)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: cannot be read as {codec} ({error}); save it as UTF-8") from error


def _json(text: str, path: Path) -> Iterable[tuple[int, Row]]:
    """One object a line, a list of objects, or one object that holds them."""
    start = text.lstrip()[:1]
    lines = text.split("\n", 2)
    # A file whose first line is no whole object may be one value that is written over many lines.
    if start == "[" or (start == "{" and len(lines) > 1 and not _is_object(lines[0])):
        with suppress(ValueError, RecursionError):
            rows = _held(json.loads(text))
            if rows is not None:
                return enumerate(rows, 1)
    rows = list(_lines(text, path))
    if len(rows) == 1 and (held := _held(rows[0][1])) is not None:
        return enumerate(held, 1)
    return rows


def _is_object(line: str) -> bool:
    with suppress(ValueError, RecursionError):
        return isinstance(json.loads(line), dict)
    return False


def _held(value: object) -> list[Row] | None:
    """The rows in a JSON value: a list of objects, the `data` of OpenAI's lists, or the object itself."""
    if isinstance(value, dict):
        given = cast("Row", value)
        inner = given.get("data")
        if isinstance(inner, list) and not {"messages", "prompt"} & given.keys():
            value = cast("object", inner)
        else:
            return [given]
    if not isinstance(value, list):
        return None
    rows = cast("list[object]", value)
    # What is no object among objects is a row without columns.
    told = [cast("Row", row) if isinstance(row, dict) else {} for row in rows]
    return told if any(told) or not rows else None


def _lines(text: str, path: Path) -> Iterator[tuple[int, Row]]:
    lines = text.split("\n")
    if not any(line.strip() for line in lines):
        raise DataError(f"{path}: is empty; expected one JSON object a line")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value: object = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path}:{number}: is not JSON ({error}), found {line[:60]!r}; correct or delete the line"
            ) from error
        if not isinstance(value, dict):
            raise DataError(f"{path}:{number}: expected a JSON object, found {type(value).__name__}")
        yield number, cast("Row", value)


def _cells(text: str, path: Path) -> Iterator[tuple[int, Row]]:
    """(line on which the row ends, row); an empty cell is null."""
    csv.field_size_limit(sys.maxsize)
    head = text.split("\n", 1)[0]
    separator = max(",\t;", key=head.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, restkey="\x00more")
    try:
        for row in reader:
            if "\x00more" in row:
                raise DataError(
                    f"{path}:{reader.line_num}: has more cells than the header names ({len(reader.fieldnames or ())}); "
                    "quote cells that hold the separator or line ends"
                )
            yield reader.line_num, {str(key).strip(): value or None for key, value in row.items()}
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: is no CSV ({error}); correct or delete the row") from error


def _frame(raw: bytes, path: Path) -> Iterator[tuple[int, Row]]:
    try:
        rows = pl.read_parquet(raw) if raw[:4] == PARQUET else pl.read_ipc(raw)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path}: is no whole {path.suffix or 'Parquet'} file ({error}); copy it again") from error
    return ((number, _bare(row)) for number, row in enumerate(rows.iter_rows(named=True), 1))


def _bare(value: Any) -> Any:
    """*value* without the nulls inside its objects: Arrow gives every object the keys of all."""
    if isinstance(value, dict):
        return {key: _bare(one) for key, one in cast("Row", value).items() if one is not None}
    return [_bare(one) for one in cast("list[Any]", value)] if isinstance(value, list) else value


def _folder(source: Source) -> Iterator[tuple[int, Row]]:
    """Of ``datasets.save_to_disk``, or of files of rows."""
    if (source.path / "state.json").is_file() or (source.path / "dataset_dict.json").is_file():
        return saved(source)
    splits: dict[str, list[Path]] = {}
    for file in source.files():
        if file.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in file.parts[-2:]):
            name = file.parent.name if file.parent != source.path else SHARD.sub("", Source(file).name)
            splits.setdefault(name, []).append(file)
    if not splits:
        raise DataError(f"{source.path}: is a folder without rows; {EXPECTED}")
    files = splits[_one(list(splits), source.split, source.path)]
    return ((at, row) for at, (_, row) in enumerate((one for file in files for one in _file(file)), 1))


def saved(source: Source) -> Iterator[tuple[int, Row]]:
    """The rows of a folder of ``datasets.save_to_disk``."""
    import datasets

    try:
        found = cast("Any", datasets).load_from_disk(str(source.path))
    except Exception as error:
        # Whatever `datasets` and Arrow raise for a damaged folder, it is the folder that is wrong.
        raise DataError(f"{source.path}: is no whole saved dataset ({error}); save it again") from error
    return _rows(found, source)


def hub(name: str, source: Source) -> Iterator[tuple[int, Row]]:
    """The rows of a dataset on the Hub, through ``datasets``."""
    import datasets

    try:
        found = cast("Any", datasets).load_dataset(name, source.subset)
    except Exception as error:
        raise DataError(
            f"{name}: is no file or folder here, and as a dataset on the Hub it cannot be read "
            f"({type(error).__name__}: {error}); correct the path, or log in to the Hub and name the subset"
        ) from error
    return _rows(found, source)


def _rows(found: Any, source: Source) -> Iterator[tuple[int, Row]]:
    if hasattr(found, "keys"):
        found = found[_one(list(found.keys()), source.split, source.path)]
    rows = cast("list[Row]", found.with_format("arrow")[:].to_pylist())
    return ((number, _bare(row)) for number, row in enumerate(rows, 1))


def _one(splits: list[str], wanted: str | None, path: Path) -> str:
    """The split that is wanted, or the only one there is, or `train`."""
    if wanted is None:
        return splits[0] if len(splits) == 1 else _one(splits, "train", path)
    if wanted not in splits:
        raise DataError(f"{path}: has no split {wanted!r}; allowed: {', '.join(sorted(splits))}; name one with --split")
    return wanted
