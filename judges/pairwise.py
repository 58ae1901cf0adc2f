"""An LM judge that reads both answers and says which is better. Touches its model through an engine only."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from judges import parsing
from judges.asking import Heard, ask, logprobs, words
from judges.base import Comparison, Judgment, Labelled, Opinions, Order
from judges.rendering import fill, transcript
from pipeline.config import JudgeConfig, ModelConfig
from pipeline.engines.base import Answer, Request, Toolbox
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

    def requests(self, comparisons: Sequence[Comparison]) -> list[Request]:
        """See Judge."""
        return [self._request(item, order) for item in comparisons for order in self._orders(item)]

    def judge(self, comparisons: Sequence[Comparison]) -> Opinions:
        """See Judge."""
        questions = [(item, order) for item in comparisons for order in self._orders(item)]
        requests = [self._request(item, order) for item, order in questions]
        engine = self.toolbox.engine(self.options)
        replies, calls = ask(engine, requests, self._verdict, self.options.max_attempts, self.toolbox.advance)
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
        first, second = (item.completion_a, item.completion_b)[:: 1 if order == "ab" else -1]
        texts = {"prompt": transcript(item.messages), "first": first, "second": second}
        return Request(
            messages=(("user", fill(self.rubric, texts, self.toolbox.secret)),),
            max_tokens=1 if self.options.verdict == "logprob" else self.options.max_tokens,
            temperature=self.options.temperature,
            seed=seed_from(self.toolbox.seed, "judge", self.options.name, *texts.values()),
            choices=parsing.CHOICES if self.options.verdict == "logprob" else (),
            response_schema=parsing.schema() if self.options.verdict == "json" else None,
        )

    def _verdict(self, answer: Answer) -> parsing.Verdict:
        if self.options.verdict == "logprob":
            return parsing.from_logprobs(logprobs(answer))
        text = words(answer)
        return parsing.from_json(text) if self.options.verdict == "json" else parsing.from_text(text)


def _judgment(item: Comparison, order: Order, heard: Heard[parsing.Verdict]) -> Judgment:
    if heard.value is None:
        return Judgment(item.pair_id, order, None, heard.text, heard.error, heard.call_keys)
    preference = heard.value.first if order == "ab" else 1 - heard.value.first
    return Judgment(item.pair_id, order, preference, heard.value.rationale, None, heard.call_keys)


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
