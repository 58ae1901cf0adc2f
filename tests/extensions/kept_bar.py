"""Chart: the kept pairs as a bar, on the page Overview. Pure."""

import altair as alt

from dashboard import marks, theme
from dashboard.charts.base import Panel, Shown


def panel(run: Shown) -> Panel | None:
    """How many pairs were kept, by the frame ``kept``; none of a run that keeps nothing."""
    kept = run.frame("kept").height
    if not kept:
        return None
    rows = [{"row": marks.placed(0, "kept"), "n": kept, "figure": f"{kept:,}"}]
    bars = (
        alt.Chart(marks.values(rows))
        .mark_bar(color=theme.BLUE, aria=False)
        .encode(x=alt.X("n:Q", title="pairs"), y=marks.rows_on_y(), tooltip=marks.tips(figure="pairs"))
    )
    chart = marks.finished(bars, f"{kept:,} pairs are kept.", marks.height(1))
    return Panel(
        "Overview", "Kept in a bar", "Pairs in the dataset.", chart, ("what", "#pairs"), (("kept", f"{kept:,}"),)
    )
