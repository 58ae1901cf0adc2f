"""A program that checks answers against the prompt's reference. Touches nothing but the user's program."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from judges.base import Judgment, Labelled, Opinions, Rating
from pipeline import discovery
from pipeline.comparison import Comparison
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
        """See Judge. Every answer is checked once; a prompt without a reference is a failed judgment."""
        marks: dict[str, float | str] = {}
        opinions = Opinions([])
        for item in comparisons:
            if item.reference is None:
                opinions.judgments.append(Judgment(item.pair_id, "ab", None, error="the prompt has no reference"))
                continue
            for sample, text in ((item.sample_a, item.completion_a), (item.sample_b, item.completion_b)):
                if sample not in marks:
                    marks[sample] = self._mark(item.reference, text)
            a, b = marks[item.sample_a], marks[item.sample_b]
            if isinstance(a, str) or isinstance(b, str):
                error = a if isinstance(a, str) else str(b)
                opinions.judgments.append(Judgment(item.pair_id, "ab", None, error=error))
            else:
                opinions.judgments.append(Judgment(item.pair_id, "ab", (1 + a - b) / 2))
        opinions.ratings.extend(Rating(key, mark) for key, mark in marks.items() if not isinstance(mark, str))
        self.toolbox.advance(len(comparisons))
        return opinions

    def _mark(self, reference: str, completion: str) -> float | str:
        """The program's score, or the error that says why there is none."""
        try:
            score = float(self.program(reference, completion))
        except (Exception, SystemExit) as error:  # noqa: BLE001  a user's program may fail in any way on hostile text
            return f"the program failed: {type(error).__name__}: {error}"
        return score if 0 <= score <= 1 else f"the program failed: score {score} is outside [0, 1]"
