"""The OpenAI protocol over HTTP: the bytes of a request out, the bytes of its reply in. Touches the network.

Of the ``openai`` package it keeps what its users meet (base URL, headers, environment) and not its way to the socket:
request options, models, retries and an httpx adapter around aiohttp cost it several times the CPU of the aiohttp call
underneath (benchmarks/RESULTS.md has each layer's cost). So the prepared bytes go straight to the aiohttp session that
``openai.DefaultAioHttpClient`` would have used. Nothing is retried here, and nothing that comes is believed: status,
headers and body are handed on as they are, bounded, and no redirect leads to another origin.
"""

import urllib.request
import zlib
from collections.abc import Mapping
from functools import lru_cache
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import urlencode, urljoin, urlsplit

import aiohttp
import openai
from yarl import URL

from pipeline.secrets import register_url

REPEATED = (307, 308)
"""Redirects after which the same request is sent again."""
MOST_REDIRECTS = 3
MOST_BYTES = 64 * 2**20
"""Longest body, packed or unpacked, that is ever read."""
BYTES_OF_ALL = 2**20
BYTES_OF_A_TOKEN = 4096
"""A token of an answer with its log-probabilities and those of nineteen others is some 2 kB of JSON."""
ENCODINGS = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


class Reply(NamedTuple):
    """A whole reply, of whatever status."""

    status: int
    body: bytes
    headers: Mapping[str, str]
    """Names in any case; values are junk until they are read."""


class NoReplyError(Exception):
    """No whole reply came; the message says why."""

    def __init__(self, message: str, *, timeout: bool = False, sent: bool = True) -> None:
        """*sent* is False when the request surely never reached the endpoint."""
        super().__init__(message)
        self.timeout, self.sent = timeout, sent
        self.status = 0
        """HTTP status of a reply whose body could not be read; 0 when none came so far."""


class Client:
    """How one endpoint is spoken to: URL and headers."""

    def __init__(
        self,
        base_url: str,
        key: str,
        headers: Mapping[str, str | None] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> None:
        """*headers* go before those of the package; None removes one."""
        said = openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0)
        known = {
            name: value
            for name, value in {**said.default_headers, **said.auth_headers}.items()
            if isinstance(value, str)
        }
        given = {name.lower(): value for name, value in (headers or {}).items()}
        self.headers = {name: value for name, value in known.items() if name.lower() not in given}
        self.headers |= {name: value for name, value in given.items() if value is not None}
        # What can be unpacked under a bound here.
        self.headers["Accept-Encoding"] = "gzip, deflate"
        self.base = str(said.base_url).rstrip("/")
        self.query = f"?{urlencode(query)}" if query else ""
        self.url = self.place("chat/completions")
        self.proxy = _proxy(self.url)

    def place(self, path: str) -> str:
        """The URL of a *path* below the base."""
        return f"{self.base}/{path}{self.query}"

    def session(self, concurrency: int, timeout_s: float) -> "Session":
        """Connections for one event loop: an async context manager."""
        return Session(self, concurrency, timeout_s)


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
            auto_decompress=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()

    async def post(self, body: bytes, most: int = MOST_BYTES) -> Reply:
        """The reply to a chat completion; *most* bounds its body, bytes.

        Raises:
            NoReplyError: no whole reply came within the time and the bound.
        """
        return await self._exchange("POST", self.client.url, body, most)

    async def get(self, path: str) -> Reply:
        """What lies below the base URL.

        Raises:
            NoReplyError: no whole reply came within the time and the bound.
        """
        return await self._exchange("GET", self.client.place(path), None, BYTES_OF_ALL)

    async def _exchange(self, method: str, url: str, body: bytes | None, most: int) -> Reply:
        reply = await self._once(method, url, body, most)
        for _ in range(MOST_REDIRECTS):
            target = _target(url, reply)
            if reply.status not in REPEATED or target is None or _origin(target) != _origin(url):
                break
            reply = await self._once(method, target, body, most)
        target = _target(url, reply)
        if target is None:
            return reply
        return Reply(
            reply.status, f"it redirects to {_shown(target)}, and nothing was sent there".encode(), reply.headers
        )

    async def _once(self, method: str, url: str, body: bytes | None, most: int) -> Reply:
        try:
            async with self._http.request(
                method, _parsed(url), data=body, proxy=self.client.proxy, allow_redirects=False
            ) as response:
                try:
                    return Reply(response.status, await _content(response, most), response.headers)
                except NoReplyError as problem:
                    problem.status = response.status
                    raise
        except NoReplyError:
            raise
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NoReplyError(str(error) or type(error).__name__, sent=False) from error
        except TimeoutError as error:
            raise NoReplyError(f"no reply within {self.timeout_s:g} s", timeout=True) from error
        except Exception as error:  # what comes may be anything, and breaks the library in ways that it does not list
            raise NoReplyError(f"{type(error).__name__}: {error}") from error


@lru_cache(maxsize=64)
def _parsed(url: str) -> URL:
    return URL(url, encoded=True)


def longest_body(max_tokens: int) -> int:
    """Bytes that a reply of at most *max_tokens* tokens may have."""
    return min(BYTES_OF_ALL + BYTES_OF_A_TOKEN * max_tokens, MOST_BYTES)


async def _content(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The body, unpacked; read no further than *most* bytes.

    Raises:
        NoReplyError: it is longer, or not what its encoding says.
    """
    parts: list[bytes] = []
    length = 0
    while part := await response.content.readany():
        parts.append(part)
        length += len(part)
        if length > most:
            raise NoReplyError(f"the reply is longer than {most:,} bytes")
    content = b"".join(parts)
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    return content if encoding in ("", "identity") or not content else _unpacked(content, encoding, most)


def _unpacked(content: bytes, encoding: str, most: int) -> bytes:
    if encoding not in ENCODINGS:
        raise NoReplyError(f"the reply has the encoding {encoding[:40]!r}, which was not asked for")
    for bits in (ENCODINGS[encoding], -zlib.MAX_WBITS):
        unpacker = zlib.decompressobj(wbits=bits)
        try:
            made = unpacker.decompress(content, most + 1)
        except zlib.error as error:
            if encoding == "deflate" and bits > 0:
                continue  # some servers send it bare
            raise NoReplyError(f"the reply is no {encoding}: {error}") from error
        if len(made) > most:
            raise NoReplyError(f"the reply unpacks to more than {most:,} bytes")
        if not unpacker.eof:
            raise NoReplyError(f"the reply's {encoding} is cut short")
        return made
    raise NoReplyError(f"the reply is no {encoding}")


def _target(url: str, reply: Reply) -> str | None:
    """Where a redirect leads; None where the reply is none."""
    if not 300 <= reply.status < 400 or not (location := reply.headers.get("Location")):  # noqa: PLR2004  redirects
        return None
    try:
        return urljoin(url, location)
    except ValueError:
        return None


def _origin(url: str) -> tuple[str, str | None, int | None] | None:
    """Scheme, host and port; None where they cannot be read."""
    try:
        place = urlsplit(url)
        port = place.port or {"http": 80, "https": 443}.get(place.scheme)
    except ValueError:
        return None
    return place.scheme, place.hostname, port


def _shown(url: str) -> str:
    """*url* without user, password and query, which may be secrets."""
    origin = _origin(url)
    if origin is None:
        return "an address that cannot be read"
    scheme, host, port = origin
    return f"{scheme}://{host}:{port}{urlsplit(url).path}"[:200]


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
