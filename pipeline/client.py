"""The OpenAI protocol over HTTP: the bytes of a chat completion out, the bytes of its reply in. Touches the network.

Of the ``openai`` package it keeps what its users meet (base URL, headers, environment, error types) and not its way to
the socket: request options, models, retries and an httpx adapter around aiohttp cost it several times the CPU of the
aiohttp call underneath (benchmarks/RESULTS.md has each layer's cost). So the prepared bytes go straight to the aiohttp
session that ``openai.DefaultAioHttpClient`` would have used. Nothing is retried here.
"""

import json
import urllib.request
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self, cast
from urllib.parse import urlsplit

import aiohttp
import httpx2
import openai

from pipeline.secrets import register_url

HTTP_ERROR = 400
HTTP_SERVER_ERROR = 500
STATUS_ERRORS: Mapping[int, type[openai.APIStatusError]] = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    409: openai.ConflictError,
    422: openai.UnprocessableEntityError,
    429: openai.RateLimitError,
}


class Reply(NamedTuple):
    """A reply with a status below 400."""

    body: bytes
    headers: Mapping[str, str]


class Client:
    """How one endpoint is spoken to: URL, headers, errors."""

    def __init__(self, base_url: str, key: str) -> None:
        said = openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0)
        headers = {**said.default_headers, **said.auth_headers}
        self.headers = {name: value for name, value in headers.items() if isinstance(value, str)}
        self.url = f"{str(said.base_url).rstrip('/')}/chat/completions"
        self.proxy = _proxy(self.url)

    def session(self, concurrency: int, timeout_s: float) -> "Session":
        """Connections for one event loop: an async context manager."""
        return Session(self, concurrency, timeout_s)

    def malformed(self) -> openai.APIConnectionError:
        """The error of a reply that is no JSON object: the connection broke, or a proxy spoke."""
        return openai.APIConnectionError(message="reply is no JSON object", request=self.request())

    def request(self) -> httpx2.Request:
        """The request as the errors of the package carry it."""
        return httpx2.Request("POST", self.url)

    def status_error(self, status: int, headers: Mapping[str, str], content: bytes) -> openai.APIStatusError:
        """The package's error for a status of 400 or more."""
        text = content.decode(errors="replace")
        try:
            body: object = json.loads(text)
        except (ValueError, RecursionError):
            body = None
        about = cast("Mapping[str, Any]", body).get("error", body) if isinstance(body, dict) else body
        said = f"Error code: {status} - {body}" if body is not None else text.strip() or f"Error code: {status}"
        kept = {
            name: value for name, value in headers.items() if name.lower() not in ("content-encoding", "set-cookie")
        }
        response = httpx2.Response(status, headers=kept, content=content, request=self.request())
        other = openai.InternalServerError if status >= HTTP_SERVER_ERROR else openai.APIStatusError
        return STATUS_ERRORS.get(status, other)(said, response=response, body=about)


class Session:
    """Up to *concurrency* connections in one event loop."""

    def __init__(self, client: Client, concurrency: int, timeout_s: float) -> None:
        self.client, self.concurrency, self.timeout_s = client, concurrency, timeout_s

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self.concurrency),
            timeout=aiohttp.ClientTimeout(total=self.timeout_s),
            headers=self.client.headers,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()

    async def post(self, body: bytes) -> Reply:
        """The reply to *body*.

        Raises:
            openai.APIStatusError: a status of 400 or more, as the subclass that the package has for it.
            openai.APITimeoutError: no whole reply within ``timeout_s``.
            openai.APIConnectionError: no whole reply, for any other reason.
        """
        try:
            async with self._http.post(self.client.url, data=body, proxy=self.client.proxy) as response:
                content = await response.read()
        except TimeoutError as error:
            raise openai.APITimeoutError(request=self.client.request()) from error
        except (aiohttp.ClientError, OSError) as error:
            raise openai.APIConnectionError(
                message=str(error) or type(error).__name__, request=self.client.request()
            ) from error
        if response.status >= HTTP_ERROR:
            raise self.client.status_error(response.status, response.headers, content)
        return Reply(content, response.headers)


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for this URL; looked up once, not once a call."""
    place = urlsplit(url)
    if urllib.request.proxy_bypass(place.netloc):
        return None
    known = urllib.request.getproxies()
    found = known.get(place.scheme) or known.get("all")
    if found is not None:
        register_url(found)
    return found
