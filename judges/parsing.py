"""Reads a verdict out of a judge's reply, strictly. Pure: strings in, a verdict or an Unreadable out.

One documented shape per verdict form; anything else is a failed judgment with the raw text kept, never a tie and
never a guess. Ratings are never searched for in prose.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

VERDICTS = {"A": 1.0, "B": 0.0, "tie": 0.5}
"""Preference for the answer shown first."""
CHOICES = ("A", "B")
FENCED = re.compile(r"(`{3,}|~{3,})[ \t]*(?:json[c5]?)?\s*(.*?)\s*\1", re.IGNORECASE | re.DOTALL)
LABEL = "verdict"
"""The word without which no reply in text is a verdict."""
OBJECT = re.compile(r'\s*\{\s*"rationale"\s*:\s*"')
"""How the object of a reply opens."""
MIN_CHOICE_MASS = 0.01
"""Below this the model was saying something else, and its A or B means nothing."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """P(the answer shown first is preferred), and the judge's words."""

    first: float
    rationale: str | None = None


class UnreadableError(ValueError):
    """The reply is not in the documented shape."""

    def __init__(self, message: str, reason: str = "unreadable") -> None:
        super().__init__(message)
        self.reason = reason


def from_text(text: str, verdicts: Mapping[str, float] = VERDICTS) -> Verdict:
    """A reply whose last line is exactly ``Verdict: `` and one of *verdicts*, and no other line is.

    Raises:
        UnreadableError: no such last line, or the reply holds several.
    """
    lines = [line.strip() for line in text.strip().splitlines()]
    found = [line for line in lines if line.removeprefix("Verdict: ") in verdicts and line.startswith("Verdict: ")]
    if len(found) != 1 or found[0] != lines[-1]:
        raise UnreadableError(f"expected one last line `Verdict: {'|'.join(verdicts)}`, found {len(found)} such lines")
    return Verdict(verdicts[found[0].removeprefix("Verdict: ")], "\n".join(lines[:-1]).strip() or None)


def last_line(text: str, what: str) -> tuple[str, str | None]:
    """(what follows ``Verdict: `` on the last line, what stands before it); no other line may begin so.

    Raises:
        UnreadableError: no such last line, or several; *what* says what it should hold.
    """
    lines = [line.strip() for line in text.strip().splitlines()]
    found = [line for line in lines if line.startswith("Verdict: ")]
    if len(found) != 1 or found[0] != lines[-1]:
        raise UnreadableError(f"expected one last line `Verdict: {what}`, found {len(found)} such lines")
    return found[0].removeprefix("Verdict: "), "\n".join(lines[:-1]).strip() or None


def schema(verdicts: Mapping[str, float] = VERDICTS) -> Mapping[str, Any]:
    """JSON schema of what :func:`from_json` reads."""
    return {
        "type": "object",
        "properties": {"rationale": {"type": "string"}, "verdict": {"type": "string", "enum": list(verdicts)}},
        "required": ["rationale", "verdict"],
        "additionalProperties": False,
    }


def from_json(text: str, verdicts: Mapping[str, float] = VERDICTS) -> Verdict:
    """A reply that is one JSON object ``{"rationale": str, "verdict": one of verdicts}`` and nothing else.

    Raises:
        UnreadableError: no such object, a key too many or too few, a repeated key, or another verdict.
    """
    fields = json_object(text, ("rationale", "verdict"))
    verdict = fields["verdict"]
    if not isinstance(verdict, str) or verdict not in verdicts:
        raise UnreadableError(f"expected verdict to be one of {', '.join(verdicts)}, found {verdict!r:.60}")
    return Verdict(verdicts[verdict], rationale_of(fields))


def json_object(text: str, keys: Sequence[str]) -> dict[str, object]:
    """A reply that is one JSON object with exactly *keys*, and nothing else; a Markdown fence may stand around it.

    A rationale may hold quotation marks and line ends that are not escaped, as judges write them when they quote, as
    long as the last key comes once.

    Args:
        text: the reply.
        keys: ``rationale``, and the key of the verdict.

    Raises:
        UnreadableError: no such object, a key too many or too few, or a repeated key.
    """
    reply = unfenced(text)
    try:
        value = strict_json(reply)
    except UnreadableError:
        value = _sloppy(reply, keys[-1])
        if value is None:
            raise
    if not isinstance(value, dict):
        raise UnreadableError(f"expected a JSON object, found {type(value).__name__}")
    fields = cast("dict[str, object]", value)
    if set(fields) != set(keys):
        raise UnreadableError(f"expected the keys {', '.join(keys)}, found {sorted(fields)[:10]}")
    return fields


def strict_json(text: str) -> object:
    """A JSON value in which no key is given twice.

    Raises:
        UnreadableError: it is none.
    """
    try:
        return json.loads(text, object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"expected one JSON object: {error}") from error


def spoken(inside: str) -> str:
    """What stands between the quotation marks of a JSON string; where they or line ends are not escaped, as it is."""
    try:
        return str(json.loads(f'"{inside}"'))
    except ValueError:
        return inside


def quoted(line: str) -> str:
    """A line of a rationale, marked as a quotation where it would read as the verdict."""
    return f"> {line}" if line.strip().startswith("Verdict: ") else line


def _sloppy(text: str, key: str) -> dict[str, object] | None:
    """The object of a judge that did not escape what it quotes: a rationale up to *key*, which comes once and last."""
    reply = text.strip()
    opened, parts = OBJECT.match(reply), reply.split(f'"{key}"')
    if opened is None or len(parts) != len(("before", "after")):
        return None
    rationale = re.fullmatch(r'(.*)"\s*,\s*', parts[0][opened.end() :], re.DOTALL)
    value = re.fullmatch(r"\s*:(.*)\}", parts[1], re.DOTALL)
    if rationale is None or value is None:
        return None
    try:
        return {"rationale": spoken(rationale[1]), key: strict_json(value[1])}
    except UnreadableError:
        return None


def unfenced(text: str) -> str:
    """What a reply holds that is one fenced block of code (CommonMark); any other reply as it is."""
    found = FENCED.fullmatch(text.strip())
    return found[2] if found else text


def rationale_of(fields: Mapping[str, object]) -> str | None:
    """The judge's words in an object that :func:`json_object` read; None when it gave none.

    Raises:
        UnreadableError: it is no text.
    """
    rationale = fields["rationale"]
    if not isinstance(rationale, str):
        raise UnreadableError(f"expected rationale to be text, found {rationale!r:.60}")
    # A broken \u escape is no text; the verdict does not hang on it.
    return rationale.encode(errors="replace").decode() or None


def from_logprobs(logprobs: Mapping[str, float]) -> Verdict:
    """P(A) renormalised over every token that spells A or B, from log-probabilities (nats) of the first token.

    Raises:
        UnreadableError: the tokens that spell A or B hold less than 1 % of the probability.
    """
    return Verdict(shares(logprobs, CHOICES)["A"])


def shares(logprobs: Mapping[str, float], choices: Sequence[str]) -> dict[str, float]:
    """Choice -> its probability, renormalised over every token that spells one of them; they sum to one.

    Args:
        logprobs: token -> log-probability of the first token, nats.
        choices: words of one token each, none of them the beginning of another.

    Raises:
        UnreadableError: the tokens that spell a choice hold less than 1 % of the probability.
    """
    mass = dict.fromkeys(choices, 0.0)
    for token, logprob in logprobs.items():
        spelled = token.replace("Ġ", " ").replace("▁", " ").strip().lstrip("\"'*`").rstrip("\"'*`.")
        if spelled in mass and math.isfinite(logprob):
            mass[spelled] += math.exp(min(logprob, 0.0))
    total = sum(mass.values())
    if total < MIN_CHOICE_MASS:
        raise UnreadableError(
            f"{' and '.join(choices)} together have probability {total:.4f}; the reply starts with neither"
        )
    return {choice: own / total for choice, own in mass.items()}


def _no_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise UnreadableError("a key is given twice")
    return dict(pairs)
