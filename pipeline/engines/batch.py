"""An endpoint's batch API as an engine: files of calls, answered within a day. Touches the network and the ledger.

Chosen by ``batch`` on a model with an ``endpoint``. A call has the same key as at the endpoint itself, so what one has
answered the other never pays for. What happens to a batch, and what a process that was killed leaves behind, is
written down in ``pipeline.calls.batches``; here a batch is moved from one state to the next and its answers are read.

Source: https://developers.openai.com/api/docs/guides/batch
"""

import contextlib
import json
import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any, cast

import openai
from openai.types import Batch as Told

from pipeline.calls import finality
from pipeline.calls.batch_lines import ALL_DONE, Counts, Line, counts, state, surely_unmade, word
from pipeline.calls.batches import Batch, Batches, left_behind, line
from pipeline.calls.ledger import Abandon, Busy, Claim, Operation, Recorded, Release, Reply
from pipeline.calls.usage import charge, surely_unpaid
from pipeline.calls.vendor import QUEUE_FULL, RETRIED, Vendor, is_transport
from pipeline.config import BatchConfig, ModelConfig
from pipeline.engines.base import Advance, Answer, Call, Request, Toolbox
from pipeline.engines.chat import OK, read_answer
from pipeline.engines.endpoint import BACKOFF_S, MOST_BACKOFF_S, EndpointEngine
from pipeline.engines.wire import api_key
from pipeline.errors import BudgetError, EndpointError, InputError, StageError, UnreachableError

COMMIT_AT_ONCE = 500
"""Answers committed in one transaction."""
LATE_LOOKS = 10
"""Looks at a batch that is over until its files hold all of its calls."""
BUSY_S = 1.0
"""Between two looks at calls that somebody else is making."""
GIVE_UP = "jurybox batches CONFIG --give-up ID"
GIVE_UP_LOOKS = 5


class BatchEngine(EndpointEngine):
    """Completes requests by an endpoint's batch API, with one model."""

    def __init__(self, options: ModelConfig, toolbox: Toolbox) -> None:
        super().__init__(options, toolbox)
        self.how = options.batch or BatchConfig()
        self.batches = Batches(self.ledger)
        key = api_key(options.endpoint or "", self.endpoint)
        self.vendor = Vendor(self.endpoint, key, self.how, (BACKOFF_S, MOST_BACKOFF_S))

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

    def give_up(self, tag: str, *, now: bool = False) -> str:
        """Cancel a batch and read what it has done; what it says in words.

        What the vendor surely did not do is free again; what may have been done, and cannot be read, stays charged.

        Args:
            tag: ours, of the batch.
            now: do not ask the vendor: all of its calls stay charged.

        Raises:
            InputError: there is no such open batch, or a live process keeps it.
            EndpointError: the vendor cannot be reached.
        """
        batch = self.batches.take(tag)
        if batch is None:
            raise InputError(f"no open batch {tag} that could be given up: it is over, or a live process keeps it")
        return _Run(self, (), _unseen).give_up(batch, now=now)

    def close(self) -> None:
        """Close the connections; batches go on, for whoever comes next."""
        self.batches.leave()
        self.vendor.client.close()

    def untaken(self, problem: openai.APIError, doing: str) -> EndpointError:
        """The error of a step that the vendor's API did not take."""
        where = f"endpoint {self.options.endpoint!r} ({self.endpoint.base_url})"
        status = getattr(problem, "status_code", None)
        if isinstance(problem, openai.NotFoundError):
            return EndpointError(
                f"{where} does not know what it was asked for while {doing}: HTTP 404: {problem.message[:300]}; it may "
                "have no batch API (remove `batch`), or the key may belong to another project than the batch's; one "
                f"that is gone is given up with `{GIVE_UP}`"
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
        self.words: dict[str, str] = {}
        """What the vendor said last of a call that it did not answer, by key."""
        self.running: dict[str, Batch] = {}
        self.inside: dict[str, str] = {}
        """Call key -> tag of the running batch it is in."""
        self.late: Counter[str] = Counter()
        """Tag -> looks at a batch that is over and lacks some of its calls."""
        self.stuck: dict[str, str] = {}
        """Tag -> what is wrong with a batch at which this run looks no more."""
        self.gone = False
        """Batches are given up: what is missing from their files will not come."""
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
                if self.stuck and not self.running.keys() - self.stuck.keys():
                    raise self._stuck()
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

    def _stuck(self) -> EndpointError:
        return EndpointError(
            f"endpoint {self.engine.options.endpoint!r}: {'; '.join(self.stuck.values())}; what its files hold is kept "
            "and nothing is sent again: run the same command later to look again, or give the batch up with "
            f"`{GIVE_UP}`, after which those calls stay charged and are made again"
        )

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
                batch = self.batches.created(batch, self.vendor.create(batch, fresh=not unsure))
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
        if not is_transport(problem):
            # A refusal is an answer: there is no batch.
            self.batches.finish(batch, str(problem.message)[:300])
        raise self.engine.untaken(problem, doing) from None

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
        for batch in [one for one in self.running.values() if one.tag not in self.stuck]:
            try:
                told = self.vendor.retrieve(batch.batch_id or "")
                said = counts(told.request_counts)
                if state(told.status) == "running":
                    self.counted[batch.tag] = said.done if said else 0
                elif state(told.status) == "failed" and not (told.output_file_id or told.error_file_id):
                    self._failed(batch, told)
                else:
                    self._end(batch, told, said)
            except openai.APIError as problem:
                raise self.engine.untaken(problem, f"batch {batch.batch_id} was fetched") from None
        self._show()

    def _end(self, batch: Batch, told: Told, said: Counts | None) -> None:
        """Commit what was answered; give back what was surely not made, and look again for what is missing."""
        self.full, self.waiting = 0, False
        fatal: EndpointError | None = None
        operations: list[Operation] = []
        lines: set[str] = set()
        missing = {key for key, tag in self.inside.items() if tag == batch.tag}
        reserved = self.batches.reserved(batch)
        for found in self.vendor.lines(told, salvage=self.gone or self.late[batch.tag] >= LATE_LOOKS):
            lines.add(found.key)
            if found.key not in missing:
                continue  # committed before, or nothing that this batch was asked
            missing.remove(found.key)
            operation, problem = self._read(found, reserved.get(found.key, 0.0))
            fatal = fatal or problem
            operations.append(operation)
            if len(operations) >= COMMIT_AT_ONCE:
                self.batches.commit(batch, operations)
                operations = []
        self.batches.commit(batch, operations)
        off = [key for key, tag in self.inside.items() if tag == batch.tag and key not in missing]
        self._off(off, str(told.status))
        if not missing or surely_unmade(told.status, said, len(lines), len(missing)):
            self._over(batch, str(told.status))
        else:
            self._look_again(batch, told, missing)
        if fatal is not None:
            raise fatal

    def _look_again(self, batch: Batch, told: Told, missing: Collection[str]) -> None:
        """A batch that is over, and of some calls nothing is known: its files are late, cut, or no such files."""
        self.late[batch.tag] += 1
        if not self.gone and self.late[batch.tag] <= LATE_LOOKS:
            return
        if not self.gone and word(told.status) in ALL_DONE:
            self.stuck[batch.tag] = (
                f"batch {batch.batch_id} is {told.status} and its files lack {len(missing)} of its calls after "
                f"{self.late[batch.tag]} looks"
            )
            return
        # It is gone, and what it did is unknown: charged, and free to be made again.
        self.batches.commit(batch, [Abandon(key, f"batch {told.status}, and in none of its files") for key in missing])
        self._over(batch, str(told.status))

    def _read(self, found: Line, reserved_usd: float) -> tuple[Operation, EndpointError | None]:
        """What a line means for the ledger; its answer, where nobody asks again, goes to those that are found."""
        engine = self.engine
        if found.status is None:
            unmade = self.words[found.key] = found.error[:300] or "no reply"
            return (Release(found.key, unmade) if found.unmade else Abandon(found.key, unmade)), None
        told = finality.outcome(found.status, found.body)
        body = cast("dict[str, Any]", found.body) if isinstance(cast("object", found.body), dict) else {}
        charged = charge(body, reserved_usd, engine.price)
        if found.status == OK and told.final:
            engine.got_through()
            self._note(found.key, read_answer(found.key, body, charged.cost_usd, None))
            fault = charged.fault or None
            return Reply(found.key, json.dumps(body), charged.cost_usd, None, charged.reported_usd, fault), None
        self.words[found.key] = told.words
        fatal: EndpointError | None = None
        if told.final or told.fate != "again":
            try:
                self._note(found.key, engine.failed(found.key, told))
            except EndpointError as shared:
                fatal = shared
        if surely_unpaid(found.status):
            return Release(found.key, told.words), fatal
        return Abandon(found.key, told.words, charged.cost_usd if body else None), fatal

    def _note(self, key: str, answer: Answer) -> None:
        if key in self.claims:
            self.found[key] = answer

    def _failed(self, batch: Batch, told: Told) -> None:
        """A batch that the vendor did not take; none of its calls was made."""
        errors = cast("list[Any]", getattr(told.errors, "data", None) or [])
        first = errors[0] if errors else None
        code, said = (str(getattr(first, name, None) or "") for name in ("code", "message"))
        said = said or str(told.errors or "it gives no reason")
        count = sum(tag == batch.tag for tag in self.inside.values())
        self._over(batch, f"failed: {code} {said}"[:300], tried=False)
        if code in QUEUE_FULL:
            self._queue_full(count, said)
            return
        line_number = getattr(first, "line", None)
        at = f" (line {line_number} of its file)" if line_number is not None else ""
        more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
        raise EndpointError(
            f"endpoint {self.engine.options.endpoint!r} did not take batch {told.id}: {code or 'no code'}: "
            f"{said[:300]}{at}{more}; nothing was paid for it: correct what it names, then run the same command again"
        )

    def _off(self, keys: Iterable[str], why: str) -> None:
        """Calls that are in a batch no more; those it left unanswered go into the next one, or are given up."""
        for key in keys:
            del self.inside[key]
            if key in self.found or key not in self.claims:
                continue
            self.tries[key] += 1
            if self.tries[key] >= self.engine.endpoint.attempts:
                words = f"; {self.words[key]}" if key in self.words else ""
                error = f"left out of {self.tries[key]} batches; the last one is {why}{words}"
                self.found[key] = Answer(Call(key, "unanswered"), reason="unanswered", error=error)

    def give_up(self, batch: Batch, *, now: bool) -> str:
        """See BatchEngine."""
        keys = [key for key, _ in self.batches.calls(batch)]
        self.gone, self.running, self.inside = True, {batch.tag: batch}, dict.fromkeys(keys, batch.tag)
        told = None if now or batch.state == "claimed" else self._cancelled(batch)
        if told is not None and state(told.status) == "running":
            return (
                f"batch {told.id} is asked to stop and is {told.status}; run the same command again to read its files"
            )
        if told is not None:
            self._end(batch, told, counts(told.request_counts))
            return f"batch {told.id} is {told.status}; what its files hold is kept"
        if batch.state == "claimed":
            self._over(batch, "given up before it was sent")
            return "the batch was never sent; its calls are free"
        self.batches.commit(batch, [Abandon(key, "in a batch that was given up") for key in keys])
        self._over(batch, "given up")
        return f"batch {batch.batch_id or batch.tag} is given up; {len(keys)} calls stay charged and may be made again"

    def _cancelled(self, batch: Batch) -> Told | None:
        """The batch after the vendor was asked to stop it; None when it knows no such batch."""
        try:
            found = self.vendor.find(batch) if batch.batch_id is None else None
            name = batch.batch_id or (found.id if found else "")
            if not name:
                return None
            with contextlib.suppress(openai.BadRequestError, openai.ConflictError):  # it is over
                self.vendor.cancel(name)
            told = self.vendor.retrieve(name)
            for _ in range(GIVE_UP_LOOKS):
                if state(told.status) != "running":
                    break
                time.sleep(min(BUSY_S, self.engine.how.poll_s))
                told = self.vendor.retrieve(name)
        except openai.NotFoundError:
            return None
        except openai.APIError as problem:
            raise self.engine.untaken(problem, f"batch {batch.batch_id or batch.tag} was given up") from None
        return told

    def _over(self, batch: Batch, why: str, *, tried: bool = True) -> None:
        """Give back what a batch left unanswered; it goes into the next one, or is given up."""
        self.batches.finish(batch, why)
        del self.running[batch.tag]
        self.counted.pop(batch.tag, None)
        keys = [key for key, tag in self.inside.items() if tag == batch.tag]
        if tried:
            self._off(keys, why)
        else:
            for key in keys:
                del self.inside[key]

    def _show(self, done: int | None = None) -> None:
        """Progress: answers that are here, and those that the vendor counts; it never goes back."""
        if done is None:
            done = min(len(self.found) + sum(self.counted.values()), len(self.order))
        if done > self.shown:
            self.advance(done - self.shown)
            self.shown = done


def _split(claims: Sequence[Claim], most: int, most_bytes: int) -> tuple[Sequence[Claim], Sequence[Claim]]:
    """(those of the next file, the others): as many as fit, one at least."""
    total = 0
    for at, one in enumerate(claims):
        total += len(line(one.key, one.request))
        if at and (at >= most or total > most_bytes):
            return claims[:at], claims[at:]
    return claims, ()


def _unseen(done: int) -> None:
    """What is only submitted makes no progress."""
    del done
