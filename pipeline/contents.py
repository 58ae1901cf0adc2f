"""What files and folders hold, as digests that do not hang on where they lie. Reads what it is asked about.

A stamp names what a result was made from. A path is no such name: weights change under it, and the same weights lie
elsewhere on another machine. So wherever a path, or a plug-in ``./file.py:Name``, stands among what a stage reads, its
content takes its place.
"""

import ast
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

PLUG_IN = re.compile(r"(?P<file>[^\0\n]+\.py):(?P<name>[A-Za-z_]\w*)")
"""How a config names a user's own class or function."""
CHUNK = 1 << 20


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, or of a folder's files with their places in it; hidden files do not count.

    A file that did not change since it was last asked about is not read again by this process.
    """
    if path.is_dir():
        total = hashlib.sha256()
        for file in visible(path):
            total.update(file.relative_to(path).as_posix().encode() + file_digest(file).encode())
        return total.hexdigest()
    status = path.stat()
    key = (path, status.st_ino, status.st_size, status.st_mtime_ns)
    if key not in _known:
        with path.open("rb") as file:
            _known[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _known[key]


_known: dict[tuple[Path, int, int, int], str] = {}


def visible(folder: Path) -> list[Path]:
    """The files in *folder* and below it, sorted; hidden ones and Python's caches left out."""
    found: list[Path] = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        found += [Path(place, name) for name in files if not name.startswith(".")]
    return sorted(found)


def sources(file: Path) -> list[Path]:
    """A plug-in's file and the files beside it that it imports, directly or through each other; sorted."""
    found: set[Path] = set()
    open_ = [file]
    while open_:
        one = open_.pop()
        if one in found or not one.is_file():
            continue
        found.add(one)
        open_ += [one.parent / f"{name}.py" for name in _imported(one)]
    return sorted(found)


def _imported(file: Path) -> Iterator[str]:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):
        return  # whoever executes it says what is wrong
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]
            yield from (alias.name for alias in node.names)


def by_content(value: object, base: Path, digest: Callable[[Path], str] = file_digest) -> object:
    """*value* with what its paths and plug-ins hold in the place of their names.

    Args:
        value: JSON-able; absolute paths in it that exist, and plug-ins, are looked up, as keys of mappings too.
        base: folder that a plug-in's relative path starts from.
        digest: of a file or folder.
    """
    if isinstance(value, str):
        return _content(value, base, digest)
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {str(by_content(key, base, digest)): by_content(inner, base, digest) for key, inner in items}
    if isinstance(value, Sequence):
        return [by_content(inner, base, digest) for inner in cast("Sequence[object]", value)]
    return value


def _content(text: str, base: Path, digest: Callable[[Path], str]) -> str:
    plug_in = PLUG_IN.fullmatch(text)
    if plug_in is not None:
        code = [digest(file) for file in sources(base / plug_in["file"])]
        return ":".join([*code, plug_in["name"]]) if code else text
    if os.path.isabs(text) and "\n" not in text and os.path.exists(text):  # noqa: PTH110, PTH117  cheap for any text
        return digest(Path(text))
    return text
