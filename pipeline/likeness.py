"""Which names look like each other though they are not the same, and how they differ, in words. Pure.

After Unicode Technical Standard 39 (skeletons of confusable strings), for names in Latin letters: what a reader would
take for them in Cyrillic, Greek or Armenian letters, in full width, other case, with accents or what cannot be seen.
"""

import unicodedata
from collections.abc import Iterable

LOOKS = str.maketrans(
    # Latin, Cyrillic, Greek and Armenian, upper case and lower, by what they look like (confusables.txt, UTS 39).
    "АВЕЅІЈКМНОРСТУХԌԚԜӀаеорсухѕіјһԁԛԝӏΑΒΕΖΗΙΚΜΝΟΡΤΥΧαοιντρυՕՍօոս0|",  # noqa: RUF001  the point of it
    "ABESIJKMHOPCTYXGQWlaeopcyxsijhdqwlABEZHIKMNOPTYXaoivtpuOUonuol",
)
NAMED = 3
"""Characters that are named where two names differ in more."""


def skeleton(name: str) -> str:
    """What a reader sees of *name*: equal for names that look alike."""
    apart = unicodedata.normalize("NFKD", name)
    kept = (char for char in apart if unicodedata.category(char) not in {"Mn", "Me", "Cf", "Cc"})
    return " ".join("".join(kept).translate(LOOKS).casefold().split())


def alike(names: Iterable[str]) -> list[tuple[str, str]]:
    """Each two different names that look alike, sorted."""
    seen: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        seen.setdefault(skeleton(name), []).append(name)
    return [(group[0], other) for group in seen.values() for other in group[1:]]


def difference(one: str, other: str) -> str:
    """How two names differ: their characters by name where they part, or that they differ in length."""
    pairs = [(a, b) for a, b in zip(one, other, strict=False) if a != b]
    if len(one) != len(other):
        extra = sorted({*one} ^ {*other})
        named = ", ".join(_named(char) for char in extra[:NAMED])
        return f"{len(one)} and {len(other)} characters{'; only one of them has ' + named if named else ''}"
    return "; ".join(f"{_named(a)} where the other has {_named(b)}" for a, b in pairs[:NAMED])


def _named(char: str) -> str:
    return f"U+{ord(char):04X} {unicodedata.name(char, 'without a name')}"
