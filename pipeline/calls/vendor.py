"""The batch API of an endpoint: files up, batches created, found, looked at, cancelled. Touches the network.

Source: https://developers.openai.com/api/docs/guides/batch
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar, cast

import httpx2
import openai
import tenacity
from openai.types import Batch as Told

from pipeline.calls.batch_lines import Line, read_lines
from pipeline.calls.batches import Batch
from pipeline.config import BatchConfig, EndpointConfig

PURPOSE: Literal["batch"] = "batch"
URL: Literal["/v1/chat/completions"] = "/v1/chat/completions"
TAG = "jurybox"
"""Key of our tag in a batch's metadata."""
UPLOAD_S = 900.0
CLOCKS_DIFFER_S = 86_400.0
"""A batch created this long before its claim is not looked at when a tag is searched."""
TRANSPORT = (408, 409, 429)
RETRIED = (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError, openai.ConflictError)
QUEUE_FULL = ("token_limit_exceeded", "request_limit_exceeded")
"""Codes of a batch that was not taken because too much is enqueued already."""
T = TypeVar("T")


class Vendor:
    """The batch API through the ``openai`` package; every step is tried again while the transport fails."""

    def __init__(self, endpoint: EndpointConfig, key: str, how: BatchConfig, backoff_s: tuple[float, float]) -> None:
        """Of an endpoint; *backoff_s* is the first wait before a step is tried again, and the longest."""
        self.how, self.attempts, self.backoff_s = how, endpoint.attempts, backoff_s
        self.client = openai.OpenAI(
            base_url=endpoint.base_url, api_key=key, max_retries=0, timeout=max(endpoint.timeout_s, 1.0)
        )

    def upload(self, tag: str, content: bytes) -> str:
        """The id of a new input file."""
        name = f"{TAG}-{tag}.jsonl"
        return self._tried(lambda: self.client.files.create(file=(name, content), purpose=PURPOSE, timeout=UPLOAD_S).id)

    def create(self, batch: Batch, *, fresh: bool) -> str:
        """The id of the batch of an uploaded file, created unless it is there.

        A reply that got lost, or died with the process that waited for it, leaves open whether there is a batch. So
        every try but the first of a *fresh* one looks for the batch's tag before, and once more ``poll_s`` later.
        """
        unsure = not fresh

        def once() -> str:
            nonlocal unsure
            if unsure:
                if found := self.find(batch):
                    return found.id
                time.sleep(self.how.poll_s)
                if found := self.find(batch):
                    return found.id
            unsure = True
            return _id_of(
                self.client.batches.create(
                    input_file_id=batch.file_id or "",
                    endpoint=URL,
                    completion_window=cast("Any", self.how.completion_window),
                    metadata={TAG: batch.tag},
                )
            )

        return self._tried(once)

    def find(self, batch: Batch) -> Told | None:
        """The batch with our tag, if the vendor has it."""
        for told in self._tried(lambda: list(self._since(batch.claimed_at - CLOCKS_DIFFER_S))):
            known: object = told.metadata
            tagged = isinstance(known, dict) and cast("dict[str, object]", known).get(TAG) == batch.tag
            # Not every vendor keeps metadata; the file is ours alone.
            if tagged or (batch.file_id is not None and told.input_file_id == batch.file_id):
                return told
        return None

    def _since(self, moment: float) -> Iterator[Told]:
        """The newest batches first, back to *moment*."""
        for told in self.client.batches.list(limit=100):
            created = cast("object", told.created_at)
            if isinstance(created, int | float) and created < moment:
                return
            yield told

    def retrieve(self, batch_id: str) -> Told:
        """A batch as it stands."""
        return self._tried(lambda: self.client.batches.retrieve(batch_id))

    def cancel(self, batch_id: str) -> Told:
        """Ask the vendor to stop a batch."""
        return self._tried(lambda: self.client.batches.cancel(batch_id))

    def lines(self, told: Told, *, salvage: bool = False) -> Iterator[Line]:
        """The lines of a batch's output and error files, in whatever order they stand there; a late file has none."""
        for file_id in (told.output_file_id, told.error_file_id):
            if file_id:
                try:
                    content = self._tried(
                        lambda file_id=file_id: self.client.files.content(file_id, timeout=UPLOAD_S).content
                    )
                except openai.NotFoundError:
                    continue
                yield from read_lines(content, salvage=salvage)

    def _tried(self, step: Callable[[], T]) -> T:
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_passing),
            stop=tenacity.stop_after_attempt(self.attempts),
            wait=tenacity.wait_random_exponential(multiplier=self.backoff_s[0], max=self.backoff_s[1]),
            reraise=True,
        )(step)


def _id_of(told: Told) -> str:
    """A new batch's id; Together says it one level deeper.

    Raises:
        openai.APIConnectionError: the reply names none, so there may be a batch: it is looked for.
    """
    inner: object = (told.model_extra or {}).get("job")
    deeper = cast("dict[str, object]", inner).get("id") if isinstance(inner, dict) else None
    for found in (cast("object", getattr(told, "id", None)), deeper):
        if isinstance(found, str) and found:
            return found
    request = httpx2.Request("POST", "/batches")
    raise openai.APIConnectionError(message="the reply names no batch", request=request)


def is_transport(problem: openai.APIError) -> bool:
    """Whether a step may succeed when it is tried again."""
    return isinstance(problem, RETRIED) or getattr(problem, "status_code", None) in TRANSPORT


def _is_passing(problem: BaseException) -> bool:
    return isinstance(problem, openai.APIError) and is_transport(problem) and problem.code not in QUEUE_FULL
