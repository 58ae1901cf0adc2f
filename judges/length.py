"""A control with a known bias: it likes the longer answer and reads no word of it. Touches nothing.

In a panel it shows what the floor, the weights and the report make of a biased judge.
"""

import math
from collections.abc import Sequence

from pydantic import Field

from judges.base import Judgment, Labelled, Opinions, Rating
from pipeline.comparison import Comparison
from pipeline.config import JudgeConfig
from pipeline.engines.base import Request, Toolbox


class LengthJudge:
    """P(a) = 1 / (1 + exp(-(len(a) - len(b)) / scale)), lengths in characters."""

    class Options(JudgeConfig):
        """Keys of ``kind: length``."""

        scale: float = Field(default=40.0, gt=0)
        """Characters that make one logit."""

    def __init__(self, options: Options, toolbox: Toolbox) -> None:
        self.options, self.toolbox = options, toolbox

    def fit(self, labelled: Sequence[Labelled]) -> None:
        """Nothing is learned from labels."""

    def requests(self, comparisons: Sequence[Comparison]) -> tuple[Request, ...]:
        """See Judge. It makes no calls."""
        del comparisons
        return ()

    def judge(self, comparisons: Sequence[Comparison]) -> Opinions:
        """See Judge."""
        opinions = Opinions([])
        lengths: dict[str, int] = {}
        for item in comparisons:
            a, b = len(item.completion_a), len(item.completion_b)
            logit = max(-500.0, min(500.0, (a - b) / self.options.scale))
            opinions.judgments.append(Judgment(item.pair_id, "ab", 1 / (1 + math.exp(-logit))))
            lengths |= {item.sample_a: a, item.sample_b: b}
        opinions.ratings.extend(Rating(sample, float(length)) for sample, length in lengths.items())
        self.toolbox.advance(len(comparisons))
        return opinions
