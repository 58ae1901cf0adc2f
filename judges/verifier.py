"""A program that checks answers against the prompt's reference. Touches nothing but the user's program."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from judges.base import Comparison, Judgment, Labelled, Opinions, Rating
from pipeline import discovery
from pipeline.config import JudgeConfig
from pipeline.engines.base import Request, Toolbox

Program = Callable[[str, str], float]
"""(reference, completion) -> score in [0, 1]."""


class VerifierJudge:
    """Prefers the answer that passes the check; two that pass, or two that fail, are a tie."""

    class Options(JudgeConfig):
        """Keys of ``kind: verifier``."""

        program: str
        """`./file.py:name` of a function (reference, completion) -> score in [0, 1]."""

        def files(self, base: Path) -> list[Path]:
            """The program's file."""
            return [base / self.program.rpartition(":")[0]]

    def __init__(self, options: Options, toolbox: Toolbox) -> None:
        self.options, self.toolbox = options, toolbox
        self.program = cast("Program", discovery.find("judges", options.program, "", toolbox.base))

    def fit(self, labelled: Sequence[Labelled]) -> None:
        """Nothing is learned from labels."""

    def requests(self, comparisons: Sequence[Comparison]) -> tuple[Request, ...]:
        """See Judge. It makes no calls."""
        del comparisons
        return ()

    def judge(self, comparisons: Sequence[Comparison]) -> Opinions:
        """See Judge. A prompt without a reference is a failed judgment."""
        opinions = Opinions([])
        rated: set[str] = set()
        for item in comparisons:
            if item.reference is None:
                opinions.judgments.append(Judgment(item.pair_id, "ab", None, error="the prompt has no reference"))
            else:
                try:
                    a, b = (self._score(item.reference, text) for text in (item.completion_a, item.completion_b))
                except Exception as error:  # noqa: BLE001  a user's program may fail in any way on hostile text
                    why = f"the program failed: {type(error).__name__}: {error}"
                    opinions.judgments.append(Judgment(item.pair_id, "ab", None, error=why))
                    continue
                opinions.judgments.append(Judgment(item.pair_id, "ab", (1 + a - b) / 2))
                scores = {item.sample_a: a, item.sample_b: b}
                opinions.ratings.extend(Rating(key, score) for key, score in scores.items() if key not in rated)
                rated |= scores.keys()
        self.toolbox.advance(len(comparisons))
        return opinions

    def _score(self, reference: str, completion: str) -> float:
        score = float(self.program(reference, completion))
        if not 0 <= score <= 1:
            raise ValueError(f"score {score} is outside [0, 1]")
        return score
