"""Judge: likes the answer with more vowels. Touches nothing."""

from collections.abc import Sequence

from pydantic import Field

from judges.base import Comparison, JudgeConfig, Judgment, Labelled, Opinions
from pipeline.engines.base import Request, Toolbox


class VowelsJudge:
    """P(a) is `sure` where a has more vowels than b, 1 - `sure` where it has fewer, else one half."""

    class Options(JudgeConfig):
        """Keys of ``kind: vowels``."""

        sure: float = Field(default=0.9, gt=0.5, lt=1)
        """Probability that it gives to its choice."""

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
        self.toolbox.advance(len(comparisons))
        return Opinions([Judgment(item.pair_id, "ab", self._preference(item)) for item in comparisons])

    def _preference(self, item: Comparison) -> float:
        a, b = (sum(map(text.count, "aeiou")) for text in (item.completion_a, item.completion_b))
        return 0.5 if a == b else self.options.sure if a > b else 1 - self.options.sure
