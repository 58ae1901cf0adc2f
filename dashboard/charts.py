"""Every chart of the pages and of report.html, drawn once. Pure: frames and figures in, Altair charts out.

A chart says in ``description`` what it shows, for those who cannot see it, and carries its intervals in tooltips. Text
has no colour of its own: it takes the page's. Nothing is counted here; every figure was made by a stage. Words from
models, people and files are data, never parts of an expression, a field's name or a title.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl

Chart = alt.Chart | alt.LayerChart | alt.FacetChart | alt.HConcatChart | alt.VConcatChart


def funnel(summary: Mapping[str, Any]) -> Chart:
    """Bars of what each step of the way left, prompts to dataset rows; ``rows`` and ``dropped`` of summary.json."""
    raise NotImplementedError


def drops(summary: Mapping[str, Any]) -> Chart:
    """Bars of drops by stage and reason."""
    raise NotImplementedError


def spent(summary: Mapping[str, Any]) -> Chart:
    """Calls and US$ by judge and generator; ``spent`` of summary.json."""
    raise NotImplementedError


def accuracy(agreement: pl.DataFrame, *, subset: str = "all", people: str = "people") -> Chart:
    """Each judge's, and the panel's, agreement with people: points with intervals, ceiling and floor as lines."""
    raise NotImplementedError


def matrix(agreement: pl.DataFrame, measure: str, *, subset: str = "all", people: str = "people") -> Chart:
    """Heat map of raters against raters in *measure*: judge x judge, judge x people; figures in the cells."""
    raise NotImplementedError


def subsets(agreement: pl.DataFrame, *, people: str = "people") -> Chart:
    """Agreement with people by subset of the prompts, one panel a judge."""
    raise NotImplementedError


def drift(trend: pl.DataFrame, measure: str) -> Chart:
    """*measure* of every judge over snapshots, with intervals; one snapshot gives points."""
    raise NotImplementedError


def biases(bias: pl.DataFrame, measure: str, *, subset: str = "all") -> Chart:
    """*measure* of ``bias`` for every judge with its interval, and beside it what no bias or what people would show."""
    raise NotImplementedError


def controls(controls: Mapping[str, Mapping[str, Any]]) -> Chart:
    """What constant answers won from each judge; ``controls`` of summary.json."""
    raise NotImplementedError


def gate(certificate: Mapping[str, Any]) -> Chart:
    """Agreement against coverage with its lower bound, the target, and the threshold that was chosen."""
    raise NotImplementedError


def targets(certificate: Mapping[str, Any], chosen: float | None = None) -> Chart:
    """Coverage that each target would leave certified; the config's target and *chosen* are marked."""
    raise NotImplementedError


def more_labels(certificate: Mapping[str, Any]) -> Chart:
    """Coverage to be expected with more audited units."""
    raise NotImplementedError


def reliability(calibration: pl.DataFrame) -> Chart:
    """What probabilities say against what people say, with the diagonal."""
    raise NotImplementedError


def margins(summary: Mapping[str, Any]) -> Chart:
    """Verdicts by margin, kept and dropped; ``margins`` of summary.json."""
    raise NotImplementedError


def training(history: Sequence[Mapping[str, Any]], measure: str) -> Chart:
    """*measure* (``loss``, ``reward_accuracy``, ``reward_margin``) by optimiser step; ``loss`` of training.json."""
    raise NotImplementedError


def frontier(points: Sequence[Mapping[str, Any]]) -> Chart:
    """Win rate against KL from the untrained model: ``name``, ``kl``, ``win_rate``, ``low``, ``high`` of each run."""
    raise NotImplementedError


def win_rates(found: pl.DataFrame) -> Chart:
    """Frame ``win_rates``: how often answers of each model and temperature win, with intervals."""
    raise NotImplementedError


def compared(one: pl.DataFrame, other: pl.DataFrame, names: tuple[str, str], *, people: str = "people") -> Chart:
    """Frames ``agreement`` of two runs: each judge's agreement with people, before and after."""
    raise NotImplementedError
