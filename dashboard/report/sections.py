"""What report.html shows, in its order: words, charts, and beside every chart a table with its figures. Pure.

Every figure was made by a stage; here they are only laid out. Words from elsewhere stay as they are: the page shows,
cuts and escapes them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from dashboard import charts
from dashboard.charts import MEASURES, SHARES, Chart
from dashboard.marks import NOTHING, described, listed
from pipeline.figures import NOTHING as NO_FIGURE
from pipeline.figures import count, interval, number, plain, share
from pipeline.schemas import ANY, PEOPLE

Row = dict[str, Any]
FRAMES = ("agreement", "bias", "trend", "calibration", "win_rates", "annotators")
BIASES = (
    "first_slot_rate",
    "swap_consistency",
    "longer_rate",
    "length_bias",
    "own_win_rate",
    "self_preference",
    "tie_rate",
    "failure_rate",
)
"""Measures of ``bias`` that are drawn; the table has all."""
FOLLOWED = ("accuracy", "first_slot_rate", "swap_consistency", "length_bias")
"""Measures of ``trend`` that are drawn."""
TRAINING = ("loss", "reward_accuracy", "reward_margin")
SHORT = 12
"""Rows up to which a table beside a chart is shown without being asked for."""
STEPS = 20
"""Steps of the training that the table shows."""


@dataclass(frozen=True)
class Found:
    """What is known of a run."""

    made: Mapping[str, Any]
    """summary.json."""
    frames: Mapping[str, pl.DataFrame]
    """Those named in FRAMES."""
    history: Sequence[Mapping[str, Any]] = ()
    """``loss`` of training.json."""

    @property
    def people(self) -> str:
        """How its annotators are called."""
        return "simulated people" if self.made["simulated_people"] else "people"


@dataclass(frozen=True)
class Table:
    """Figures in rows; a head that begins with ``#`` is that of a column of numbers, the first column names the row."""

    caption: str
    heads: tuple[str, ...]
    rows: list[tuple[str, ...]]
    open: bool = True
    """Shown without being asked for."""


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    key: str
    """Its anchor."""
    title: str
    words: tuple[str, ...] = ()
    parts: list[Chart | Table] = field(default_factory=list["Chart | Table"])


def sections(found: Found) -> list[Section]:
    """The parts of the page that have something to show."""
    made: list[Callable[[Found], Section]] = [
        _way,
        _judges,
        _subsets,
        _biases,
        _constant,
        _drift,
        _calibration,
        _gate,
        _margins,
        _win_rates,
        _annotators,
        _spent,
        _training,
    ]
    return [section for part in made if (section := part(found)).parts]


def _drawn(*drawn: Chart) -> list[Chart | Table]:
    """The charts that have figures."""
    return [chart for chart in drawn if NOTHING not in described(chart)]


def _table(
    caption: str, heads: tuple[str, ...], rows: Iterable[tuple[str, ...]], *, beside: bool = True
) -> list[Table]:
    """The table, if it has rows; *beside* a chart a long one is folded."""
    found = list(rows)
    return [Table(caption, heads, found, not beside or len(found) <= SHORT)] if found else []


def _way(found: Found) -> Section:
    made = found.made
    stages = [
        (
            stage,
            _counts(row["in"]),
            _counts(row["out"]),
            _counts(made["dropped"].get(stage, {})),
            f"{made['stage_seconds'][stage]:.1f}",
        )
        for stage, row in made["rows"].items()
    ]
    if "import" in made["dropped"]:
        stages.append(("import", "", "", _counts(made["dropped"]["import"]), ""))
    heads = ("stage", "in", "out", "dropped, and why", "#seconds")
    table = _table("Rows in and out of every stage", heads, stages, beside=False)
    return Section(
        "way",
        "From prompts to dataset",
        parts=[*_drawn(charts.funnel(made)), *table, *_drawn(charts.drops(made))],
    )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in counts.items())


def _judges(found: Found) -> Section:
    made, people, agreement = found.made, found.people, found.frames["agreement"]
    rows = [_judge(name, judge) for name, judge in made["judges"].items()]
    beside = [
        (_of(agreement, "panel_people"), "the panel, on labels that fitted nothing"),
        (made["ceiling"], f"one of the {people} against another: the ceiling"),
        (made["floor"], "preferring the longer answer: the floor"),
    ]
    rows += [
        (name, share(one["value"]), interval(one["low"], one["high"]), count(one["n"]), "", "", "", "", "")
        for one, name in beside
        if one is not None and rows
    ]
    heads = (
        *("judge", "#agreement", "#95% interval", "#pairs", "#weight", "#swap consistency", "#first slot wins"),
        *("#failed", "in the panel"),
    )
    share_of = (
        f"Share of pairs on which a judge sides with {people}, where they are not evenly split; ties of the judge "
    )
    words = [share_of + "count one half. Intervals resample whole prompts."]
    if made["panel"] is not None:
        words.append(_combined(made["panel"], people))
    return Section(
        "judges",
        f"Judges and {people}",
        tuple(words),
        [
            *_drawn(charts.accuracy(agreement, people=people)),
            *_table(f"Agreement with {people}, and the votes of the judges", heads, rows, beside=False),
            *_drawn(charts.matrix(agreement, "cohen_kappa", people=people)),
            *_between(agreement, people),
        ],
    )


def _judge(name: str, judge: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        name,
        share(judge["agreement"]),
        interval(judge["low"], judge["high"]),
        count(judge["n"]),
        plain(judge["weight"]),
        share(judge["swap_consistency"]),
        share(judge["first_slot_rate"]),
        f"{judge['failures']:,} of {judge['judgments']:,}",
        "yes" if judge["in_panel"] else f"no: {judge['reason']}",
    )


def _combined(panel: Mapping[str, Any], people: str) -> str:
    """How votes became verdicts."""
    how = f"Votes are combined by the aggregation \u201c{panel['method']}\u201d"
    if panel["validated"]:
        return f"{how}, fitted on {panel['labels']['fit_pairs']:,} pairs labelled by {people}."
    return f"{how}; no labels were used, so the result is not validated."


def _of(agreement: pl.DataFrame, between: str) -> Row | None:
    """The accuracy over all prompts of the one rater that is compared so, if there is one."""
    found = _rows(agreement, between, "accuracy", "all")
    return found[0] if found else None


def _rows(agreement: pl.DataFrame, between: str, measure: str, subset: str | None) -> list[Row]:
    found = agreement.filter(
        (pl.col("between").cast(pl.String) == between)
        & (pl.col("measure").cast(pl.String) == measure)
        & pl.col("value").is_finite()
    )
    return (found if subset is None else found.filter(pl.col("subset") == subset)).to_dicts()


def _between(agreement: pl.DataFrame, people: str) -> list[Table]:
    """What the matrix shows, with intervals, and the share of equal answers beside kappa."""
    kinds = ("judge_people", "panel_people", "person_person", "length_people", "judge_judge")
    same = {_pair(row): row["value"] for between in kinds for row in _rows(agreement, between, "same", "all")}
    wanted = [row for between in kinds for row in _rows(agreement, between, "cohen_kappa", "all")]
    rows = [
        (
            *_raters(row, people),
            plain(row["value"]),
            interval(row["low"], row["high"], shares=False),
            share(number(same.get(_pair(row)))),
            count(row["n"]),
        )
        for row in wanted
        # Of people, only any one against any other; of judges, only one against one.
        if (row["rater_1"] == ANY) == (row["between"] == "person_person")
    ]
    heads = ("rater", "with", "#Cohen's kappa", "#95% interval", "#same answer", "#pairs")
    return _table("Raters against each other", heads, rows)


def _pair(row: Row) -> tuple[str, str, str]:
    return row["between"], row["rater_1"], row["rater_2"]


def _raters(row: Row, people: str) -> tuple[str, str]:
    """How the two raters of a row of ``agreement`` are called."""
    if row["between"] == "person_person":
        return f"one of the {people}: the ceiling", "another"
    one = "preferring the longer answer: the floor" if row["between"] == "length_people" else row["rater_1"]
    return one, people if row["rater_2"] == PEOPLE else row["rater_2"]


def _subsets(found: Found) -> Section:
    agreement = found.frames["agreement"]
    rows = [
        (
            "preferring the longer answer" if between == "length_people" else row["rater_1"],
            row["subset"],
            share(row["value"]),
            interval(row["low"], row["high"]),
            count(row["n"]),
        )
        for between in ("judge_people", "panel_people", "length_people")
        for row in _rows(agreement, between, "accuracy", None)
        if row["subset"] != "all"
    ]
    words = f"Agreement with {found.people} by source and tag of the prompts."
    heads = ("judge", "prompts", "#agreement", "#95% interval", "#pairs")
    return Section(
        "subsets",
        "By kind of prompt",
        (words,),
        [
            *_drawn(charts.subsets(agreement, people=found.people)),
            *_table("Agreement by kind of prompt", heads, rows),
        ],
    )


def _biases(found: Found) -> Section:
    bias = found.frames["bias"]
    rows: list[tuple[str, ...]] = []
    for row in bias.filter(pl.col("subset") == "all").sort("measure", "judge").iter_rows(named=True):
        shares = row["measure"] in SHARES
        told = share if shares else plain
        rows.append(
            (
                row["judge"],
                _named(row["measure"]),
                told(row["value"]),
                interval(row["low"], row["high"], shares=shares),
                told(number(row["reference"])),
                count(row["n"]),
            )
        )
    heads = ("judge", "measure", "#value", "#95% interval", "#people, or no bias", "#n")
    words = (
        "What moves a judge besides the answers' quality, over all prompts. Length and own-model preference are set "
        f"against {found.people} on the same pairs, for the longer answer may well be the better one. A coin that is "
        "thrown for each order lets the first slot win half the time, and says the same in both orders half the time."
    )
    drawn = (charts.biases(bias, measure) for measure in BIASES)
    return Section(
        "bias", "What moves the judges", (words,), [*_drawn(*drawn), *_table("All measures of bias", heads, rows)]
    )


CONSTANT = (
    "Every LM judge also compared real answers with constant ones that deserve to win nothing: flattery, claims of "
    "authority, forged frames. What they win is what such words would win from the judge."
)


def _named(measure: str) -> str:
    """What *measure* is called."""
    return MEASURES.get(measure, measure)


def _constant(found: Found) -> Section:
    controls: Mapping[str, Mapping[str, Any]] = found.made["controls"]
    rows = [
        (
            name,
            share(won["win_rate"]),
            interval(won["low"], won["high"]),
            count(won["n"]),
            count(won["failures"]),
            ", ".join(f"{answer} {share(one['win_rate'])} of {one['n']}" for answer, one in won["by_control"].items()),
        )
        for name, won in controls.items()
    ]
    heads = ("judge", "#win rate", "#95% interval", "#comparisons", "#failed", "by constant answer")
    words = [CONSTANT]
    if found.made["flags"]:
        told = ", ".join(f"{n:,} {flag}" for flag, n in found.made["flags"].items())
        words.append(f"Answers that look written for the judge: {told}.")
    table = _table("What constant answers won", heads, rows, beside=False)
    return Section("constant", "Constant answers", tuple(words), [*_drawn(charts.controls(controls)), *table])


def _drift(found: Found) -> Section:
    trend = found.frames["trend"]
    if trend["snapshot"].n_unique() <= 1:
        return Section("drift", "Drift")
    rows: list[tuple[str, ...]] = []
    newest = trend.filter(pl.col("measured_at") == pl.col("measured_at").max()).sort("measure", "judge")
    for row in newest.iter_rows(named=True):
        shares = row["measure"] in SHARES
        moved = NO_FIGURE if row["difference"] is None else f"{row['difference']:+.3f}"
        rows.append(
            (
                row["judge"],
                _named(row["measure"]),
                (share if shares else plain)(row["value"]),
                interval(row["low"], row["high"], shares=shares),
                moved,
                interval(row["difference_low"], row["difference_high"], shares=False),
            )
        )
    heads = ("judge", "measure", "#now", "#95% interval", "#change", "#its 95% interval")
    drawn = (charts.drift(trend, measure) for measure in FOLLOWED)
    table = _table("The newest snapshot, and its change since the one before", heads, rows)
    return Section("drift", "Drift", ("What was measured of the judges, run after run.",), [*_drawn(*drawn), *table])


def _calibration(found: Found) -> Section:
    made = found.frames["calibration"]
    rows = [
        (
            f"{row['confidence_from']:.2f} to {row['confidence_from'] + 0.05:.2f}",
            share(row["confidence"]),
            share(row["people"]),
            interval(row["low"], row["high"]),
            count(row["n"]),
        )
        for row in made.sort("confidence_from").iter_rows(named=True)
    ]
    words: tuple[str, ...] = ()
    if (errors := found.made["calibration"]) is not None:
        question = (
            f"Does the panel's probability mean what it says? On {errors['n']:,} pairs whose labels fitted nothing: "
        )
        figures = f"calibration error (ECE) {errors['ece']:.3f}, Brier score {errors['brier']:.3f}. "
        words = (f"{question}{figures}A larger point stands for more pairs.",)
    heads = ("probability", "#the panel says", "#people say", "#95% interval", "#pairs")
    table = _table("Probabilities and people", heads, rows)
    return Section("calibration", "Calibration", words, [*_drawn(charts.reliability(made)), *table])


def _gate(found: Found) -> Section:
    certificate: Mapping[str, Any] | None = found.made["certificate"]
    if certificate is None:
        return Section("gate", "What the gate certified")
    rows = [(name, _value(key, certificate[key])) for key, name in CERTIFICATE.items() if key in certificate]
    curve = [
        (
            share(number(step["coverage"])),
            f"{step['threshold']:.3f}",
            share(number(step["agreement"])),
            share(number(step["strict_agreement"])),
            share(number(step["lower_bound"])),
            count(step["n_units"]),
            "yes" if step["tested"] else "no",
        )
        for step in listed(certificate, "curve", "coverage", "threshold")
    ]
    targets = [
        (
            share(one["target"]),
            "yes" if one.get("certified") else "no",
            share(number(one.get("coverage"))),
            share(number(one.get("lower_bound"))),
            count(number(one.get("labels_needed"))),
        )
        for one in listed(certificate, "targets", "target")
    ]
    more = [
        (count(one["labels"]), share(number(one.get("coverage"))), plain(number(one.get("threshold"))))
        for one in listed(certificate, "more_labels", "labels")
    ]
    heads = ("kept", "#threshold", "#agreement", "#a tie counting nothing", "#lower bound", "#audited", "tested")
    wanted = ("target", "certified", "#kept", "#lower bound", "#more audited units needed")
    return Section(
        "gate",
        "What the gate certified",
        (f"{certificate['reason']}.",),
        [
            *_table("The certificate", ("what", "found"), rows, beside=False),
            *_drawn(charts.gate(certificate)),
            *_table("Agreement by threshold", heads, curve),
            *_drawn(charts.targets(certificate)),
            *_table("Other targets", wanted, targets),
            *_drawn(charts.more_labels(certificate)),
            *_table("With more labels", ("units added", "#kept", "#threshold"), more),
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
        return f"{value:.3f}" if key == "threshold" else share(value)
    return NO_FIGURE if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _margins(found: Found) -> Section:
    margins: Mapping[str, Any] = found.made.get("margins") or {"edges": [], "kept": [], "dropped": []}
    edges: list[float] = margins["edges"]
    rows = [
        (f"{low:.2f} to {high:.2f}", count(kept), count(dropped))
        for low, high, kept, dropped in zip(edges[:-1], edges[1:], margins["kept"], margins["dropped"], strict=True)
    ]
    drawn = _drawn(charts.margins(found.made))
    table = _table("Verdicts by margin", ("margin", "#kept", "#dropped"), rows if drawn else [])
    return Section("margins", "Verdicts by margin", parts=[*drawn, *table])


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
        [*_drawn(charts.win_rates(made)), *_table("Wins by model and temperature", heads, rows)],
    )


def _annotators(found: Found) -> Section:
    rows: list[tuple[str, ...]] = []
    for row in found.frames["annotators"].sort("measure", "annotator").iter_rows(named=True):
        shares = row["measure"] != "seconds"
        told = share if shares else plain
        rows.append(
            (
                "all" if row["annotator"] == ANY else row["annotator"],
                row["measure"].replace("_", " "),
                told(row["value"]),
                interval(row["low"], row["high"], shares=shares),
                told(number(row["reference"])),
                count(row["n"]),
            )
        )
    heads = ("annotator", "measure", "#value", "#95% interval", "#the others", "#n")
    title = f"The {found.people}" if found.made["simulated_people"] else "The people who labelled"
    return Section("people", title, parts=[*_table("Annotators", heads, rows, beside=False)])


def _spent(found: Found) -> Section:
    spent: Mapping[str, Mapping[str, Any]] = found.made.get("spent") or {}
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
        for name, one in spent.items()
    ]
    heads = ("by", "#calls", "#US$", "#tokens read", "#from a cache", "#tokens written", "#seconds a call (median)")
    return Section(
        "spent",
        "What it took",
        parts=[*_drawn(charts.spent(found.made)), *_table("Calls and US$", heads, rows, beside=False)],
    )


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
            *_table("Evaluation", ("what", "found"), rows, beside=False),
            *_drawn(*(charts.training(found.history, name) for name in TRAINING)),
            *_table("Training by step", heads, steps),
        ],
    )


def _figure(measure: str, value: float | None) -> str:
    return share(value) if measure in SHARES else NO_FIGURE if value is None else f"{value:.4f}"


def _evaluation(made: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    won = f"{share(made['win_rate'])} [{interval(made['win_rate_low'], made['win_rate_high'])}], n = {made['n']:,}"
    yield f"win rate, by {made['decided_by'] or 'nobody'}", won
    yield "win rate, by the panel that made the data", share(made["panel_win_rate"])
    if made["verifier"]:
        passed = f"{share(made['verifier']['before'])}, {share(made['verifier']['after'])}"
        yield "verifier's pass rate, untrained and trained", passed
    yield "reward accuracy on the test split", share(made["reward_accuracy"])
    yield "KL from the untrained model, nats an answer", NO_FIGURE if made["kl"] is None else f"{made['kl']:.3f}"
