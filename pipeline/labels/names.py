"""What annotators may be called. Pure."""

import unicodedata
from collections.abc import Collection

from pipeline.schemas import ANY, GOLD, LONGER, PANEL, PEOPLE

LONGEST_NAME = 100
RESERVED = frozenset({ANY, GOLD, LONGER, PANEL, PEOPLE})
"""Names that stand for something else in the run's frames."""


def name_fault(name: str, taken: Collection[str] = ()) -> str | None:
    """Why *name* cannot be an annotator's, or None.

    Args:
        name: as it will be recorded.
        taken: names that are nobody's, such as those of the simulated people.
    """
    if not name or name != name.strip():
        return "give a name or an e-mail address, without spaces around it"
    if len(name) > LONGEST_NAME:
        return f"at most {LONGEST_NAME} characters"
    if not all(char.isprintable() for char in name):
        return "letters, digits, signs and spaces only"
    if name.casefold() in {one.casefold() for one in (*RESERVED, *taken)}:
        return "this name stands for something else here; take another"
    return None


def plain_name(typed: str) -> str:
    """*typed* with one spelling for what looks the same (NFC) and single spaces."""
    return " ".join(unicodedata.normalize("NFC", typed).split())
