"""One pair with everything behind it, and one raw call. Draws with Streamlit; reads single rows of one run.

All words of people and models are shown as text by ``dashboard.text``.
"""

import json
from collections.abc import Mapping
from html import escape
from typing import Any

import streamlit as st

from dashboard import lookup, parts
from dashboard.lookup import Filters
from dashboard.runs import Run
from dashboard.text import difference, markdown, shown
from pipeline.commands.explain import behind, raw_call
from pipeline.errors import InputError
from pipeline.figures import NOTHING, precise, share

TIE = 0.5
SHORT = 400
"""Characters of a rationale that is shown at its full height."""
SIDES = ("a", "b")


def pair(run: Run, asked: str, back: str) -> None:
    """The pair *asked*; *back* is the query of the list it was found in."""
    parts.html(_way(run, asked, back))
    try:
        found = behind(run.folder, asked)
    except InputError as error:
        st.error(markdown(str(error)))
        return
    parts.heading(f"Pair {found['pair_id'][:8]}")
    if "votes" not in found:
        parts.note(f"{found['outcome'].capitalize()}; nothing else is kept of it.")
        return
    parts.figures(_figures(found))
    parts.heading("Prompt")
    parts.html("".join(f"<h3>{escape(role)}</h3>{_text(words)}" for role, words in _turns(found["prompt"]["messages"])))
    parts.heading("Answers")
    marked = st.toggle("Mark what only one of them says", key="diff", bind="query-params")
    parts.html(_answers(found, marked=marked))
    _votes(run, found, back)
    _labels(run, found)
    with st.expander("Where it comes from"):
        _origin(found)


def _way(run: Run, asked: str, back: str) -> str:
    """Links to the list and to the pairs before and after in it."""
    links = [f'<a href="?{escape(parts.query(run=run.name)[1:] + (f"&{back}" if back else ""))}">All pairs found</a>']
    filters = Filters.read(back)
    ids = lookup.find(run, filters).ids
    at = lookup.find(run, filters).place(asked)
    if at is not None:
        for name, there in (("Previous", at - 1), ("Next", at + 1)):
            if 0 <= there < len(ids):
                links.append(
                    f'<a href="{escape(parts.query(run=run.name, pair=ids[there], back=back or None))}">{name}</a>'
                )
        links.append(f"<span>{at + 1:,} of {len(ids):,}</span>")
    return f'<nav class="jb-way" aria-label="Pairs found">{"".join(links)}</nav>'


def _figures(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    verdict = found["verdict"]
    kept = found["outcome"] == "kept"
    why = found["outcome"].removeprefix("dropped ").replace("_", " ")
    items = [("Outcome", "Kept" if kept else "Dropped" if why.startswith("by ") else "Undecided", "" if kept else why)]
    if verdict is None:
        return items
    side = "A" if verdict["p_a"] > TIE else "B" if verdict["p_a"] < TIE else "neither"
    deciding = f"{len(verdict['judges'])} judges, {verdict['calls']} judgments"
    return [
        *items,
        ("Probability that people prefer A", share(verdict["p_a"]), f"p_a; the verdict is {side}"),
        ("The same, lengths held equal", share(verdict["p_a_lc"]), "p_a_lc"),
        ("Margin", precise(verdict["margin"]), "abs(2p - 1)"),
        ("Judges on the verdict's side", share(verdict["agreement"]), deciding),
    ]


def _turns(messages: list[dict[str, str]]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in messages]


def _text(words: str) -> str:
    return f'<div class="jb-text" tabindex="0">{shown(words)}</div>'


def _answers(found: Mapping[str, Any], *, marked: bool) -> str:
    """Both answers beside each other, which one was chosen said in words."""
    words = [found[side]["completion"] for side in SIDES]
    texts = difference(words[0], words[1]) if marked else tuple(shown(one) for one in words)
    made: list[str] = []
    for side, text in zip(SIDES, texts, strict=True):
        sample = found[side]
        place = ""
        if found["chosen"] is not None:
            place = "chosen" if sample["sample_id"] == found["chosen"] else "rejected"
        marks = "".join(f'<span class="mark">{escape(mark)}</span>' for mark in (place, _flag(sample)) if mark)
        drawn = "" if sample["temperature"] is None else f" at temperature {sample['temperature']:g}"
        about = f"{sample['model']}{drawn}, {len(sample['completion']):,} characters"
        made.append(
            f"<section><h3>Answer {side.upper()}{marks}</h3>"
            f'<div class="jb-text" tabindex="0" role="region" aria-label="Answer {side.upper()}">{text}</div>'
            f'<div class="note">{shown(about)}</div></section>'
        )
    return f'<div class="jb-sides">{"".join(made)}</div>'


def _flag(sample: Mapping[str, Any]) -> str:
    return f"looks written for the judge: {sample['flag'].replace('_', ' ')}" if sample["flag"] else ""


def _votes(run: Run, found: Mapping[str, Any], back: str) -> None:
    parts.heading("What judges said")
    if not found["votes"]:
        parts.missing("No judge has been asked about this pair.", "jurybox judge CONFIG")
        return
    heads = ["judge", "saw first", "says", "P(A preferred)", "weight", "rationale", "calls"]
    rows: list[str] = []
    for vote in found["votes"]:
        links = " ".join(
            f'<a href="{escape(parts.query(run=run.name, pair=found["pair_id"], call=key, back=back or None))}">'
            f"{escape(key[:8])}</a>"
            for key in vote["call_keys"]
        )
        weight = "not in the panel" if vote["in_panel"] is False else precise(vote["weight"])
        cells = [
            "A" if vote["order"] == "ab" else "B",
            f"failed: {shown(vote['error'])}" if vote["error"] is not None else said(vote["preference"]),
            precise(vote["preference"]),
            weight,
            _rationale(vote["rationale"]),
            links or NOTHING,
        ]
        row = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f'<tr><th scope="row">{shown(vote["judge"])}</th>{row}</tr>')
    parts.raw_table("Every judgment, in both orders", heads, "".join(rows))


def _rationale(words: str | None) -> str:
    """A judge's words; many of them scroll."""
    if not words:
        return NOTHING
    text = shown(words, parts.CELL)
    return text if len(words) <= SHORT else f'<div class="jb-cell" tabindex="0">{text}</div>'


def said(preference: float | None) -> str:
    """A judgment's side in a word."""
    if preference is None:
        return NOTHING
    return "tie" if preference == TIE else "A" if preference > TIE else "B"


def _labels(run: Run, found: Mapping[str, Any]) -> None:
    parts.heading(f"What {run.people} said")
    if not found["labels"]:
        parts.note("Nobody has labelled this pair.")
        return
    rows = [
        [label["annotator"], label["label"].upper() if label["label"] != "tie" else "tie", label["queue"]]
        for label in found["labels"]
    ]
    parts.table("Labels; only those of the queue audit certify", ["who", "prefers", "queue"], rows)


def _origin(found: Mapping[str, Any]) -> None:
    rows: list[list[parts.Cell]] = [
        ["pair", found["pair_id"]],
        ["imported as", ", ".join(found["external_ids"]) or None],
        ["prompt", found["prompt"]["prompt_id"]],
        ["source of the prompt", found["prompt"]["source"]],
        ["tags", ", ".join(found["prompt"]["tags"]) or None],
        ["reference", found["prompt"]["reference"]],
        *([f"answer {side.upper()}", found[side]["sample_id"]] for side in SIDES),
    ]
    parts.table("Ids and origin", ["what", "which"], rows)


def call(run: Run, asked: str, key: str, back: str) -> None:
    """The call *key* as the ledger recorded it: what was sent and the raw reply."""
    link = escape(parts.query(run=run.name, pair=asked, back=back or None))
    parts.html(f'<nav class="jb-way" aria-label="Way back"><a href="{link}">Back to the pair</a></nav>')
    parts.heading(f"Call {key[:8]}")
    try:
        found = raw_call(run.folder, key)
    except InputError as error:
        parts.note(f"{str(error)[:1].upper()}{str(error)[1:]}.")
        return
    request: dict[str, Any] = found["request"]
    settings = [[name, _plain(value)] for name, value in request.items() if name != "messages"]
    parts.table("What was asked for", ["setting", "value"], [["status", found["status"]], *settings])
    parts.heading("Messages sent")
    turns = [(str(turn.get("role")), _plain(turn.get("content"))) for turn in request.get("messages", [])]
    parts.html("".join(f"<h3>{escape(role)}</h3>{_text(words)}" for role, words in turns))
    parts.heading("Raw reply")
    parts.html(_text(_plain(found["response"]) if found["response"] is not None else found["error"] or "none came"))


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
