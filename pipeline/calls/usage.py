"""What a reply is charged: the endpoint's own count of tokens where it can be believed, else the reservation. Pure.

A budget is hard whatever a server says, so a count that is missing, is no whole number, contradicts itself or cannot
be true charges the call at its reservation, the most that it can cost. Both figures are kept: what is *charged* and
what the endpoint *reported*.

    charge({"usage": {"prompt_tokens": 40, "completion_tokens": 5, "total_tokens": 95}}, .325, price)
    -> 40 prompt tokens and max(5, 95 - 40) = 55 output tokens: some servers count reasoning in the total alone
    charge({"usage": None}, .325, price) -> US$ .325, fault "no usage"
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

ABSURD_TOKENS = 10_000_000
"""A call that used so many has not been counted: no model served today reads or writes that much at once."""
LONGEST_TOKEN = 128
"""Bytes of the longest token in common vocabularies (o200k's run of spaces)."""
HTTP_ERROR = 400
MAYBE_MADE = frozenset({408, 499, 502, 504, 520, 524, 598, 599})
"""Statuses after which the work may have been done and billed: somebody between us and the model lost patience, or did
not understand it. With every other status of 400 or more a server says that it did not do it."""


class Prices(Protocol):
    """US$ per million tokens."""

    @property
    def input(self) -> float:
        """Of the prompt."""
        ...

    @property
    def output(self) -> float:
        """Of the answer, reasoning included."""
        ...

    @property
    def cached_input(self) -> float | None:
        """Of the prompt's part from the prefix cache; None: as `input`."""
        ...


@dataclass(frozen=True, slots=True)
class Usage:
    """What a reply says of its tokens; each None where it says nothing that can be read."""

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    """Of the prompt's."""
    completion_tokens: int | None = None
    """Everything that was written, reasoning included."""
    fault: str = ""
    """Why nothing can be charged by it; empty where it can."""


@dataclass(frozen=True, slots=True)
class Charge:
    """What one reply costs."""

    usage: Usage
    cost_usd: float
    """What the budget is charged."""
    reported_usd: float | None
    """The cost by the endpoint's own count; None where that cannot be used, and the reservation is charged."""

    @property
    def fault(self) -> str:
        """Why the reservation is charged; empty where it is not."""
        return self.usage.fault


def charge(response: Mapping[str, Any], reserved_usd: float, price: Prices | None) -> Charge:
    """What a reply is charged.

    Args:
        response: the reply's JSON object, as it came.
        reserved_usd: the most that the call can cost, as it was claimed.
        price: None for a model without one: it costs nothing.

    A believable count above the reservation is charged as reported: then the vendor bills more than was foreseen.
    """
    usage = read_usage(response)
    if price is None:
        return Charge(usage, 0.0, None if usage.fault else 0.0)
    if usage.fault:
        return Charge(usage, reserved_usd, None)
    usd = cost_usd(usage, price)
    return Charge(usage, usd, usd)


def cost_usd(usage: Usage, price: Prices) -> float:
    """US$ of a count without a fault."""
    prompt, cached = usage.prompt_tokens or 0, usage.cached_tokens or 0
    cached_price = price.input if price.cached_input is None else price.cached_input
    return (
        (prompt - cached) * price.input + cached * cached_price + (usage.completion_tokens or 0) * price.output
    ) / 1e6


def read_usage(response: Mapping[str, Any]) -> Usage:
    """What a reply says of its tokens, and whether it can be charged by that; never raises.

    ``prompt_tokens`` and ``completion_tokens`` must be whole numbers; ``total_tokens``, the cached and the reasoning
    tokens may be absent or null, and are whole numbers where they stand. Output is the largest of what the reply counts
    as output: ``completion_tokens``, ``total_tokens`` less ``prompt_tokens``, and both its own and the reasoning's
    where the reasoning alone is more than the output it should be part of.
    """
    said = response.get("usage")
    if said is None:
        return Usage(fault="no usage")
    if not isinstance(said, Mapping):
        return Usage(fault=f"usage is {_shown(said)}")
    usage = cast("Mapping[str, Any]", said)
    faults: list[str] = []
    prompt = _count(usage, "prompt_tokens", faults, needed=True)
    completion = _count(usage, "completion_tokens", faults, needed=True)
    total = _count(usage, "total_tokens", faults)
    cached = _detail(usage, "prompt_tokens_details", "cached_tokens", faults)
    reasoning = _detail(usage, "completion_tokens_details", "reasoning_tokens", faults)
    if prompt is None or completion is None:
        return Usage(prompt, cached, completion, "; ".join(faults))
    if cached is not None and cached > prompt:
        faults.append(f"{cached} cached of {prompt} prompt tokens")
    output = max(
        completion, (total or 0) - prompt, completion + (reasoning or 0) if (reasoning or 0) > completion else 0
    )
    faults += _unbelievable(response, prompt, output)
    return Usage(prompt, cached, output, "; ".join(faults))


def surely_unpaid(status: int) -> bool:
    """Whether a server that replies with this HTTP status says that it did not do the work."""
    return status >= HTTP_ERROR and status not in MAYBE_MADE


def _count(said: Mapping[str, Any], name: str, faults: list[str], *, needed: bool = False) -> int | None:
    """A count of tokens; None, with its fault, where there is none."""
    found = said.get(name)
    if found is None and not needed:
        return None
    if isinstance(found, int) and not isinstance(found, bool) and 0 <= found < ABSURD_TOKENS:
        return found
    faults.append(f"no {name}" if name not in said else f"{name} is {_shown(found)}")
    return None


def _detail(usage: Mapping[str, Any], name: str, count: str, faults: list[str]) -> int | None:
    details = usage.get(name)
    if details is None:
        return None
    if isinstance(details, Mapping):
        return _count(cast("Mapping[str, Any]", details), count, faults)
    faults.append(f"{name} is {_shown(details)}")
    return None


def _unbelievable(response: Mapping[str, Any], prompt: int, output: int) -> list[str]:
    """What a count of whole numbers cannot mean: an answer of nothing, or from nothing."""
    written = _written_bytes(response)
    if not written and not prompt and not output:
        return []  # it failed, and says that it charges nothing for it
    faults: list[str] = []
    if not prompt:
        faults.append("prompt_tokens is 0")
    if output * LONGEST_TOKEN < written:
        faults.append(f"completion_tokens is {output} for {written} bytes of text")
    return faults


def _written_bytes(response: Mapping[str, Any]) -> int:
    """Bytes of the answers' text, as far as it can be found."""
    choices = response.get("choices")
    total = 0
    for choice in cast("list[Any]", choices if isinstance(choices, list) else []):
        message = cast("Mapping[str, Any]", choice).get("message") if isinstance(choice, Mapping) else None
        content = cast("Mapping[str, Any]", message).get("content") if isinstance(message, Mapping) else None
        total += len(content.encode(errors="replace")) if isinstance(content, str) else 0
    return total


def _shown(found: object) -> str:
    """A wrong value, cut to what fits into a line; a number of ten thousand digits is not written out."""
    if isinstance(found, int) and not isinstance(found, bool):
        return f"{found}" if abs(found) < 10**18 else "an absurd number"
    if isinstance(found, str | float | bool) or found is None:
        return repr(found)[:40]
    return f"a {type(found).__name__}"
