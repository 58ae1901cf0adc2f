"""Puts a rubric into the frame of a judge kind. Reads text files beside the judges and beside the config.

A rubric is one text file: criteria, and worked examples between ``[[example 1]]`` and ``[[/example 1]]``, which serve
every kind of judge; the frame of the kind (frames/) says what is shown and asked. A file with placeholders is a whole
prompt of its own instead, for one kind.
"""

import re
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


def template(kind: str, rubric: str, base: Path) -> Template:
    """The prompt of judge kind *kind* under *rubric*: a name that ships, or a file beside the config in *base*.

    Raises:
        ConfigError: no such rubric, it is empty, or it has placeholders other than those of the kind, in order.
    """
    frame = frame_file(kind).read_text(encoding="utf-8")
    text = criteria(rubric, base)
    found, needed = BRACES.findall(text), [name for name in BRACES.findall(frame) if name != "rubric"]
    if not set(found) & set(NAMES):
        return Template(frame.replace("{rubric}", text.strip()), whole=False)
    if found != needed:
        wanted = " ".join(f"{{{name}}}" for name in needed)
        raise ConfigError(
            f"rubric {rubric_file(rubric, base)}: placeholders are {found}; a whole prompt for kind {kind} needs "
            f"{wanted} in order, and a rubric of criteria alone has none"
        )
    return Template(text, whole=True)


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


def without_examples(text: str) -> str:
    """A rubric's criteria alone."""
    return text.partition("[[example ")[0].strip()


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
