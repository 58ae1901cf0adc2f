"""What report.html shows, in its order: words, charts, and beside every chart a table with its figures. Pure.

Every figure was made by a stage; here they are only laid out. Words from elsewhere stay as they are: the page shows,
cuts and escapes them.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dashboard import charts, tables
from dashboard.charts import MEASURES, SHARES
from dashboard.report import judges
from dashboard.report.base import Found, Section, drawn, folded, tabled, unfolded
from pipeline.figures import NOTHING as NO_FIGURE
from pipeline.figures import count, interval, number, precise, share

TRAINING = ("loss", "reward_accuracy", "reward_margin")
STEPS = 20
"""Steps of the training that the table shows."""


def sections(found: Found) -> list[Section]:
    """The parts of the page that have something to show."""
    made: list[Callable[[Found], Section]] = [
        _way,
        judges.judges,
        judges.subsets,
        judges.biases,
        judges.constant,
        judges.drift,
        judges.calibration,
        _gate,
        _margins,
        _win_rates,
        judges.annotators,
        _spent,
        _training,
    ]
    return [section for part in made if (section := part(found)).parts]


def _way(found: Found) -> Section:
    made = found.made
    return Section(
        "way",
        "From prompts to dataset",
        parts=[*drawn(charts.funnel(made)), *unfolded(tables.stages(made)), *drawn(charts.drops(made))],
    )


def _gate(found: Found) -> Section:
    certificate: Mapping[str, Any] | None = found.made["certificate"]
    if certificate is None:
        return Section("gate", "What the gate certified")
    rows = [(name, _value(key, certificate[key])) for key, name in CERTIFICATE.items() if key in certificate]
    return Section(
        "gate",
        "What the gate certified",
        (f"{certificate['reason']}.",),
        [
            *tabled("The certificate", ("what", "found"), rows, beside=False),
            *drawn(charts.gate(certificate)),
            *folded(tables.curve(certificate)),
            *drawn(charts.targets(certificate)),
            *folded(tables.targets(certificate)),
            *drawn(charts.more_labels(certificate)),
            *folded(tables.more_labels(certificate)),
        ],
    )


CERTIFICATE = {
    "certified": "certified",
    "target_agreement": "target",
    "delta": "allowed chance of a false certificate",
    "agreement": "agreement seen",
    "strict_agreement": "the same, a tie counting nothing",
    "lower_bound": "lower bound",
    "n_units": "audited units",
    "coverage": "share of the pairs that is kept",
    "candidates": "pairs kept without a threshold",
    "threshold": "margin threshold",
    "labels_needed": "more audited units needed",
    "method": "method",
}


def _value(key: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return precise(value) if key == "threshold" else share(value)
    return NO_FIGURE if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _margins(found: Found) -> Section:
    parts = [*drawn(charts.margins(found.made)), *folded(tables.margins(found.made))]
    return Section("margins", "Verdicts by margin", parts=parts)


def _win_rates(found: Found) -> Section:
    made = found.frames["win_rates"]
    rows = [
        (
            row["model"],
            NO_FIGURE if row["temperature"] is None else f"{row['temperature']:g}",
            share(row["win_rate"]),
            interval(row["low"], row["high"]),
            count(row["n"]),
            count(row["prompts"]),
        )
        for row in made.sort("model", "temperature").iter_rows(named=True)
    ]
    heads = ("model", "#temperature", "#wins", "#95% interval", "#pairs", "#prompts")
    words = "How often answers win against those of other models and temperatures, by the panel's verdicts."
    return Section(
        "answers",
        "Answers by model and temperature",
        (words,),
        [*drawn(charts.win_rates(made)), *tabled("Wins by model and temperature", heads, rows)],
    )


def _spent(found: Found) -> Section:
    parts = [*drawn(charts.spent(found.made)), *unfolded(tables.spent(found.made))]
    return Section("spent", "What it took", parts=parts)


def _training(found: Found) -> Section:
    made = found.made
    if not made["n"] and not found.history:
        return Section("training", "After training")
    rows = list(_evaluation(made)) if made["n"] else []
    every = -(-len(found.history) // STEPS) or 1
    known = [name for name in TRAINING if any(number(row.get(name)) is not None for row in found.history)]
    steps = [
        (count(number(row.get("step"))), *(_figure(name, number(row.get(name))) for name in known))
        for row in found.history[::every]
    ]
    heads = ("step", *(f"#{MEASURES[name]}" for name in known))
    return Section(
        "training",
        "After training",
        parts=[
            *tabled("Evaluation", ("what", "found"), rows, beside=False),
            *drawn(*(charts.training(found.history, name) for name in TRAINING)),
            *tabled("Training by step", heads, steps),
        ],
    )


def _figure(measure: str, value: float | None) -> str:
    return share(value) if measure in SHARES else NO_FIGURE if value is None else f"{value:.4f}"


def _evaluation(made: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    won = f"{share(made['win_rate'])} ({interval(made['win_rate_low'], made['win_rate_high'])}, n = {made['n']:,})"
    yield f"win rate, by {made['decided_by'] or 'nobody'}", won
    yield "win rate, by the panel that made the data", share(made["panel_win_rate"])
    if made["verifier"]:
        passed = f"{share(made['verifier']['before'])}, {share(made['verifier']['after'])}"
        yield "verifier's pass rate, untrained and trained", passed
    yield "reward accuracy on the test split", share(made["reward_accuracy"])
    yield "KL from the untrained model, nats an answer", precise(made["kl"])
