"""Whether a checkpoint's files are whole, told before a trainer reads them. Reads them and runs nothing in them."""

import json
import zipfile
from pathlib import Path

from pipeline.errors import StageError

ARCHIVES = (".pt", ".pth", ".bin")
"""Endings of PyTorch's files, which are ZIP archives with a checksum of each part."""


def require_sound(checkpoint: Path) -> Path:
    """*checkpoint*, whose files are all whole.

    Raises:
        StageError: one is not; the message names it and the remedy.
    """
    for file in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
        if fault := _fault(file):
            raise StageError(
                f"{file}: cannot be read ({fault}), so training cannot go on from {checkpoint.name}; delete that "
                "folder, and training goes on from the checkpoint before it, or from the start"
            )
    return checkpoint


def _fault(file: Path) -> str | None:
    """What is wrong with a file, as far as its kind tells."""
    try:
        if file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
        elif file.suffix == ".safetensors":
            from safetensors import SafetensorError, safe_open

            try:
                with safe_open(str(file), framework="np"):
                    pass
            except SafetensorError as error:
                return str(error)
        elif file.suffix in ARCHIVES:
            with zipfile.ZipFile(file) as archive:
                broken = archive.testzip()
            return None if broken is None else f"the checksum of {broken} is wrong"
    except (OSError, ValueError, RecursionError, zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        return str(error) or type(error).__name__
    return None
