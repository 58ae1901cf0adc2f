"""The page Overview: what a run made of its prompts, what that cost, how far to trust it. Draws summary.json."""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from dashboard import charts, parts, tables
from dashboard.runs import Run
from dashboard.text import markdown
from pipeline.errors import StorageError
from pipeline.figures import NOTHING, count, interval, share, usd
from pipeline.summary import rows_there

RUN = "jurybox run CONFIG"
STEPS = ("prompts", "samples", "pairs", "judgments", "verdicts", "kept")


def draw(run: Run, runs: list[Run]) -> None:
    """Draw the page for *run*; *runs* are all there are."""
    try:
        made = run.summary
    except StorageError as error:  # the others are shown all the same
        st.error(markdown(str(error)))
        _runs(runs)
        return
    if not made:
        _begun(run)
    else:
        parts.figures(figures(made, run.people))
        _warnings(made["warned"])
        _funnel(made)
        _spent(made)
    if len(runs) > 1:
        parts.heading("Runs")
        _runs(runs)


def figures(made: Mapping[str, Any], people: str) -> list[tuple[str, str, str]]:
    """The few figures that tell a run: name, value, what stands beside it."""
    pairs = rows_there(made, "pairs")
    of = "no pairs yet" if pairs is None else f"of {count(pairs)} pairs"
    kept = count(rows_there(made, "kept"))
    items = [("Pairs in the dataset", kept, of), certified(made["certificate"], people)]
    if made.get("win_rate") is not None:
        span = interval(made["win_rate_low"], made["win_rate_high"])
        about = f"{span}, n = {made['n']}, by {made['decided_by']}"
        items.append(("Win rate over the untrained model", share(made["win_rate"]), about))
    about = f"{count(made['calls'])} calls in {duration(made['seconds'])}"
    items.append(("Cost", usd(made["cost_usd"]), about))
    return items


def certified(certificate: Mapping[str, Any] | None, people: str) -> tuple[str, str, str]:
    """The certificate as a figure: agreement and its lower bound, or why there is none."""
    name = f"Agreement with {people}"
    if certificate is None:
        return name, NOTHING, "the gate has not run"
    if not certificate["certified"]:
        return name, "Not certified", certificate["reason"]
    confidence = share(1 - certificate["delta"])
    about = (
        f"certified: at least {share(certificate['lower_bound'])} at confidence {confidence}, "
        f"n = {certificate['n_units']} {certificate['unit']}s; target {share(certificate['target_agreement'])}"
    )
    return name, share(certificate["agreement"]), about


def duration(seconds: float) -> str:
    """Seconds as hours, minutes or seconds."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _warnings(warned: Mapping[str, Any]) -> None:
    """The worst of each judge, and the rest folded: who opens this page looks for the way beneath them."""
    if not warned["shown"]:
        return
    parts.heading("Warnings")
    parts.warnings(warned["shown"])
    if warned["folded"]:
        count = sum(len(group["texts"]) for group in warned["folded"])
        with st.expander(f"{count} more warnings"):
            for group in warned["folded"]:
                parts.small_heading(group["who"])
                parts.warnings(group["texts"])


def _begun(run: Run) -> None:
    """What there is of a run that has not come to its summary."""
    stages = (run.json("manifest.json") or {"stages": {}})["stages"]
    parts.note("This run has only begun; figures follow when its first command has ended.")
    if stages:
        rows = [
            [name, tables.counts(row["rows_out"]) or NOTHING, f"{row['seconds']:.1f} s"] for name, row in stages.items()
        ]
        parts.table("Stages done so far", ["stage", "made", "time"], rows, numbers=[2])


def _funnel(made: Mapping[str, Any]) -> None:
    parts.heading("From prompts to dataset")
    parts.chart(charts.funnel(made))
    with st.expander("Every stage in figures"):
        parts.figures_table(tables.stages(made))
    if made["dropped"]:
        parts.heading("Dropped, and why")
        parts.chart(charts.drops(made))
        with st.expander("Every reason in figures"):
            rows = [[stage, why, count(n)] for stage, all_ in made["dropped"].items() for why, n in all_.items()]
            parts.table("Drops by stage and reason", ["stage", "reason", "rows"], rows, numbers=[2])


def _spent(made: Mapping[str, Any]) -> None:
    parts.heading("Calls and cost")
    if not made.get("spent"):
        parts.missing("What each judge spent is not in this run's summary.", "jurybox report CONFIG")
        return
    parts.chart(charts.spent(made))
    with st.expander("Every judge and generator in figures"):
        parts.figures_table(tables.spent(made))


def _runs(runs: list[Run]) -> None:
    heads = ["run", "kept", "gate", "win rate", "cost"]
    parts.table("All runs, the last changed first", heads, [row(run) for run in runs], numbers=[1, 3, 4])


def row(run: Run) -> list[parts.Cell]:
    """A run in the table of all of them; one whose summary cannot be read says so and hides no other."""
    name = (parts.query(run=run.name), run.name)
    try:
        made = run.summary
    except StorageError:
        return [name, NOTHING, "its summary cannot be read", NOTHING, NOTHING]
    certificate = made.get("certificate")
    state = NOTHING if certificate is None else "certified" if certificate["certified"] else "not certified"
    kept = made.get("rows", {}).get("select", {}).get("out", {}).get("kept")
    won = made.get("win_rate")
    return [name, count(kept), state, share(won if isinstance(won, float) else None), usd(made.get("cost_usd"))]
