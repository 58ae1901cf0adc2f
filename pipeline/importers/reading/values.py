"""Single values as files spell them: texts, names, numbers, sides, thumbs. Pure.

A file that went through pandas or a spreadsheet writes the id 7 as 7.0, True as `True` and a list as text.
"""

import ast
import json
import math
import re
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import Any, cast

WHOLE = re.compile(r"-?\d+\.0+")
ALLOWED = "a, b, tie"
A = ("a", "first", "1st")
B = ("b", "second", "2nd")
THINGS = ("model", "response", "answer", "assistant", "completion", "output", "option")
SIDES = {
    **dict.fromkeys((*A, *(f"{thing}_{end}" for thing in THINGS for end in ("a", "1"))), "a"),
    **dict.fromkeys((*B, *(f"{thing}_{end}" for thing in THINGS for end in ("b", "2"))), "b"),
    **dict.fromkeys(("tie", "tied", "draw", "equal", "both", "neither"), "tie"),
    **dict.fromkeys(("tie_bothbad", "bothbad", "both_bad", "tie_both_bad", "both_good", "bothgood"), "tie"),
}
GOOD = {
    **dict.fromkeys(("true", "1", "yes", "good", "up", "thumbs_up", "thumbsup", "positive", "like", "liked"), True),
    **dict.fromkeys(("false", "0", "-1", "no", "bad", "down", "thumbs_down", "thumbsdown", "negative"), False),
    **dict.fromkeys(("dislike", "disliked", "\N{THUMBS DOWN SIGN}"), False),
    "\N{THUMBS UP SIGN}": True,
}
THUMBS = "true or false, 1 or 0, 1 or -1, up or down, good or bad"


def text_fault(value: object) -> str | None:
    """Why *value* is no usable text: ``missing``, ``not_text``, ``empty`` or ``not_unicode``; None when it is."""
    if value is None:
        return "missing"
    if not isinstance(value, str):
        return "not_text"
    if not value.strip():
        return "empty"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "not_unicode"
    return None


def plain(value: object) -> str:
    """*value* as text that any file can hold: a lone surrogate becomes a question mark."""
    return str(value).encode(errors="replace").decode()


def name_of(value: object) -> str | None:
    """*value* as the name of a row, pair, judge or person; None where it cannot be one.

    Names are text or whole numbers, and 7, 7.0, "7" and "7.0" are one name.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or (not isinstance(value, int) and text_fault(value) not in {None, "not_unicode"}):
        return None
    text = plain(value)
    return text.partition(".")[0] if WHOLE.fullmatch(text) else text


def number_of(value: object) -> float | None:
    """*value* as a number, also where a file spells it as text; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def side_of(value: object) -> str | None:
    """``a``, ``b`` or ``tie`` as files spell it (`A`, `model_a`, `Tie`, `tie (bothbad)`); None where it is none.

    Numbers and booleans are none: 1 is the first answer in one file and the second in another.
    """
    return SIDES.get(_word(value)) if isinstance(value, str) else None


def thumb_of(value: object) -> bool | None:
    """Whether feedback is good, as files spell it; None where it says neither."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return GOOD.get(_word(str(value))) if isinstance(value, bool | int | str) else None


def _word(text: str) -> str:
    # A minus is part of a number, elsewhere a hyphen.
    joined = re.sub(r"(?<=\w)[\s-]+(?=\S)", "_", text.strip().casefold())
    return re.sub(r"\.0+$", "", re.sub(r"[\[\](){}'\"*]", "", joined))


def found(value: object, allowed: str) -> str:
    """What a value is and what it may be, for a person."""
    return f"found {value!r:.60}, allowed: {allowed}"


def shown(name: str) -> str:
    """A name from a file as it may stand on a terminal, at most 60 characters."""
    return (name if name.isprintable() else repr(name))[:60]


def moment_of(value: object) -> str | None:
    """*value* as ISO 8601; a number is seconds since 1970."""
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, str):
        return plain(value) if value.strip() else None
    seconds = number_of(value)
    with suppress(OverflowError, ValueError, OSError):
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()
    return None


def listed(value: object) -> object:
    """*value*, or the list or object that it spells: a cell of a CSV holds JSON or what Python prints."""
    if not isinstance(value, str) or value.lstrip()[:1] not in {"[", "{"}:
        return value
    for parse in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            made: object = parse(value)
            if isinstance(made, list | dict):
                return cast("object", made)
    return value


def objects(value: object) -> list[dict[str, Any]] | None:
    """*value* as a list of objects, also where a cell spells one; None where it is none."""
    given = listed(value)
    if not isinstance(given, list):
        return None
    rows = cast("list[object]", given)
    return [cast("dict[str, Any]", row) for row in rows] if all(isinstance(row, dict) for row in rows) else None
