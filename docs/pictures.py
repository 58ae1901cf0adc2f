"""Takes the pictures in docs/images: serves runs as `jurybox dashboard` and `jurybox label` do, and drives chromium.

    python docs/pictures.py RUNS --run NAME --texts NAME --config CONFIG

RUNS is a folder of runs. Pages of figures show the run ``--run``; those with texts, which are not ours where the run's
data is not, show ``--texts``, and so does the labelling page, whose config is CONFIG. Needs the system's chromium.
"""

import argparse
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
from PIL import Image
from playwright.sync_api import sync_playwright

from pipeline.store import RunFolder

if TYPE_CHECKING:
    from playwright.sync_api import Browser

IMAGES = Path(__file__).parent / "images"
PORT = 8650
FIGURES = ("", "agreement", "bias", "gate")
TEXTS = ("pairs", "training", "compare")
DARK = ("", "agreement", "gate", "training")
WIDTH, HEIGHT, TALLEST = 1280, 800, 2400
SETTLED_MS = 4000
COLOURS = 96


@contextmanager
def served(*arguments: str) -> Iterator[str]:
    """The address at which ``jurybox ARGUMENTS`` answers."""
    command = [sys.executable, "-m", "jurybox", *arguments, "--port", str(PORT)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:  # noqa: S603  our own command
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{PORT}/_stcore/health", timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{PORT}"
        finally:
            process.terminate()


def take(browser: "Browser", address: str, name: str, *, dark: bool = False, width: int = WIDTH) -> None:
    """The whole page at *address*, up to TALLEST px, as docs/images/*name*.png."""
    page = browser.new_page(color_scheme="dark" if dark else "light", viewport={"width": width, "height": HEIGHT})
    page.goto(address)
    page.wait_for_timeout(SETTLED_MS)
    tall = int(page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight"))
    page.set_viewport_size({"width": width, "height": min(max(tall, HEIGHT), TALLEST)})
    page.wait_for_timeout(SETTLED_MS // 2)
    target = IMAGES / f"{name}.png"
    page.screenshot(path=target)
    page.close()
    # A page has few colours: a palette of them takes a third of the bytes.
    Image.open(target).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)


def main() -> None:
    """Take all pictures anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--run", required=True)
    parser.add_argument("--texts", required=True)
    parser.add_argument("--config", required=True)
    given = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    kept = RunFolder(given.runs / given.texts).read("kept").sort("margin", "pair_id")
    pair = kept.select(pl.col("pair_id").get(kept.height // 2)).item()
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"])
        with served("dashboard", "--run-dir", str(given.runs)) as home:
            for page in (*FIGURES, *TEXTS):
                run = given.run if page in FIGURES else given.texts
                take(browser, f"{home}/{page}?run={run}", f"{page or 'overview'}-light")
                if page in DARK:
                    take(browser, f"{home}/{page}?run={run}", f"{page or 'overview'}-dark", dark=True)
            take(browser, f"{home}/pairs?run={given.texts}&pair={pair}", "pair-light")
            take(browser, f"{home}/agreement?run={given.run}", "agreement-narrow", width=400)
        where = ("--run-dir", str(given.runs / given.texts))
        with served("label", given.config, "--audit", "40", *where) as home:
            take(browser, f"{home}/?annotator=ann", "label-light")
            take(browser, f"{home}/?annotator=ben", "label-dark", dark=True)
        browser.close()


if __name__ == "__main__":
    main()
