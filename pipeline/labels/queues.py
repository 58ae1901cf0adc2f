"""Which pairs people should label next. Reads the run's folder; the command line writes the file.

Three queues. ``audit``: a uniform sample of prompts or pairs, a larger one holding the smaller; only these certify.
``active``: the pairs whose labels tell most about the judges' weights, from prompts that fit and so never certify.
``gold``: pairs whose answer is known, to see how good people are.

Rows are blind: no model, judge, verdict or other label. Which answer is a follows from hashes of the texts.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline import discovery, ids
from pipeline.aggregation.votes import Votes, votes_of
from pipeline.arrays import Array, Integers, Mask
from pipeline.config import LabelsConfig
from pipeline.errors import InputError
from pipeline.frames import LONGEST_RATIO, conversation, given_by_people, units, with_texts
from pipeline.labels.book import FILE, LabelBook, rows_of
from pipeline.labels.splits import audited, is_fit
from pipeline.schemas import GOLD
from pipeline.store import RunFolder
from pipeline.workbench import Workbench

GUIDELINES = Path(__file__).with_name("guidelines.md")
MOST_CANDIDATES = 20_000
"""Pairs among which the active queue looks again after each choice: those that tell most at first."""
FIRST_AUDIT, FIRST_ACTIVE = 100, 50
"""Units and pairs to begin with, where nobody says how many."""

Row = dict[str, object]


def guidelines(config: LabelsConfig) -> str:
    """What annotators are told: the config's own text, or the one that ships.

    Raises:
        InputError: the file is missing or not UTF-8.
    """
    path = config.guidelines or GUIDELINES
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"labels.guidelines {path}: cannot be read ({error}); give a UTF-8 text file") from error


def queue(
    bench: Workbench, *, audit: int = 0, active: int = 0, gold: int = 0, each: int = 1, one_pair: bool = False
) -> list[Row]:
    """Rows to be labelled: ``pair_id``, ``queue``, ``inclusion_prob``, ``messages``, ``response_a``, ``response_b``,
    and ``annotator``, ``label``, ``seconds``, ``labelled_at`` to be filled in; ``jurybox import labels`` reads them.

    Args:
        bench: the opened run.
        audit: units (``labels.audit_unit``) in the audit sample, those labelled before included.
        active: pairs to choose actively.
        gold: pairs with a known answer.
        each: people wanted a pair; a pair that fewer have labelled in this queue comes again.
        one_pair: one pair of each audited prompt instead of all.

    Raises:
        InputError: there is nothing to label, or more is to be audited than there is.
    """  # noqa: D205
    labels = bench.folder.read("labels")
    order = selected(bench, labels, audit=audit, active=active, gold=gold, each=each, one_pair=one_pair)
    order = order.unique("pair_id", keep="first", maintain_order=True)
    unfilled: Row = {"annotator": None, "label": None, "seconds": None, "labelled_at": None}
    return filled(bench.folder, [{**row, **unfilled} for row in order.drop("rank").iter_rows(named=True)])


def filled(run: RunFolder, rows: Sequence[Row]) -> list[Row]:
    """*rows* with ``messages``, ``response_a``, ``response_b`` of their ``pair_id``; without texts: left out."""
    known = texts(run, [str(row["pair_id"]) for row in rows])
    lead = ("pair_id", "queue", "inclusion_prob")
    return [
        {
            **{key: row[key] for key in lead},
            "messages": [{"role": role, "content": content} for role, content in known[str(row["pair_id"])].messages],
            "response_a": known[str(row["pair_id"])].response_a,
            "response_b": known[str(row["pair_id"])].response_b,
            **{key: value for key, value in row.items() if key not in lead},
        }
        for row in rows
        if str(row["pair_id"]) in known
    ]


@dataclass(frozen=True, slots=True)
class Texts:
    """What a person is shown of a pair: nothing tells who wrote an answer or what judges say."""

    messages: tuple[tuple[str, str], ...]
    """(role, content) turns."""
    response_a: str
    response_b: str


def texts(run: RunFolder, keys: Sequence[str]) -> dict[str, Texts]:
    """The texts of the pairs *keys* that the run has."""
    wanted = run.read("pairs").filter(pl.col("pair_id").is_in(keys))
    answers = pl.concat([wanted["sample_a"], wanted["sample_b"]]).unique()
    samples = run.scan("samples").filter(pl.col("sample_id").is_in(answers.implode())).unique("sample_id", keep="any")
    found = with_texts(wanted, samples.collect(engine="streaming"), run.read("prompts"))
    columns = ("pair_id", "messages", "completion_a", "completion_b")
    return {key: Texts(conversation(turns), a, b) for key, turns, a, b in found.select(columns).iter_rows()}


def selected(
    bench: Workbench,
    labels: pl.DataFrame,
    *,
    audit: int = 0,
    active: int = 0,
    gold: int = 0,
    each: int = 1,
    one_pair: bool = False,
    leave: Collection[str] = (),
) -> pl.DataFrame:
    """The pairs that :func:`queue` lists: ``queue``, ``pair_id``, ``inclusion_prob``, ``rank`` (in its queue, from 0).

    *labels* is what people said so far, in the frame of that name. Pairs of the audit sample and of *leave* are not
    chosen actively; a gold item may stand in another queue too.
    """
    run = bench.folder
    pairs = run.read("pairs")
    if pairs.is_empty():
        raise InputError(f"{run} holds no pairs yet; run `jurybox pair` or import pairs first")
    unit = bench.config.labels.audit_unit
    there = units(pairs, unit)
    if audit > there:
        raise InputError(f"--audit {audit}: there are {there} {unit}s with pairs; ask for at most so many")
    sample = audited(pairs, bench.seed, unit, audit, one_pair=one_pair)
    place = {key: (p, at) for at, (key, p) in enumerate(sample.select("pair_id", "inclusion_prob").iter_rows())}
    chosen = [
        *[("audit", key, *place[key]) for key in _fewer(list(place), labels, "audit", each)],
        *[("active", key, 1.0, at) for at, key in enumerate(_active(bench, pairs, labels, active, {*place, *leave}))],
        *[("gold", key, 1.0, at) for at, key in enumerate(_known(pairs, labels, bench.seed, each)[:gold])],
    ]
    schema = {"queue": pl.String, "pair_id": pl.String, "inclusion_prob": pl.Float64, "rank": pl.Int64}
    return pl.DataFrame(chosen, schema=schema, orient="row")


def prepare(
    bench: Workbench,
    book: LabelBook,
    *,
    audit: int | None = None,
    active: int | None = None,
    gold: int | None = None,
    each: int = 1,
    one_pair: bool = False,
) -> dict[str, int]:
    """Fill the queues of *book*, or extend them; returns how many pairs each has.

    Args:
        bench: the opened run.
        book: the run's book.
        audit: units in the audit sample in all.
        active: pairs of the active queue that are open, chosen afresh.
        gold: pairs with a known answer; everybody labels each once.
        each: people wanted a pair.
        one_pair: one pair of each audited prompt instead of all.

    Where no number is given and the queues are empty: as many units as the gate asks for, or FIRST_AUDIT; FIRST_ACTIVE
    where there are judgments; and all of the gold items.

    Raises:
        InputError: there is nothing to label, or more is to be audited than there is.
    """
    run = bench.folder
    pairs, elsewhere = run.read("pairs"), book.others(run.read("labels"))
    book.withdraw(set(book.pairs()) - set(pairs["pair_id"]))
    if audit is active is gold is None and not book.queues():
        asked = audit_needed(run.read_json("certificate.json"), pairs, run.read("labels"), bench.config.labels)
        audit = min(asked or FIRST_AUDIT, units(pairs, bench.config.labels.audit_unit))
        active = FIRST_ACTIVE if run.height("judgments") else 0
        gold = pairs.height
    labels = pl.concat([elsewhere, book.rows()])
    # Everybody labels the gold items, so nobody's labels take them out.
    truth = labels.join(given_by_people(labels), on=labels.columns, how="anti", nulls_equal=True)
    counts = {"audit": audit or 0, "active": active or 0}
    open_ = selected(bench, labels, **counts, each=each, one_pair=one_pair, leave=book.pairs("audit"))
    known = selected(bench, truth, gold=gold or 0)
    return book.extend(pl.concat([open_, known]), each=each, elsewhere=elsewhere)


def _fewer(keys: list[str], labels: pl.DataFrame, name: str, each: int) -> list[str]:
    """The pairs among *keys* that fewer than *each* people have labelled in the queue *name*."""
    done = given_by_people(labels).filter(pl.col("queue").cast(pl.String) == name).group_by("pair_id").len()
    enough = set(done.filter(pl.col("len") >= each)["pair_id"])
    return [key for key in keys if key not in enough]


def _known(pairs: pl.DataFrame, labels: pl.DataFrame, seed: int, each: int) -> list[str]:
    """Pairs with a known answer that fewer than *each* people have labelled as gold, in a seeded order."""
    truth = labels.filter((pl.col("annotator") == GOLD) & (pl.col("queue").cast(pl.String) == GOLD))
    keys = sorted(truth["pair_id"].unique(), key=lambda key: ids.uniform_from(seed, "gold-queue", key))
    here = set(pairs["pair_id"])
    return _fewer([key for key in keys if key in here], labels, "gold", each)


def _active(
    bench: Workbench, pairs: pl.DataFrame, labels: pl.DataFrame, count: int, leave: Collection[str]
) -> list[str]:
    """Unlabelled pairs of prompts that fit, none of *leave*, those that tell most first."""
    if not count:
        return []
    run, fraction = bench.folder, bench.config.labels.fit_fraction
    votes = votes_of(run.scan("judgments"), pairs, run.scan("samples"))
    if not votes.judges:
        raise InputError(f"{run} holds no readable judgments; run `jurybox judge` first, or leave out --active")
    p = _probabilities(run.read("verdicts"), votes, bench.config.aggregate.decide_by)
    owner = pl.DataFrame({"pair_id": votes.pair_ids}).join(pairs, on="pair_id", how="left", maintain_order="left")
    fitting = {key for key in owner["prompt_id"].unique() if is_fit(key, bench.seed, fraction)}
    fits = owner["prompt_id"].is_in(list(fitting)).to_numpy()
    told = votes.pair_ids.is_in(given_by_people(labels)["pair_id"].unique().to_list()).to_numpy()
    free = fits & ~told & ~votes.pair_ids.is_in(list(leave)).to_numpy()
    rows = most_informative(_features(votes), p, votes.prompts, fits & told, free, count)
    return [votes.pair_ids[row] for row in rows]


def _probabilities(verdicts: pl.DataFrame, votes: Votes, decide_by: str) -> Array:
    """(pairs,) P(a preferred) of the verdict, or of the mean vote where there is none."""
    table = pl.DataFrame({"pair_id": votes.pair_ids}).join(
        verdicts.select("pair_id", p=decide_by), on="pair_id", how="left", maintain_order="left"
    )
    given = table["p"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    present = ~np.isnan(votes.votes)
    mean = np.nan_to_num(votes.votes).sum(axis=1) / np.maximum(present.sum(axis=1), 1)
    return np.where(np.isnan(given), (1 + mean) / 2, given)


def _features(votes: Votes) -> Array:
    return np.column_stack([np.nan_to_num(votes.votes), np.clip(votes.length, -LONGEST_RATIO, LONGEST_RATIO)])


def most_informative(
    features: Array, p: Array, prompts: Integers, known: Mask, candidates: Mask, count: int
) -> list[int]:
    """Rows whose labels tell most about the weights w of a logistic model logit P(a) = w . features.

    A label of a pair with features x and probability p adds p (1 - p) x x' to the information H about w, so it shrinks
    the volume of what w may be by a factor 1 + p (1 - p) x' H^-1 x: the Bayesian D-optimal design (Chaloner &
    Verdinelli 1995), chosen greedily. H starts from a unit prior and the pairs *known*; after each choice it is
    updated, so that the next one tells something else. p (1 - p) favours pairs on which the panel is torn; a pair on
    which no judge has an opinion tells nothing. One pair a prompt until every prompt has had one.

    Args:
        features: (pairs, d).
        p: (pairs,) in [0, 1].
        prompts: (pairs,) number of the prompt.
        known: (pairs,) whether its label is known.
        candidates: (pairs,) whether it may be chosen.
        count: how many; fewer where fewer tell anything.
    """
    weight = np.clip(p * (1 - p), 0.0, None)
    x = features[known]
    prior = np.eye(features.shape[1])
    spread: Array = np.linalg.inv(prior + (x * weight[known, None]).T @ x).astype(np.float64)

    def gain(rows: Integers) -> Array:
        return weight[rows] * ((features[rows] @ spread) * features[rows]).sum(axis=1)

    rows: Integers = np.flatnonzero(candidates)
    rows = rows[np.argsort(-gain(rows), kind="stable")][:MOST_CANDIDATES]
    chosen: list[int] = []
    open_, free = np.ones(len(rows), dtype=np.bool_), np.ones(len(rows), dtype=np.bool_)
    while len(chosen) < count:
        gains = np.where(open_ & free, gain(rows), 0.0)
        if not gains.any():
            if free.all():
                break
            free[:] = True  # every prompt has had one: go round again
            continue
        at = int(np.argmax(gains))
        row = int(rows[at])
        chosen.append(row)
        open_[at] = False
        free[prompts[rows] == prompts[row]] = False
        # Sherman & Morrison: the inverse after x x' was added.
        moved: Array = spread @ features[row]
        added = float(weight[row])
        spread = spread - added * np.outer(moved, moved) / (1 + added * float(features[row] @ moved))
    return chosen


def export(bench: Workbench, path: Path, fmt: str = "jsonl") -> dict[str, int]:
    """Write the labels of the run's book for the tool *fmt*; returns how many each queue has.

    The project's own JSON lines hold no texts; other tools get them with the labels.

    Raises:
        InputError: there is no label yet.
    """
    rows = rows_of(bench.folder.local(FILE), bench.seed)
    if rows is None or rows.is_empty():
        raise InputError(f"{bench.folder} holds no labels of the labelling page yet")
    given = rows.to_dicts()
    return write(given if fmt == "jsonl" else filled(bench.folder, given), path, fmt, bench.base)


def audit_needed(
    certificate: Mapping[str, Any] | None, pairs: pl.DataFrame, labels: pl.DataFrame, config: LabelsConfig
) -> int | None:
    """Units in the audit sample that would give the gate what it asks for, or None where it asks for no number.

    Of the units audited so far some fit and some have no kept pair; the share that counted is expected of the next.
    """
    if certificate is None or certificate["certified"] or certificate["labels_needed"] is None:
        return None
    so_far = _audited_so_far(pairs, labels, config.audit_unit)
    counted = certificate["n_units"] / so_far if so_far and certificate["n_units"] else 1 - config.fit_fraction
    return so_far + math.ceil(certificate["labels_needed"] / counted)


def needed(
    certificate: Mapping[str, Any] | None, pairs: pl.DataFrame, labels: pl.DataFrame, config: LabelsConfig
) -> str:
    """What the gate still asks for, in words, and the audit sample that would give it."""
    if certificate is None:
        return "there is no certificate yet: `jurybox gate` says how many labels are needed"
    if certificate["certified"]:
        return "the gate certifies; no more labels are needed"
    total = audit_needed(certificate, pairs, labels, config)
    if total is None:
        return f"the gate asks for no number of labels: {certificate['reason']}"
    unit = config.audit_unit
    so_far, there = _audited_so_far(pairs, labels, unit), units(pairs, unit)
    more = certificate["labels_needed"]
    text = f"the gate asks for about {more} more audited {unit}s among the kept; {so_far} are audited"
    if total > there:
        return f"{text}, and --audit {total} would give them, but the run has {there} {unit}s: it needs more prompts"
    return f"{text}, and --audit {total} would give them"


def _audited_so_far(pairs: pl.DataFrame, labels: pl.DataFrame, unit: str) -> int:
    audit = labels.filter(pl.col("queue").cast(pl.String) == "audit")
    return units(pairs.join(audit, on="pair_id", how="semi"), unit)


def state(bench: Workbench) -> dict[str, Any]:
    """``labelled``, how many pairs people labelled, and ``needed``, what the gate still asks for in words."""
    run = bench.folder
    pairs, labels = run.read("pairs"), run.read("labels")
    return {
        "labelled": given_by_people(labels)["pair_id"].n_unique(),
        "needed": needed(run.read_json("certificate.json"), pairs, labels, bench.config.labels),
    }


def write(rows: list[Row], path: Path, fmt: str = "jsonl", base: Path | None = None) -> dict[str, int]:
    """Write the queue for the tool *fmt*, whole or not at all; returns how many rows each queue has.

    Raises:
        InputError: there is no such format, or it is one that is only read.
    """
    try:
        writer = discovery.find("pipeline.importers", fmt, "write_queue", base)
    except AttributeError as error:
        raise InputError(f"--format {fmt}: is only read; write jsonl, label_studio or argilla") from error
    writer(rows, path)
    return dict(Counter(str(row["queue"]) for row in rows))
