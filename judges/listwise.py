"""An LM judge that ranks all answers to a prompt in one call. Touches its model through an engine only.

The answers are shown in an order drawn from their ids, and by default in the reversed order too, so that every pair is
seen both ways round. A prompt with more answers than fit into a list gets several lists, which overlap so that every
pair stands in one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Literal, cast

from pydantic import Field

from judges import framing, parsing
from judges.asking import Heard, ask, spread, words
from judges.base import Judgment, Labelled, Opinions
from judges.rendering import fill
from judges.sealing import sealed
from pipeline.comparison import Comparison, Order
from pipeline.config import JudgeConfig, ModelConfig
from pipeline.engines.base import Answer, Request, Toolbox
from pipeline.ids import seed_from, uniform_from
from pipeline.transcript import transcript

SHAPE = 'the letters from best to worst, parted by " > ", and by " = " where they are equally good'


@dataclass(frozen=True, slots=True)
class Ranking:
    """Letter -> its place from the top, counted from 0; letters of equal rank share the mean of their places."""

    places: Mapping[str, float]
    rationale: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """One call: some answers to one prompt in the order shown, and the judgments wanted of it."""

    samples: tuple[str, ...]
    wanted: tuple[tuple[int, Order], ...]
    """(position of the comparison, order): in order ``ab`` sample a stands before sample b."""
    request: Request


class ListwiseJudge:
    """P(a) = (1 + (place of b - place of a) / (answers - 1)) / 2."""

    class Options(JudgeConfig, ModelConfig):
        """Keys of ``kind: listwise``."""

        rubric: str = "helpfulness"
        """`helpfulness`, `accuracy`, `clarity`, `safety`, `instruction_following`, `concision`, or a file beside the
        config: your own criteria, or a whole prompt with `{prompt}` and `{answers}` in this order."""
        order: Literal["both", "random"] = "both"
        """A list is shown in an order drawn from its answers' ids, and with `both` reversed too."""
        max_answers: int = Field(default=8, ge=2, le=len(ascii_uppercase))
        """Answers in one list; a prompt with more gets several lists, which overlap."""
        verdict: Literal["json", "text"] = "json"
        """JSON object, or last line of text."""
        temperature: float = Field(default=0.0, ge=0, le=2)
        """Sampling temperature of the judge."""
        max_attempts: int = Field(default=1, ge=1)
        """How often an unreadable answer may be asked for, each paid for."""

        def files(self, base: Path) -> list[Path]:
            """The rubric's file."""
            return [framing.rubric_file(self.rubric, base)]

    def __init__(self, options: Options, toolbox: Toolbox) -> None:
        self.options, self.toolbox = options, toolbox
        self.template = framing.template("listwise", [options.rubric], toolbox.base).text

    def fit(self, labelled: Sequence[Labelled]) -> None:
        """Nothing is learned from labels."""

    def requests(self, comparisons: Sequence[Comparison]) -> list[Request]:
        """See Judge. Lists hold the answers that the comparisons name, so ask for all pairs of a prompt together."""
        return [listing.request for listing in self._listings(comparisons)]

    def judge(self, comparisons: Sequence[Comparison]) -> Opinions:
        """See Judge."""
        listings = list(self._listings(comparisons))
        wanted = sum(len(listing.wanted) for listing in listings)
        step = spread(self.toolbox.advance, len(listings), wanted)
        replies, calls = ask(
            self.toolbox.engine(self.options),
            [listing.request for listing in listings],
            lambda at, answer: self._ranking(len(listings[at].samples), answer),
            self.options.max_attempts,
            step,
        )
        made: dict[tuple[int, Order], Judgment] = {}
        for listing, heard in zip(listings, replies, strict=True):
            for position, order in listing.wanted:
                made[position, order] = _judgment(comparisons[position], order, listing.samples, heard)
        return Opinions([made[key] for key in sorted(made)], calls=calls)

    def _listings(self, comparisons: Sequence[Comparison]) -> Iterator[Listing]:
        prompts: dict[str, list[int]] = {}
        for position, item in enumerate(comparisons):
            prompts.setdefault(item.prompt_id, []).append(position)
        for positions in prompts.values():
            texts = {
                sample: text
                for item in (comparisons[position] for position in positions)
                for sample, text in ((item.sample_a, item.completion_a), (item.sample_b, item.completion_b))
            }
            left = positions
            for group in self._groups(list(texts)):
                here = [at for at in left if {comparisons[at].sample_a, comparisons[at].sample_b} <= set(group)]
                left = [at for at in left if at not in here]
                for shown in (group, group[::-1]):
                    wanted = tuple(self._wanted(comparisons, here, shown, drawn=shown is group))
                    if wanted:
                        messages = comparisons[here[0]].messages
                        yield Listing(shown, wanted, self._request(messages, [texts[sample] for sample in shown]))

    def _groups(self, samples: Sequence[str]) -> list[tuple[str, ...]]:
        """The samples in the order drawn for them, in lists of at most ``max_answers`` that hold every pair together.

        Blocks of half a list each are listed two by two.
        """
        coins = {one: uniform_from(self.toolbox.seed, "list", self.options.name, one) for one in samples}
        drawn = sorted(samples, key=lambda one: (coins[one], one))
        if len(drawn) <= self.options.max_answers:
            return [tuple(drawn)]
        half = self.options.max_answers // 2
        blocks = [drawn[at : at + half] for at in range(0, len(drawn), half)]
        return [(*one, *other) for one, other in combinations(blocks, 2)]

    def _wanted(
        self, comparisons: Sequence[Comparison], here: Sequence[int], shown: Sequence[str], *, drawn: bool
    ) -> Iterator[tuple[int, Order]]:
        """(position of a comparison, order) of the judgments that the list *shown* is to give."""
        for position in here:
            item = comparisons[position]
            order = "ab" if shown.index(item.sample_a) < shown.index(item.sample_b) else "ba"
            if order in item.orders or (not item.orders and (drawn or self.options.order == "both")):
                yield position, order

    def _request(self, messages: tuple[tuple[str, str], ...], answers: Sequence[str]) -> Request:
        letters = ascii_uppercase[: len(answers)]
        names = [f"answer_{letter.lower()}" for letter in letters]
        blocks = "\n\n".join(f"Answer {letter}:\n{{{name}}}" for letter, name in zip(letters, names, strict=True))
        texts = {"prompt": transcript(messages), **dict(zip(names, answers, strict=True))}
        template = self.template.replace("{answers}", blocks) + self._instructions(letters)
        request = Request(
            messages=(("user", fill(template, texts, self.toolbox.secret)),),
            max_tokens=self.options.max_tokens,
            temperature=self.options.temperature,
            seed=seed_from(self.toolbox.seed, "judge", self.options.name, *texts.values()),
            response_schema=schema(letters) if self.options.verdict == "json" else None,
        )
        return sealed(request, texts.values(), self.toolbox.secret)

    def _instructions(self, letters: str) -> str:
        ask_for = f"\nRank all {len(letters)} answers, {letters[0]} to {letters[-1]}, each exactly once."
        if self.options.verdict == "text":
            return f"{ask_for} Explain briefly, then end with one line: `Verdict: ` and then {SHAPE}.\n"
        return (
            f'{ask_for} Reply with JSON only: {{"rationale": "<one or two sentences>", "ranking": [["<best>"], '
            '["<next>", "<equally good>"], ...]}, the best first, letters of equally good answers in one list.\n'
        )

    def _ranking(self, count: int, answer: Answer) -> Ranking:
        read = ranking_from_json if self.options.verdict == "json" else ranking_from_text
        return read(words(answer), ascii_uppercase[:count])


def ranking_from_json(text: str, letters: str) -> Ranking:
    """A reply that is one JSON object ``{"rationale": str, "ranking": [[letter, ...], ...]}`` and nothing else.

    Raises:
        UnreadableError: no such object, or not every letter exactly once.
    """
    fields = parsing.json_object(text, ("rationale", "ranking"))
    groups = fields["ranking"]
    if not isinstance(groups, list) or not all(isinstance(group, list) for group in cast("list[object]", groups)):
        raise parsing.UnreadableError(f"expected ranking to be a list of lists of letters, found {groups!r:.80}")
    return Ranking(_places(cast("list[list[object]]", groups), letters), parsing.rationale_of(fields))


def ranking_from_text(text: str, letters: str) -> Ranking:
    """A reply whose last line is ``Verdict: `` and the letters, best first, parted by `` > `` or, when equal, `` = ``.

    Raises:
        UnreadableError: no such last line, or several, or not every letter exactly once.
    """
    line, before = parsing.last_line(text, " > ".join(letters))
    return Ranking(_places([part.split(" = ") for part in line.split(" > ")], letters), before)


def schema(letters: str) -> Mapping[str, Any]:
    """JSON schema of what :func:`ranking_from_json` reads; that each letter comes once is checked when it is read."""
    letter = {"type": "string", "enum": list(letters)}
    ranking = {"type": "array", "items": {"type": "array", "items": letter}}
    return {
        "type": "object",
        "properties": {"rationale": {"type": "string"}, "ranking": ranking},
        "required": ["rationale", "ranking"],
        "additionalProperties": False,
    }


def _places(groups: Sequence[Sequence[object]], letters: str) -> dict[str, float]:
    named = [letter for group in groups for letter in group]
    if not all(groups) or len(named) != len(letters) or any(letter not in named for letter in letters):
        raise parsing.UnreadableError(f"expected every letter of {letters} exactly once, found {groups!r:.120}")
    places: dict[str, float] = {}
    for group in groups:
        middle = len(places) + (len(group) - 1) / 2
        places |= {str(letter): middle for letter in group}
    return places


def _judgment(item: Comparison, order: Order, samples: Sequence[str], heard: Heard[Ranking]) -> Judgment:
    if heard.value is None:
        return Judgment(item.pair_id, order, None, heard.text, heard.error, heard.call_keys, heard.reason)
    a, b = (heard.value.places[ascii_uppercase[samples.index(sample)]] for sample in (item.sample_a, item.sample_b))
    preference = (1 + (b - a) / (len(samples) - 1)) / 2
    return Judgment(item.pair_id, order, preference, heard.value.rationale, None, heard.call_keys)
