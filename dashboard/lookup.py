"""Which pairs a reader's filters find, a page of them at a time. Reads one run's folder; pure but for that.

Nothing is read whole: frames are scanned with their predicates and only the columns that a filter needs, and the texts
of the one page that is shown. A search through texts looks at so many answers and says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, cast
from urllib.parse import parse_qs

import polars as pl

from dashboard.runs import Run, Stamp

PAGE = 25
"""Pairs on a page."""
SEARCHED = 200_000
"""Answers, and prompts, that a search looks through."""
EXCERPT = 110
"""Characters of a prompt and of an answer in the list."""
ORDERS = ("as stored", "smallest margin first", "largest margin first", "most disagreement first")
OUTCOMES = ("any", "kept", "dropped", "undecided")
ALL = (0.0, 1.0)
READ = ("pairs", "verdicts", "kept", "dropped", "flags", "labels", "judgments", "samples", "prompts")


@dataclass(frozen=True)
class Filters:
    """What a reader asked for; the defaults let every pair through."""

    outcome: str = OUTCOMES[0]
    """One of OUTCOMES, or why it was dropped, as ``stage: reason``."""
    margin: tuple[float, float] = ALL
    agreement: tuple[float, float] = ALL
    """Share of the deciding judges on the verdict's side."""
    failed: str | None = None
    """A judge that failed on the pair."""
    flagged: bool = False
    """An answer looks written for the judge."""
    labelled: bool = False
    """People labelled it."""
    text: str = ""
    """Words in the prompt or an answer, whatever their case."""
    order: str = ORDERS[0]

    def query(self) -> list[tuple[str, str]]:
        """The parameters of an address that says the same, as the page's widgets write them."""
        made: list[tuple[str, str]] = []
        for spec in fields(self):
            value = getattr(self, spec.name)
            if value == spec.default:
                continue
            if isinstance(value, tuple):
                made += [(spec.name, f"{end:g}") for end in cast("tuple[float, float]", value)]
            else:
                made.append((spec.name, "true" if value is True else str(value)))
        return made

    @classmethod
    def read(cls, query: str) -> "Filters":
        """The filters of an address's parameters; what makes no sense is left out."""
        asked = parse_qs(query)
        given: dict[str, Any] = {}
        for spec in fields(cls):
            values = asked.get(spec.name, [])
            if isinstance(spec.default, tuple):
                if ends := _ends(values):
                    given[spec.name] = ends
            elif values:
                given[spec.name] = values[0] == "true" if isinstance(spec.default, bool) else values[0]
        return cls(**given)


@dataclass(frozen=True)
class Found:
    """What filters found."""

    ids: pl.Series
    """Ids of the pairs, in order."""
    searched: str | None
    """How far a search through texts looked; None when there was none."""

    @property
    def pages(self) -> int:
        """How many pages they fill, one at least."""
        return max(-(-len(self.ids) // PAGE), 1)

    def place(self, pair: str) -> int | None:
        """Where *pair* stands among them, from 0."""
        at = (self.ids == pair).arg_max()
        return at if at is not None and self.ids[at] == pair else None


def find(run: Run, filters: Filters) -> Found:
    """The pairs of *run* that *filters* find; kept while the run does not change: the next page costs nothing."""
    return _found(run, filters, run.stamp(*READ))


def page(run: Run, found: Found, number: int) -> list[dict[str, Any]]:
    """Page *number*, from 1: ``pair_id``, ``prompt``, ``one``, ``other`` (starts of texts), ``outcome`` and figures."""
    return _described(run, found.ids.slice((number - 1) * PAGE, PAGE))


def _ends(values: Sequence[str]) -> tuple[float, float] | None:
    """A range of shares out of an address."""
    try:
        low, high = map(float, values)
    except ValueError:
        return None
    return (low, high) if ALL[0] <= low <= high <= ALL[1] else None


@lru_cache(maxsize=4)
def _found(run: Run, filters: Filters, stamp: Stamp) -> Found:
    del stamp
    decided = bool(run.folder.parts("verdicts"))
    wanted = run.folder.scan("verdicts" if decided else "pairs").select(
        "pair_id", *(("margin", "agreement") if decided else (pl.lit(None, pl.Float64).alias(n) for n in _FIGURES))
    )
    for name, (low, high) in (("margin", filters.margin), ("agreement", filters.agreement)):
        if (low, high) != ALL:
            wanted = wanted.filter(pl.col(name).is_between(low, high))
    for ids, there in _sets(run, filters):
        wanted = wanted.join(ids, on="pair_id", how="semi" if there else "anti")
    searched = None
    if filters.text.strip():
        matches, searched = _search(run, filters.text.strip())
        wanted = wanted.join(matches, on="pair_id", how="semi")
    return Found(_ordered(wanted, filters.order).collect(engine="streaming")["pair_id"], searched)


_FIGURES = ("margin", "agreement")


def _ordered(wanted: pl.LazyFrame, order: str) -> pl.LazyFrame:
    by, falling = {ORDERS[1]: ("margin", False), ORDERS[2]: ("margin", True), ORDERS[3]: ("agreement", False)}.get(
        order, (None, False)
    )
    keys = ["pair_id"] if by is None else [by, "pair_id"]
    return wanted.sort(keys, descending=[falling, False][: len(keys)], nulls_last=True).select("pair_id")


def _sets(run: Run, filters: Filters) -> list[tuple[pl.LazyFrame, bool]]:
    """Sets of pair ids, each with whether a pair has to be in it."""
    folder = run.folder
    kept, dropped = folder.scan("kept", "pair_id"), folder.scan("dropped")
    made: list[tuple[pl.LazyFrame, bool]] = []
    ids = dropped.select(pair_id="id")
    if filters.outcome == "kept":
        made.append((kept, True))
    elif filters.outcome == "undecided":
        made += [(kept, False), (ids, False)]
    elif filters.outcome == "dropped":
        made.append((ids, True))
    elif filters.outcome != OUTCOMES[0]:
        stage, _, reason = filters.outcome.partition(": ")
        why = (pl.col("stage") == stage) & (pl.col("reason") == reason)
        made.append((dropped.filter(why).select(pair_id="id"), True))
    if filters.failed is not None:
        failed = (pl.col("judge") == filters.failed) & pl.col("error").is_not_null()
        made.append((folder.scan("judgments").filter(failed).select("pair_id"), True))
    if filters.flagged:
        made.append((_with_samples(run, folder.scan("flags", "sample_id")), True))
    if filters.labelled:
        made.append((folder.scan("labels", "pair_id"), True))
    return made


def _with_samples(run: Run, samples: pl.LazyFrame) -> pl.LazyFrame:
    """Ids of the pairs that one of *samples* is in."""
    pairs = run.folder.scan("pairs", "pair_id", "sample_a", "sample_b")
    ids = samples.select("sample_id").unique()
    sides = [pairs.join(ids, left_on=side, right_on="sample_id", how="semi") for side in ("sample_a", "sample_b")]
    return pl.concat([side.select("pair_id") for side in sides])


def _search(run: Run, text: str) -> tuple[pl.LazyFrame, str]:
    """Ids of pairs with *text* in their prompt or an answer, and how far the search looked."""
    there = pl.element().struct.field("content").str.contains(_pattern(text)).fill_null(value=False)
    answers = run.folder.scan("samples", "sample_id", "completion").head(SEARCHED)
    hits = answers.filter(pl.col("completion").str.contains(_pattern(text))).select("sample_id")
    prompts = run.folder.scan("prompts", "prompt_id", "messages").head(SEARCHED)
    asked = prompts.filter(pl.col("messages").list.eval(there).list.any()).select("prompt_id")
    by_prompt = run.folder.scan("pairs", "pair_id", "prompt_id").join(asked, on="prompt_id", how="semi")
    looked = {name: (min(rows, SEARCHED), rows) for name, rows in _heights(run).items()}
    said = " and ".join(
        f"{n:,} {name}" if n == rows else f"the first {n:,} of {rows:,} {name}" for name, (n, rows) in looked.items()
    )
    matches = pl.concat([_with_samples(run, hits.collect(engine="streaming").lazy()), by_prompt.select("pair_id")])
    return matches, f"looked through {said}"


def _heights(run: Run) -> dict[str, int]:
    named = {"prompts": "prompts", "samples": "answers"}
    return {shown: int(run.folder.scan(frame).select(pl.len()).collect().item()) for frame, shown in named.items()}


def _pattern(text: str) -> str:
    """A regular expression for exactly *text*, whatever its case."""
    escaped = "".join(f"\\x{{{ord(char):x}}}" if not char.isalnum() else char for char in text)
    return f"(?i){escaped}"


def _described(run: Run, ids: pl.Series) -> list[dict[str, Any]]:
    """What the list shows of each of *ids*, in their order."""
    folder, wanted = run.folder, ids.to_list()
    pairs = _by_key(folder.scan("pairs", "pair_id", "prompt_id", "sample_a", "sample_b"), "pair_id", wanted)
    ends = [row[side] for row in pairs.values() for side in ("sample_a", "sample_b")]
    asked = folder.scan("prompts").select(
        "prompt_id", text=_start(pl.col("messages").list.last().struct.field("content"))
    )
    prompts = _by_key(asked, "prompt_id", [row["prompt_id"] for row in pairs.values()])
    starts = folder.scan("samples").select("sample_id", text=_start(pl.col("completion")))
    answers = _by_key(starts, "sample_id", ends)
    verdicts = _by_key(folder.scan("verdicts", "pair_id", "p_a", "margin", "agreement"), "pair_id", wanted)
    kept = _by_key(folder.scan("kept", "pair_id", "chosen_id"), "pair_id", wanted)
    dropped = _by_key(folder.scan("dropped"), "id", wanted)
    rows: list[dict[str, Any]] = []
    for key in wanted:
        pair, verdict = pairs.get(key, {}), verdicts.get(key, {})
        drop = dropped.get(key)
        outcome = "kept" if key in kept else f"{drop['stage']}: {drop['reason']}" if drop else "undecided"
        rows.append(
            {
                "pair_id": key,
                "prompt": prompts.get(pair.get("prompt_id"), {}).get("text", ""),
                "one": answers.get(pair.get("sample_a"), {}).get("text", ""),
                "other": answers.get(pair.get("sample_b"), {}).get("text", ""),
                "outcome": outcome,
                "p_a": verdict.get("p_a"),
                "margin": verdict.get("margin"),
                "agreement": verdict.get("agreement"),
            }
        )
    return rows


def _start(text: pl.Expr) -> pl.Expr:
    """The first EXCERPT characters of a text, with a sign that there are more."""
    more = pl.when(text.str.len_chars() > EXCERPT).then(pl.lit("\N{HORIZONTAL ELLIPSIS}")).otherwise(pl.lit(""))
    return pl.concat_str(text.str.head(EXCERPT), more)


def _by_key(rows: pl.LazyFrame, key: str, wanted: Sequence[str]) -> dict[Any, dict[str, Any]]:
    """The rows whose *key* is one of *wanted*, by it."""
    if not wanted:
        return {}
    return {row[key]: row for row in rows.filter(pl.col(key).is_in(wanted)).collect().iter_rows(named=True)}
