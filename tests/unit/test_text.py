"""Pins down that words stay words: no markup, nothing hidden, cut with a note; differences marked, not coloured."""

import html
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard.text import difference, markdown, shown
from tests.hostile import CONTROL, LINES, PLACEHOLDERS, READY

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</div></div><style>*{display:none}</style>",
    '"><a href="javascript:alert(1)">x</a>',
    "![x](http://evil.example/x.png) [y](javascript:alert(1))",
    "\u202egnp.exe\u202c",
    *CONTROL,
    *LINES[:10],
    *PLACEHOLDERS,
    *READY[:10],
)


class Elements(HTMLParser):
    """The tags of a document with their attributes, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert {name for name, _ in attrs} <= {"style", "dir"}

    def handle_data(self, data: str) -> None:
        self.words += data


def read(found: str) -> Elements:
    parser = Elements()
    parser.feed(found)
    return parser


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_hostile_words_are_words(text: str) -> None:
    found = read(shown(text))
    assert set(found.tags) <= {"div", "span", "em"}
    for side in difference(text, "plain words")[0], difference("plain words", text)[1]:
        assert set(read(side).tags) <= {"div", "span", "em", "del", "ins"}


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Co", "Zl", "Zp"])))
def test_all_of_a_text_is_there(text: str) -> None:
    assert read(shown(text)).words == text


@given(st.text(), st.text())
def test_a_difference_shows_both_texts_whole(one: str, other: str) -> None:
    first, second = difference(one, other)
    assert read(first).words == read(shown(one)).words
    assert read(second).words == read(shown(other)).words


@given(st.text())
def test_what_is_hidden_is_named(text: str) -> None:
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b\x00-\x08\x7f\ud800-\udfff]", shown(text))
    shown(text).encode()


def test_marks() -> None:
    assert "U+202E" in shown("\u202e")
    assert "U+0000 x 3<" in shown("\x00\x00\x00")
    assert "U+D83D" in shown("\ud83d")
    # a family is one emoji of four with joiners, and a line end is a line end
    assert read(shown("\U0001f468\u200d\U0001f469\r\nx")).words == "\U0001f468\u200d\U0001f469\nx"


def test_what_is_cut_is_told() -> None:
    assert shown("x" * 1200, 1000).endswith("x\n<em>[200 more characters are not shown]</em></div>")
    assert "not shown" not in shown("x" * 1000, 1000)
    assert "[5 more" in difference("a b c d e", "a", limit=4)[0]


def test_a_difference_marks_words() -> None:
    one, other = difference("the quick brown fox", "the slow brown fox jumps")
    assert re.findall("<del>(.*?)</del>", one) == ["quick ", "fox"]
    assert re.findall("<ins>(.*?)</ins>", other) == ["slow ", "fox jumps"]
    assert "<del>" not in difference("same", "same")[0]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_labels_of_widgets_hold_no_markdown(text: str) -> None:
    found = markdown(text)
    assert "\n" not in found
    assert not re.search(r"(?<!\\)[\[\]<>*_`$~|]", found)
    assert not re.search(r"(?i)https?\\?://|www\\?\.|:\w", found)


def test_streamlits_own_marks_are_broken() -> None:
    joined = ":\u2060material/face:"
    assert markdown(":material/face:") == joined
    assert html.unescape(markdown("http://x.example")) == "http\\:\u2060//x.example"
    assert markdown("me@x.example") == "me@\u2060x.example"
