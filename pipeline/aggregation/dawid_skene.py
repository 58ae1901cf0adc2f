"""Dawid & Skene 1979: every judge has a confusion matrix, every pair a true label, by EM. Pure. Needs no labels.

Through crowd-kit: see pipeline/aggregation/crowd.py.
"""

from pipeline.aggregation.crowd import CrowdKit


class DawidSkeneAggregation(CrowdKit):
    """p_a = posterior of the label a."""

    model, skill = "DawidSkene", "skills_"
