"""What every engine speaks: requests in, answers out, in order. Pure: types only.

An engine kind is one file in this folder that defines ``<Kind>Engine``. Generation and judging use the same
protocol: a judge's call is a request with ``choices``, or one whose text is parsed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.calls.dialect import Dialect
from pipeline.calls.finality import Reason
from pipeline.calls.reasoning import split
from pipeline.config import EndpointConfig, ModelConfig
from pipeline.secrets import struck

if TYPE_CHECKING:
    from pipeline.calls.ledger import Ledger
    from pipeline.calls.limiter import Limiter

ASKED_AGAIN: tuple[Reason, ...] = ("unanswered", "rejected")
"""Reasons for which the next run asks again."""

Advance = Callable[[int], None]
"""Called with the number of requests that have just been finished."""


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to be made."""

    messages: tuple[tuple[str, str], ...]
    """(role, content) turns."""
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    sample_index: int = 0
    attempt: int = 0
    """0, then 1, ... when an unreadable answer may be asked for again."""
    choices: tuple[str, ...] = ()
    """Answers of one token each whose probabilities are wanted; empty for free text."""
    response_schema: Mapping[str, Any] | None = None
    """JSON schema of the answer, where the engine can enforce one."""
    code: str = ""
    """What a judge's reply must carry to count (``judges.sealing``); engines have no use for it."""


@dataclass(frozen=True, slots=True)
class Call:
    """The accounting of one request; a row of the frame `calls` less the judge's name."""

    call_key: str
    status: str
    """``answered``, or ``unanswered``: nothing final came."""
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: float = 0.0
    latency_s: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one request: text, or the reason why there is none."""

    call: Call
    text: str | None = None
    finish_reason: str | None = None
    logprob: float | None = None
    """Sum over the answer's tokens, nats."""
    choice_logprobs: Mapping[str, float] | None = None
    """Token text -> log-probability at the first position, nats; spellings are the reader's business."""
    reason: Reason | None = None
    """Why there is no text: one of ``pipeline.calls.finality.Reason``; None when there is."""
    error: str | None = None
    """The words with which the endpoint or engine said so."""
    reasoning: str | None = None
    """What the model wrote before its answer, of whatever answer."""
    temperature_sent: bool = True
    """False when the endpoint takes no temperature: it sampled at its own."""

    def __post_init__(self) -> None:
        """Strike secrets: a server may repeat the key that it was sent, and what it says is kept."""
        for name in ("text", "error", "finish_reason", "reasoning"):
            said: str | None = getattr(self, name)
            if said is not None and (clean := struck(said)) != said:
                object.__setattr__(self, name, clean)

    @property
    def unanswered(self) -> bool:
        """Nothing final came: the next run asks again."""
        return self.reason in ASKED_AGAIN


def spoken(call: Call, text: str, finish_reason: str, logprob: float | None = None) -> Answer:
    """The answer of a model in this process that wrote *text*, its reasoning apart."""
    said = split(text)
    answer = said.answer.strip()
    if answer and said.whole:
        return Answer(call, answer, finish_reason, logprob, reasoning=said.reasoning)
    cut_off = finish_reason == "length" or not said.whole
    why = "the reasoning never ended" if not said.whole else f"finish_reason {finish_reason!r}"
    reason: Reason = "cut_off" if cut_off else "empty_answer"
    return Answer(call, None, finish_reason, reason=reason, error=f"no answer: {why}", reasoning=said.reasoning)


class Engine(Protocol):
    """A model that completes requests."""

    def __init__(self, options: ModelConfig, toolbox: "Toolbox") -> None: ...

    def complete(self, requests: Sequence[Request], advance: Advance) -> list[Answer]:
        """One answer per request, in the order of the requests.

        A failed request is an Answer with ``error``. Raises JobError when no request can be answered.
        """
        ...

    def close(self) -> None:
        """Give back memory and connections."""
        ...


class Toolbox(Protocol):
    """What the run lends to engines and judges."""

    @property
    def seed(self) -> int:
        """The run's seed."""
        ...

    @property
    def secret(self) -> bytes:
        """Key of the fences in judges' prompts."""
        ...

    @property
    def base(self) -> Path:
        """The config's folder, where a user's own files are looked up."""
        ...

    @property
    def workspace(self) -> Path:
        """Folder of the run in which a judge may keep what it learned."""
        ...

    @property
    def advance(self) -> Advance:
        """Progress of the stage."""
        ...

    @property
    def ledger(self) -> "Ledger":
        """The run's ledger of calls that may cost money."""
        ...

    @property
    def budget_usd(self) -> float | None:
        """The run's hard limit."""
        ...

    def endpoint(self, name: str) -> EndpointConfig:
        """The endpoint of that name."""
        ...

    def dialect(self, options: ModelConfig) -> Dialect:
        """How a model is spoken to at its endpoint, shared by everything in the process that calls it."""
        ...

    def limiter(self, name: str) -> "Limiter":
        """The limiter of the endpoint of that name, shared by everything in the process that calls it."""
        ...

    def engine(self, options: ModelConfig) -> Engine:
        """The engine for a model, loaded once per process and closed when the stage ends."""
        ...
