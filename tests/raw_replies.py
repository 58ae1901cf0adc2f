"""Whole raw HTTP replies as junk: does anything that a server may send break an endpoint's engine?

    python -m tests.raw_replies [--minutes 10] [--seed 0]

A server on loopback writes bytes to the socket and nothing else looks at them: status lines, headers, encodings, chunks
and bodies, valid ones mutated at random. Whatever comes, each call must end as an answer or as a failure with a reason
and words that a file can hold; a failure that all calls share may be an EndpointError, and nothing else may be raised.
The first failure of each kind is shown with the bytes that caused it, and any failure exits with 1. Last line: JSON.
"""

import argparse
import gzip
import json
import logging
import random
import socket
import sys
import tempfile
import threading
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Self

from pipeline.calls.limiter import Clock
from pipeline.engines import endpoint
from pipeline.engines.base import Answer, Request
from pipeline.errors import EndpointError
from tests.endpoints import chat
from tests.worlds import bench

AT_ONCE = 16
SPEED = 200.0
STATUS = ("200 OK", "200", "204 No Content", "301 Moved", "307 Temporary Redirect", "400 Bad", "402", "404 Not Found",
          "413 X", "418 \xff\xfe", "429 Slow", "500 Oops", "503", "529 Over", "999 ?", "0 zero", "-1",
          "20O OK", "")  # fmt: skip
HEADERS = (
    b"Retry-After: \xff\xfe\xfd", b"Retry-After: \xd9\xa3", b"Retry-After: Fri, 31 Dec 99999999999 23:59:59 GMT",
    b"Retry-After: 1e999", b"Retry-After: -5", b"Retry-After: nan", b"Retry-After: " + b"9" * 8000,
    b"x-ratelimit-remaining-requests: " + b"9" * 8000, b"x-ratelimit-reset-tokens: " + b"1" * 4000 + b"h",
    b"x-ratelimit-reset-requests: 6m0s", b"x-ratelimit-remaining-tokens: \x00", b"x-ratelimit-limit-tokens: -1",
    b"Content-Encoding: gzip", b"Content-Encoding: br", b"Content-Encoding: deflate", b"Content-Encoding: \xff",
    b"Content-Type: text/event-stream", b"Content-Type: \xe9", b"Transfer-Encoding: chunked", b"Content-Length: -1",
    b"Content-Length: \xc2\xb2", b"Content-Length: 99999999999", b"Set-Cookie: a=\xff; path=\x01", b"No colon here",
    b": no name", b"X-\xe9: 1", b"Location: http://[::1", b"Location: http://other.invalid/v1", b"Location: /v1/again",
    b"Location: \xff\xfe", b"Connection: close", b"X: " + b"y" * 9000, b"\x00\x01: 1", b"Date: " + b"\xf0\x9f\x98\x80",
)  # fmt: skip
BODIES = (
    json.dumps(chat("fine")), json.dumps(chat(None)),
    json.dumps({"error": {"message": "no\u202e\x1b[31m", "code": 502}}),
    json.dumps({"error": {"message": "seed is not supported", "param": "seed", "code": "unsupported_parameter"}}),
    json.dumps([{"error": {"code": 400, "message": 'Unknown name "seed": Cannot find field.'}}]), "[" * 50_000,
    '{"choices": [{"message": {"content": "\\ud83d"}}]}', '{"choices": [{"message": {"content": 1e999}}]}', "NaN", "",
    '{"usage": {"prompt_tokens": -1e400}}', "<html>\x00<title>502</title>", "\ufeff{}", "1" * 5000, '{"a": 1' * 2000,
    'data: {"choices": [{"delta": {"content": "x"}}]}\n\ndata: [DONE]\n\n', ": ping\n\ndata: {\n\n",
    "event: error\ndata: x\n\n",
)  # fmt: skip


class RawServer:
    """Writes what *make* gives to whoever connects, and hangs up."""

    def __init__(self, make: Callable[[], bytes]) -> None:
        self.make = make
        self.sent: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._going = True

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._going = False
        self._socket.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while self._going:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return
            with peer:
                try:
                    peer.settimeout(2)
                    peer.recv(65536)
                    made = self.make()
                    self.sent.append(made)
                    peer.sendall(made)
                except OSError:
                    continue


def reply(rng: random.Random) -> bytes:
    """A whole reply, more or less."""
    body = rng.choice(BODIES).encode(errors="replace")
    headers = [rng.choice(HEADERS) for _ in range(rng.randrange(4))]
    packed = rng.randrange(8)
    if packed == 0:
        body, headers = gzip.compress(body), [*headers, b"Content-Encoding: gzip"]
    elif packed == 1:
        body, headers = zlib.compress(body)[: rng.randrange(3, 400)], [*headers, b"Content-Encoding: deflate"]
    elif packed == 2:
        headers = [*headers, b"Content-Encoding: gzip"]
    if rng.randrange(3):
        headers = [*headers, b"Content-Length: %d" % len(body)]
    status = rng.choice(STATUS) if rng.randrange(2) else "200 OK"
    made = b"\r\n".join([f"HTTP/1.1 {status}".encode("latin-1"), *headers, b"", body])
    for _ in range(rng.randrange(3) if rng.randrange(4) == 0 else 0):
        at = rng.randrange(len(made) + 1)
        made = (
            made[:at] + rng.choice((b"", b"\x00", b"\xff", b"\r\n", b"\n", made[:20])) + made[at + rng.randrange(4) :]
        )
    return made[: rng.randrange(len(made) + 1)] if rng.randrange(20) == 0 else made


def holds(answer: Answer) -> bool:
    """Whether an answer is one or has a reason and words, all of which a file can hold."""
    texts = [one for one in (answer.text, answer.error, answer.reasoning, answer.finish_reason) if one is not None]
    for text in texts:
        text.encode()
    words = answer.error or ""
    return (answer.text is None) == (answer.reason is not None) and words.isprintable() and len(words) < 2000


def round_of(folder: Path, server: RawServer, number: int, calls: int = AT_ONCE) -> int:
    """Ask *calls*; how many were answered.

    Raises:
        Exception: whatever should not have been raised.
    """
    settings = {
        "endpoints": {"e": {"base_url": server.url, "attempts": 2, "concurrency": AT_ONCE, "timeout_s": 1000}},
        "generators": [{"model": "m", "endpoint": "e", "price": {"input": 1, "output": 1}}],
    }
    wanted = [Request((("system", "S"), ("user", f"Q{number} {at}")), 5, 0.5, 0.9) for at in range(calls)]
    with bench(folder, **settings) as run:
        run.clock = Clock(SPEED)
        try:
            found = run.engine(run.config.generators[0]).complete(wanted, lambda _done: None)
        except EndpointError as error:
            if str(error).isprintable():
                return 0
            raise
    bad = [answer for answer in found if not holds(answer)]
    if bad:
        raise AssertionError(f"{bad[0]!r}")
    return sum(answer.text is not None for answer in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)
    endpoint.BACKOFF_S = 0.0
    failures, first = Counter[str](), dict[str, str]()
    answered = rounds = 0
    started = time.monotonic()
    with RawServer(partial(reply, random.Random(chosen.seed))) as server, tempfile.TemporaryDirectory() as folder:
        while time.monotonic() - started < 60 * chosen.minutes:
            server.sent.clear()
            rounds += 1
            try:
                answered += round_of(Path(folder) / str(rounds), server, rounds)
            except Exception as error:  # noqa: BLE001  whatever it is, it is a finding
                frame = traceback.extract_tb(error.__traceback__)[-1]
                kind = f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}"
                failures[kind] += 1
                first.setdefault(kind, f"{error!s:.600} <- one of {[one[:300] for one in server.sent]!r:.3000}")
    for kind, shown in first.items():
        sys.stdout.write(f"{kind} x {failures[kind]}: {shown}\n")
    found = {
        "minutes": round((time.monotonic() - started) / 60, 2),
        "seed": chosen.seed,
        "replies": rounds * AT_ONCE,
        "answered": answered,
        "failures": dict(failures),
    }
    sys.stdout.write(json.dumps(found) + "\n")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
