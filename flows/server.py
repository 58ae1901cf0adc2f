"""The Prefect server that `jurybox schedule` starts, as a process of its own. Serves one socket that it is handed.

    python -m flows.server FILENO

Prefect's own server answers any page of any web site that the user's browser shows, and so runs its flows. This one
answers requests that name this machine, from its own pages and from programs, and its API only those who know the
secret of this start. The secret is the first line on standard input; when that ends, whoever started the server is
gone, and the server ends.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

LOCAL = "127.0.0.1"
NAMES = (LOCAL, "localhost")
GRACE_S = 5
"""Seconds that open connections get when the server ends."""
LAST_S = 15.0
"""Seconds after which it ends whatever still holds it up."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guarded:
    """An ASGI application behind a check of where a request comes from."""

    def __init__(self, app: App, port: int) -> None:
        self.app = app
        self.hosts = frozenset(f"{name}:{port}" for name in NAMES)
        self.origins = frozenset(origins(port))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "lifespan" or self.allows(scope["headers"]):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            body = b"This server answers its own pages and programs on this machine.\n"
            headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    def allows(self, headers: list[tuple[bytes, bytes]]) -> bool:
        """Whether a request names this server as its host, and as its origin if it names one.

        A page of another site sends its own origin, and a page whose name was turned to this address its own host.
        """
        hosts = [value.decode("latin-1").lower() for name, value in headers if name.lower() == b"host"]
        named = [value.decode("latin-1").lower() for name, value in headers if name.lower() == b"origin"]
        return len(hosts) == 1 and hosts[0] in self.hosts and all(one in self.origins for one in named)


def origins(port: int) -> list[str]:
    """The origins of the server's own pages."""
    return [f"http://{name}:{port}" for name in NAMES]


def main() -> None:
    """Serve until standard input ends, or SIGTERM."""
    listening = socket.socket(fileno=int(sys.argv[1]))
    port = int(listening.getsockname()[1])
    os.environ["PREFECT_SERVER_API_AUTH_STRING"] = sys.stdin.readline().strip()
    os.environ["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] = ",".join(origins(port))
    threading.Thread(target=_end_with_parent, daemon=True).start()

    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import (
        PREFECT_SERVER_API_KEEPALIVE_TIMEOUT,
        PREFECT_SERVER_API_WEBSOCKET_PING_INTERVAL,
        PREFECT_SERVER_API_WEBSOCKET_PING_TIMEOUT,
        PREFECT_SERVER_LOGGING_LEVEL,
    )

    config = uvicorn.Config(
        Guarded(create_app(final=True), port),
        timeout_keep_alive=PREFECT_SERVER_API_KEEPALIVE_TIMEOUT.value(),
        ws_ping_interval=PREFECT_SERVER_API_WEBSOCKET_PING_INTERVAL.value(),
        ws_ping_timeout=PREFECT_SERVER_API_WEBSOCKET_PING_TIMEOUT.value(),
        log_level=str(PREFECT_SERVER_LOGGING_LEVEL.value()).lower(),
        timeout_graceful_shutdown=GRACE_S,
    )
    uvicorn.Server(config).run(sockets=[listening])


def _end_with_parent() -> None:
    while sys.stdin.read(4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LAST_S)
    os._exit(1)


if __name__ == "__main__":
    main()
