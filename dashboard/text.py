"""Words of models and people as pages show them: text, never markup. Pure: text in, safe HTML or Markdown out.

HTML from here goes through ``st.html``, which sanitizes it again; labels of widgets take :func:`markdown`.
"""

import html
import re
import unicodedata
from collections.abc import Sequence
from difflib import SequenceMatcher

from pipeline.shown import escaped

STYLE = "white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; overflow: hidden;"
MARK = "border: 1px solid currentColor; border-radius: 3px; padding: 0 .2em; font-size: .85em; unicode-bidi: isolate;"
LIMIT = 20_000
"""Characters that are shown of a text."""

LONGEST_CELL = 200

HIDDEN = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})
"""Unicode categories of characters that show as nothing, or turn what stands around them."""
SEEN = frozenset("\n\t\u200c\u200d\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u08e2")
"""Of those, what texts are made of: line ends, tabs, joiners (emoji, Persian, Hindi), signs that Arabic shows."""
WORDS = re.compile(r"\S+\s*|\s+")


def shown(text: str, limit: int = LIMIT) -> str:
    """*text* as an HTML element that shows exactly these characters.

    Control characters, bidirectional overrides and what else cannot be seen stand as their code points (U+202E).

    Args:
        text: whatever a model or a person wrote.
        limit: characters shown; a note says how many more there are.
    """
    return _element(_safe(text[:limit]) + _rest(text, limit))


def difference(one: str, other: str, limit: int = LIMIT) -> tuple[str, str]:
    """Both texts as HTML elements in which the words that only one of them has are marked.

    In *one* they are ``<del>`` (struck out), in *other* ``<ins>`` (underlined).
    """
    first, second = WORDS.findall(one[:limit]), WORDS.findall(other[:limit])
    start = next((at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    start = min(len(first), len(second)) if start is None else start
    left, right = [_safe("".join(first[:start]))], [_safe("".join(second[:start]))]
    for kind, a, b, c, d in SequenceMatcher(None, first[start:], second[start:]).get_opcodes():
        gone = _safe("".join(first[start + a : start + b]))
        new = _safe("".join(second[start + c : start + d]))
        left.append(gone if kind == "equal" or not gone else f"<del>{gone}</del>")
        right.append(new if kind == "equal" or not new else f"<ins>{new}</ins>")
    return _element("".join(left) + _rest(one, limit)), _element("".join(right) + _rest(other, limit))


def markdown(text: str) -> str:
    """*text* as Markdown for the label of a widget: these words on one line and nothing else.

    Streamlit looks for links, ``:material/name:`` (which it would fetch) and ``:emoji:`` after it has read the escapes,
    so what they begin with is followed by a word joiner, which has no width.
    """
    return re.sub(r"(?i)(:(?=[\w/])|@|www(?=\\?\.))", "\\1\u2060", escaped(text))


def table(head: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> str:
    """An HTML table of plain words, wrapped where it is too wide; *title* is its caption."""
    cells = "".join(f'<th scope="col">{_safe(name)}</th>' for name in head)
    body = "".join("<tr>" + "".join(f"<td>{_safe(cell[:LONGEST_CELL])}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<table style="overflow-wrap: anywhere"><caption style="text-align: left">{_safe(title)}</caption>'
        f"<thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"
    )


def _element(inner: str) -> str:
    return f'<div dir="auto" style="{STYLE}">{inner}</div>'


def _rest(text: str, limit: int) -> str:
    left = len(text) - limit
    return f"\n<em>[{left:,} more characters are not shown]</em>" if left > 0 else ""


def _safe(text: str) -> str:
    """*text* escaped, with marks for what cannot be seen; a run of one hidden character is one mark."""
    out: list[str] = []
    plain: list[str] = []
    at, text = 0, text.replace("\r\n", "\n")
    while at < len(text):
        char = text[at]
        if char in SEEN or unicodedata.category(char) not in HIDDEN:
            plain.append(char)
            at += 1
            continue
        end = at
        while end < len(text) and text[end] == char:
            end += 1
        times = f" x {end - at}" if end - at > 1 else ""
        out += [html.escape("".join(plain)), f'<span style="{MARK}">U+{ord(char):04X}{times}</span>']
        plain.clear()
        at = end
    return "".join([*out, html.escape("".join(plain))])
