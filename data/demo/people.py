"""Simulated people: these annotators are programs, and every page that shows their labels says so.

They stand in for human labels in the demo, and decide its win rates. The rule, for annotator *i* and an
answer *y*:

    utility_i(y) = w_i1 * correct(y) - w_i2 * min(words(y), 80) + w_i3 * friendliness(y)

``correct`` is what :func:`tasks.verify` says (0 for every answer where the prompt has no
reference), ``friendliness`` is -1, 0 or 1: the sign of friendly minus rude phrases. The label is drawn by
Bradley-Terry with a tie zone (Rao and Kupper 1967): with u uniform in (0, 1),

    z = utility_i(x) - utility_i(y) + log(u / (1 - u));    tie if abs(z) < TIE, else x if z > 0, else y

where x and y are the two answers in sorted order, so that swapping them swaps the label exactly. The three
weights of annotator *i* are those of :data:`WEIGHTS` times factors within a fifth of 1. So people want a
correct answer first, then a short one, then a friendly one. Pure: u comes from the seed, the annotator and
the texts; nothing is read or written.
"""

import hashlib
import math
import re
from collections.abc import Sequence
from typing import Final, Literal

from tasks import verify

from pipeline.ids import uniform_from

WEIGHTS: Final = (5.0, 0.12, 1.6)
"""What one correct answer, one word and one step of friendliness are worth, in logits."""
TIE: Final = 0.25
"""Half the width of the zone, in logits, in which a person calls it a tie."""
LONGEST: Final = 80
"""Beyond this many words an answer gets no worse for being longer."""

FRIENDLY: Final = re.compile(
    r"\b(happy to|glad(ly)?|great question|thanks|thank you|of course|lovely|welcome|take care|my pleasure"
    r"|hope (that|this) helps)\b"
)
RUDE: Final = re.compile(
    r"\b(obviously|next time|pay attention|silly|stupid|wasting|yourself|learn to|whatever|not my problem)\b"
)


def friendliness(answer: str) -> int:
    """1, 0 or -1: whether more friendly or more rude phrases stand in *answer*."""
    text = answer.casefold()
    score = len(FRIENDLY.findall(text)) - len(RUDE.findall(text))
    return (score > 0) - (score < 0)


class People:
    """A few simulated annotators who follow one rule with slightly different weights."""

    def __init__(self, annotators: int = 3) -> None:
        if annotators < 1:
            raise ValueError(f"annotators is {annotators}; there must be at least one")
        self.names: tuple[str, ...] = tuple(f"simulated-{number + 1}" for number in range(annotators))
        self._weights = {
            name: tuple(w * (0.8 + 0.4 * uniform_from(0, name, i)) for i, w in enumerate(WEIGHTS))
            for name in self.names
        }

    def utility(self, *, annotator: str, reference: str | None, answer: str) -> float:
        """What *answer* is worth to *annotator*, in logits.

        Raises:
            KeyError: there is no such annotator; the message names those there are.
        """
        if annotator not in self._weights:
            raise KeyError(f"no annotator {annotator!r}; there are {', '.join(self.names)}")
        correct, word, tone = self._weights[annotator]
        right = 0.0 if reference is None else verify(reference, answer)
        return correct * right - word * min(len(answer.split()), LONGEST) + tone * friendliness(answer)

    def label(
        self,
        *,
        annotator: str,
        messages: Sequence[tuple[str, str]],
        reference: str | None,
        answer_a: str,
        answer_b: str,
        seed: int,
    ) -> Literal["a", "b", "tie"]:
        """Which answer *annotator* prefers. Swapped answers under the same seed get the swapped label.

        Raises:
            KeyError: there is no such annotator.
        """
        utility = {
            answer: self.utility(annotator=annotator, reference=reference, answer=answer)
            for answer in (answer_a, answer_b)
        }
        if answer_a == answer_b:
            return "tie"
        x, y = sorted((answer_a, answer_b))
        turns = [field for turn in messages for field in turn]
        # Half a step inside (0, 1), so that the logit is always finite.
        u = uniform_from(seed, "person", annotator, *(_digest(text) for text in (*turns, x, y))) + 2.0**-53
        z = utility[x] - utility[y] + math.log(u / (1.0 - u))
        if abs(z) < TIE:
            return "tie"
        preferred = x if z > 0 else y
        return "a" if preferred == answer_a else "b"


def _digest(text: str) -> str:
    # Any text a model may write has a digest, lone surrogates too; ids.py encodes strictly.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
