"""Pins down the labelling page in a real browser: by keys, by two people at once, through kills, blind and harmless."""

import contextlib
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline import ids
from pipeline.labels.book import FILE, LabelBook
from pipeline.workbench import Workbench
from tests.browser import JURYBOX, Served, served, violations, watched
from tests.hostile import CONTROL, LINES, PLACEHOLDERS, READY
from tests.patience import patience
from tests.worlds import judgments, longer, world

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

JUDGE, WRITER = "secret-judge-7b", "writer"
PAIR_SHOWN = "[class*=st-key-left-][data-stale=false]"
PLAIN = {f"Question {at}?": ["x" * 30, "yy" * 30] for at in range(12)}
HOSTILE = (
    "<script>alert('script')</script><img src=x onerror=\"alert('img')\"><svg onload=alert(1)>",
    "![pixel](http://evil.example/pixel.png) [link](javascript:alert(1)) <http://evil.example>",
    "</div></section><style>* { display: none !important }</style><iframe src='http://evil.example'></iframe>",
    "\u202egnp.exe\u202c :material/home: :smile: $\\href{http://evil.example}{x}$",
    "<a href='http://evil.example' id='jb-prompt'>x</a><form action='http://evil.example'><button>Send</button></form>",
    "word " * 200_000,
    *CONTROL[:2],
    *LINES[15:19],
    *PLACEHOLDERS[:2],
    READY[0],
)


def project(folder: Path, answers: dict[str, list[str]]) -> Path:
    """A config and a run with pairs and judgments in *folder*."""
    folder.mkdir(exist_ok=True)
    # So many prompts fit that there is always something to learn from.
    (folder / "c.yaml").write_text("name: small\nlabels: {fit_fraction: 0.7}\n", encoding="utf-8")
    made = world(answers)
    made = {**made, "judgments": judgments(made, {JUDGE: lambda a, b: 0.5 + 0.6 * (longer(a, b) - 0.5)})}
    with Workbench.open(folder / "c.yaml", folder / "run") as run:
        for name, rows in made.items():
            run.folder.write_part(name, "before", "all", rows, {})
    return folder


@contextlib.contextmanager
def labelling(folder: Path, *options: str) -> Iterator[Served]:
    with served((*JURYBOX, "label", "c.yaml", "--run-dir", "run", *options), cwd=folder) as made:
        yield made


def book(folder: Path) -> LabelBook:
    return LabelBook(folder / "run" / FILE, 0)


def labels(folder: Path) -> list[tuple[str, str, str]]:
    """(pair_id, annotator, label), oldest first."""
    with contextlib.closing(sqlite3.connect(folder / "run" / FILE, timeout=30)) as db:
        return db.execute("SELECT pair_id, annotator, label FROM labels ORDER BY number").fetchall()


def begin(page: "Page", url: str, name: str) -> None:
    page.goto(url)
    page.get_by_label("Your name").fill(name)
    page.keyboard.press("Enter")
    page.locator(PAIR_SHOWN).wait_for()


def shown(page: "Page") -> str:
    """The id of the pair on the page; nothing where it says thank you."""
    found = page.locator(PAIR_SHOWN)
    return "" if not found.count() else str(found.last.get_attribute("class")).split("st-key-left-")[1][:32]


def press(page: "Page", key: str) -> str:
    """Press *key*, wait for another pair or the end; the pair it was pressed on."""
    page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for()
    page.wait_for_timeout(250)  # sooner is no opinion
    before = shown(page)
    page.keyboard.press(key)
    page.wait_for_function(
        f"""old => {{
            const now = document.querySelector('{PAIR_SHOWN}');
            return now ? !now.className.includes(old) : document.body.innerText.includes('Thank you');
        }}""",
        arg=before,
    )
    return before


def said(folder: Path, name: str, pair: str, side: str) -> str:
    """The label, in canonical order, that *name* gives *pair* by choosing *side*."""
    left = "a" if ids.uniform_from(0, "left", name, pair) < 1 / 2 else "b"
    return "tie" if side == "t" else left if side == "a" else {"a": "b", "b": "a"}[left]


@pytest.fixture
def context(browser: "Browser") -> "Iterator[BrowserContext]":
    made = browser.new_context(viewport={"width": 1280, "height": 800})
    made.set_default_timeout(1000 * patience(20))
    yield made
    made.close()


def test_by_keys_alone_with_undo_and_reload(context: "BrowserContext", tmp_path: Path) -> None:
    folder = project(tmp_path / "p", PLAIN)
    with labelling(folder, "--audit", "5") as server:
        page = context.new_page()
        seen = watched(page, server.url)
        begin(page, server.url, "ann")
        first = shown(page)
        began = time.time()
        page.reload()
        page.locator(PAIR_SHOWN).wait_for()
        assert shown(page) == first
        wanted = [(press(page, key), "ann", key) for key in "abt"]
        assert wanted[0][0] == first
        assert labels(folder) == [(pair, name, said(folder, name, pair, key)) for pair, name, key in wanted]
        seconds = book(folder).rows().filter(pair_id=first)["seconds"].item()
        assert 0 < seconds <= time.time() - began + 5  # the reload is within it
        skipped = press(page, "s")
        # a held key is one press
        last = shown(page)
        page.wait_for_timeout(300)
        for _ in range(12):
            page.keyboard.down("a")
            page.wait_for_timeout(40)
        page.keyboard.up("a")
        page.wait_for_function(f"new_ => document.querySelector('{PAIR_SHOWN}')?.className.includes(new_)", arg=skipped)
        page.wait_for_timeout(500)  # a second label would come now
        assert [pair for pair, _, _ in labels(folder)[3:]] == [last]
        assert shown(page) == skipped  # what was skipped comes last
        assert press(page, "z") == skipped
        assert shown(page) == last
        assert len(labels(folder)) == 3
        press(page, "b")
        assert labels(folder)[-1] == (last, "ann", said(folder, "ann", last, "b"))
        press(page, "t")
        page.get_by_text("jurybox run c.yaml").wait_for()
        assert len(labels(folder)) == 5
        seen.harmless()


def test_two_people_at_once(browser: "Browser", tmp_path: Path) -> None:
    folder = project(tmp_path / "p", PLAIN)
    with labelling(folder, "--audit", "8") as server, contextlib.ExitStack() as stack:
        pages = {}
        for name in ("ann", "bob"):
            made = stack.enter_context(contextlib.closing(browser.new_context()))
            pages[name] = made.new_page()
            begin(pages[name], server.url, name)
        pressed = []
        while any(shown(page) for page in pages.values()):
            assert len({pair for page in pages.values() if (pair := shown(page))}) == sum(
                bool(shown(page)) for page in pages.values()
            )
            for name, page in pages.items():
                if shown(page):
                    pressed.append((press(page, "a"), name))
        found = [(pair, name) for pair, name, _ in labels(folder)]
        assert sorted(found) == sorted(pressed)
        assert len(found) == 8
        assert set(Counter(pair for pair, _ in found).values()) == {1}
        assert {name for _, name in found} == {"ann", "bob"}
        # the team's view counts them
        pages["ann"].goto(f"{server.url}/?annotator=ann&view=team")
        pages["ann"].get_by_role("table").first.wait_for()
        assert "bob" in pages["ann"].inner_text("table")


def test_a_kill_right_after_a_key_loses_nothing(context: "BrowserContext", tmp_path: Path) -> None:
    folder = project(tmp_path / "p", PLAIN)
    with labelling(folder, "--audit", "6") as server:
        page = context.new_page()
        begin(page, server.url, "ann")
        first, second = press(page, "a"), press(page, "b")
        server.kill()
    assert [pair for pair, _, _ in labels(folder)] == [first, second]
    with labelling(folder) as server:
        page.goto(f"{server.url}/?annotator=ann")
        page.locator(PAIR_SHOWN).wait_for()
        assert shown(page) not in {first, second}
        press(page, "t")
    assert len(labels(folder)) == 3


def test_hostile_answers_and_names_are_words_and_nothing_tells_who_wrote_them(
    context: "BrowserContext", tmp_path: Path
) -> None:
    answers = {f"{text[:400]} {at}": [text, f"honest {at}"] for at, text in enumerate(HOSTILE)}
    folder = project(tmp_path / "p", answers)
    with labelling(folder, "--audit", str(len(answers))) as server:
        page = context.new_page()
        seen = watched(page, server.url)
        begin(page, server.url, "<b onclick=alert(1)>ann</b>")
        found = ""
        for _ in answers:
            main = page.locator("[data-testid=stMain]")
            for tag in ("script", "img", "svg[onload]", "iframe", "form", "a"):
                assert not main.locator(f".jb-box {tag}").count(), tag
            assert page.locator("#jb-prompt").count() == 1
            assert page.get_by_label("Answer A").is_visible()
            assert page.get_by_label("Answer B").is_visible()
            content = page.content()
            found += content
            assert JUDGE not in content
            assert WRITER not in content
            press(page, "a")
        seen.harmless()
        assert "900,000 more characters are not shown" in found
        assert "&lt;script&gt;alert('script')&lt;/script&gt;" in found
        assert "U+202E" in found
        assert "onclick=alert" in page.inner_text("[data-testid=stSidebar]")
        assert not page.locator("[data-testid=stSidebar] b").count()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everyone_can_read_and_use_it(browser: "Browser", scheme: Any, tmp_path: Path) -> None:
    folder = project(tmp_path / "p", PLAIN)
    made = browser.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 800})
    with labelling(folder, "--audit", "6", "--active", "3") as server, contextlib.closing(made) as context:
        page = context.new_page()
        seen = watched(page, server.url)
        page.goto(server.url)
        for name in ("gold", "x" * 101):
            page.get_by_label("Your name").fill(name)
            page.keyboard.press("Enter")
            page.get_by_text("This name cannot be used").wait_for()
            assert violations(page) == []
        begin(page, server.url, "ann")
        assert violations(page) == []
        # wide: side by side; narrow: one below the other, nothing to the side
        boxes = [page.get_by_label(f"Answer {side}").bounding_box() for side in "AB"]
        assert boxes[0] is not None
        assert boxes[1] is not None
        assert boxes[0]["y"] == boxes[1]["y"]
        for key in "abts":
            press(page, key)
        page.get_by_text("Active: pairs").click()
        page.get_by_text("They never certify").wait_for()
        page.get_by_role("button", name="Team and export").click()
        page.get_by_role("table").first.wait_for()
        page.get_by_text("Active: pairs").wait_for(state="detached")
        assert violations(page) == []
        with page.expect_download() as download:
            page.get_by_role("button", name="Download").click()
        lines = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
        assert len(lines) == len(labels(folder)) == 3
        page.set_viewport_size({"width": 400, "height": 800})
        page.goto(f"{server.url}/?annotator=ann")
        page.get_by_label("Answer B").wait_for()
        boxes = [page.get_by_label(f"Answer {side}").bounding_box() for side in "AB"]
        assert boxes[0] is not None
        assert boxes[1] is not None
        assert boxes[1]["y"] > boxes[0]["y"]
        wide = "[...document.querySelectorAll('html, [data-testid=stMain]')].some(e => e.scrollWidth > e.clientWidth)"
        assert not page.evaluate(wide)
        assert page.get_by_role("button", name="A is better").is_visible()
        seen.harmless()
