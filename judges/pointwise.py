"""An LM judge that scores one answer at a time on a rubric. Touches its model through an engine only.

An answer is scored once and its score serves every pair it is in. Scores are whole numbers of the scale, each under
the name of its aspect: 4.5, "4", 11 of 10 or a score in prose is a failed judgment, never the nearest number.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field, StringConstraints, model_validator

from judges import framing, parsing
from judges.asking import Heard, ask, logprobs, spread, words
from judges.base import Judgment, Labelled, Opinions, Rating
from judges.rendering import fill
from judges.sealing import sealed
from pipeline.comparison import Comparison
from pipeline.config import JudgeConfig, ModelConfig
from pipeline.engines.base import Answer, Request, Toolbox
from pipeline.errors import ConfigError
from pipeline.ids import seed_from
from pipeline.transcript import transcript

OVERALL = "overall"
LOGITS = 4.0
"""Log-odds of an answer at the top of the scale against one at the bottom: P(a) = .98."""
SINGLE_DIGITS = 9
Aspect = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]


@dataclass(frozen=True, slots=True)
class Scores:
    """What a reply says: one score per aspect that was asked for, in the order asked."""

    values: tuple[float, ...]
    rationale: str | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """One call: some aspects of one answer."""

    sample_id: str
    aspects: tuple[str, ...]
    request: Request


class PointwiseJudge:
    """P(a) = 1 / (1 + exp(-LOGITS (s_a - s_b))), s the weighted mean of an answer's scores on a scale from 0 to 1."""

    class Options(JudgeConfig, ModelConfig):
        """Keys of ``kind: pointwise``."""

        rubric: str | None = None
        """What the aspects mean that are not rubrics themselves: `helpfulness` (the default), `accuracy`, `clarity`,
        `safety`, `instruction_following`, `concision`, or a file beside the config: your own criteria, or a whole
        prompt with `{prompt}` and `{answer}` in this order."""
        aspects: dict[Aspect, Annotated[float, Field(gt=0)]] = Field(default={OVERALL: 1.0}, min_length=1)
        """What is scored, with weights, e.g. `{accuracy: 2, clarity: 1}`: names of rubrics that ship, or aspects that
        your own rubric names. Without it, one score by `rubric`."""
        scale: int = Field(default=5, ge=2, le=10)
        """Scores are whole numbers from 1 to this."""
        verdict: Literal["json", "text", "logprob"] = "json"
        """JSON object, last lines of text, or the expected score under the probabilities of the digits (Liu et al.
        2023, G-Eval): one call an aspect, and `scale` at most 9, so that a score is one token."""
        temperature: float = Field(default=0.0, ge=0, le=2)
        """Sampling temperature of the judge."""
        max_attempts: int = Field(default=1, ge=1)
        """How often an unreadable answer may be asked for, each paid for."""

        def files(self, base: Path) -> list[Path]:
            """The files of the rubrics."""
            return [framing.rubric_file(name, base) for name in self.rubrics(base)]

        def rubrics(self, base: Path) -> list[str]:
            """Aspects that are rubrics themselves, and `rubric` if it was given or some aspect is none.

            Raises:
                ConfigError: there is no such rubric, or it does not name an aspect that is no rubric itself.
            """
            shipped = [name for name in self.aspects if name in framing.shipped()]
            others = [name for name in self.aspects if name not in shipped]
            if not others and self.rubric is None:
                return shipped
            own = self.rubric or "helpfulness"
            text = framing.criteria(own, base)
            for name in others:
                if name != OVERALL and name not in text and _said(name) not in text.lower():
                    raise ConfigError(
                        f"judge {self.name!r}: aspect {name!r} is neither one of {', '.join(framing.shipped())} nor "
                        f"named by rubric {own!r}; say in the rubric what it means"
                    )
            return [own] if framing.is_whole(text) else list(dict.fromkeys([*shipped, own]))

        @model_validator(mode="after")
        def _readable(self) -> "PointwiseJudge.Options":
            if self.verdict == "logprob" and self.scale > SINGLE_DIGITS:
                raise ValueError(
                    f"`verdict: logprob` reads one token and 10 begins like 1; scale is {self.scale}, allowed are 2 "
                    f"to {SINGLE_DIGITS}"
                )
            if OVERALL in self.aspects and len(self.aspects) > 1:
                raise ValueError(f"`{OVERALL}` is the weighted mean of the aspects; leave it out of them")
            return self

    def __init__(self, options: Options, toolbox: Toolbox) -> None:
        self.options, self.toolbox = options, toolbox
        self.aspects = tuple(options.aspects)
        self.template = framing.template("pointwise", options.rubrics(toolbox.base), toolbox.base).text

    def fit(self, labelled: Sequence[Labelled]) -> None:
        """Nothing is learned from labels."""

    def requests(self, comparisons: Sequence[Comparison]) -> list[Request]:
        """See Judge. One call an answer, however many pairs it is in; with `verdict: logprob` one an aspect too."""
        return [question.request for question in self._questions(comparisons)]

    def judge(self, comparisons: Sequence[Comparison]) -> Opinions:
        """See Judge. One judgment a pair: what is scored alone has no order."""
        questions = self._questions(comparisons)
        engine = self.toolbox.engine(self.options)
        step = spread(self.toolbox.advance, len(questions), len(comparisons))
        replies, calls = ask(
            engine,
            [question.request for question in questions],
            lambda at, answer: self._scores(questions[at].aspects, answer),
            self.options.max_attempts,
            step,
        )
        heard: dict[str, list[tuple[Question, Heard[Scores]]]] = {}
        for question, one in zip(questions, replies, strict=True):
            heard.setdefault(question.sample_id, []).append((question, one))
        marks = {sample: self._mark(answers) for sample, answers in heard.items()}
        judgments = [_judgment(item, marks[item.sample_a], marks[item.sample_b]) for item in comparisons]
        ratings = [rating for sample in sorted(marks) for rating in marks[sample].ratings(sample)]
        return Opinions(judgments, ratings, calls)

    def _questions(self, comparisons: Sequence[Comparison]) -> list[Question]:
        answers = {
            sample: (item.messages, completion)
            for item in comparisons
            for sample, completion in ((item.sample_a, item.completion_a), (item.sample_b, item.completion_b))
        }
        asked = [(name,) for name in self.aspects] if self.options.verdict == "logprob" else [self.aspects]
        return [
            Question(sample, aspects, self._request(messages, completion, aspects))
            for sample, (messages, completion) in answers.items()
            for aspects in asked
        ]

    def _request(self, messages: tuple[tuple[str, str], ...], completion: str, aspects: tuple[str, ...]) -> Request:
        texts = {"prompt": transcript(messages), "answer": completion}
        weighed = self.options.verdict == "logprob"
        prompt = fill(self.template, texts, self.toolbox.secret) + self._instructions(aspects)
        request = Request(
            messages=(("user", prompt),),
            max_tokens=1 if weighed else self.options.max_tokens,
            temperature=self.options.temperature,
            seed=seed_from(self.toolbox.seed, "judge", self.options.name, *texts.values(), *aspects),
            choices=digits(self.options.scale) if weighed else (),
            response_schema=schema(aspects, self.options.scale) if self.options.verdict == "json" else None,
        )
        return sealed(request, texts.values(), self.toolbox.secret)

    def _instructions(self, aspects: Sequence[str]) -> str:
        """The last words of the prompt, after all that calls share: which aspects, and in what form."""
        top = self.options.scale
        what = "the answer" if aspects == (OVERALL,) else f"the answer's {' and '.join(map(_said, aspects))}"
        if self.options.verdict == "logprob":
            return (
                f"\nScore {what} from 1 (worst) to {top} (best). Reply with one digit from 1 to {top} and nothing "
                "else.\n"
            )
        ask_for = f"\nScore {what} from 1 (worst) to {top} (best), whole numbers only."
        if self.options.verdict == "text":
            return (
                f"{ask_for} Explain briefly, then end with one line of exactly this form:\n"
                f"Verdict: {shape(aspects, top)}\n"
            )
        scores = ", ".join(f'"{name}": <1 to {top}>' for name in aspects)
        return f'{ask_for} Reply with JSON only: {{"rationale": "<one or two sentences>", "scores": {{{scores}}}}}.\n'

    def _scores(self, aspects: Sequence[str], answer: Answer) -> Scores:
        if self.options.verdict == "logprob":
            shares = parsing.shares(logprobs(answer), digits(self.options.scale))
            return Scores((sum(int(digit) * share for digit, share in shares.items()),))
        read = scores_from_json if self.options.verdict == "json" else scores_from_text
        return read(words(answer), aspects, self.options.scale)

    def _mark(self, answers: Sequence[tuple[Question, Heard[Scores]]]) -> "_Mark":
        by_aspect: dict[str, tuple[float, tuple[str, ...]]] = {}
        for question, heard in answers:
            if heard.value is not None:
                by_aspect |= {
                    name: (score, heard.call_keys)
                    for name, score in zip(question.aspects, heard.value.values, strict=True)
                }
        keys = tuple(key for _, heard in answers for key in heard.call_keys)
        failed = next((heard for _, heard in answers if heard.error is not None), None)
        if failed is not None:
            return _Mark(by_aspect, keys, None, 0.0, failed.text, failed.error, failed.reason)
        total = sum(self.options.aspects.values())
        mean = sum(weight * by_aspect[name][0] for name, weight in self.options.aspects.items()) / total
        share = (mean - 1) / (self.options.scale - 1)
        said = [heard.value.rationale for _, heard in answers if heard.value is not None and heard.value.rationale]
        return _Mark(by_aspect, keys, mean, share, "\n".join(said) or None, None)


@dataclass(frozen=True, slots=True)
class _Mark:
    """All that was heard of one answer."""

    by_aspect: Mapping[str, tuple[float, tuple[str, ...]]]
    call_keys: tuple[str, ...]
    mean: float | None
    """Weighted mean in points; None when an aspect failed."""
    share: float
    """The same from 0, the bottom of the scale, to 1, its top."""
    words: str | None
    error: str | None
    reason: str | None = None

    def ratings(self, sample: str) -> list[Rating]:
        """Every aspect, and their weighted mean where there are several."""
        made = [Rating(sample, score, name, keys) for name, (score, keys) in self.by_aspect.items()]
        if self.mean is not None and OVERALL not in self.by_aspect:
            made.append(Rating(sample, self.mean, OVERALL, self.call_keys))
        return made


def scores_from_json(text: str, aspects: Sequence[str], scale: int) -> Scores:
    """A reply that is one JSON object ``{"rationale": str, "scores": {aspect: whole number}}`` and nothing else.

    A number is whole as JSON Schema has it: 4.0 is 4, and 4.5, true and "4" are none.

    Raises:
        UnreadableError: no such object, an aspect too many or too few, or a score off the scale.
    """
    fields = parsing.json_object(text, ("rationale", "scores"))
    scores = fields["scores"]
    found = cast("dict[str, object]", scores) if isinstance(scores, dict) else {}
    if set(found) != set(aspects):
        raise parsing.UnreadableError(f"expected scores of {', '.join(aspects)}, found {scores!r:.80}")
    return Scores(tuple(_whole(found[name], scale) for name in aspects), parsing.rationale_of(fields))


def scores_from_text(text: str, aspects: Sequence[str], scale: int) -> Scores:
    """A reply whose last line is ``Verdict: `` and, parted by commas, ``<aspect> <whole number>`` for each aspect once.

    The order of the aspects is free. A lone ``overall`` is the number alone.

    Raises:
        UnreadableError: no such last line, or several, an aspect too many or too few, or a score off the scale.
    """
    line, before = parsing.last_line(text, shape(aspects, scale))
    parts = [f"{OVERALL} {line}"] if tuple(aspects) == (OVERALL,) else line.split(", ")
    found = [tuple(part.split(" ")) for part in parts]
    allowed = {str(value): float(value) for value in range(1, scale + 1)}
    named = {part[0]: allowed[part[1]] for part in found if len(part) == len(("name", "score")) and part[1] in allowed}
    if len(parts) != len(aspects) or set(named) != set(aspects):
        raise parsing.UnreadableError(f"expected `Verdict: {shape(aspects, scale)}`, found {line!r:.80}")
    return Scores(tuple(named[name] for name in aspects), before)


def shape(aspects: Sequence[str], scale: int) -> str:
    """What stands on the last line of a reply in text."""
    score = f"<1 to {scale}>"
    return score if tuple(aspects) == (OVERALL,) else ", ".join(f"{name} {score}" for name in aspects)


def schema(aspects: Sequence[str], scale: int) -> Mapping[str, Any]:
    """JSON schema of what :func:`scores_from_json` reads."""
    score = {"type": "integer", "enum": list(range(1, scale + 1))}
    scores = {
        "type": "object",
        "properties": dict.fromkeys(aspects, score),
        "required": list(aspects),
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"rationale": {"type": "string"}, "scores": scores},
        "required": ["rationale", "scores"],
        "additionalProperties": False,
    }


def digits(scale: int) -> tuple[str, ...]:
    """The scores of a scale as words of one token each."""
    return tuple(str(value) for value in range(1, scale + 1))


def _whole(value: object, scale: int) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in range(1, scale + 1):
        raise parsing.UnreadableError(f"expected a whole number from 1 to {scale}, found {value!r:.40}")
    return float(value)


def _said(aspect: str) -> str:
    return aspect.replace("_", " ")


def _judgment(item: Comparison, a: _Mark, b: _Mark) -> Judgment:
    keys = (*a.call_keys, *b.call_keys)
    failed = next((mark for mark in (a, b) if mark.error is not None), None)
    if failed is not None:
        return Judgment(item.pair_id, "ab", None, failed.words, failed.error, keys, failed.reason)
    said = [f"{side}: {mark.words}" for side, mark in (("a", a), ("b", b)) if mark.words]
    preference = 1 / (1 + math.exp(-LOGITS * (a.share - b.share)))
    return Judgment(item.pair_id, "ab", preference, "\n".join(said) or None, None, keys)
