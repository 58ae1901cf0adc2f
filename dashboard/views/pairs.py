"""The page Pairs: find pairs by filters, read one with everything behind it, open a raw call. Looks up rows.

A link to a list, a pair or a call is an address: ``?run=…&outcome=…``, ``?run=…&pair=…``, ``…&call=…``.
"""

from urllib.parse import urlencode

import streamlit as st

from dashboard import lookup, parts, reading
from dashboard.lookup import ALL, Filters, Found
from dashboard.runs import Run
from pipeline.figures import precise, share


def draw(run: Run, _runs: list[Run]) -> None:
    """Draw the page for *run*: a list, or the pair or call that the address names."""
    if not run.folder.parts("pairs"):
        parts.missing("This run has no pairs yet.", "jurybox pair CONFIG")
        return
    asked, back = st.query_params, st.query_params.get("back", "")
    if "pair" in asked and "call" in asked:
        reading.call(run, asked["pair"], asked["call"], back)
    elif "pair" in asked:
        reading.pair(run, asked["pair"], back)
    else:
        _list(run)


def _list(run: Run) -> None:
    filters = _asked(run)
    found = lookup.find(run, filters)
    number = _number(found)
    if found.searched:
        parts.note(f"The search {found.searched}.")
    if found.ids.is_empty():
        parts.note("No pair matches; loosen a filter.")
        return
    back = urlencode([*filters.query(), ("page", number)] if number > 1 else filters.query()) or None
    first = (number - 1) * lookup.PAGE + 1
    last = min(first + lookup.PAGE - 1, len(found.ids))
    rows: list[list[parts.Cell]] = [
        [
            (parts.query(run=run.name, pair=row["pair_id"], back=back), row["pair_id"][:8]),
            row["prompt"],
            row["one"],
            row["other"],
            precise(row["margin"]),
            share(row["agreement"]),
            row["outcome"].replace("_", " "),
        ]
        for row in lookup.page(run, found, number)
    ]
    heads = ["pair", "prompt", "answer A", "answer B", "margin", "judges agreeing", "outcome"]
    caption = f"Pairs {first:,} to {last:,} of {len(found.ids):,}, page {number:,} of {found.pages:,}"
    parts.table(caption, heads, rows, numbers=[4, 5], texts=[1, 2, 3])
    before, after, _ = st.columns([1, 1, 4])
    before.button("Previous page", disabled=number == 1, on_click=_go, args=(number - 1,), width="stretch")
    after.button("Next page", disabled=number == found.pages, on_click=_go, args=(number + 1,), width="stretch")


def _number(found: Found) -> int:
    """The page that the address asks for, within what was found."""
    asked = st.query_params.get("page", "1")
    return min(max(int(asked), 1), found.pages) if asked.isdecimal() and len(asked) < 10 else 1  # noqa: PLR2004


def _go(number: int) -> None:
    st.query_params["page"] = str(number)


def _restart() -> None:
    """Another filter begins with its first page."""
    st.query_params.pop("page", None)


def _asked(run: Run) -> Filters:
    """The filters as the reader set them; each stands in the address under its name."""
    judges = list(run.summary.get("judges") or {})
    dropped: dict[str, dict[str, int]] = run.summary.get("dropped") or {}
    reasons = [f"{stage}: {why}" for stage, whys in dropped.items() for why in whys]
    search, outcome, order = st.columns([2, 1, 1])
    text = search.text_input(
        "Search prompts and answers",
        key="text",
        bind="query-params",
        on_change=_restart,
        placeholder="Words, then Enter",
    )
    options = [*lookup.OUTCOMES, *(reason for reason in reasons if not reason.startswith(BEFORE))]
    chosen = outcome.selectbox("Outcome", options, key="outcome", bind="query-params", on_change=_restart)
    ordered = order.selectbox("Order", lookup.ORDERS, key="order", bind="query-params", on_change=_restart)
    margins, agreeing, failed, flags = st.columns([2, 2, 2, 2], gap="medium")
    margin = margins.slider("Margin", 0.0, 1.0, ALL, 0.05, key="margin", bind="query-params", on_change=_restart)
    agreement = agreeing.slider(
        "Judges agreeing with the verdict",
        0.0,
        1.0,
        ALL,
        0.05,
        key="agreement",
        bind="query-params",
        on_change=_restart,
    )
    judge = failed.selectbox(
        "A judge that failed", judges, None, key="failed", bind="query-params", on_change=_restart, placeholder="Any"
    )
    flagged = flags.checkbox("Looks written for the judge", key="flagged", bind="query-params", on_change=_restart)
    labelled = flags.checkbox("Labelled by people", key="labelled", bind="query-params", on_change=_restart)
    return Filters(chosen, margin, agreement, judge, flagged, labelled, text, ordered)


BEFORE = ("load:", "generate:", "import:", "pair:")
"""Drops of these stages are no pairs that can be read."""
