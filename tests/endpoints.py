"""A scriptable OpenAI-protocol server for tests: real HTTP on 127.0.0.1, in a thread of its own.

    with Endpoint(lambda body: "Verdict: A") as server:
        ...  # base_url: server.url, requests so far: server.log

The script gets the decoded body of each chat completion, in a worker thread, and returns one of

- a string: HTTP 200 with that text as the assistant's message;
- ``(status, json or text, delay)``, or a :class:`Reply`, whose later fields may be left out. Status 0 drops the
  connection without a word.
"""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from aiohttp import web

from tests.patience import patience

Body = dict[str, Any]
DROP, OK = 0, 200
WORKERS = 32


class Reply(NamedTuple):
    """What the server says to one request."""

    status: int = 200
    body: object = ""
    """A mapping or list is sent as JSON, a string or bytes as they are."""
    delay: float = 0.0
    """Seconds before the reply."""
    headers: Mapping[str, str] = {}
    cut: bool = False
    """Drop the connection in the middle of the body."""


Script = Callable[[Body], "str | Reply | tuple[Any, ...]"]


@dataclass(frozen=True)
class Logged:
    """One request, as it came in."""

    body: Body
    headers: Mapping[str, str]
    at: float
    """time.monotonic() of its arrival."""


def chat(
    text: str | None,
    *,
    finish_reason: str = "stop",
    logprobs: Mapping[str, float] | None = None,
    usage: tuple[int, int, int] = (10, 0, 5),
    refusal: str | None = None,
) -> Body:
    """The JSON of a chat completion.

    Args:
        text: the assistant's message.
        finish_reason: as the protocol has it.
        logprobs: token -> log-probability at the first position, as ``top_logprobs``.
        usage: prompt, cached and completion tokens.
        refusal: the protocol's refusal text.
    """
    choice: Body = {
        "index": 0,
        "finish_reason": finish_reason,
        "message": {"role": "assistant", "content": text, "refusal": refusal},
        "logprobs": None,
    }
    if logprobs is not None:
        top = [{"token": token, "logprob": value, "bytes": None} for token, value in logprobs.items()]
        best = max(top, key=lambda entry: float(entry["logprob"] or 0))
        choice["logprobs"] = {"content": [{**best, "top_logprobs": top}], "refusal": None}
    prompt, cached, completion = usage
    return {
        "id": "chatcmpl-test",
        "object": "chat.completion",
        "created": 0,
        "model": "test",
        "choices": [choice],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        },
    }


class Endpoint:
    """The server; a context manager. ``key`` makes it refuse every request without that bearer token."""

    def __init__(self, answer: Script, *, models: Sequence[str] = ("test",), key: str | None = None) -> None:
        self.answer, self.models, self.key = answer, tuple(models), key
        self.log: list[Logged] = []
        self.answered: list[Body] = []
        """Bodies of the requests that got a whole HTTP 200: what a vendor would charge for."""
        self.most_at_once = 0
        """Largest number of requests that were in flight together."""
        self._at_once = 0
        self._port = 0
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._workers = ThreadPoolExecutor(WORKERS)
        self._thread = threading.Thread(target=self._serve, name="endpoint", daemon=True)

    @property
    def url(self) -> str:
        """The ``base_url``: everything before ``/chat/completions``."""
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def at_once(self) -> int:
        """Requests in flight."""
        return self._at_once

    @property
    def bodies(self) -> list[Body]:
        """The bodies of the log."""
        return [entry.body for entry in self.log]

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(patience(20)):
            raise RuntimeError("the test endpoint did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(patience(20))
        self._workers.shutdown(wait=False, cancel_futures=True)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._main())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _main(self) -> None:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/classify", self._chat)  # beside /v1, as vLLM has it
        app.router.add_get("/v1/models", self._models)
        self.add_routes(app)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self._port = int(runner.addresses[0][1])
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    def add_routes(self, app: web.Application) -> None:
        """More of the protocol, for servers that speak it."""

    def _refusal(self, request: web.Request) -> web.Response | None:
        if self.key is None or request.headers.get("Authorization") == f"Bearer {self.key}":
            return None
        return web.json_response({"error": {"message": "wrong key", "type": "invalid_request_error"}}, status=401)

    async def _models(self, request: web.Request) -> web.StreamResponse:
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "test"} for name in self.models]
        return self._refusal(request) or web.json_response({"object": "list", "data": listed})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.log.append(Logged(body, dict(request.headers), time.monotonic()))
        if refusal := self._refusal(request):
            return refusal
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            response = await self._replied(request, body)
            if response.status == OK and request.transport is not None and not request.transport.is_closing():
                self.answered.append(body)
            return response
        finally:
            self._at_once -= 1

    async def _replied(self, request: web.Request, body: Body) -> web.StreamResponse:
        said = await asyncio.get_running_loop().run_in_executor(self._workers, self.answer, body)
        reply = Reply(200, chat(said)) if isinstance(said, str) else Reply(*said)
        await asyncio.sleep(reply.delay)
        if reply.status == DROP:
            if request.transport is not None:
                request.transport.close()
            return web.Response()
        if isinstance(reply.body, bytes):
            return web.Response(status=reply.status, body=reply.body, headers=dict(reply.headers))
        text = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
        kind = "text/plain" if isinstance(reply.body, str) else "application/json"
        if reply.cut:
            return await _cut(request, reply.status, text.encode())
        return web.Response(status=reply.status, text=text, content_type=kind, headers=dict(reply.headers))


async def _cut(request: web.Request, status: int, content: bytes) -> web.StreamResponse:
    """Promise all of *content*, send half of it, and hang up."""
    response = web.StreamResponse(status=status, headers={"Content-Length": str(len(content))})
    await response.prepare(request)
    await response.write(content[: len(content) // 2])
    if request.transport is not None:
        request.transport.close()
    return response
