"""Puts a rubric into the frame of a judge kind. Reads text files beside the judges and beside the config.

A rubric is one text file: criteria, and worked examples between ``[[example 1]]`` and ``[[/example 1]]``, which serve
every kind of judge; the frame of the kind (frames/) says what is shown and asked. A file with placeholders is a whole
prompt of its own instead, for one kind.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigError

RUBRICS = Path(__file__).parent / "rubrics"
FRAMES = Path(__file__).parent / "frames"
NAMES = ("prompt", "first", "second", "reference", "answer", "answers")
"""Placeholders that some frame has; a rubric with any of them is a whole prompt."""
BRACES = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Template:
    """A judge's prompt with placeholders left for the untrusted texts."""

    text: str
    whole: bool
    """It is the user's own prompt from end to end, to which no more is added than the form of the verdict."""


def template(kind: str, rubrics: Sequence[str], base: Path) -> Template:
    """The prompt of judge kind *kind* under *rubrics*: names that ship, or files beside the config in *base*.

    Several rubrics of criteria stand one below the other; a whole prompt stands alone.

    Raises:
        ConfigError: no such rubric, it is empty, or it has placeholders other than those of the kind, in order.
    """
    frame = frame_file(kind).read_text(encoding="utf-8")
    texts = {rubric: criteria(rubric, base) for rubric in rubrics}
    whole = [rubric for rubric, text in texts.items() if is_whole(text)]
    if not whole:
        joined = "\n\n".join(text.strip() for text in texts.values())
        return Template(frame.replace("{rubric}", joined), whole=False)
    path = rubric_file(whole[0], base)
    if len(texts) > 1:
        raise ConfigError(f"rubric {path} is a whole prompt and stands alone; write its criteria without placeholders")
    found, needed = BRACES.findall(texts[whole[0]]), [name for name in BRACES.findall(frame) if name != "rubric"]
    if found != needed:
        wanted = " ".join(f"{{{name}}}" for name in needed)
        raise ConfigError(
            f"rubric {path}: placeholders are {found}; a whole prompt for kind {kind} needs {wanted} in order, and a "
            "rubric of criteria alone has none"
        )
    return Template(texts[whole[0]], whole=True)


def is_whole(text: str) -> bool:
    """Whether a rubric is a whole prompt: it has some placeholder."""
    return bool(set(BRACES.findall(text)) & set(NAMES))


def criteria(rubric: str, base: Path) -> str:
    """The text of a rubric.

    Raises:
        ConfigError: no such rubric, or it is empty.
    """
    path = rubric_file(rubric, base)
    text = path.read_text(encoding="utf-8")
    if not text.strip():
        raise ConfigError(f"rubric {path} is empty; write what makes an answer good, or take one that ships")
    return text


def shipped() -> list[str]:
    """Names of the rubrics that ship."""
    return sorted(file.stem for file in RUBRICS.glob("*.md"))


def frame_file(kind: str) -> Path:
    """Where the frame of a judge kind lies."""
    return FRAMES / f"{kind}.frame.md"


def rubric_file(name: str, base: Path) -> Path:
    """Where a rubric lies.

    Raises:
        ConfigError: it is neither one that ships nor a file beside the config.
    """
    path = RUBRICS / f"{name}.md" if name in shipped() else base / name
    if not path.is_file():
        raise ConfigError(f"rubric {name!r} is neither one of {', '.join(shipped())} nor the file {path}")
    return path
