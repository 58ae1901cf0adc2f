"""The labelling page: two answers side by side, blind, one key a label. Reads the run, writes the label book.

Started by `jurybox label`; its arguments are the config and the run's folder. A key press runs this script once: the
callback of the button records the label, then the next pair is drawn. Which buttons there are depends on the pair, so
a press that arrives late can only repeat what was said of the pair it was meant for.
"""

import html
import json
import math
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import polars as pl
import streamlit as st

from dashboard import serve, text
from pipeline import discovery, schemas
from pipeline.figures import interval, number, share
from pipeline.frames import given_by_people
from pipeline.labels import queues as labelling
from pipeline.labels.book import FILE, AnsweredError, Label, LabelBook, Queue, Task
from pipeline.labels.names import name_fault, plain_name
from pipeline.labels.queues import Texts
from pipeline.statistics import annotators
from pipeline.workbench import Workbench

# Comments, no docstrings: Streamlit would print those of a page.
# What comes sooner after a pair was drawn is no opinion of it.
SHORTEST_S = 0.25
RENEW_S = 60.0
LONGEST_ANSWER, LONGEST_TURN = 100_000, 30_000
# From so many gold items on their results are shown, so that a label does not tell whether its pair was one.
FEWEST_GOLD = 5
QUEUES = {
    "audit": "Audit: a uniform sample",
    "active": "Active: pairs that teach most",
    "gold": "Pairs with a known answer",
}
WORTH = {
    "audit": "Labels of this queue fit the judges' weights and certify the dataset.",
    "active": "Labels of this queue fit the judges' weights. They never certify: only the audit does.",
    "gold": "Labels of this queue show how steady people are; they neither fit nor certify.",
}
SIDES = {"left": "A", "right": "B"}
STYLE = """<style>
.stMainBlockContainer { padding: 2.2rem 2rem 1rem; max-width: 90rem; }
.jb-box { border: 1px solid color-mix(in srgb, currentColor 22%, transparent); border-radius: .6rem;
  padding: .9rem 1.1rem 1.1rem; line-height: 1.55; }
.jb-answer { min-height: 9rem; }
.jb-prompt { background: color-mix(in srgb, currentColor 5%, transparent); border: 0; }
.jb-box h2, .jb-box h3 { font-size: .95rem; font-weight: 650; padding: 0; margin: 0 0 .45rem; letter-spacing: .02em; }
.jb-answer h2 { display: inline-block; border: 2px solid currentColor; border-radius: .4rem; padding: 0 .55rem;
  font-size: 1.05rem; }
.jb-prompt:focus { outline: none; }
.jb-sides { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
.jb-turn + .jb-turn { margin-top: .8rem; }
.jb-bar { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .95rem; align-items: baseline; }
.jb-bar strong { font-variant-numeric: tabular-nums; }
.jb-track { height: 4px; border-radius: 2px; background: color-mix(in srgb, currentColor 14%, transparent);
  margin: .35rem 0 .2rem; }
.jb-track div { height: 100%; border-radius: 2px; background: #0072b2; }
[data-testid="stLayoutWrapper"]:has(> .st-key-keys) { position: sticky; bottom: 0; z-index: 5; padding: .7rem 0 .8rem;
  background: linear-gradient(to top, var(--jb-ground) 80%, transparent); }
.jb-scroll { overflow-x: auto; }
.jb-scroll table { border-collapse: collapse; width: 100%; font-size: .92rem; margin-bottom: 1rem; }
.jb-scroll caption { font-weight: 650; padding-bottom: .3rem; }
.jb-scroll th, .jb-scroll td { text-align: left; padding: .25rem .8rem .25rem 0; vertical-align: top;
  border-bottom: 1px solid color-mix(in srgb, currentColor 15%, transparent); font-variant-numeric: tabular-nums; }
.st-key-keys :is([class*="st-key-left-"], [class*="st-key-tie-"], [class*="st-key-right-"]) button {
  background: #005b8f; border-color: #4d9fd0; color: #ffffff; min-width: 8.5rem; }
.st-key-keys button:hover { filter: brightness(1.15); }
@media (max-width: 640px) { .stMainBlockContainer { padding: 4rem .8rem 1rem; }
  .jb-sides { grid-template-columns: minmax(0, 1fr); } .jb-answer { min-height: 0; } }
</style>"""
# Each pair is read from its top, by a screen reader too; a key that is held down is one press.
FROM_THE_TOP = """<script>
if (!window.jbOnePress) {
  window.jbOnePress = true;
  window.addEventListener('keydown', event => { if (event.repeat) event.stopImmediatePropagation(); }, true);
}
for (const it of document.querySelectorAll('[data-testid="stMain"]')) it.scrollTo(0, 0);
document.getElementById('jb-prompt')?.focus({preventScroll: true});
</script>"""


@dataclass
class Desk:
    """What all people at this page share: the run, its book, the texts of its pairs."""

    bench: Workbench
    config: str
    book: LabelBook
    guidelines: str
    taken: tuple[str, ...]
    """Names of the simulated people."""
    known: dict[str, Texts] = field(default_factory=dict[str, Texts])

    def texts(self, pair: str) -> Texts | None:
        """The pair's texts; those of all queued pairs are read at once, when one is asked for that is not there."""
        if pair not in self.known:
            self.known = labelling.texts(self.bench.folder, self.book.pairs())
        return self.known.get(pair)


@st.cache_resource(show_spinner=False)
def desk(config: str, run_dir: str) -> Desk:
    """The desk of a run, once for all people."""
    bench = Workbench.open(Path(config), Path(run_dir))
    simulated = bench.config.labels.simulated
    taken = discovery.find("judges", simulated.kind, "", bench.base)().names if simulated else ()
    book = LabelBook(bench.folder.local(FILE), bench.seed)
    return Desk(bench, config, book, labelling.guidelines(bench.config.labels), tuple(taken))


def main() -> None:
    """The page."""
    st.set_page_config(page_title="Label", layout="wide", initial_sidebar_state="auto")
    email = serve.guard()
    shared = desk(*sys.argv[1:3])
    ground = "#0e1117" if st.context.theme.type == "dark" else "#ffffff"
    st.html(STYLE.replace("var(--jb-ground)", ground))
    name = email or plain_name(st.query_params.get("annotator", ""))
    if fault := name_fault(name, shared.taken):
        if email:
            st.error(text.markdown(f"{email}: {fault}"))
        else:
            ask_name(shared, fault if name else None)
        return
    if st.query_params.get("view") == "team":
        team(shared)
        return
    queue = choose(shared, name)
    if queue is not None:
        work(shared, name, queue)


def ask_name(shared: Desk, fault: str | None) -> None:
    """Who is labelling? The name goes into the address, so that a reload keeps it."""
    st.title("Compare answers")
    st.write("You will see a question and two answers. Say which one you would rather have got.")
    with st.form("who", border=False, width=420):
        typed = plain_name(st.text_input("Your name or e-mail address", autocomplete="name"))
        if st.form_submit_button("Begin"):
            fault = name_fault(typed, shared.taken)
            if fault is None:
                st.query_params["annotator"] = typed
                st.rerun()
    if fault:
        st.error(f"This name cannot be used: {fault}.")


def choose(shared: Desk, name: str) -> Queue | None:
    """The sidebar: who labels, which queue, the guidelines. Returns the queue."""
    queues = shared.book.queues()
    # Gold items come among the others; where there is nothing else they are a queue of their own.
    options = [queue for queue in ("audit", "active") if queue in queues] or [queue for queue in queues if queue]
    if not options:
        st.title("Nothing to label yet")
        st.write("Whoever runs this page can fill the queues:")
        st.code(f"jurybox label {shared.config} --audit 100", language=None)
        return None
    with st.sidebar:
        st.html(f"<p><strong>{text.shown(name, 100)}</strong></p>")
        asked = st.query_params.get("queue", options[0])
        queue = st.radio(
            "Queue",
            options,
            index=options.index(asked) if asked in options else 0,
            format_func=QUEUES.__getitem__,
        )
        st.write(WORTH[queue])
        st.query_params["queue"] = queue
        with st.expander("Guidelines", expanded=True):
            st.markdown(shared.guidelines)
        st.button("Team and export", on_click=partial(view, "team"))
    return cast("Queue", queue)


def view(which: str | None) -> None:
    """Go to the team's view, or back."""
    if which:
        st.query_params["view"] = which
    else:
        del st.query_params["view"]


def work(shared: Desk, name: str, queue: Queue) -> None:
    """The pair that is to be labelled now, and the keys."""
    task, texts = shared.book.take(name, queue), None
    while task is not None and (texts := shared.texts(task.pair_id)) is None:
        shared.book.withdraw([task.pair_id])  # the run no longer has it
        task = shared.book.take(name, queue)
    progress(shared, name, queue)
    note = st.session_state.pop("note", None)
    if note:
        st.warning(note)
    st.session_state["drawn"] = time.monotonic()
    if task is None or texts is None:
        thanks(shared, name, queue)
        return
    pair(task, texts)
    with st.container(key="keys", horizontal=True, horizontal_alignment="center", gap="small"):
        for side, title, key in (("left", "A is better", "a"), ("tie", "Tie", "t"), ("right", "B is better", "b")):
            act = partial(answer, shared, name, task, side)
            st.button(title, key=f"{side}-{task.pair_id}", shortcut=key, on_click=act)
        st.button("Skip", key=f"skip-{task.pair_id}", shortcut="s", on_click=partial(skip, shared, name, task))
        undo_button(shared, name, queue)
    alive(shared, name)


def undo_button(shared: Desk, name: str, queue: Queue) -> None:
    """Takes the last label back."""
    st.button("Undo", key="undo", shortcut="z", on_click=partial(undo, shared, name, queue))


def progress(shared: Desk, name: str, queue: Queue) -> None:
    """One line and a bar."""
    found = shared.book.progress(name, queue)
    share = found.mine / max(found.mine + found.left, 1)
    later = f" ({found.skipped} skipped)" if found.skipped else ""
    st.html(
        f'<div class="jb-bar" role="status"><span><strong>{found.mine}</strong> labelled by you</span>'
        f"<span><strong>{found.everyone}</strong> by everyone</span>"
        f"<span><strong>{found.left}</strong> left for you{later}</span></div>"
        f'<div class="jb-track" aria-hidden="true"><div style="width: {100 * share:.1f}%"></div></div>'
    )


def pair(task: Task, texts: Texts) -> None:
    """The conversation and the two answers. Nothing else of the answers is on the page."""
    turns = list(texts.messages)
    lone = len(turns) == 1
    said = "".join(
        f'<div class="jb-turn">{"" if lone else f"<h3>{html.escape(role.title())}</h3>"}'
        f"{text.shown(content, LONGEST_TURN)}</div>"
        for role, content in turns
    )
    heading = "Question" if lone else "Conversation"
    st.html(
        f'<section class="jb-box jb-prompt" id="jb-prompt" tabindex="-1" aria-label="{heading}">'
        f"<h2>{heading}</h2>{said}</section>"
    )
    answers = [texts.response_a, texts.response_b]
    shown = dict(zip(SIDES, answers if task.left == "a" else answers[::-1], strict=True))
    cards = "".join(
        f'<section class="jb-box jb-answer" aria-label="Answer {name}"><h2>{name}</h2>'
        f"{text.shown(shown[side], LONGEST_ANSWER)}</section>"
        for side, name in SIDES.items()
    )
    st.html(f'<div class="jb-sides">{cards}</div>')
    # Runs once a pair: the element is another one when the pair is.
    st.html(f"<!-- {task.pair_id} -->{FROM_THE_TOP}", unsafe_allow_javascript=True)


def too_soon() -> bool:
    """Whether the press came before anybody could have looked."""
    return time.monotonic() - st.session_state.get("drawn", 0.0) < SHORTEST_S


def answer(shared: Desk, name: str, task: Task, side: str) -> None:
    """Record what was pressed; on disk before the next pair is drawn."""
    if too_soon():
        return
    other = "b" if task.left == "a" else "a"
    label = {"left": task.left, "right": other, "tie": "tie"}[side]
    try:
        shared.book.answer(name, task.pair_id, cast("Label", label))
    except AnsweredError as error:
        st.session_state["note"] = str(error)


def skip(shared: Desk, name: str, task: Task) -> None:
    """Pass the pair over."""
    if not too_soon():
        shared.book.skip(name, task.pair_id)


def undo(shared: Desk, name: str, queue: Queue) -> None:
    """Take the last label back."""
    if not too_soon() and shared.book.undo(name, queue) is None:
        st.session_state["note"] = "There is no label of yours to take back."


@st.fragment(run_every=RENEW_S)
def alive(shared: Desk, name: str) -> None:
    """While the page is open nobody else is given its pair."""
    if time.monotonic() - st.session_state.get("drawn", 0.0) > RENEW_S / 2:
        shared.book.renew(name)


def thanks(shared: Desk, name: str, queue: Queue) -> None:
    """Nothing is left for this person."""
    st.title("Thank you")
    st.write("Every pair of this queue that you could label is labelled, or somebody else is at it now.")
    st.write("Whoever runs the job picks the labels up with:")
    st.code(f"jurybox run {shared.config}", language=None)
    undo_button(shared, name, queue)


def team(shared: Desk) -> None:
    """Labels and agreement of everybody, and the labels as a file."""
    st.title("Team")
    st.button("Back to labelling", on_click=partial(view, None))
    labels = shared.book.rows()
    if labels.is_empty():
        st.write("There is no label yet.")
        return
    counts = labels.group_by("annotator").agg(
        pl.len().alias("n"),
        pl.col("seconds").median().alias("seconds"),
        (pl.col("label").cast(pl.String) == "tie").mean().alias("ties"),
    )
    people = [
        [row["annotator"], str(row["n"]), figure(row["seconds"], "{:.0f} s"), share(row["ties"])]
        for row in counts.sort("n", "annotator", descending=[True, False]).iter_rows(named=True)
    ]
    tables = [text.table(["Person", "Labels", "Median time", "Ties"], people, "People")]
    both = [
        [str(row["one"]), str(row["other"]), str(row["n"]), share(number(row["same"])), figure(row["kappa"])]
        for row in annotators.between(labels)
    ]
    if both:
        head = ["Person", "and person", "Pairs", "Equal labels", "Cohen's kappa"]
        tables.append(text.table(head, both, "Agreement of two people on the pairs both labelled"))
    gold = gold_rows(shared, labels)
    if gold:
        head = ["Person", "Gold items", "Right", "95% interval", "Second half less first"]
        tables.append(text.table(head, gold, f"Pairs with a known answer, from {FEWEST_GOLD} on"))
    st.html(f'<div class="jb-scroll">{"".join(tables)}</div>')
    st.download_button(
        "Download the labels (JSONL)",
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in labels.to_dicts()),
        file_name="labels.jsonl",
        mime="application/jsonl",
    )


def gold_rows(shared: Desk, labels: pl.DataFrame) -> list[list[str]]:
    """Accuracy and drift of each person on pairs with a known answer."""
    given = shared.bench.folder.read("labels")
    truth = given.join(given_by_people(given), on=given.columns, how="anti", nulls_equal=True)
    found = annotators.table(pl.concat([labels, truth]), schemas.frame("agreement", []))
    by_person: dict[str, dict[str, dict[str, object]]] = {}
    for row in found.iter_rows(named=True):
        by_person.setdefault(row["annotator"], {})[str(row["measure"])] = row
    rows: list[list[str]] = []
    for name, measures in sorted(by_person.items()):
        right, drift = measures.get("gold_accuracy"), measures.get("gold_drift")
        if right is None or cast("int", right["n"]) < FEWEST_GOLD:
            continue
        between = interval(number(right["low"]), number(right["high"]))
        change = "" if drift is None else figure(drift["value"], "{:+.1%}")
        rows.append([name, str(right["n"]), share(number(right["value"])), between, change])
    return rows


def figure(value: object, form: str = "{:.2f}") -> str:
    """A number for a table; a dash where there is none."""
    return "-" if not isinstance(value, float) or math.isnan(value) else form.format(value)


if __name__ == "__main__":  # Streamlit runs it so
    main()
