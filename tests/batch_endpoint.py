"""A scriptable stand-in for OpenAI's batch API beside the chat completions of ``tests.endpoints``: real HTTP.

    with BatchEndpoint(lambda body: "Verdict: A") as server:
        server.fates = [Fate(answered=3, status="expired")]  # of the first batch; those after it complete

It checks what the vendor checks (purpose, JSONL, unique custom_ids, one URL, metadata), answers a batch in the moment
it is created, counts what it would charge for, and then shows the batch in the states that its fate has.
"""

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.endpoints import Body, Endpoint, Reply, Script, chat

LIMIT_BYTES, LIMIT_REQUESTS = 200_000_000, 50_000
EXPIRED = {
    "code": "batch_expired",
    "message": "This request could not be executed before the completion window expired.",
}


@dataclass
class Fate:
    """What becomes of one batch."""

    status: str = "completed"
    """In the end: completed, expired, cancelled, failed."""
    answered: int | None = None
    """How many of its requests are answered (and charged for); None: all."""
    looks: int = 1
    """How often it is seen running before its end."""
    refused: Mapping[int, tuple[int, object]] = field(default_factory=dict[int, tuple[int, object]])
    """Request number -> (HTTP status, body) that stands in the error file instead of an answer."""
    left_out: bool = False
    """Requests without an answer stand in no file at all, instead of the error file."""
    errors: tuple[tuple[str, str], ...] = ()
    """(code, message) of a batch that failed."""


@dataclass
class Held:
    """A batch as the server holds it."""

    about: dict[str, Any]
    fate: Fate
    total: int
    looks: int = 0


class BatchEndpoint(Endpoint):
    """The server; a context manager."""

    def __init__(self, answer: Script, **options: Any) -> None:
        super().__init__(answer, **options)
        self.fates: list[Fate] = []
        """Of the next batches to be created, in order."""
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, Held] = {}
        self.charged: Counter[str] = Counter()
        """custom_id -> times answered by a batch: what the vendor charges for."""
        self.shown: Callable[[dict[str, Any], int], dict[str, Any]] = lambda told, _looks: told
        """A batch as the server would show it, and how often it was looked at -> as it shows it."""
        self.spoilt: Callable[[bytes, int], bytes] = lambda content, _times: content
        """A file's content, and how often files were fetched -> what is sent."""
        self.fetched = 0
        self.uploads: list[bytes] = []
        self.events: list[str] = []
        """The steps asked for: upload, create, retrieve, list, content."""
        self.strike: dict[str, Callable[[], None]] = {}
        """``before create`` and the like -> what happens at that moment, once."""
        self.trouble: dict[str, list[Reply]] = {}
        """Step -> what it says the next times instead of its work; status 0 hangs up *after* the work is done."""

    def kills(self, moment: str, pid: Callable[[], int]) -> None:
        """Kill a process at a moment: ``before`` a step's work, or ``after`` it and before its reply."""
        self.strike[moment] = lambda: os.kill(pid(), signal.SIGKILL)

    def add_routes(self, app: web.Application) -> None:
        """See Endpoint."""
        app.router.add_post("/v1/files", self._step("upload", self._upload))
        app.router.add_get("/v1/files/{id}/content", self._step("content", self._content))
        app.router.add_post("/v1/batches", self._step("create", self._create))
        app.router.add_get("/v1/batches", self._step("list", self._list))
        app.router.add_get("/v1/batches/{id}", self._step("retrieve", self._retrieve))
        app.router.add_post("/v1/batches/{id}/cancel", self._step("cancel", self._cancel))

    def _step(self, name: str, work: Callable[[web.Request], Any]) -> Callable[[web.Request], Any]:
        async def step(request: web.Request) -> web.StreamResponse:
            self.events.append(name)
            if refusal := self._refusal(request):
                return refusal
            said = self.trouble.get(name) or []
            reply = said.pop(0) if said else None
            if reply is not None and reply.status:
                return web.json_response(reply.body, status=reply.status)
            await self._struck(f"before {name}", request)
            response = await work(request)
            await self._struck(f"after {name}", request)
            if reply is not None and request.transport is not None:
                request.transport.close()
            return response

        return step

    async def _struck(self, moment: str, request: web.Request) -> None:
        blow = self.strike.pop(moment, None)
        if blow is not None:
            blow()
            # The dead hear nothing, and ask for nothing more.
            if request.transport is not None:
                request.transport.close()
            if moment.startswith("before"):
                raise web.HTTPServiceUnavailable

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        content: Any = form["file"]
        data = content.file.read()
        if form["purpose"] != "batch" or len(data) > LIMIT_BYTES:
            return _error(400, "Invalid file", "invalid_request_error")
        name = f"file-{len(self.files)}"
        self.files[name] = data
        self.uploads.append(data)
        return web.json_response(
            {
                "id": name,
                "object": "file",
                "bytes": len(data),
                "created_at": int(time.time()),
                "filename": content.filename,
                "purpose": "batch",
                "status": "processed",
            }
        )

    async def _create(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        if asked["input_file_id"] not in self.files:
            return _error(404, f"No such File object: {asked['input_file_id']}", "invalid_request_error")
        if asked["completion_window"] != "24h" or asked["endpoint"] != "/v1/chat/completions":
            return _error(400, "Invalid completion_window or endpoint", "invalid_request_error")
        fate = self.fates.pop(0) if self.fates else Fate()
        lines = [json.loads(line) for line in self.files[asked["input_file_id"]].splitlines()]
        if problem := _invalid(lines):
            fate = Fate("failed", errors=(problem,))
        name = f"batch_{len(self.batches)}"
        about: dict[str, Any] = {
            **{key: asked[key] for key in ("input_file_id", "completion_window", "endpoint")},
            "id": name,
            "object": "batch",
            "created_at": int(time.time()),
            "metadata": asked.get("metadata"),
            "status": "validating",
        }
        self.batches[name] = Held(about, fate, len(lines))
        if fate.status != "failed":
            self._answer(about, fate, lines)
        return web.json_response(self._seen(self.batches[name]))

    def _answer(self, about: dict[str, Any], fate: Fate, lines: list[Body]) -> None:
        """Do the batch's work: its files, in an order of the server's own."""
        output: list[Body] = []
        errors: list[Body] = []
        most = len(lines) if fate.answered is None else fate.answered
        for at, line in enumerate(lines):
            row: Body = {"id": f"batch_req_{at}", "custom_id": line["custom_id"], "error": None, "response": None}
            if at in fate.refused:
                status, body = fate.refused[at]
                errors.append({**row, "response": {"status_code": status, "request_id": f"r{at}", "body": body}})
            elif len(output) < most:
                self.charged[line["custom_id"]] += 1
                said = self.answer(line["body"])
                reply = Reply(200, chat(said)) if isinstance(said, str) else Reply(*said)
                output.append({**row, "response": {"status_code": 200, "request_id": f"r{at}", "body": reply.body}})
            elif not fate.left_out:
                errors.append({**row, "error": EXPIRED})
        random.Random(len(self.files)).shuffle(output)
        for key, rows in (("output_file_id", output), ("error_file_id", errors)):
            if rows:
                name = f"file-{len(self.files)}"
                self.files[name] = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
                about[key] = name
        about["counts"] = {"total": len(lines), "completed": len(output), "failed": len(errors)}

    def _seen(self, held: Held) -> dict[str, Any]:
        """A batch as it is shown now: its files only when it is over."""
        told = {
            key: value for key, value in held.about.items() if key not in ("counts", "output_file_id", "error_file_id")
        }
        if held.looks <= held.fate.looks:
            done = {"total": held.total, "completed": held.total // 2 if held.looks else 0, "failed": 0}
            return {**told, "status": "in_progress" if held.looks else "validating", "request_counts": done}
        told["status"] = held.fate.status
        if held.fate.status == "failed":
            data = [{"code": code, "message": text, "line": 1, "param": None} for code, text in held.fate.errors]
            return {**told, "errors": {"object": "list", "data": data}}
        files = {key: held.about.get(key) for key in ("output_file_id", "error_file_id")}
        return {**told, **files, "request_counts": held.about["counts"]}

    async def _retrieve(self, request: web.Request) -> web.StreamResponse:
        held = self.batches.get(request.match_info["id"])
        if held is None:
            return _error(404, f"No batch found with id '{request.match_info['id']}'.", "invalid_request_error")
        held.looks += 1
        return web.json_response(self.shown(self._seen(held), held.looks))

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        held = self.batches.get(request.match_info["id"])
        if held is None:
            return _error(404, "No batch found", "invalid_request_error")
        if held.looks > held.fate.looks:
            return _error(409, "Cannot cancel a batch that is over", "invalid_request_error")
        held.fate.looks = held.looks
        held.fate.status = "cancelled"
        return web.json_response({**self._seen(held), "status": "cancelling"})

    async def _list(self, request: web.Request) -> web.StreamResponse:
        """Newest first, in pages."""
        names = list(reversed(self.batches))
        after = request.query.get("after")
        rest = names[names.index(after) + 1 :] if after else names
        page = rest[: int(request.query.get("limit", "20"))]
        ends = {"first_id": page[0], "last_id": page[-1]} if page else {"first_id": None, "last_id": None}
        data = [self._seen(self.batches[name]) for name in page]
        return web.json_response({"object": "list", "data": data, "has_more": len(rest) > len(page), **ends})

    async def _content(self, request: web.Request) -> web.StreamResponse:
        content = self.files.get(request.match_info["id"])
        if content is None:
            return _error(404, "No such file", "invalid_request_error")
        self.fetched += 1
        return web.Response(body=self.spoilt(content, self.fetched), content_type="application/octet-stream")


def _invalid(lines: list[Body]) -> tuple[str, str] | None:
    """(code, message) of the first thing that is wrong with an input file."""
    checks = {
        ("empty_file", "The input file is empty."): not lines,
        ("too_many_requests", "The batch contains too many requests."): len(lines) > LIMIT_REQUESTS,
        ("invalid_json_line", "This line is not parseable as valid JSON."): any(
            set(line) != {"custom_id", "method", "url", "body"} for line in lines
        ),
        ("duplicate_custom_id", "The custom_id is a duplicate of another request."): len(
            {line["custom_id"] for line in lines}
        )
        < len(lines),
        ("mismatched_url", "The URL does not match the batch endpoint."): any(
            (line["method"], line["url"]) != ("POST", "/v1/chat/completions") for line in lines
        ),
        ("mismatched_model", "The provided model does not match the batch's."): len(
            {line["body"]["model"] for line in lines}
        )
        > 1,
    }
    return next((problem for problem, wrong in checks.items() if wrong), None)


def _error(status: int, message: str, kind: str) -> web.Response:
    return web.json_response({"error": {"message": message, "type": kind, "param": None, "code": None}}, status=status)
