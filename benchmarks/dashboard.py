"""How long each page of the dashboard takes to show itself, to a browser that has never been there.

    python benchmarks/dashboard.py [--pairs 100000] [--rounds 5] [--json]

Makes a simulated run (benchmarks/scale.py: five judges, both orders; 100,000 pairs are a million judgments), runs the
stages from `aggregate` to `select` on it, serves it with `jurybox dashboard`, and opens each page several times in a
new browser context: first contentful paint, and the time until the heading and, where the page has charts, the first
one stand. A Streamlit page with nothing on it is opened in the same rounds: that is the limit. Looking up one pair and
a search through texts are measured in the pages' own code. The last line is JSON, medians in seconds: `first_paint` and
`drawn` by page, `bare` for the empty page, `judgments`, `pair_seconds`, `search_seconds`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import scale
from dashboard.report import page as report
from pipeline.runner import run_stage
from pipeline.workbench import Workbench
from tests.browser import CHROMIUM, JURYBOX, QUIET, served

PAGES = {
    "overview": "/",
    **{name: f"/{name}" for name in ("agreement", "bias", "gate", "pairs", "training", "compare")},
}
CHARTS = ("overview", "agreement", "bias", "gate")
"""Pages that show a chart of a run that was not trained."""
EMPTY = 'import streamlit as st\nst.html("<h1>nothing</h1>")\n'
PAINT = "performance.getEntriesByName('first-contentful-paint').map(one => one.startTime)[0]"
STAGES = ("aggregate", "measure", "gate", "select")


def make(pairs: int, folder: Path) -> int:
    """The run in *folder*, up to its summary; how many judgments it has."""
    folder.mkdir(parents=True)
    scale.make(pairs, folder, "imported")
    with Workbench(scale.CONFIG, folder, folder) as bench:
        bench.folder.write_text("config.yaml", bench.source)
        for name in STAGES:
            run_stage(bench, name)
        report.write(bench)
        return bench.folder.height("judgments")


def opened(browser: Any, url: str, chart: bool) -> tuple[float, float]:
    """First contentful paint and the time until the page stands, s."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    started = time.perf_counter()
    page.goto(url, wait_until="commit")
    page.wait_for_selector("h1")
    if chart:
        page.wait_for_selector("svg.marks")
    drawn = time.perf_counter() - started
    paint = page.evaluate(PAINT) / 1000
    context.close()
    return paint, drawn


def looked_up(folder: Path) -> dict[str, float]:
    """Seconds for one pair with everything behind it, and for a search through texts."""
    from dashboard import lookup
    from dashboard.runs import Run
    from pipeline.commands.explain import behind

    run = Run(folder)
    ids = lookup.find(run, lookup.Filters()).ids
    times: list[float] = []
    for at in range(5):
        started = time.perf_counter()
        behind(run.folder, ids[at * len(ids) // 5])
        times.append(time.perf_counter() - started)
    started = time.perf_counter()
    found = lookup.find(run, lookup.Filters(text="sea", outcome="dropped", margin=(0.0, 0.5)))
    lookup.page(run, found, 1)
    return {"pair_seconds": statistics.median(times), "search_seconds": time.perf_counter() - started}


def measured(pairs: int, rounds: int) -> dict[str, Any]:
    """All figures."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        script = [sys.executable, __file__, "--only-make", scratch, "--pairs", str(pairs)]
        made = subprocess.run(script, check=True, stdout=subprocess.PIPE, text=True)
        (place / "empty.py").write_text(EMPTY)
        options = ("--server.headless=true", "--server.fileWatcherType=none", "--browser.gatherUsageStats=false")
        empty = (sys.executable, "-m", "streamlit", "run", str(place / "empty.py"), *options)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ("bare", *PAGES)}
        with (
            served((*JURYBOX, "dashboard", "--run-dir", str(place / "runs")), cwd=place) as pages,
            served(empty, cwd=place, port_flag="--server.port") as bare,
            sync_playwright() as play,
        ):
            browser = play.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
            for _ in range(rounds):
                found["bare"].append(opened(browser, bare.url, chart=False))
                for name, path in PAGES.items():
                    found[name].append(opened(browser, pages.url + path, chart=name in CHARTS))
            browser.close()
        seconds = looked_up(place / "runs" / "scale")
    told = {
        name: [round(statistics.median(side), 2) for side in zip(*times, strict=True)] for name, times in found.items()
    }
    return {
        "first_paint": {name: one[0] for name, one in told.items() if name != "bare"},
        "drawn": {name: one[1] for name, one in told.items() if name != "bare"},
        "bare": {"first_paint": told["bare"][0], "drawn": told["bare"][1]},
        "judgments": int(made.stdout.splitlines()[-1]),
        "rounds": rounds,
        **{name: round(value, 3) for name, value in seconds.items()},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print the last line only")
    parser.add_argument("--only-make", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only_make is not None:
        print(make(arguments.pairs, arguments.only_make / "runs" / "scale"))
        return
    found = measured(arguments.pairs, arguments.rounds)
    if not arguments.json:
        for name, seconds in found["drawn"].items():
            print(f"{name}: first paint {found['first_paint'][name]:.2f} s, drawn {seconds:.2f} s")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
