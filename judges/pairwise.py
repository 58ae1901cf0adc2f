"""An LM judge that reads both answers and says which is better. Touches its model through an engine only."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from judges import parsing
from judges.base import Comparison, Judgment, Labelled, Opinions, Order
from judges.rendering import fill, transcript
from pipeline.config import JudgeConfig, ModelConfig
from pipeline.engines.base import Answer, Call, Request, Toolbox
from pipeline.errors import ConfigError
from pipeline.ids import seed_from, uniform_from

RUBRICS = Path(__file__).parent / "rubrics"
INSTRUCTIONS = {
    "logprob": "",
    "text": "\nExplain briefly, then end with one line that is exactly `Verdict: A`, `Verdict: B` or `Verdict: tie`.\n",
    "json": '\nReply with JSON only: {"rationale": "<one or two sentences>", "verdict": "A" or "B" or "tie"}.\n',
}


class PairwiseJudge:
    """Compares two answers in one prompt, in one order or both."""

    class Options(JudgeConfig, ModelConfig):
        """Keys of ``kind: pairwise``."""

        rubric: str = "helpfulness"
        """A rubric that ships (`helpfulness`, `concision`), or the path of your own text beside the config."""
        order: Literal["both", "ab", "ba", "random"] = "both"
        """Which answer is shown first; `random` is one order a pair, drawn from its id."""
        verdict: Literal["json", "text", "logprob"] = "json"
        """JSON object, last line of text, or the probability of the token A against B."""
        temperature: float = Field(default=0.0, ge=0, le=2)
        """Sampling temperature of the judge."""
        max_attempts: int = Field(default=1, ge=1)
        """How often an unreadable answer may be asked for, each paid for."""

        def files(self, base: Path) -> list[Path]:
            """The rubric's file."""
            return [rubric_file(self.rubric, base)]

    def __init__(self, options: Options, toolbox: Toolbox) -> None:
        self.options, self.toolbox = options, toolbox
        self.rubric = load_rubric(options.rubric, toolbox.base) + INSTRUCTIONS[options.verdict]

    def fit(self, labelled: Sequence[Labelled]) -> None:
        """Nothing is learned from labels."""

    def judge(self, comparisons: Sequence[Comparison]) -> Opinions:
        """See Judge."""
        questions = [(item, order) for item in comparisons for order in self._orders(item)]
        judgments: list[Judgment | None] = [None] * len(questions)
        calls: dict[str, Call] = {}
        keys: list[tuple[str, ...]] = [()] * len(questions)
        engine = self.toolbox.engine(self.options)
        todo = list(range(len(questions)))
        for attempt in range(self.options.max_attempts):
            requests = [self._request(*questions[at], attempt) for at in todo]
            answers = engine.complete(requests, self.toolbox.advance if attempt == 0 else _unseen)
            again: list[int] = []
            for at, answer in zip(todo, answers, strict=True):
                calls[answer.call.call_key] = answer.call
                keys[at] = (*keys[at], answer.call.call_key)
                made = judgments[at] = self._read(*questions[at], answer, keys[at])
                if made.error is not None and not answer.unanswered:
                    again.append(at)
            todo = again
            if not todo:
                break
        return Opinions([made for made in judgments if made is not None], calls=list(calls.values()))

    def _orders(self, item: Comparison) -> tuple[Order, ...]:
        if self.options.order == "both":
            return ("ab", "ba")
        if self.options.order == "random":
            coin = uniform_from(self.toolbox.seed, "order", self.options.name, item.pair_id)
            return ("ab",) if coin < 1 / 2 else ("ba",)
        return (self.options.order,)

    def _request(self, item: Comparison, order: Order, attempt: int) -> Request:
        first, second = (item.completion_a, item.completion_b)[:: 1 if order == "ab" else -1]
        texts = {"prompt": transcript(item.messages), "first": first, "second": second}
        return Request(
            messages=(("user", fill(self.rubric, texts, self.toolbox.secret)),),
            max_tokens=1 if self.options.verdict == "logprob" else self.options.max_tokens,
            temperature=self.options.temperature,
            seed=seed_from(self.toolbox.seed, "judge", self.options.name, *texts.values()),
            attempt=attempt,
            choices=parsing.CHOICES if self.options.verdict == "logprob" else (),
            response_schema=parsing.SCHEMA if self.options.verdict == "json" else None,
        )

    def _read(self, item: Comparison, order: Order, answer: Answer, keys: tuple[str, ...]) -> Judgment:
        try:
            verdict = self._verdict(answer)
        except parsing.UnreadableError as error:
            return Judgment(item.pair_id, order, None, answer.text, str(error), keys)
        preference = verdict.first if order == "ab" else 1 - verdict.first
        return Judgment(item.pair_id, order, preference, verdict.rationale, None, keys)

    def _verdict(self, answer: Answer) -> parsing.Verdict:
        if answer.text is None:
            raise parsing.UnreadableError(answer.error or "no answer")
        if self.options.verdict == "logprob":
            if answer.choice_logprobs is None:
                raise parsing.UnreadableError("the endpoint returned no logprobs; use `verdict: json` or `text`")
            return parsing.from_logprobs(answer.choice_logprobs)
        if answer.finish_reason == "length":
            raise parsing.UnreadableError(f"cut off at max_tokens ({self.options.max_tokens})")
        return parsing.from_json(answer.text) if self.options.verdict == "json" else parsing.from_text(answer.text)


def load_rubric(name: str, base: Path) -> str:
    """The text of a rubric: one that ships, or a file beside the config.

    Raises:
        ConfigError: no such rubric, or its placeholders are not {prompt}, {first}, {second} in that order.
    """
    path = rubric_file(name, base)
    text = path.read_text(encoding="utf-8")
    found = re.findall(r"\{(\w+)\}", text)
    if found != ["prompt", "first", "second"]:
        raise ConfigError(
            f"rubric {path}: placeholders are {found}, needed are {{prompt}} {{first}} {{second}} in order"
        )
    return text


def rubric_file(name: str, base: Path) -> Path:
    """Where a rubric lies.

    Raises:
        ConfigError: it is neither one that ships nor a file beside the config.
    """
    shipped = RUBRICS / f"{name}.md"
    path = shipped if shipped.is_file() else base / name
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in RUBRICS.glob("*.md")))
        raise ConfigError(f"rubric {name!r} is neither one of {known} nor the file {path}")
    return path


def _unseen(done: int) -> None:
    """Further attempts are not progress."""
    del done
