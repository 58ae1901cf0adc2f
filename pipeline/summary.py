"""summary.json: what a run did and how far to trust it, in figures, and as lines for a terminal.

Reads the run's folder and writes that one file.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.calls.records import Money
from pipeline.figures import interval, share
from pipeline.schemas import ANY, LONGER, ORDER, PEOPLE
from pipeline.statistics.calibration import errors
from pipeline.statistics.controls import rates
from pipeline.statistics.warnings import grouped
from pipeline.store import RunFolder
from pipeline.workbench import REFUSED, Workbench

CUT_OFF_NOTED = 0.01
"""Share of answers that end at ``max_tokens`` above which it is said."""
CONTROLS_NOTED = 0.2
"""A judge is warned about when constant answers may win this often from it, by the upper end of their interval."""


def summary(bench: Workbench) -> dict[str, Any]:
    """The run in figures, from the manifest and the artefacts; keys that a run did not reach are null.

    Keys: ``name``, ``rows`` (stage -> in, out), ``dropped`` (stage -> reason -> n), ``dropped_words``
    (what was said most often with each), ``cut_off``, ``refused_parameters``, ``judges``, ``ceiling``
    (one person against another), ``floor`` (preferring the longer answer), ``certificate``, ``calls``, ``cost_usd``,
    ``spent`` (both by judge, with tokens), ``charged_usd`` (against the budget, by the ledger), ``reported_usd`` (by
    the endpoints' own counts of tokens), ``at_reservation`` (calls whose count could not be used) with its ``_usd`` and
    ``faults``, ``possibly_paid`` with its ``_usd``, ``margins`` (a histogram), ``seconds``, ``incomplete``,
    ``warnings`` (all of them) and ``warned`` (the same by judge, worst first: ``statistics.warnings.grouped``), and the
    evaluation's ``win_rate``, ``win_rate_low``, ``win_rate_high``, ``n``, ``panel_win_rate``, ``verifier``,
    ``reward_accuracy``, ``kl``.
    """
    run = bench.folder
    stages = (run.read_json("manifest.json") or {"stages": {}})["stages"]
    done = {name: stages[name] for name in ORDER if name in stages}
    dropped = (
        run.read("dropped")
        .group_by("stage", "reason")
        .len()
        .sort("stage", "len", "reason", descending=[False, True, False])
    )
    reasons: dict[str, dict[str, int]] = {}
    for stage, reason, count in dropped.iter_rows():
        reasons.setdefault(stage, {})[reason] = count
    words = run.read("dropped").drop_nulls("detail").group_by("stage", "reason").agg(pl.col("detail").mode().min())
    spent = by_caller(run.scan("calls"))
    panel = run.read_json("panel.json")
    certificate = run.read_json("certificate.json")
    evaluation = run.read_json("evaluation.json") or {}
    made: dict[str, Any] = {
        "name": bench.config.name,
        "rows": {name: {"in": row["rows_in"], "out": row["rows_out"]} for name, row in done.items()},
        "dropped": reasons,
        "dropped_words": {
            f"{stage}: {reason}": detail for stage, reason, detail in words.sort("stage", "reason").iter_rows()
        },
        "cut_off": _cut_off(run, reasons),
        "refused_parameters": run.read_json(REFUSED) or {},
        "panel": None if panel is None else {key: panel[key] for key in ("method", "validated", "decide_by", "labels")},
        "judges": {} if panel is None else panel["judges"],
        "ceiling": _accuracy(run, "person_person", ANY, ANY),
        "floor": _accuracy(run, "length_people", LONGER, PEOPLE),
        "calibration": errors(run.read("calibration")),
        "controls": rates(run.read("controls")),
        "flags": dict(run.read("flags")["flag"].cast(pl.String).value_counts(sort=True).iter_rows()),
        "certificate": certificate,
        "calls": sum(one["calls"] for one in spent.values()),
        "cost_usd": round(math.fsum(one["cost_usd"] for one in spent.values()), 6),
        "spent": spent,
        "margins": histogram(run.scan("verdicts"), run.scan("kept")),
        **_money(bench),
        "seconds": round(sum(row["seconds"] for row in done.values()), 1),
        "stage_seconds": {name: row["seconds"] for name, row in done.items()},
        "incomplete": {name: row["incomplete"] for name, row in done.items() if row["incomplete"]},
        "simulated_people": bench.config.labels.simulated is not None,
    }
    keys = (
        "win_rate",
        "win_rate_low",
        "win_rate_high",
        "n",
        "decided_by",
        "panel_win_rate",
        "verifier",
        "reward_accuracy",
        "kl",
    )
    made |= {key: evaluation.get(key) for key in keys}
    rows = warnings(made, run.read("warnings"))
    return {**made, "warnings": [row["text"] for row in rows], "warned": grouped(rows)}


def _cut_off(run: RunFolder, dropped: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """Who writes -> how many of how many answers ended at ``max_tokens``: those of generators, and judges' replies."""
    kept = run.scan("samples", "finish_reason").filter(pl.col("finish_reason").is_not_null())
    total, cut = kept.select(pl.len(), (pl.col("finish_reason") == "length").sum().alias("cut")).collect().row(0)
    left_out = dropped.get("generate", {})
    answers = {"n": total + sum(left_out.values()), "cut_off": cut + left_out.get("cut_off", 0)}
    cut_reply = pl.col("error").str.starts_with("cut_off:").sum().alias("cut_off")
    judged = run.scan("judgments", "judge", "error").group_by("judge").agg(pl.len().alias("n"), cut_reply).collect()
    replies = {f"judge {name}": {"n": n, "cut_off": int(cut or 0)} for name, n, cut in judged.sort("judge").iter_rows()}
    return {who: found for who, found in {"generate": answers, **replies}.items() if found["cut_off"]}


def _money(bench: Workbench) -> dict[str, Any]:
    """What the run's account was charged, by the ledger."""
    records = bench.records()
    if records is None:
        return asdict(Money())
    with records:
        return asdict(records.money())


def _accuracy(run: RunFolder, between: str, one: str, other: str) -> dict[str, Any] | None:
    """``value``, ``low``, ``high`` and ``n`` of a row of the frame ``agreement``; None where there is none."""
    key = {"between": between, "rater_1": one, "rater_2": other, "subset": "all", "measure": "accuracy"}
    found = run.read("agreement").filter(*(pl.col(name).cast(pl.String) == value for name, value in key.items()))
    found = found.select("value", "low", "high", "n").drop_nulls()
    return None if found.is_empty() else found.row(0, named=True)


def warnings(made: Mapping[str, Any], measured: pl.DataFrame) -> list[dict[str, str]]:
    """What a reader must not overlook: ``about``, ``name``, ``kind`` and ``text``, those about the run first.

    Args:
        made: the summary so far.
        measured: the frame ``warnings``.
    """
    run: dict[str, str] = {}
    for stage, shards in made["incomplete"].items():
        told = f"{stage}: some calls got no answer in {len(shards)} shard(s); run the same command again"
        run[f"incomplete_{stage}"] = told
    if made["possibly_paid"]:
        run["possibly_paid"] = (
            f"{made['possibly_paid']} call(s) were in flight when a run died or stopped, or got no whole reply; they "
            f"may have been paid and stay charged with US$ {made['possibly_paid_usd']:.4f}"
        )
    if made["at_reservation"]:
        why = "; ".join(f"{count} times: {fault}" for fault, count in made["faults"].items())
        run["at_reservation"] = (
            f"{made['at_reservation']} call(s) were charged at their reservation, the most they can cost, US$ "
            f"{made['at_reservation_usd']:.4f} in all, because the endpoint's count of tokens cannot be used ({why})"
        )
    run |= {f"reply_{at}": told for at, told in enumerate(_about_replies(made))}
    certificate = made["certificate"]
    if certificate is not None and not certificate["certified"]:
        run["not_certified"] = f"NOT CERTIFIED: {certificate['reason']}"
    if made["simulated_people"]:
        told = "the people of this run are simulated: its agreement and win rate show that the machinery works"
        run["simulated"] = told
    found = [{"about": "run", "name": ANY, "kind": kind, "text": text} for kind, text in run.items()]
    for name, judge in made["judges"].items():
        if judge["reason"]:
            told = f"judge {name} is not in the panel: {judge['reason']}"
            found.append({"about": "judge", "name": name, "kind": "left_panel", "text": told})
    found += [{key: str(value) for key, value in row.items()} for row in measured.iter_rows(named=True)]
    for name, won in made["controls"].items():
        if told := _fooled(name, won):
            found.append({"about": "judge", "name": name, "kind": "constant", "text": told})
    return found


def rows_there(made: Mapping[str, Any], frame: str) -> int | None:
    """Rows of *frame* that there are, None where no stage has seen it.

    What later stages read holds imported rows too; what a stage made does not.
    """
    found = [row[way][frame] for row in made["rows"].values() for way in ("in", "out") if frame in row[way]]
    return max(found, default=None)


def _about_replies(made: Mapping[str, Any]) -> list[str]:
    """Parameters that endpoints refused, and answers that were cut off."""
    found: list[str] = []
    for model, changes in made["refused_parameters"].items():
        for name, done in changes.items():
            found.append(f"{model} refused `{name}`, so {done}; write it into the config's `body` (or `structured`)")
            if name == "temperature":
                found.append(f"{model} samples at its own temperature; in `samples` the column is null")
    for who, cut in made["cut_off"].items():
        if cut["cut_off"] > CUT_OFF_NOTED * cut["n"]:
            found.append(f"{who}: {cut['cut_off']} of {cut['n']} answers were cut off at max_tokens; raise it")
    return found


def _fooled(judge: str, won: Mapping[str, Any]) -> str | None:
    """A warning about a judge from which constant answers win too often, or may do."""
    if won["win_rate"] is None or won["high"] <= CONTROLS_NOTED:
        return None
    worst = max(won["by_control"], key=lambda control: won["by_control"][control]["win_rate"])
    return (
        f"judge {judge} prefers a constant answer to a real one {share(won['win_rate'])} of the time "
        f"({interval(won['low'], won['high'])}, n = {won['n']}); {worst} wins most"
    )


def lines(made: Mapping[str, Any], folder: Path) -> list[str]:
    """The summary as plain text for a terminal."""
    out = [f"run {made['name']}"]
    for stage, row in made["rows"].items():
        went = ", ".join(f"{count} {name}" for name, count in row["in"].items()) or "-"
        came = ", ".join(f"{count} {name}" for name, count in row["out"].items()) or "-"
        out.append(f"  {stage:<10} {went} -> {came}")
        words = {reason: made["dropped_words"].get(f"{stage}: {reason}") for reason in made["dropped"].get(stage, {})}
        out += [
            f"  {'':<10}   dropped {count}: {reason}{f' ({words[reason]})' if words[reason] else ''}"
            for reason, count in made["dropped"].get(stage, {}).items()
        ]
    out += [f"  {'import':<10}   dropped {n}: {reason}" for reason, n in made["dropped"].get("import", {}).items()]
    out.append(f"calls: {made['calls']}, US$ {made['cost_usd']:.4f}, {made['seconds']:.0f} s")
    if made["charged_usd"] or made["reported_usd"]:
        out.append(
            f"money: US$ {made['charged_usd']:.4f} charged to the budget, US$ {made['reported_usd']:.4f} reported by "
            "the endpoints"
        )
    people = "simulated people" if made["simulated_people"] else "people"
    out += _panel_lines(made, people)
    if made["certificate"] is not None:
        state = "certified" if made["certificate"]["certified"] else "NOT CERTIFIED"
        out.append(f"gate: {state}: {made['certificate']['reason']}")
    if made["win_rate"] is not None:
        out.append(
            f"win rate of trained over untrained, by {made['decided_by']}: {share(made['win_rate'])} "
            f"({interval(made['win_rate_low'], made['win_rate_high'])}, n = {made['n']})"
        )
    out += [f"warning: {warning}" for warning in made["warned"]["shown"]]
    if folded := made["warned"]["folded"]:
        count = sum(len(group["texts"]) for group in folded)
        out.append(f"{count} more warnings, about {len(folded)} judges or people, stand in the report")
    out.append(f"report: {folder / 'report.html'}")
    return out


def _panel_lines(made: Mapping[str, Any], people: str) -> list[str]:
    """What is known of the judges, of the panel's probabilities, and between which figures to read that."""
    out: list[str] = []
    for name, judge in made["judges"].items():
        agrees = _share({**judge, "value": judge["agreement"]}) if judge["n"] else "no labels"
        place = f"weight {judge['weight']:.2f}" if judge["in_panel"] else f"left the panel: {judge['reason']}"
        out.append(f"judge {name}: agrees with {people} on {agrees}; {place}")
    if (found := made["calibration"]) is not None:
        said = f"calibration error (ECE) {found['ece']:.3f}, Brier {found['brier']:.3f}"
        out.append(f"panel: {said} on {found['n']} pairs whose labels fitted nothing")
    for name, won in made["controls"].items():
        if won["win_rate"] is not None:
            between = interval(won["low"], won["high"])
            out.append(f"judge {name}: constant answers win {share(won['win_rate'])} ({between}) of {won['n']}")
    if made["flags"]:
        counts = ", ".join(f"{count} {flag}" for flag, count in made["flags"].items())
        out.append(f"answers that look written for the judge: {counts}")
    if made["ceiling"] is not None:
        out.append(f"ceiling: one of the {people} agrees with another on {_share(made['ceiling'])}")
    if made["floor"] is not None:
        out.append(f"floor: preferring the longer answer agrees on {_share(made['floor'])}")
    return out


def _share(found: Mapping[str, Any]) -> str:
    return f"{share(found['value'])} ({interval(found['low'], found['high'])}) of {found['n']}"


def write(bench: Workbench) -> dict[str, Any]:
    """Write summary.json; returns its content."""
    made = summary(bench)
    bench.folder.write_json("summary.json", made)
    return made


def by_caller(calls: pl.LazyFrame) -> dict[str, dict[str, Any]]:
    """Judge (or ``generate:<model>``, ``evaluate:<side>``) -> what its calls were.

    Args:
        calls: the frame ``calls``.

    Returns:
        ``calls``, ``unanswered``, ``cost_usd``, ``prompt_tokens``, ``cached_tokens``, ``completion_tokens`` (0 where
        nothing was counted) and ``latency_s``, the median over answered calls (None where it was not taken); the
        dearest first, then those with most calls.
    """
    tokens = ("prompt_tokens", "cached_tokens", "completion_tokens")
    found = (
        calls.group_by("judge")
        .agg(
            pl.len().alias("calls"),
            (pl.col("status").cast(pl.String) == "unanswered").sum().alias("unanswered"),
            pl.col("cost_usd").sum(),
            *(pl.col(name).sum() for name in tokens),
            pl.col("latency_s").median(),
        )
        .sort("cost_usd", "calls", "judge", descending=[True, True, False])
        .collect(engine="streaming")
    )
    return {row.pop("judge"): row for row in found.iter_rows(named=True)}


BINS = 20


def histogram(verdicts: pl.LazyFrame, kept: pl.LazyFrame) -> dict[str, Any]:
    """``edges`` (21, from 0 to 1) and how many pairs lie between them: ``kept`` and ``dropped`` (20 each).

    A margin on an edge counts above it, and 1 in the last bin.

    Args:
        verdicts: the frame ``verdicts``.
        kept: the frame ``kept``, whose pairs are among them.
    """
    edges = np.arange(BINS + 1) / BINS
    every, chosen = (
        np.histogram(rows.select("margin").collect(engine="streaming")["margin"].to_numpy(), bins=edges)[0]
        for rows in (verdicts, kept)
    )
    return {"edges": edges.tolist(), "kept": chosen.tolist(), "dropped": (every - chosen).tolist()}
