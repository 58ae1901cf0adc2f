"""A pairwise judge that is shown the prompt's known answer too. Touches its model through an engine only."""

from collections.abc import Sequence

from judges.base import Judgment, Opinions
from judges.pairwise import PairwiseJudge
from pipeline.comparison import Comparison
from pipeline.engines.base import Request


class ReferenceGuidedJudge(PairwiseJudge):
    """Compares two answers against the prompt's ``reference``; a prompt without one is a failed judgment, unasked."""

    FRAME = "reference_guided"

    class Options(PairwiseJudge.Options):
        """Keys of ``kind: reference_guided``: those of `pairwise`.

        A rubric that is a whole prompt has `{prompt}`, `{reference}`, `{first}` and `{second}` in this order.
        """

    def requests(self, comparisons: Sequence[Comparison]) -> list[Request]:
        """See Judge."""
        return super().requests([item for item in comparisons if item.reference is not None])

    def judge(self, comparisons: Sequence[Comparison]) -> Opinions:
        """See Judge."""
        opinions = super().judge([item for item in comparisons if item.reference is not None])
        without = [item for item in comparisons if item.reference is None]
        for item in without:
            why = "no_reference: the prompt has no known answer to compare with"
            made = [Judgment(item.pair_id, order, None, error=why) for order in self._orders(item)]
            opinions.judgments.extend(made)
            self.toolbox.advance(len(made))
        return opinions

    def _extra(self, item: Comparison) -> dict[str, str]:
        return {"reference": item.reference or ""}
