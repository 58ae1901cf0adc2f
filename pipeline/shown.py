"""Words from models, people and files, made fit to be shown: cut to size, with what does not print made visible. Pure.

Whatever jurybox prints goes through :func:`printed` or :func:`printed_json`, so an id or a judge's name can neither
steer a terminal nor begin a line of its own. Nothing is escaped for HTML, Markdown or a chart here; whoever writes one
of them does that.
"""

import json
import re
import unicodedata
from collections.abc import Iterator

JOINERS = "\u200c\u200d"
"""Zero-width characters that scripts and emoji need; all other characters of the kind only hide something."""
MOST_MARKS = 3
"""Combining marks shown on one character; no script needs more, and a heap of them covers the lines around it."""
UNSHOWN = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})
ENDS = {"\n": "\\n", "\t": " "}
SPACES = {"\n": " ", "\r": " ", "\t": " "}


def visible(text: str, limit: int) -> str:
    r"""The first *limit* characters of *text*, line breaks kept, others that do not print as ``\u202e``.

    What was cut is told in characters; *text* is looked at no further than the cut.
    """
    shown = "".join(_shown(text[:limit].replace("\r\n", "\n")))
    left = len(text) - limit
    return shown if left <= 0 else f"{shown}\u2026 [{left:,} more characters are left out]"


def line(text: str, limit: int) -> str:
    """*text* on one line of at most *limit* characters, cut in the middle: names often differ at their ends."""
    # An escape takes up to ten characters, so that no more of the text than this can come to be seen.
    text = text if len(text) <= 2 * limit else f"{text[:limit]}{text[-limit:]}"
    flat = " ".join("".join(_shown("".join(SPACES.get(char, char) for char in text))).split())
    if len(flat) <= limit:
        return flat or "(empty)"
    tail = (limit - 1) // 2
    return f"{flat[: limit - 1 - tail]}\u2026{flat[len(flat) - tail :]}"


def printed(text: str) -> str:
    r"""*text*, one line, as a terminal may be given it: what does not print, line ends too, stands as ``\u001b``."""
    if text.isprintable():
        return text
    return "".join(ENDS.get(char, char) for char in _shown(text))


def printed_json(text: str) -> str:
    """JSON text for a terminal: the same JSON, with what does not print as escapes of JSON's own."""
    if text.isprintable():
        return text
    unshown = {char for char in set(text) if unicodedata.category(char) in UNSHOWN and char != "\n"}
    return text.translate({ord(char): json.dumps(char)[1:-1] for char in unshown})


def _shown(text: str) -> Iterator[str]:
    marks = 0
    for char in text:
        category = unicodedata.category(char)
        marks = marks + 1 if category in {"Mn", "Me"} else 0
        unshown = category in UNSHOWN and char not in "\n\t" and char not in JOINERS
        yield _escape(char) if unshown or marks > MOST_MARKS else char


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004


LONGEST = 300


def plain(text: str) -> str:
    """*text* on one line, without characters that do not print, at most 300 characters."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def escaped(text: str) -> str:
    """*text* as inline Markdown that shows exactly these words on one line, inside a table too."""
    marked = re.sub(r"([\\`*_{}\[\]<>|~&$#!])", r"\\\1", plain(text))
    return re.sub(r"(?i)(:)(?=//)|(?<=www)(\.)", r"\\\1\2", marked)
