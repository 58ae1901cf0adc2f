"""Every page in a real browser, over runs whose judges, prompts, answers and rationales are hostile."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import shown_run
from tests.browser import JURYBOX, ROOT, Seen, Served, served, violations, watched
from tests.patience import patience

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PAGES = {
    # A link is the first thing that a server is asked for: it has to lead there before anybody has seen the overview.
    "/gate": ("Gate", 2),
    "/": ("Overview", 3),
    "/agreement": ("Agreement", 4),
    "/bias": ("Bias", 5),
    "/pairs": ("Pairs", 0),
    "/training": ("Training", 5),
    "/compare": ("Compare", 1),
}
"""Path -> title and how many charts there are at least."""
WAIT_MS = 1000 * patience(20)
STREAMLITS_OWN = re.compile(r"/_stcore/(health|host-config)$")
"""Streamlit asks for these below the page's path first, then at the root; the browser notes the first as an error."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs; ``first`` was changed last."""
    folder = tmp_path_factory.mktemp("dashboard") / "runs"
    for name, target, seed in (("second", 0.6, 1), ("first", 0.7, 0)):
        made = shown_run.made(folder.parent / f"made-{name}", target=target, seed=seed)
        folder.mkdir(exist_ok=True)
        made.rename(folder / name)
    (folder / "first" / "summary.json").touch()
    return folder


@pytest.fixture(scope="module")
def server(place: Path, browser: "Browser") -> Iterator[Served]:
    with served((*JURYBOX, "dashboard", "--run-dir", str(place)), cwd=place.parent) as running:
        yield running


def opened(browser: "Browser", server: Served, path: str, **options: Any) -> "tuple[Page, Seen]":
    """A page in a browser that has never been here, drawn to its end."""
    page = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options}).new_page()
    own: list[str] = []
    page.on(
        "response",
        lambda reply: own.append(reply.url) if STREAMLITS_OWN.search(reply.url) and reply.status == 404 else None,
    )
    seen = watched(page, server.url)
    page.goto(server.url + path)
    drawn(page)
    missing = [error for error in seen.errors if "404" in error]
    assert len(missing) <= len(own)
    seen.errors[:] = [error for error in seen.errors if "404" not in error]
    return page, seen


def drawn(page: "Page") -> None:
    """Wait until the page stands."""
    page.wait_for_selector("h1", timeout=WAIT_MS)
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", timeout=WAIT_MS)


def sound(page: "Page", seen: Seen) -> None:
    """Nothing hostile came to life, nothing failed, everybody can read it."""
    dead(page, seen)
    assert not violations(page)


def dead(page: "Page", seen: Seen) -> None:
    """Nothing hostile came to life, nothing failed."""
    assert page.locator("[data-testid=stException]").count() == 0
    assert page.evaluate("window.harmed") is None
    inside = "[data-testid=stMain] "
    for tag in ("script", "iframe", "img", "form", "style", "link", "svg[onload]"):
        assert page.locator(f"{inside} .jb {tag}").count() == 0, tag
    seen.harmless()


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_sound_in_both_schemes(browser: "Browser", server: Served, path: str) -> None:
    page, seen = opened(browser, server, path)
    title, charts = PAGES[path]
    assert page.locator("h1").inner_text().startswith(title)
    page.wait_for_function(f"document.querySelectorAll('svg.marks').length >= {charts}", timeout=WAIT_MS)
    labels = page.eval_on_selector_all("svg.marks", "all => all.map(one => one.parentElement.ariaLabel)")
    assert all(labels), labels
    assert _inks(page) <= {"rgb(17, 17, 17)"}
    sound(page, seen)
    page.emulate_media(color_scheme="dark")
    ground = "getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor"
    page.wait_for_function(f"{ground} === 'rgb(14, 17, 23)'", timeout=WAIT_MS)
    assert _inks(page) <= {"rgb(242, 244, 247)"}
    sound(page, seen)
    page.set_viewport_size({"width": 400, "height": 900})
    wide = "[document.scrollingElement, document.querySelector('[data-testid=stMain]')].map(one => one.scrollWidth)"
    page.wait_for_function(f"{wide}.every(width => width <= 400)", timeout=WAIT_MS)
    page.context.close()


def _inks(page: "Page") -> set[str]:
    """Colours of the words around the charts; axe does not look at them."""
    roles = ":is(.role-axis-label, .role-axis-title, .role-legend-label)"
    return set(
        page.eval_on_selector_all(f"svg.marks {roles} text", "all => all.map(one => getComputedStyle(one).fill)")
    )


def test_a_link_opens_a_pair_and_its_words_are_words(browser: "Browser", server: Served, place: Path) -> None:
    page, seen = opened(browser, server, "/pairs?run=first")
    for text in shown_run.TEXTS:
        pair = shown_run.pair_of(place / "first", [text])
        page.goto(f"{server.url}/pairs?run=first&pair={pair}&diff={str(len(text) < 999).lower()}")
        page.wait_for_selector(f"h2:has-text('{pair[:8]}')", timeout=WAIT_MS)
        drawn(page)
        assert page.locator("[aria-label='Answer A']").count() == 1
        begin = text.strip("\u202e\u2066").split()[0][:8]
        assert begin in page.locator(".jb-sides").inner_text()
        seen.errors[:] = [error for error in seen.errors if "404" not in error]
        dead(page, seen)
    assert not violations(page)
    page.context.close()


def test_a_judgment_leads_to_its_raw_call(browser: "Browser", server: Served, place: Path) -> None:
    pair = shown_run.pair_of(place / "first")
    page, seen = opened(browser, server, f"/pairs?run=first&pair={pair}")
    page.get_by_role("link", name=shown_run.CALL[:8]).first.click()
    page.wait_for_selector("h2:has-text('Raw reply')", timeout=WAIT_MS)
    drawn(page)
    words = page.locator("[data-testid=stMain]").inner_text()
    assert shown_run.TEXTS[0] in words
    assert "onerror" in words
    seen.errors.clear()
    sound(page, seen)
    page.context.close()


def test_filters_stand_in_the_address_and_lead_to_pairs(browser: "Browser", server: Served) -> None:
    page, _ = opened(browser, server, "/pairs?run=first&outcome=kept")
    kept = page.locator("caption").inner_text()
    assert "of 600" not in kept
    page.get_by_text("Labelled by people").click()
    page.wait_for_url("**labelled=true**", timeout=WAIT_MS)
    page.wait_for_function("was => document.querySelector('caption').innerText !== was", arg=kept, timeout=WAIT_MS)
    page.locator("tbody a").first.click()
    page.wait_for_selector("nav[aria-label='Pairs found']", timeout=WAIT_MS)
    assert "outcome%3Dkept" in page.url
    page.get_by_role("link", name="All pairs found").click()
    page.wait_for_selector("caption", timeout=WAIT_MS)
    assert "outcome=kept" in page.url
    assert "labelled=true" in page.url
    page.context.close()


def test_the_keyboard_reaches_everything(browser: "Browser", server: Served) -> None:
    page, _ = opened(browser, server, "/pairs?run=first")
    reached: set[str] = set()
    for _ in range(45):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("(document.activeElement.ariaLabel || document.activeElement.innerText || '').trim()")
        )
        at_link = page.evaluate("document.activeElement.matches('tbody a')")
        if at_link:
            break
    assert at_link
    assert {"Overview", "Agreement", "Search prompts and answers"} <= reached
    page.keyboard.press("Enter")
    page.wait_for_selector("nav[aria-label='Pairs found']", timeout=WAIT_MS)
    page.context.close()


def test_another_target_says_what_it_would_keep(browser: "Browser", server: Served) -> None:
    page, _ = opened(browser, server, "/gate?run=first&target=95%25")
    assert "plan, not a certificate" in page.locator("[data-testid=stMain]").inner_text()
    said = page.locator("p[aria-live]").inner_text()
    page.get_by_role("slider", name="Target agreement").focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("was => document.querySelector('p[aria-live]').innerText !== was", arg=said, timeout=WAIT_MS)
    page.context.close()


def test_wrong_addresses_are_told_in_words(browser: "Browser", server: Served) -> None:
    for path, words in (
        ("/?run=nowhere", "There is no run 'nowhere' here"),
        ("/pairs?run=first&pair=zzz", "match"),
        ("/pairs?run=first&pair=zzz&call=zzz", "no such call"),
    ):
        page, seen = opened(browser, server, path)
        page.wait_for_function("w => document.body.innerText.includes(w)", arg=words, timeout=WAIT_MS)
        sound(page, seen)
        page.context.close()


def test_a_run_is_live_while_it_goes_on(browser: "Browser", server: Served, place: Path) -> None:
    run = place / "second"
    page, seen = opened(browser, server, "/?run=second")
    assert page.locator("progress").count() == 0
    shown_run.status(run, "judge", 30, 120)
    page.wait_for_selector("text=Running: judge, 30 of 120", timeout=WAIT_MS)
    assert page.locator("progress").get_attribute("value") == "30"
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "warned": {"shown": ["something new"], "folded": []}}))
    page.wait_for_selector("text=something new", timeout=WAIT_MS)
    shown_run.status(run, "judge", 120, 120, state="ended")
    page.wait_for_selector("progress", state="detached", timeout=WAIT_MS)
    (run / "summary.json").write_text(json.dumps(summary))
    seen.harmless()
    page.context.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--run-dir", "nowhere"), "holds no run"),
        (("--run-dir", "runs", "--host", "0.0.0.0"), "without a login"),
        (("--run-dir", "runs", "--port", "65536"), "65535"),
    ],
)
def test_what_cannot_be_served_is_refused(place: Path, arguments: tuple[str, ...], words: str) -> None:
    command = [*JURYBOX, "dashboard", *arguments]
    done = subprocess.run(
        command,
        cwd=place.parent,
        env={**dict(_environment())},
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert words in done.stderr


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}
