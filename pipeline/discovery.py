"""Finds plug-ins by what a module defines: a new kind is one new file. Touches only the import system.

A built-in kind ``x`` of package ``p`` is a module ``p.x`` that defines what :data:`KINDS` says (for judges, a class
``XJudge``); other modules of the package are no kinds. A user's own is ``./file.py:Name``, the path taken from the
config's folder.
"""

import importlib
import importlib.util
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.errors import ConfigError

KINDS = {
    "dashboard.charts": "panel",
    "judges": "{Kind}Judge",
    "pipeline.aggregation": "{Kind}Aggregation",
    "pipeline.engines": "{Kind}Engine",
    "pipeline.exports": "export",
    "pipeline.filters": "{Kind}Filter",
    "pipeline.importers": "fits",
    "pipeline.pairing": "{Kind}Pairing",
    "training.methods": "{Kind}Method",
}
"""Package -> the class or function (a pattern) that makes one of its modules a kind; ``{Kind}`` is CamelCase."""


@cache
def kinds(package: str) -> list[str]:
    """Names of the built-in kinds of *package* (e.g. ``judges``, ``pipeline.exports``), sorted; none is imported."""
    root = importlib.import_module(package)
    files = sorted(file for place in root.__path__ for file in Path(place).glob("*.py"))
    return [file.stem for file in files if _defines(file, KINDS[package])]


def _defines(file: Path, attribute: str) -> bool:
    pattern = rf"^(?:class|def) {_named(attribute, file.stem)}\b"
    return re.search(pattern, file.read_text(encoding="utf-8"), re.MULTILINE) is not None


def _named(attribute: str, kind: str) -> str:
    return attribute.replace("{Kind}", "".join(part.title() for part in kind.split("_")))


def check(package: str, kind: str, base: Path | None = None) -> None:
    """Raise ConfigError unless *kind* is a built-in kind of *package* or names a file; nothing of it is imported."""
    if ":" in kind:
        path = (base or Path()) / kind.rpartition(":")[0]
        if not path.is_file():
            raise ConfigError(f"{kind!r} names the file {path}, which does not exist; write ./file.py:Name")
    elif kind not in (allowed := kinds(package)):
        raise ConfigError(
            f"unknown {package.rsplit('.', maxsplit=1)[-1]} kind {kind!r}; allowed: {', '.join(allowed)}, or "
            "./file.py:Name for your own"
        )


def find(package: str, kind: str, attribute: str, base: Path | None = None) -> Any:
    """The object *attribute* of kind *kind*; for ``./file.py:Name`` the object ``Name`` of that file.

    Args:
        package: where built-in kinds live, e.g. ``judges``.
        kind: module name, or ``path.py:Name``.
        attribute: what a built-in module must define; ``{Kind}`` becomes the kind in CamelCase.
        base: folder a user's relative path starts from.

    Raises:
        ConfigError: no such kind, file or name.
    """
    check(package, kind, base)
    if ":" in kind:
        return _from_file(kind, base or Path())
    module = importlib.import_module(f"{package}.{kind}")
    return getattr(module, _named(attribute, kind))


def _from_file(kind: str, base: Path) -> Any:
    file, _, name = kind.rpartition(":")
    path = (base / file).resolve()
    module = _executed(path, path.stat().st_mtime_ns)
    if not hasattr(module, name):
        raise ConfigError(f"{path} defines no {name!r}; it defines: {', '.join(sorted(vars(module)))}")
    return getattr(module, name)


@cache
def _executed(path: Path, _changed_ns: int) -> ModuleType:
    """The module of a user's file, once per version of the file."""
    spec = importlib.util.spec_from_file_location(f"user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} cannot be imported as Python; it must end in .py")
    module = importlib.util.module_from_spec(spec)
    # The file may import its neighbours, as a script can.
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module
