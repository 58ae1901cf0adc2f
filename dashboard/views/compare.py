"""The page Compare: what differs between two runs, in config and in figures. Draws what both runs' stages wrote."""

from collections.abc import Mapping
from typing import Any, cast

from dashboard import charts, parts
from dashboard.runs import Run
from pipeline.figures import count, interval, precise, share, usd
from pipeline.summary import rows_there

HIDDEN = ("ledger.url",)
"""Keys whose values are not shown: an address with a password may stand there."""


def draw(run: Run, runs: list[Run]) -> None:
    """Draw the page for *run* beside another of *runs*."""
    others = [other for other in runs if other.path != run.path]
    if not others:
        parts.note("There is one run only. To compare, start the dashboard on the folder that holds several.")
        return
    names = [other.name for other in others]
    name = parts.choice("Compare with", names, "with")
    other = others[names.index(name)]
    parts.heading("What changed in the config")
    changed = differences(other.config, run.config)
    if changed:
        parts.table("Keys that differ", ["key", f"before: {other.name}", f"after: {run.name}"], changed)
    else:
        parts.note("Nothing: both configs say the same.")
    parts.heading("What changed in the figures")
    heads = ["figure", f"before: {other.name}", f"after: {run.name}"]
    parts.table("Figures of both runs", heads, figures(other.summary, run.summary), numbers=[1, 2])
    before, after = other.frame("agreement"), run.frame("agreement")
    if before.is_empty() or after.is_empty():
        parts.missing("One of them has not measured agreement.", "jurybox measure CONFIG")
        return
    parts.heading(f"Agreement with {run.people}")
    parts.chart(charts.compared(before, after, (other.name, run.name), people=run.people))


def flattened(value: object, key: str = "") -> dict[str, str]:
    """A config as dotted keys and their values in words; lists of named things go by name, other lists by place."""
    if isinstance(value, Mapping):
        items = [(str(name), part) for name, part in cast("Mapping[object, object]", value).items()]
    elif isinstance(value, list) and any(isinstance(part, Mapping) for part in cast("list[object]", value)):
        items = [(_name(part, at), part) for at, part in enumerate(cast("list[object]", value))]
    else:
        return {key: _words(cast("object", value))}
    made: dict[str, str] = {}
    for name, part in items:
        made |= flattened(part, f"{key}.{name}" if key else name)
    return made


def _name(part: object, at: int) -> str:
    named = cast("Mapping[str, object]", part).get("name") if isinstance(part, Mapping) else None
    return str(at) if named is None else str(named)


def _words(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(_words(part) for part in cast("list[object]", value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[list[parts.Cell]]:
    """Dotted keys that differ between two configs: key, before, after; None where a config does not name it."""
    one, other = flattened(before), flattened(after)
    keys = sorted(key for key in {*one, *other} if one.get(key) != other.get(key) and key)
    return [[key, *("not shown" if key in HIDDEN else side.get(key) for side in (one, other))] for key in keys]


def figures(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[list[parts.Cell]]:
    """The figures of two summaries beside each other; rows that neither has are left out."""
    one, other = _figures(before), _figures(after)
    return [[name, one.get(name), other.get(name)] for name in dict.fromkeys([*one, *other])]


def _figures(made: Mapping[str, Any]) -> dict[str, str]:
    if not made:
        return {}
    found = {name: count(n) for name in COUNTED if (n := rows_there(made, name)) is not None}
    for name, judge in made["judges"].items():
        span = f" ({interval(judge['low'], judge['high'])})" if judge["low"] is not None else ""
        found[f"agreement of {name}"] = share(judge["agreement"]) + span
        found[f"weight of {name}"] = precise(judge["weight"]) if judge["in_panel"] else "not in the panel"
    certificate = made["certificate"]
    if certificate is not None:
        found["gate"] = "certified" if certificate["certified"] else "not certified"
        found["target agreement"] = share(certificate["target_agreement"])
        found["agreement of the kept pairs"] = share(certificate["agreement"])
        found["its lower bound"] = share(certificate["lower_bound"])
        found["threshold"] = precise(certificate["threshold"])
    found |= {"calls": count(made["calls"]), "cost": usd(made["cost_usd"])}
    if made.get("win_rate") is not None:
        found["win rate"] = f"{share(made['win_rate'])} ({interval(made['win_rate_low'], made['win_rate_high'])})"
    if made.get("kl") is not None:
        found["KL"] = precise(made["kl"])
    return found


COUNTED = ("prompts", "samples", "pairs", "judgments", "labels", "verdicts", "kept")
"""Frames whose rows are compared."""
