"""Tables of figures that both the pages and report.html show. Pure: summary and certificate in, rows of text out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dashboard.marks import listed
from pipeline.figures import count, interval, number, plain, precise, share

CONSTANT = (
    "Every LM judge also compared real answers with constant ones that deserve to win nothing: flattery, claims of "
    "authority, forged frames. What they win is what such words would win from the judge."
)


@dataclass(frozen=True)
class Table:
    """Figures in rows; a head that begins with ``#`` is that of a column of numbers, the first column names the row."""

    caption: str
    heads: tuple[str, ...]
    rows: list[tuple[str, ...]]
    open: bool = True
    """Shown without being asked for."""


def counts(counts: Mapping[str, int]) -> str:
    """Counts by name, in words."""
    return ", ".join(f"{n:,} {name}" for name, n in counts.items())


def stages(made: Mapping[str, Any]) -> Table:
    """Rows in and out of every stage; ``rows``, ``dropped`` and ``stage_seconds`` of summary.json."""
    rows = [
        (
            stage,
            counts(row["in"]),
            counts(row["out"]),
            counts(made["dropped"].get(stage, {})),
            f"{made['stage_seconds'][stage]:.1f}",
        )
        for stage, row in made["rows"].items()
    ]
    if "import" in made["dropped"]:
        rows.append(("import", "", "", counts(made["dropped"]["import"]), ""))
    return Table("Rows in and out of every stage", ("stage", "in", "out", "dropped, and why", "#seconds"), rows)


def controls(found: Mapping[str, Mapping[str, Any]]) -> Table:
    """What constant answers won from each judge; ``controls`` of summary.json."""
    rows = [
        (
            name,
            share(won["win_rate"]),
            interval(won["low"], won["high"]),
            count(won["n"]),
            count(won["failures"]),
            ", ".join(f"{answer} {share(one['win_rate'])} of {one['n']}" for answer, one in won["by_control"].items()),
        )
        for name, won in found.items()
    ]
    heads = ("judge", "#win rate", "#95% interval", "#comparisons", "#failed", "by constant answer")
    return Table("What constant answers won", heads, rows)


def curve(certificate: Mapping[str, Any]) -> Table:
    """Every threshold of a certificate."""
    rows = [
        (
            precise(step["threshold"]),
            share(number(step["coverage"])),
            share(number(step["agreement"])),
            share(number(step["strict_agreement"])),
            share(number(step["lower_bound"])),
            precise(number(step.get("p_value"))),
            count(step["n_units"]),
            "yes" if step["tested"] else "no",
        )
        for step in listed(certificate, "curve", "coverage", "threshold")
    ]
    heads = ("#threshold", "#kept", "#agreement", "#a tie counting nothing", "#lower bound", "#p", "#audited", "tested")
    return Table("Thresholds, strict first", heads, rows)


def targets(certificate: Mapping[str, Any]) -> Table:
    """What other targets would have left."""
    rows = [
        (
            share(one["target"]),
            "yes" if one.get("certified") else "no",
            share(number(one.get("coverage"))),
            precise(number(one.get("threshold"))),
            share(number(one.get("agreement"))),
            share(number(one.get("lower_bound"))),
            count(number(one.get("n_units"))),
            count(number(one.get("labels_needed"))),
        )
        for one in listed(certificate, "targets", "target")
    ]
    heads = ("#target", "certified", "#kept", "#threshold", "#agreement", "#lower bound", "#audited", "#more needed")
    return Table("Other targets", heads, rows)


def more_labels(certificate: Mapping[str, Any]) -> Table:
    """What more audited units would leave."""
    rows = [
        (f"+{count(one['labels'])}", share(number(one.get("coverage"))), precise(number(one.get("threshold"))))
        for one in listed(certificate, "more_labels", "labels")
    ]
    return Table("With more labels", ("#units added", "#kept", "#threshold"), rows)


def margins(made: Mapping[str, Any]) -> Table:
    """Verdicts by margin; ``margins`` of summary.json."""
    found: Mapping[str, Any] = made.get("margins") or {"edges": [], "kept": [], "dropped": []}
    edges: list[float] = found["edges"]
    rows = [
        (f"{low:.2f} to {high:.2f}", count(kept), count(dropped))
        for low, high, kept, dropped in zip(edges[:-1], edges[1:], found["kept"], found["dropped"], strict=True)
    ]
    return Table(
        "Verdicts by margin", ("margin", "#kept", "#dropped"), rows if sum(found["kept"] + found["dropped"]) else []
    )


def spent(made: Mapping[str, Any]) -> Table:
    """Calls and US$ by judge and generator; ``spent`` of summary.json."""
    found: Mapping[str, Mapping[str, Any]] = made.get("spent") or {}
    rows = [
        (
            name,
            count(one["calls"]),
            f"{one['cost_usd']:.4f}",
            count(one["prompt_tokens"]),
            count(one["cached_tokens"]),
            count(one["completion_tokens"]),
            plain(number(one["latency_s"])),
        )
        for name, one in found.items()
    ]
    heads = ("by", "#calls", "#US$", "#tokens read", "#from a cache", "#tokens written", "#seconds a call (median)")
    return Table("Calls and US$", heads, rows)
