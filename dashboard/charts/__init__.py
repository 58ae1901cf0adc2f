"""Every chart of the pages and of report.html, drawn once. Pure: frames and figures in, Altair charts out.

A chart says in ``description`` what it shows, for those who cannot see it, and carries its intervals in tooltips. Text
has no colour of its own: it takes the page's. Nothing is counted here; every figure was made by a stage. Words from
models, people and files are data, never parts of an expression, a field's name or a title.

All charts are single or layered views without a width, so that a page can make them as wide as their place.
"""

from dashboard.charts.agreement import accuracy, compared, drift, matrix, reliability, subsets
from dashboard.charts.bias import biases, controls
from dashboard.charts.certificate import gate, more_labels, targets
from dashboard.charts.measured import MEASURES, SHARES, Chart
from dashboard.charts.run import drops, funnel, margins, spent
from dashboard.charts.trained import frontier, training, win_rates

__all__ = [
    "MEASURES",
    "SHARES",
    "Chart",
    "accuracy",
    "biases",
    "compared",
    "controls",
    "drift",
    "drops",
    "frontier",
    "funnel",
    "gate",
    "margins",
    "matrix",
    "more_labels",
    "reliability",
    "spent",
    "subsets",
    "targets",
    "training",
    "win_rates",
]
