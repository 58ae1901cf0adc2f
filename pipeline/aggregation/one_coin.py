"""One-coin Dawid-Skene: every judge is right with one probability whatever the label, by EM. Pure. Needs no labels.

Through crowd-kit: see pipeline/aggregation/crowd.py.
"""

from pipeline.aggregation.crowd import CrowdKit


class OneCoinAggregation(CrowdKit):
    """p_a = posterior of the label a."""

    model, skill = "OneCoinDawidSkene", "skills_"
