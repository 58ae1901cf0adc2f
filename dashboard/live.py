"""What changes while a run goes on: its stage, its progress, pages that draw themselves again. Draws with Streamlit.

Only this piece looks again every few seconds; a page is drawn again when a stage has written something, never before.
"""

from html import escape

import streamlit as st

from dashboard import parts
from dashboard.runs import Run

EVERY_S = 2.0
SEEN = "seen"


def watch(run: Run) -> None:
    """Show how far *run* is while it is going on; draw the page again when it has something new."""
    st.session_state[SEEN] = (run.path, run.stamp())
    _watched(run)


@st.fragment(run_every=EVERY_S)
def _watched(run: Run) -> None:
    if st.session_state.get(SEEN) != (run.path, run.stamp()):
        st.rerun()
    told = run.status
    if told is None:
        return
    done, total = int(told.get("done") or 0), int(told.get("total") or 0)
    said = f"Running: {told.get('stage')}" + (f", {done:,} of {total:,}" if total else "")
    bar = f'<progress max="{total}" value="{min(done, total)}">{done} of {total}</progress>' if total else ""
    parts.html(f'<label class="jb-live">{escape(said)}{bar}</label>')
