"""An LM judge that reads both answers and says which is better. Touches its model through an engine only.

A comparison is one prompt an order. This is order ``ab``, the texts between fences that occur in none of them:

    You compare two answers to the same prompt and decide which one is better by this rubric.
    ...
    The prompt:
    <<prompt 1c8b5f02>>
    What is the capital of France?
    <</prompt 1c8b5f02>>

    Answer A:
    <<first e07d3a91>>
    Paris.
    <</first e07d3a91>>

    Answer B:
    <<second 52ab60cf>>
    Lyon.
    <</second 52ab60cf>>

    Which answer is better, A or B?

    Reply with JSON only: {"rationale": "<one or two sentences>", "verdict": "A" or "B" or "tie"}.

The reply ``{"rationale": "Lyon is not the capital.", "verdict": "A"}`` says that the answer shown first is preferred:
the judgment is P(a preferred) = 1. The same reply in order ``ba`` is 0, ``tie`` is 1/2 in both. A reply in any other
shape is an error, never a tie. How it is asked: ``_request``; how it is read: ``_verdict``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from judges import framing, parsing
from judges.asking import Heard, Later, ask, logprobs, words
from judges.base import Judgment, Labelled, Opinions
from judges.rendering import fill
from judges.sealing import sealed
from pipeline.comparison import Comparison, Order
from pipeline.config import JudgeConfig, ModelConfig
from pipeline.engines.base import Answer, Request, Toolbox
from pipeline.ids import seed_from, uniform_from
from pipeline.transcript import transcript

GRADES: Mapping[int, Mapping[str, float]] = {
    3: parsing.VERDICTS,
    5: {"A>>B": 1.0, "A>B": 3 / 4, "A=B": 1 / 2, "B>A": 1 / 4, "B>>A": 0.0},
    7: {"A>>>B": 1.0, "A>>B": 5 / 6, "A>B": 4 / 6, "A=B": 1 / 2, "B>A": 2 / 6, "B>>A": 1 / 6, "B>>>A": 0.0},
}
"""Number of grades -> verdict -> preference for the answer shown first: the strength k of K as (1 + k / K) / 2."""
WORDS = {
    3: {"text": "`Verdict: A`, `Verdict: B` or `Verdict: tie`", "json": '"A" or "B" or "tie"'},
    5: {
        "text": "`Verdict: A>>B` (A is much better), `Verdict: A>B` (A is better), `Verdict: A=B` (neither is), "
        "`Verdict: B>A` or `Verdict: B>>A`",
        "json": '"A>>B" (A is much better) or "A>B" (A is better) or "A=B" (neither is) or "B>A" or "B>>A"',
    },
    7: {
        "text": "`Verdict: A>>>B` (A is far better), `Verdict: A>>B` (A is better), `Verdict: A>B` (A is a little "
        "better), `Verdict: A=B` (neither is), `Verdict: B>A`, `Verdict: B>>A` or `Verdict: B>>>A`",
        "json": '"A>>>B" (A is far better) or "A>>B" (A is better) or "A>B" (A is a little better) or "A=B" '
        '(neither is) or "B>A" or "B>>A" or "B>>>A"',
    },
}


class PairwiseJudge:
    """Compares two answers in one prompt, in one order or both."""

    FRAME: ClassVar[str] = "pairwise"

    class Options(JudgeConfig, ModelConfig):
        """Keys of ``kind: pairwise``."""

        rubric: str = "helpfulness"
        """`helpfulness`, `accuracy`, `clarity`, `safety`, `instruction_following`, `concision`, or a file beside the
        config: your own criteria, or a whole prompt with `{prompt}`, `{first}` and `{second}` in this order."""
        order: Literal["both", "ab", "ba", "random"] = "both"
        """Which answer is shown first; `random` is one order a pair, drawn from its id."""
        verdict: Literal["json", "text", "logprob"] = "json"
        """JSON object, last line of text, or the probability of the token A against B."""
        scale: Literal[3, 5, 7] = 3
        """Grades of a `json` or `text` verdict: A, B or tie, or with how much better (5 and 7)."""
        temperature: float = Field(default=0.0, ge=0, le=2)
        """Sampling temperature of the judge."""
        max_attempts: int = Field(default=1, ge=1)
        """How often an unreadable answer may be asked for, each paid for."""

        @property
        def asked_by_order(self) -> bool:
            """Every order is a call."""
            return True

        def files(self, base: Path) -> list[Path]:
            """The rubric's file."""
            return [framing.rubric_file(self.rubric, base)]

        @model_validator(mode="after")
        def _graded_in_words(self) -> "PairwiseJudge.Options":
            if self.verdict == "logprob" and self.scale != min(GRADES):
                raise ValueError("`scale` grades a verdict in words; `verdict: logprob` is graded by its probability")
            return self

    def __init__(self, options: Options, toolbox: Toolbox) -> None:
        self.options, self.toolbox = options, toolbox
        self.grades = GRADES[options.scale]
        prompt = framing.template(self.FRAME, [options.rubric], toolbox.base)
        self.template = prompt.text + _instructions(options.verdict, options.scale, whole=prompt.whole)

    def fit(self, labelled: Sequence[Labelled]) -> None:
        """Nothing is learned from labels."""

    def requests(self, comparisons: Sequence[Comparison]) -> list[Request]:
        """See Judge."""
        return [self._request(item, order) for item in comparisons for order in self._orders(item)]

    def judge(self, comparisons: Sequence[Comparison]) -> Opinions:
        """See Judge."""
        questions = [(item, order) for item in comparisons for order in self._orders(item)]
        requests = Later(len(questions), lambda at: self._request(*questions[at]))
        engine = self.toolbox.engine(self.options)
        replies, calls = ask(
            engine,
            requests,
            lambda _at, answer: self._verdict(answer),
            self.options.max_attempts,
            self.toolbox.advance,
            near=[(item.prompt_id, *_shown(item, order)) for item, order in questions],
        )
        judgments = [_judgment(item, order, heard) for (item, order), heard in zip(questions, replies, strict=True)]
        return Opinions(judgments, calls=calls)

    def _orders(self, item: Comparison) -> tuple[Order, ...]:
        if item.orders:
            return item.orders
        if self.options.order == "both":
            return ("ab", "ba")
        if self.options.order == "random":
            coin = uniform_from(self.toolbox.seed, "order", self.options.name, item.pair_id)
            return ("ab",) if coin < 1 / 2 else ("ba",)
        return (self.options.order,)

    def _request(self, item: Comparison, order: Order) -> Request:
        first, second = _shown(item, order)
        secret = self.toolbox.secret
        texts = {"prompt": transcript(item.messages), **self._extra(item), "first": first, "second": second}
        request = Request(
            messages=(("user", fill(self.template, texts, secret)),),
            max_tokens=1 if self.options.verdict == "logprob" else self.options.max_tokens,
            temperature=self.options.temperature,
            seed=seed_from(self.toolbox.seed, "judge", self.options.name, *texts.values()),
            choices=parsing.CHOICES if self.options.verdict == "logprob" else (),
            response_schema=parsing.schema(self.grades) if self.options.verdict == "json" else None,
        )
        return sealed(request, texts.values(), secret)

    def _extra(self, item: Comparison) -> dict[str, str]:
        """Texts that the frame shows besides the prompt and the two answers."""
        del item
        return {}

    def _verdict(self, answer: Answer) -> parsing.Verdict:
        if self.options.verdict == "logprob":
            return parsing.from_logprobs(logprobs(answer))
        text = words(answer)
        if self.options.verdict == "json":
            return parsing.from_json(text, self.grades)
        return parsing.from_text(text, self.grades)


def _shown(item: Comparison, order: Order) -> tuple[str, str]:
    """The answers in the order in which they are shown."""
    a, b = item.completion_a, item.completion_b
    return (a, b) if order == "ab" else (b, a)


def _instructions(verdict: str, scale: int, *, whole: bool) -> str:
    """What follows the question: the form of the verdict. A whole prompt says itself how a letter is asked for."""
    if verdict == "logprob":
        return "" if whole else "\nReply with one letter, A or B, and nothing else.\n"
    if verdict == "text":
        return f"\nExplain briefly, then end with one line that is exactly {WORDS[scale]['text']}.\n"
    return '\nReply with JSON only: {"rationale": "<one or two sentences>", "verdict": ' + WORDS[scale]["json"] + "}.\n"


def _judgment(item: Comparison, order: Order, heard: Heard[parsing.Verdict]) -> Judgment:
    if heard.value is None:
        return Judgment(item.pair_id, order, None, heard.text, heard.error, heard.call_keys, heard.reason)
    preference = heard.value.first if order == "ab" else 1 - heard.value.first
    return Judgment(item.pair_id, order, preference, heard.value.rationale, None, heard.call_keys)
