"""The page Gate: what was certified, at which threshold, what another target or more labels would give.

Draws certificate.json; every figure in it was computed by the stage.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from dashboard import charts, parts, tables
from dashboard.runs import Run
from dashboard.views.overview import certified
from pipeline.figures import NOTHING, count, precise, share

GATE = "jurybox gate CONFIG"


def draw(run: Run, _runs: list[Run]) -> None:
    """Draw the page for *run*."""
    certificate = run.json("certificate.json")
    if certificate is None:
        parts.missing("Nothing is certified yet.", GATE)
        return
    _figures(run, certificate)
    if certificate["curve"]:
        parts.heading(
            "Agreement against coverage",
            f"Every threshold on the margin keeps a share of the pairs (coverage). Beside the agreement with "
            f"{run.people} on the audited ones stands its lower bound. Thresholds are tested from strict to loose "
            "until one fails.",
        )
        parts.chart(charts.gate(certificate))
        with st.expander("Every threshold in figures"):
            parts.figures_table(tables.curve(certificate))
    _targets(certificate)
    _more(certificate)


def _figures(run: Run, certificate: Mapping[str, Any]) -> None:
    threshold, coverage = certificate["threshold"], certificate["coverage"]
    candidates = certificate.get("candidates")
    kept = f"of {count(candidates)} pairs that the selection keeps" if candidates else "of the pairs selected"
    needed = certificate["labels_needed"]
    items = [
        certified(certificate, run.people),
        ("Coverage", share(coverage), kept),
        ("Threshold on the margin", precise(threshold), "pairs below it are dropped as below_gate"),
        (
            "Labels still needed",
            NOTHING if needed is None else count(needed),
            f"about, for a target of {share(certificate['target_agreement'])}" if needed else "for this target",
        ),
    ]
    parts.figures(items)
    parts.note(
        f"{_sentence(certificate['reason'])} A tie of {run.people} counts one half; without that the agreement is "
        f"{share(certificate['strict_agreement'])}."
    )


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _targets(certificate: Mapping[str, Any]) -> None:
    parts.heading("What another target would keep")
    targets = certificate.get("targets")
    if not targets:
        parts.missing("This certificate holds one target only.", f"{GATE} --force")
        return
    shown = [one["target"] for one in targets]
    start = min(shown, key=lambda target: abs(target - certificate["target_agreement"]))
    picked: Any = st.select_slider(
        "Target agreement", shown, start, key="target", bind="query-params", format_func=lambda value: f"{value:.0%}"
    )
    chosen = float(picked)
    parts.html(f'<p aria-live="polite"><strong>{would(at(targets, chosen))}</strong></p>')
    parts.note(
        "A target picked after looking at these labels is a plan, not a certificate: what counts is the target of the "
        f"config, {share(certificate['target_agreement'])}. To adopt another, set gate.target_agreement and "
        "audit new prompts."
    )
    parts.chart(charts.targets(certificate, chosen))
    with st.expander("Every target in figures"):
        parts.figures_table(tables.targets(certificate))


def at(targets: Sequence[Mapping[str, Any]], chosen: float) -> Mapping[str, Any]:
    """The finding for the target nearest to *chosen*."""
    return min(targets, key=lambda one: abs(one["target"] - chosen))


def would(one: Mapping[str, Any]) -> str:
    """What a target would have kept, in words."""
    target = f"{one['target']:.0%}"
    if one["certified"]:
        return (
            f"A target of {target} would have kept {share(one['coverage'])} of the pairs: agreement "
            f"{share(one['agreement'])}, at least {share(one['lower_bound'])}, threshold "
            f"{precise(one['threshold'])}."
        )
    needed = one["labels_needed"]
    more = f"about {needed:,} more labels could" if needed else "no number of labels like these would"
    return f"A target of {target} would not have been certified; {more}."


def _more(certificate: Mapping[str, Any]) -> None:
    more = certificate.get("more_labels")
    if not more:
        return
    parts.heading(
        "What more labels would buy",
        "Coverage to be expected if more prompts were audited and people went on as before: an extrapolation of these "
        "labels, not a promise.",
    )
    parts.chart(charts.more_labels(certificate))
    with st.expander("More labels in figures"):
        parts.figures_table(tables.more_labels(certificate))
