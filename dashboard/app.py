"""The dashboard's entry: guard, run chooser, navigation. Run by Streamlit; its argument is a run's folder or theirs.

Every view is a link: the run, the filters and the pair that is read stand in the address.
"""

import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl
import streamlit as st

from dashboard import live, parts, runs
from dashboard.charts.base import Shown, panels
from dashboard.runs import Run
from dashboard.serve import guard
from dashboard.text import markdown
from dashboard.views import agreement, bias, compare, gate, overview, pairs, training
from pipeline.errors import JuryboxError

LOG = logging.getLogger(__name__)
RUN = "run"
Draw = Callable[[Run, list[Run]], None]
PAGES: tuple[tuple[str, str, Draw], ...] = (
    ("Overview", "", overview.draw),
    ("Agreement", "agreement", agreement.draw),
    ("Bias", "bias", bias.draw),
    ("Gate", "gate", gate.draw),
    ("Pairs", "pairs", pairs.draw),
    ("Training", "training", training.draw),
    ("Compare", "compare", compare.draw),
)


def main() -> None:
    """Draw the page that the address asks for."""
    st.set_page_config(page_title="jurybox", layout="wide")
    guard()
    parts.style()
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs")
    there = runs.found(place)
    run = _chosen(there)
    pages = [
        st.Page(partial(_drawn, title, draw, run, there), title=title, url_path=path, default=not path)
        for title, path, draw in PAGES
    ]
    st.navigation(pages).run()


def _chosen(there: list[Run]) -> Run | None:
    """The run that the address names, else the one chosen before, else the last changed; it then stands in both."""
    names, asked = [run.name for run in there], st.query_params.get(RUN)
    if asked is not None:
        st.session_state[RUN] = asked if asked in names else None
    elif st.session_state.get(RUN) not in names:
        st.session_state[RUN] = names[0] if names else None
    index = 0 if st.session_state[RUN] in names else None
    name = st.sidebar.selectbox("Run", names, index, key=RUN, on_change=_follow, placeholder="Choose a run")
    if name is not None and asked is None:
        # Another page's address begins without it.
        st.query_params[RUN] = name
    return next((run for run in there if run.name == name), None)


def _follow() -> None:
    """What is chosen in the sidebar goes into the address; what stood there of the run before does not stay."""
    chosen = st.session_state[RUN]
    st.query_params.clear()
    if chosen is not None:
        st.query_params[RUN] = chosen


def _drawn(title: str, draw: Draw, run: Run | None, there: list[Run]) -> None:
    """One page; what is wrong with a run's files is told in words."""
    parts.title(title, "" if run is None else run.name)
    if run is None:
        asked = st.query_params.get(RUN)
        parts.note(f"There is no run {asked!r} here." if asked else "Choose a run.")
        names = [(parts.query(run=one.name), one.name) for one in there]
        parts.table("Runs that are here", ["run"], [[name] for name in names])
        return
    try:
        live.watch(run)
        draw(run, there)
        for _, panel in panels(Shown(run.summary, run.frame), title):
            parts.panel(panel)
    except JuryboxError as error:
        st.error(markdown(str(error)))
    except (AttributeError, LookupError, TypeError, ValueError, pl.exceptions.PolarsError) as error:
        LOG.exception("page %s of %s", title, run.path)
        told = f"a file of this run is not as its stage writes it ({type(error).__name__}: {error})"
        st.error(markdown(f"{told}; run its stages again with `jurybox run CONFIG`, or delete it first"))


if __name__ == "__main__":  # Streamlit runs it so
    main()
