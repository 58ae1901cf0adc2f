"""What a batch API says, as far as it can be believed: a batch's state, its counts, the lines of its files. Pure.

Vendors say the same in different words (``in_progress``, ``IN_PROGRESS``, ``queued``, ``PENDING``), and files come
late, cut, or as a page of HTML. A batch is over only in words that are known to mean it; a line that cannot be read is
a call of which nothing is known.

Sources: https://developers.openai.com/api/docs/guides/batch, https://docs.together.ai/docs/inference/batch/manage
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

State = Literal["running", "over", "failed"]
OVER = frozenset(
    {"completed", "complete", "succeeded", "success", "expired", "timeout_exceeded", "cancelled", "canceled", "ended"}
)
ALL_DONE = frozenset({"completed", "complete", "succeeded", "success", "ended"})
"""Words for a batch that did all it was asked: whatever is missing from its files was made all the same."""
FAILED = frozenset({"failed", "failure"})
NOT_MADE = frozenset({"batch_expired", "batch_cancelled", "batch_canceled"})
"""Codes of a request that was never executed; ``request_timeout`` is none of them."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of an output or error file."""

    key: str
    status: int | None
    """HTTP status of the reply; None when there is none."""
    body: Any
    """JSON of the reply."""
    error: str
    """Why there is no reply."""
    unmade: bool = False
    """The vendor says that the call was never made."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many of a batch's requests the vendor has dealt with."""

    total: int
    completed: int
    failed: int

    @property
    def done(self) -> int:
        """Of either kind."""
        return self.completed + self.failed


def word(status: object) -> str:
    """A status as one lower-case word."""
    return str(status or "").strip().lower().replace("-", "_").replace(" ", "_")


def state(status: object) -> State:
    """What a status means; one that nobody knows means that the batch goes on, and is looked at again."""
    said = word(status)
    return "over" if said in OVER else "failed" if said in FAILED else "running"


def counts(said: object) -> Counts | None:
    """The counts of a batch; None where they are missing or none."""
    found = [getattr(said, name, None) for name in ("total", "completed", "failed")]
    if not all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in found):
        return None
    total, completed, failed = cast("list[int]", found)
    return Counts(total, completed, failed) if completed + failed <= total else None


def surely_unmade(status: object, said: Counts | None, lines: int, missing: int) -> bool:
    """Whether the calls of a batch that is over and stand in none of its files were surely not made.

    Args:
        status: as the vendor says it.
        said: the vendor's own counts.
        lines: requests that stand in its files.
        missing: requests that do not.
    """
    if said is None or said.total < lines + missing or lines < said.done:
        return False
    # Who says that it did everything and counts nothing has not counted.
    return said.done > 0 or word(status) not in ALL_DONE


def read_lines(content: bytes, *, salvage: bool = False) -> Iterator[Line]:
    """The lines of an output or error file that can be read.

    *salvage* reads bytes that are no UTF-8 as question marks, for a file that stays as it is.
    """
    for raw in content.split(b"\n"):
        try:
            value: object = json.loads(raw.decode(errors="replace") if salvage else raw)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and isinstance(key := cast("dict[str, Any]", value).get("custom_id"), str):
            yield _line(key, cast("dict[str, Any]", value))


def _line(key: str, fields: Mapping[str, Any]) -> Line:
    error: Any = fields.get("error")
    said = error if isinstance(error, str) else "" if error is None else json.dumps(error)
    response: Any = fields.get("response")
    replied = cast("dict[str, Any]", response if isinstance(response, dict) else {})
    status, body = _status(replied.get("status_code")), replied.get("body")
    if status is None:
        code = cast("dict[str, Any]", error).get("code") if isinstance(error, dict) else None
        return Line(key, None, None, said, unmade=not replied and code in NOT_MADE)
    # vLLM says beside the reply what OpenAI says in it.
    return Line(key, status, error if body is None else body, said)


def _status(said: object) -> int | None:
    if isinstance(said, str) and said.isascii() and said.isdigit() and len(said) == len("200"):
        return int(said)
    return said if isinstance(said, int) and not isinstance(said, bool) else None
