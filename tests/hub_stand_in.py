"""A stand-in for the Hugging Face Hub: its HTTP protocol on a local port, repositories in memory.

Speaks what `huggingface_hub` uses to publish: create a repository, validate a card, preupload, Git LFS batch with
PUT and verify, commit. It checks what the real one checks (token, header, object hashes, references) and keeps
every file, so that a test can compare what arrived.
"""

import asyncio
import base64
import hashlib
import json
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import yaml
from aiohttp import web

LARGE = (".parquet", ".safetensors", ".bin")
MOST_BYTES = 2**28


@dataclass
class Repository:
    """One repository: its newest files and how often it was committed to."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0


class HubStandIn:
    """The Hub at ``url`` while the block runs; ``token`` may write to the organisation ``org`` and nowhere else."""

    def __init__(self, token: str, organisation: str = "org") -> None:
        self.token = token
        self.organisation = organisation
        self.url = ""
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.verified: set[str] = set()
        self.requests: list[str] = []
        self.preamble = ""
        """Put before the words of a refusal for wrong credentials."""
        self.fail: dict[str, int] = {}
        """Last part of a path (`commit`, `create`) -> status to answer with."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ready = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application(client_max_size=MOST_BYTES, middlewares=[self._guard])
        app.router.add_post("/api/repos/create", self._create)
        app.router.add_post("/api/validate-yaml", self._validate)
        repo = "/api/{kind:models|datasets}/{owner}/{name}"
        app.router.add_get(repo, self._info)
        app.router.add_get(repo + "/revision/main", self._info)
        app.router.add_post(repo + "/preupload/main", self._preupload)
        app.router.add_post(repo + "/commit/main", self._commit)
        app.router.add_post("/{prefix:(datasets/)?}{owner}/{name}.git/info/lfs/objects/batch", self._batch)
        app.router.add_put("/lfs/{oid}", self._put)
        app.router.add_post("/lfs/{oid}/verify", self._verify)
        runner = web.AppRunner(app)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        self._loop.run_until_complete(site.start())
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path}")
        given = request.headers.get("Authorization", "")
        # As with the real store, the address of an upload is itself the permission.
        if request.method != "PUT" and given != f"Bearer {self.token}":
            # A careless server that repeats the credentials it was given.
            return refuse(401, f"{self.preamble}Invalid credentials: {given}")
        for part, status in self.fail.items():
            if part in request.path.split("/"):
                return refuse(status, f"told to fail at {part}, {given}")
        return await handler(request)

    def _repository(self, request: web.Request) -> Repository | None:
        kind = request.match_info.get("kind") or ("datasets" if request.match_info.get("prefix") else "models")
        return self.repositories.get((kind, f"{request.match_info['owner']}/{request.match_info['name']}"))

    async def _create(self, request: web.Request) -> web.Response:
        asked = await request.json()
        kind, owner, name = asked.get("type", "model"), asked["organization"], asked["name"]
        if owner != self.organisation:
            return refuse(403, f"You don't have the rights to create a {kind} under the namespace {owner!r}")
        key = (f"{kind}s", f"{owner}/{name}")
        url = f"{self.url}/{'datasets/' if kind == 'dataset' else ''}{owner}/{name}"
        if key in self.repositories:
            return web.json_response({"error": "You already created this repo", "url": url}, status=409)
        self.repositories[key] = Repository(private=asked.get("visibility") == "private")
        return web.json_response({"url": url})

    async def _validate(self, request: web.Request) -> web.Response:
        content = (await request.json())["content"]
        try:
            fields = yaml.safe_load(content.split("---\n")[1])
            wrong = "" if isinstance(fields, dict) else "the header is no mapping"
        except (IndexError, yaml.YAMLError) as error:
            wrong = str(error)
        if wrong:
            return web.json_response({"errors": [{"message": wrong}], "warnings": []}, status=400)
        return web.json_response({"errors": [], "warnings": []})

    async def _info(self, request: web.Request) -> web.Response:
        found = self._repository(request)
        if found is None:
            return refuse(404, "Repository not found", "RepoNotFound")
        name = f"{request.match_info['owner']}/{request.match_info['name']}"
        return web.json_response({"id": name, "sha": f"{found.commits:040x}", "siblings": []})

    async def _preupload(self, request: web.Request) -> web.Response:
        found = self._repository(request)
        if found is None:
            return refuse(404, "Repository not found", "RepoNotFound")
        answers = []
        for file in (await request.json())["files"]:
            large = file["path"].endswith(LARGE)
            known = found.files.get(file["path"])
            answers.append(
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if large else "regular",
                    "shouldIgnore": False,
                    "oid": None if known is None else oid(known, large=large),
                }
            )
        return web.json_response({"files": answers})

    async def _batch(self, request: web.Request) -> web.Response:
        asked = await request.json()
        if self._repository(request) is None or asked["operation"] != "upload" or asked["hash_algo"] != "sha256":
            return refuse(404, "Repository not found", "RepoNotFound")
        answers = []
        for wanted in asked["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.objects:
                href = f"{self.url}/lfs/{wanted['oid']}"
                answer["actions"] = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
            answers.append(answer)
        return web.json_response({"transfer": "basic", "objects": answers})

    async def _put(self, request: web.Request) -> web.Response:
        content = await request.read()
        if hashlib.sha256(content).hexdigest() != request.match_info["oid"]:
            return refuse(400, "the content has another hash than its address")
        self.objects[request.match_info["oid"]] = content
        return web.Response()

    async def _verify(self, request: web.Request) -> web.Response:
        asked = await request.json()
        if len(self.objects.get(asked["oid"], b"")) != asked["size"]:
            return refuse(422, "the object is not here or has another size")
        self.verified.add(asked["oid"])
        return web.Response()

    async def _commit(self, request: web.Request) -> web.Response:
        found = self._repository(request)
        if found is None:
            return refuse(404, "Repository not found", "RepoNotFound")
        steps = [json.loads(line) for line in (await request.text()).splitlines()]
        if steps[0]["key"] != "header" or not steps[0]["value"]["summary"]:
            return refuse(400, "a commit starts with its header")
        arrived: dict[str, bytes] = {}
        for step in steps[1:]:
            value = step["value"]
            if step["key"] == "file" and value["encoding"] == "base64":
                arrived[value["path"]] = base64.b64decode(value["content"], validate=True)
            elif step["key"] == "lfsFile" and value["algo"] == "sha256" and value["oid"] in self.verified:
                arrived[value["path"]] = self.objects[value["oid"]]
            else:
                return refuse(400, f"cannot commit {step['key']} {value.get('path')}")
        found.files.update(arrived)
        found.commits += 1
        sha = f"{found.commits:040x}"
        name = f"{request.match_info['owner']}/{request.match_info['name']}"
        prefix = "datasets/" if request.match_info["kind"] == "datasets" else ""
        url = f"{self.url}/{prefix}{name}/commit/{sha}"
        return web.json_response({"commitUrl": url, "commitOid": sha, "success": True})


def oid(content: bytes, *, large: bool) -> str:
    """The id that Git or Git LFS gives *content*."""
    if large:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\x00" % len(content) + content, usedforsecurity=False).hexdigest()


def refuse(status: int, message: str, code: str = "") -> web.Response:
    """An error in the Hub's form."""
    headers = {"X-Error-Message": message, "X-Request-Id": "test"}
    if code:
        headers["X-Error-Code"] = code
    return web.json_response({"error": message}, status=status, headers=headers)
