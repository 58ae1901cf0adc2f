"""An endpoint's batch API as an engine: files of calls, answered within a day. Touches the network and the ledger.

Chosen by ``batch`` on a model with an ``endpoint``. A call has the same key as at the endpoint itself, so what one has
answered the other never pays for. What happens to a batch, and what a process that was killed leaves behind, is
written down in ``pipeline.batches``; here a batch is moved from one state to the next and its answers are read.

Source: https://developers.openai.com/api/docs/guides/batch
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import openai
import tenacity
from openai.types import Batch as Told

from pipeline.batches import Batch, Batches, left_behind, line
from pipeline.calls import finality
from pipeline.calls.usage import charge, surely_unpaid
from pipeline.config import BatchConfig, EndpointConfig, ModelConfig
from pipeline.engines.base import Advance, Answer, Call, Request, Toolbox
from pipeline.engines.endpoint import (
    BACKOFF_S,
    MOST_BACKOFF_S,
    EndpointEngine,
    api_key,
    read_answer,
)
from pipeline.errors import BudgetError, EndpointError, StageError, UnreachableError
from pipeline.ledger import Abandon, Busy, Claim, Operation, Recorded, Release, Reply

PURPOSE: Literal["batch"] = "batch"
URL: Literal["/v1/chat/completions"] = "/v1/chat/completions"
TAG = "jurybox"
"""Key of our tag in a batch's metadata."""
COMMIT_AT_ONCE = 500
"""Answers committed in one transaction."""
BUSY_S = 1.0
"""Between two looks at calls that somebody else is making."""
UPLOAD_S = 900.0
CLOCKS_DIFFER_S = 86_400.0
"""A batch created this long before its claim is not looked at when a tag is searched."""
OK, TRANSPORT = 200, (408, 409, 429)
RETRIED = (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError, openai.ConflictError)
ERROR = 400
RUNNING = ("validating", "in_progress", "finalizing", "cancelling")
QUEUE_FULL = ("token_limit_exceeded", "request_limit_exceeded")
"""Codes of a batch that was not taken because too much is enqueued already."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of an output or error file."""

    key: str
    status: int | None
    """HTTP status of the reply; None when the call was not made."""
    body: Any
    """JSON of the reply."""
    error: str
    """Why there is no reply."""


class BatchEngine(EndpointEngine):
    """Completes requests by an endpoint's batch API, with one model."""

    def __init__(self, options: ModelConfig, toolbox: Toolbox) -> None:
        super().__init__(options, toolbox)
        self.how = options.batch or BatchConfig()
        self.batches = Batches(self.ledger)
        self.vendor = Vendor(self.endpoint, api_key(options.endpoint or "", self.endpoint), self.how)

    def complete(self, requests: Iterable[Request], advance: Advance) -> list[Answer]:
        """See Engine. Returns when every request is answered or given up, which may take the completion window.

        Raises:
            EndpointError: the vendor refused a batch, or cannot be reached; what runs there goes on.
            BudgetError: the next call does not fit the budget.
            StageError: interrupted while batches run.
        """
        return _Run(self, requests, advance).answers()

    def submit(self, requests: Iterable[Request]) -> None:
        """Create the batches of these requests and return at once; `complete` finds them running."""
        _Run(self, requests, _unseen).submit()

    def close(self) -> None:
        """Close the connections; batches go on, for whoever comes next."""
        self.batches.leave()
        self.vendor.client.close()

    def refused(self, problem: openai.APIError, doing: str) -> EndpointError:
        """The error of a step that the vendor's API did not take."""
        where = f"endpoint {self.options.endpoint!r} ({self.endpoint.base_url})"
        status = getattr(problem, "status_code", None)
        if isinstance(problem, openai.NotFoundError):
            return EndpointError(
                f"{where} does not know what it was asked for while {doing}: HTTP 404: {problem.message[:300]}; it may "
                "have no batch API (remove `batch`), or the key may belong to another project than the batch's"
            )
        if isinstance(problem, RETRIED) or status is None:
            return UnreachableError(
                f"{where} could not be reached while {doing} ({problem.__cause__ or problem.message}); batches that "
                "run there go on, and the same command fetches their answers",
                self.options.endpoint or "",
            )
        if isinstance(problem, openai.AuthenticationError | openai.PermissionDeniedError):
            return self.shared(finality.outcome(problem.status_code, problem.body))
        return EndpointError(f"{where} refused {doing}: HTTP {status}: {problem.message[:300]}; correct what it names")


class Vendor:
    """The batch API through the ``openai`` package; every step is tried again while the transport fails."""

    def __init__(self, endpoint: EndpointConfig, key: str, how: BatchConfig) -> None:
        self.how, self.attempts = how, endpoint.attempts
        self.client = openai.OpenAI(
            base_url=endpoint.base_url, api_key=key, max_retries=0, timeout=max(endpoint.timeout_s, 1.0)
        )

    def upload(self, tag: str, content: bytes) -> str:
        """The id of a new input file."""
        name = f"{TAG}-{tag}.jsonl"
        return self._tried(lambda: self.client.files.create(file=(name, content), purpose=PURPOSE, timeout=UPLOAD_S).id)

    def create(self, batch: Batch, *, fresh: bool) -> Told:
        """The batch of an uploaded file, created unless it is there.

        A reply that got lost, or died with the process that waited for it, leaves open whether there is a batch. So
        every try but the first of a *fresh* one looks for the batch's tag before, and once more ``poll_s`` later.
        """
        unsure = not fresh

        def once() -> Told:
            nonlocal unsure
            if unsure:
                if found := self.find(batch):
                    return found
                time.sleep(self.how.poll_s)
                if found := self.find(batch):
                    return found
            unsure = True
            return self.client.batches.create(
                input_file_id=batch.file_id or "",
                endpoint=URL,
                completion_window=cast("Any", self.how.completion_window),
                metadata={TAG: batch.tag},
            )

        return self._tried(once)

    def find(self, batch: Batch) -> Told | None:
        """The batch with our tag, if the vendor has it."""
        for told in self._tried(lambda: list(self._since(batch.claimed_at - CLOCKS_DIFFER_S))):
            if (told.metadata or {}).get(TAG) == batch.tag:
                return told
        return None

    def _since(self, moment: float) -> Iterator[Told]:
        """The newest batches first, back to *moment*."""
        for told in self.client.batches.list(limit=100):
            if told.created_at < moment:
                return
            yield told

    def retrieve(self, batch_id: str) -> Told:
        """A batch as it stands."""
        return self._tried(lambda: self.client.batches.retrieve(batch_id))

    def lines(self, told: Told) -> Iterator[Line]:
        """The lines of a batch's output and error files, in whatever order they stand there."""
        for file_id in (told.output_file_id, told.error_file_id):
            if file_id:
                content = self._tried(
                    lambda file_id=file_id: self.client.files.content(file_id, timeout=UPLOAD_S).content
                )
                yield from read_lines(content)

    def _tried(self, step: Callable[[], T]) -> T:
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_passing),
            stop=tenacity.stop_after_attempt(self.attempts),
            wait=tenacity.wait_random_exponential(multiplier=BACKOFF_S, max=MOST_BACKOFF_S),
            reraise=True,
        )(step)


class _Run:
    """One `complete`: claims and batches what is missing, looks after what runs, until every request has its answer."""

    def __init__(self, engine: BatchEngine, requests: Iterable[Request], advance: Advance) -> None:
        self.engine, self.batches, self.vendor, self.advance = engine, engine.batches, engine.vendor, advance
        prepared = [engine.prepared(at, request) for at, request in enumerate(requests)]
        self.order = [one.key for one in prepared]
        self.claims = {one.key: Claim(one.key, one.text, one.reserve_usd) for one in prepared}
        self.found: dict[str, Answer] = {}
        self.tries: Counter[str] = Counter()
        """Batches that ended without an answer, by key."""
        self.running: dict[str, Batch] = {}
        self.inside: dict[str, str] = {}
        """Call key -> tag of the running batch it is in."""
        self.counted: dict[str, int] = {}
        """Tag -> requests that the vendor has dealt with."""
        self.largest = engine.how.max_requests
        self.full = 0
        """Times in a row that the queue did not take a single call, with none of our batches in it."""
        self.waiting = False
        """The queue is full: nothing is submitted before one of our batches is over."""
        self.elsewhere = False
        """Calls are in a batch that another process keeps."""
        self.shown = 0

    def answers(self) -> list[Answer]:
        """One answer per request, in their order."""
        try:
            self.submit()
            while len(self.found) < len(self.claims):
                time.sleep(self._pause())
                self._look()
                self.submit()
        except KeyboardInterrupt:
            if not self.running:
                raise
            names = ", ".join(sorted(one.batch_id or one.tag for one in self.running.values()))
            raise StageError(
                f"interrupted; {len(self.running)} batches go on at endpoint {self.engine.options.endpoint!r} "
                f"({names}): run the same command again to fetch their answers, nothing is paid twice"
            ) from None
        self._show(len(self.order))
        return [self.found[key] for key in self.order]

    def submit(self) -> None:
        """Take over batches whose process died, and put what is in none into new ones."""
        for batch in self.batches.adopt(self.engine.endpoint.base_url, self.engine.options.model):
            if batch.tag not in self.running:
                self._start(batch)
        if self.waiting and self.running:
            return
        self.waiting = self.elsewhere = False
        missing = [one for key, one in self.claims.items() if key not in self.found and key not in self.inside]
        spent: BudgetError | None = None
        while missing and not self.waiting and spent is None:
            part, missing = _split(missing, self.largest, self.engine.how.max_bytes)
            spent = self._submit(part)
        if spent is not None and not self.running:
            raise spent

    def _submit(self, part: Sequence[Claim]) -> BudgetError | None:
        """One batch of those that are free to be made; the error when the budget is short."""
        batch, outcomes = self.batches.claim(part, self.engine.endpoint.base_url, self.engine.options.model)
        spent: BudgetError | None = None
        for key, outcome in outcomes.items():
            if isinstance(outcome, Recorded):
                self.found[key] = read_answer(key, outcome.response, outcome.cost_usd, outcome.latency_s)
            elif isinstance(outcome, Busy) and outcome.batch is not None:
                self.elsewhere = True
                self._require_ours(outcome.batch)
            elif isinstance(outcome, BudgetError):
                spent = outcome
        if batch is not None:
            self._start(batch)
        self._show()
        return spent

    def _require_ours(self, tag: str) -> None:
        account = self.batches.left_by(tag)
        if account is not None and account != self.engine.ledger.account:
            raise left_behind(account)

    def _start(self, batch: Batch) -> None:
        """Take a batch from whatever state it is in to ``running``."""
        calls = self.batches.calls(batch)
        doing = f"a batch of {len(calls)} calls was made"
        unsure = batch.state == "creating"
        try:
            if batch.state == "claimed":
                content = b"".join(line(key, body) for key, body in calls)
                batch = self.batches.uploaded(batch, self.vendor.upload(batch.tag, content))
            if batch.state == "creating":
                batch = self.batches.created(batch, self.vendor.create(batch, fresh=not unsure).id)
        except openai.APIError as problem:
            self._not_started(batch, problem, doing, len(calls))
            return
        self.running[batch.tag] = batch
        self.inside |= dict.fromkeys((key for key, _ in calls), batch.tag)

    def _not_started(self, batch: Batch, problem: openai.APIError, doing: str, count: int) -> None:
        if problem.code in QUEUE_FULL:
            self.batches.finish(batch, str(problem.code))
            self._queue_full(count, str(problem.message))
            return
        if not _is_transport(problem):
            # A refusal is an answer: there is no batch.
            self.batches.finish(batch, str(problem.message)[:300])
        raise self.engine.refused(problem, doing) from None

    def _queue_full(self, count: int, said: str) -> None:
        """Too many tokens wait at the vendor's: wait for ours to be done, and send smaller batches."""
        self.waiting = True
        self.largest = min(self.largest, max(1, count // 2))
        if count <= 1 and not self.running:
            self.full += 1
        if self.full >= self.engine.endpoint.attempts:
            raise EndpointError(
                f"endpoint {self.engine.options.endpoint!r} takes no batch, however small: {said[:300]}; other batches "
                "of the same organisation fill its queue: run the same command again when they are done"
            )

    def _pause(self) -> float:
        """Seconds until the next look; longer and longer while others fill the queue."""
        poll_s = self.engine.how.poll_s
        if self.running or self.waiting or self.elsewhere:
            return poll_s * 2**self.full
        return min(BUSY_S, poll_s)

    def _look(self) -> None:
        """Ask after every running batch; read those that are over."""
        for batch in list(self.running.values()):
            try:
                told = self.vendor.retrieve(batch.batch_id or "")
                if told.status in RUNNING:
                    counts = told.request_counts
                    self.counted[batch.tag] = counts.completed + counts.failed if counts else 0
                else:
                    self._end(batch, told)
            except openai.APIError as problem:
                raise self.engine.refused(problem, f"batch {batch.batch_id} was fetched") from None
        self._show()

    def _end(self, batch: Batch, told: Told) -> None:
        """Commit what was answered, give the rest back."""
        if told.status == "failed":
            self._failed(batch, told)
            return
        self.full, self.waiting = 0, False
        fatal: EndpointError | None = None
        operations: list[Operation] = []
        open_calls = {key for key, tag in self.inside.items() if tag == batch.tag}
        for found in self.vendor.lines(told):
            if found.key not in open_calls:
                continue  # committed before a crash, or nothing that this batch was asked
            open_calls.remove(found.key)
            operation, problem = self._read(found)
            fatal = fatal or problem
            operations.append(operation)
            if len(operations) >= COMMIT_AT_ONCE:
                self.batches.commit(batch, operations)
                operations = []
        self.batches.commit(batch, operations)
        self._over(batch, told.status)
        if fatal is not None:
            raise fatal

    def _read(self, found: Line) -> tuple[Operation, EndpointError | None]:
        """What a line means for the ledger; its answer, where it is final, goes to those that are found."""
        engine = self.engine
        if found.status is None:
            return Release(found.key, found.error[:300] or "the call was not made"), None
        told = finality.outcome(found.status, found.body)
        body = cast("dict[str, Any]", found.body) if isinstance(cast("object", found.body), dict) else {}
        paid = not (found.status >= ERROR and surely_unpaid(found.status))
        reserved = self.claims[found.key].reserve_usd if found.key in self.claims else 0.0
        charged = charge(body, reserved, engine.price)
        if found.status == OK and told.final:
            if found.key in self.claims:
                self.found[found.key] = read_answer(found.key, body, charged.cost_usd, None)
            reported = charged.reported_usd
            return Reply(found.key, json.dumps(body), charged.cost_usd, None, reported, charged.fault or None), None
        fatal: EndpointError | None = None
        if told.fate == "mend" and told.about == "key":
            fatal = engine.shared(told)
        elif told.final or told.fate == "rejected":
            self._note(found.key, engine.failed(found.key, told))
        ended = Abandon(found.key, told.words, charged.cost_usd if body else None) if paid else None
        return ended or Release(found.key, told.words), fatal

    def _note(self, key: str, answer: Answer) -> None:
        if key in self.claims:
            self.found[key] = answer

    def _failed(self, batch: Batch, told: Told) -> None:
        """A batch that the vendor did not take; none of its calls was made."""
        errors = (told.errors.data if told.errors else None) or []
        first = errors[0] if errors else None
        code, said = (first.code or "", first.message or "") if first else ("", "it gives no reason")
        count = sum(tag == batch.tag for tag in self.inside.values())
        self._over(batch, f"failed: {code} {said}"[:300], tried=False)
        if code in QUEUE_FULL:
            self._queue_full(count, said)
            return
        at = f" (line {first.line} of its file)" if first and first.line is not None else ""
        more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
        raise EndpointError(
            f"endpoint {self.engine.options.endpoint!r} did not take batch {told.id}: {code or 'no code'}: "
            f"{said[:300]}{at}{more}; nothing was paid for it: correct what it names, then run the same command again"
        )

    def _over(self, batch: Batch, why: str, *, tried: bool = True) -> None:
        """Give back what a batch left unanswered; it goes into the next one, or is given up."""
        self.batches.finish(batch, why)
        del self.running[batch.tag]
        self.counted.pop(batch.tag, None)
        keys = [key for key, tag in self.inside.items() if tag == batch.tag]
        for key in keys:
            del self.inside[key]
            if key in self.found or key not in self.claims or not tried:
                continue
            self.tries[key] += 1
            if self.tries[key] >= self.engine.endpoint.attempts:
                error = f"left out of {self.tries[key]} batches; the last one is {why}"
                self.found[key] = Answer(Call(key, "unanswered"), reason="unanswered", error=error)

    def _show(self, done: int | None = None) -> None:
        """Progress: answers that are here, and those that the vendor counts; it never goes back."""
        if done is None:
            done = min(len(self.found) + sum(self.counted.values()), len(self.order))
        if done > self.shown:
            self.advance(done - self.shown)
            self.shown = done


def read_lines(content: bytes) -> Iterator[Line]:
    """The lines of an output or error file that can be read; a call without one has not been answered."""
    for text in content.split(b"\n"):
        try:
            value: object = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and isinstance(key := cast("dict[str, Any]", value).get("custom_id"), str):
            yield _line(key, cast("dict[str, Any]", value))


def _line(key: str, fields: Mapping[str, Any]) -> Line:
    error: Any = fields.get("error")
    said = error if isinstance(error, str) else "" if error is None else json.dumps(error)
    response: Any = fields.get("response")
    replied = cast("dict[str, Any]", response if isinstance(response, dict) else {})
    status, body = replied.get("status_code"), replied.get("body")
    if not isinstance(status, int):
        return Line(key, None, None, said)
    # vLLM says beside the reply what OpenAI says in it.
    return Line(key, status, error if body is None else body, said)


def _split(claims: Sequence[Claim], most: int, most_bytes: int) -> tuple[Sequence[Claim], Sequence[Claim]]:
    """(those of the next file, the others): as many as fit, one at least."""
    total = 0
    for at, one in enumerate(claims):
        total += len(line(one.key, one.request))
        if at and (at >= most or total > most_bytes):
            return claims[:at], claims[at:]
    return claims, ()


def _is_transport(problem: openai.APIError) -> bool:
    return isinstance(problem, RETRIED) or getattr(problem, "status_code", None) in TRANSPORT


def _is_passing(problem: BaseException) -> bool:
    return isinstance(problem, openai.APIError) and _is_transport(problem) and problem.code not in QUEUE_FULL


def _unseen(done: int) -> None:
    """What is only submitted makes no progress."""
    del done
