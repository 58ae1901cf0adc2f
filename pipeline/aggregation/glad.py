"""GLAD (Whitehill et al. 2009): every judge has an ability, every pair a difficulty, by EM. Pure. Needs no labels.

Through crowd-kit: see pipeline/aggregation/crowd.py.
"""

from typing import Any, ClassVar

from pipeline.aggregation.crowd import CrowdKit


class GladAggregation(CrowdKit):
    """p_a = posterior of the label a."""

    model, skill = "GLAD", "alphas_"
    settings: ClassVar[dict[str, Any]] = {"silent": True}
