"""Small worlds for tests of the pure stages: prompts, answers, pairs, opinions, and a model that is a function.

The fakes replace the model call and nothing else.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from pipeline import ids, schemas
from pipeline.comparison import Comparison, comparisons
from pipeline.config import Config, EndpointConfig, ModelConfig, PairingConfig
from pipeline.engines.base import Advance, Answer, Call, Engine, Request
from pipeline.pairing.all import AllPairing
from pipeline.stages.pair import pairs as pair_up
from pipeline.workbench import Workbench

SECRET = b"the tests' secret"
Frames = dict[str, pl.DataFrame]
Opinion = Callable[[str, str], float | None]
"""(answer a, answer b) -> P(a preferred), or None for a failure."""


def said(text: str | None, **fields: Any) -> Answer:
    """A model's answer; ``reason=..., error=...`` and no text for a failed one."""
    return Answer(Call(ids.content_hash("call", text), "answered"), text, **{"finish_reason": "stop", **fields})


@dataclass
class Scripted:
    """An engine whose model is a function of the request."""

    script: Callable[[Request], str | Answer]
    requests: list[Request] = field(default_factory=list[Request])

    def complete(self, requests: Sequence[Request], advance: Advance) -> list[Answer]:
        self.requests.extend(requests)
        advance(len(requests))
        made = [self.script(request) for request in requests]
        return [said(one) if isinstance(one, str) else one for one in made]

    def close(self) -> None:
        """Nothing to close."""


@dataclass
class Bench:
    """A Toolbox with one engine."""

    script: Callable[[Request], str | Answer] = lambda _request: "Verdict: A"
    seed: int = 7
    secret: bytes = SECRET
    base: Path = Path()
    workspace: Path = Path()
    ledger: Any = None
    budget_usd: float | None = None

    def __post_init__(self) -> None:
        self.model = Scripted(self.script)

    @property
    def advance(self) -> Advance:
        return lambda _done: None

    def endpoint(self, name: str) -> EndpointConfig:
        raise KeyError(name)

    def engine(self, options: ModelConfig) -> Engine:
        return self.model  # type: ignore[return-value]


def prompts(questions: Iterable[str], reference: str | None = None) -> pl.DataFrame:
    """Lone user turns."""
    rows: list[dict[str, object]] = [
        {
            "prompt_id": ids.prompt_id((("user", question),), reference),
            "messages": [{"role": "user", "content": question}],
            "reference": reference,
            "source": "test",
            "tags": [],
        }
        for question in questions
    ]
    return schemas.Prompts.validate(schemas.frame("prompts", rows))


def samples(answers: Mapping[str, Sequence[str]], reference: str | None = None) -> pl.DataFrame:
    """The answers to each question, in the order given as ``sample_index``."""
    rows: list[dict[str, object]] = []
    for question, texts in answers.items():
        prompt = ids.prompt_id((("user", question),), reference)
        for index, text in enumerate(texts):
            rows.append(
                {
                    "sample_id": ids.sample_id(prompt, "writer", 0.7, index, text),
                    "prompt_id": prompt,
                    "model": "writer",
                    "temperature": 0.7,
                    "sample_index": index,
                    "seed": index,
                    "completion": text,
                    "characters": len(text),
                    "finish_reason": "stop",
                    "completion_tokens": 1,
                    "logprob": None,
                    "external_id": None,
                }
            )
    return schemas.Samples.validate(schemas.frame("samples", rows))


def world(answers: Mapping[str, Sequence[str]], reference: str | None = None) -> Frames:
    """Frames ``prompts``, ``samples`` and ``pairs`` (all pairs) of question -> answers."""
    made = {"prompts": prompts(answers, reference), "samples": samples(answers, reference)}
    paired, _ = pair_up(made["samples"], schemas.frame("pairs", []), AllPairing(PairingConfig()), 0)
    return {**made, "pairs": schemas.Pairs.validate(paired)}


def compared(made: Frames) -> list[Comparison]:
    """The pairs of a world as comparisons."""
    from pipeline.frames import with_texts

    return comparisons(with_texts(made["pairs"], made["samples"], made["prompts"]))


def judgments(made: Frames, opinions: Mapping[str, Opinion], orders: Sequence[str] = ("ab", "ba")) -> pl.DataFrame:
    """Judgments by judges that are functions of the two texts, the same in every order."""
    rows: list[dict[str, object]] = []
    for item in compared(made):
        for judge, opinion in opinions.items():
            preference = opinion(item.completion_a, item.completion_b)
            rows += [
                {
                    "pair_id": item.pair_id,
                    "judge": judge,
                    "order": order,
                    "preference": preference,
                    "rationale": None,
                    "error": "failed" if preference is None else None,
                    "call_keys": [],
                }
                for order in orders
            ]
    return schemas.Judgments.validate(schemas.frame("judgments", rows))


def labels(made: Frames, label: Callable[[str, str], str], **columns: object) -> pl.DataFrame:
    """One person's labels: a function of the two texts (a first) on every pair."""
    rows: list[dict[str, object]] = [
        {
            "pair_id": item.pair_id,
            "annotator": "ann",
            "label": label(item.completion_a, item.completion_b),
            "queue": "audit",
            "inclusion_prob": 1.0,
            "seconds": None,
            "labelled_at": None,
            **columns,
        }
        for item in compared(made)
    ]
    return schemas.Labels.validate(schemas.frame("labels", rows))


def longer(a: str, b: str) -> float:
    """P(a) of a judge that is sure of the longer answer."""
    return 1.0 if len(a) > len(b) else 0.0 if len(a) < len(b) else 0.5


def longer_label(a: str, b: str) -> str:
    """The label of a person who likes the longer answer."""
    return {1.0: "a", 0.0: "b", 0.5: "tie"}[longer(a, b)]


def bench(folder: Path, frames: Mapping[str, pl.DataFrame] | None = None, **config: object) -> Workbench:
    """A run in ``folder/run`` whose config lies in *folder*, with *frames* already there."""
    made = Workbench(
        Config.model_validate({"name": "small", **config}, context={"base": folder}), folder / "run", folder
    )
    for name, rows in (frames or {}).items():
        made.folder.write_part(name, "before", "all", rows, {})
    return made


def decided(made: Frames, p_a: Callable[[str, str], float]) -> pl.DataFrame:
    """Verdicts from a function of the two texts."""
    rows: list[dict[str, object]] = []
    for item in compared(made):
        p = p_a(item.completion_a, item.completion_b)
        rows.append(
            {
                "pair_id": item.pair_id,
                "p_a": p,
                "p_a_lc": p,
                "margin": abs(2 * p - 1),
                "judges": ["j"],
                "calls": 2,
                "agreement": 1.0,
            }
        )
    return schemas.Verdicts.validate(schemas.frame("verdicts", rows))


FAKE_ENGINE = '''
import hashlib, json, pathlib, re
from pipeline.engines.base import Answer, Call

HERE = pathlib.Path(__file__).parent


class Fake:
    """Writes words drawn by the seed; as a judge prefers the longer answer. Logs every request in log.jsonl.

    While the file silent.txt is there, requests whose messages contain its text get no answer.
    """

    def __init__(self, options, toolbox):
        self.options = options

    def complete(self, requests, advance):
        with (HERE / "log.jsonl").open("a") as log:
            for request in requests:
                log.write(json.dumps([request.messages, request.seed]) + "\\n")
        advance(len(requests))
        return [self.one(request) for request in requests]

    def one(self, request):
        digest = hashlib.sha256(repr((self.options.model, request)).encode()).hexdigest()
        text = " ".join(content for _, content in request.messages)
        silent = HERE / "silent.txt"
        if silent.is_file() and silent.read_text() in text:
            return Answer(Call(digest, "unanswered"), reason="unanswered", error="HTTP 429")
        shown = {name: block for name, _, block in re.findall(r"<<(\\w+) (\\w{8})>>\\n(.*?)\\n<</", text, re.DOTALL)}
        if "first" in shown:
            said = "Verdict: " + ("A" if len(shown["first"]) > len(shown["second"]) else "B")
        else:
            said = "word " * (1 + int(digest[:2], 16) % 50) + digest[:6]
        return Answer(Call(digest, "answered", 1, 0, 1), said, "stop")

    def close(self):
        pass
'''
"""A user's own engine, as a file."""


def requests_of(folder: Path) -> list[Any]:
    """The log of FAKE_ENGINE: (messages, seed) of every request."""
    log = folder / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
