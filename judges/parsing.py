"""Reads a verdict out of a judge's reply, strictly. Pure: strings in, a verdict or an Unreadable out.

One documented shape per verdict form; anything else is a failed judgment with the raw text kept, never a tie and
never a guess. Ratings are never searched for in prose.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

VERDICTS = {"A": 1.0, "B": 0.0, "tie": 0.5}
"""Preference for the answer shown first."""
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"rationale": {"type": "string"}, "verdict": {"type": "string", "enum": list(VERDICTS)}},
    "required": ["rationale", "verdict"],
    "additionalProperties": False,
}
LAST_LINE = re.compile(r"Verdict: (A|B|tie)")
CHOICES = ("A", "B")
MIN_CHOICE_MASS = 0.01
"""Below this the model was saying something else, and its A or B means nothing."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """P(the answer shown first is preferred), and the judge's words."""

    first: float
    rationale: str | None = None


class UnreadableError(ValueError):
    """The reply is not in the documented shape."""


def from_text(text: str) -> Verdict:
    """A reply whose last line is exactly ``Verdict: A``, ``Verdict: B`` or ``Verdict: tie``, and no other such line.

    Raises:
        UnreadableError: no such last line, or the reply holds several.
    """
    lines = [line.strip() for line in text.strip().splitlines()]
    found = [match for line in lines if (match := LAST_LINE.fullmatch(line))]
    if len(found) != 1 or not LAST_LINE.fullmatch(lines[-1]):
        raise UnreadableError(f"expected one last line `Verdict: A|B|tie`, found {len(found)} such lines")
    return Verdict(VERDICTS[found[0].group(1)], "\n".join(lines[:-1]).strip() or None)


def from_json(text: str) -> Verdict:
    """A reply that is one JSON object ``{"rationale": str, "verdict": "A" | "B" | "tie"}`` and nothing else.

    Raises:
        UnreadableError: no such object, a key too many or too few, a repeated key, or another verdict.
    """
    try:
        value: object = json.loads(text, object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"expected one JSON object: {error}") from error
    if not isinstance(value, dict):
        raise UnreadableError(f"expected a JSON object, found {type(value).__name__}")
    fields = cast("dict[str, object]", value)
    if set(fields) != {"rationale", "verdict"}:
        raise UnreadableError(f"expected the keys rationale and verdict, found {sorted(fields)[:10]}")
    verdict, rationale = fields["verdict"], fields["rationale"]
    if not isinstance(verdict, str) or verdict not in VERDICTS or not isinstance(rationale, str):
        raise UnreadableError(f"expected verdict to be one of {', '.join(VERDICTS)}, found {verdict!r:.60}")
    # A broken \u escape is no text; the verdict does not hang on it.
    return Verdict(VERDICTS[verdict], rationale.encode(errors="replace").decode() or None)


def from_logprobs(logprobs: Mapping[str, float]) -> Verdict:
    """P(A) renormalised over every token that spells A or B, from log-probabilities (nats) of the first token.

    Raises:
        UnreadableError: the tokens that spell A or B hold less than 1 % of the probability.
    """
    mass = dict.fromkeys(CHOICES, 0.0)
    for token, logprob in logprobs.items():
        spelled = token.replace("Ġ", " ").replace("▁", " ").strip().strip("\"'*`.")
        if spelled in mass and math.isfinite(logprob):
            mass[spelled] += math.exp(min(logprob, 0.0))
    total = sum(mass.values())
    if total < MIN_CHOICE_MASS:
        raise UnreadableError(f"A and B together have probability {total:.4f}; the reply starts with neither")
    return Verdict(mass["A"] / total)


def _no_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise UnreadableError("a key is given twice")
    return dict(pairs)
