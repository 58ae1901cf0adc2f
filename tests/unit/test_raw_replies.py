"""Pins down that no byte of a reply breaks a run: every header, status and body of tests/raw_replies.py once, raw."""

from itertools import cycle
from pathlib import Path

import pytest

from pipeline.calls.client import NoReplyError, _unpacked
from pipeline.engines import endpoint
from tests.endpoints import chat
from tests.raw_replies import BODIES, HEADERS, STATUS, RawServer, round_of

GOOD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"


def raw(status: str, header: bytes, body: bytes) -> bytes:
    return b"\r\n".join([f"HTTP/1.1 {status}".encode("latin-1"), header, b"Connection: close", b"", body])


def test_junk_in_any_part_of_a_reply_is_a_failed_call_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "BACKOFF_S", 0.0)
    fine = chat("fine")
    good = GOOD + str(fine).replace("'", '"').replace("None", "null").encode()
    made = [raw(status, header, good) for header in HEADERS for status in ("200 OK", "429 Slow", "500 Oops")]
    made += [raw(status, b"X: 1", b"{}") for status in STATUS]
    made += [raw(status, b"X: 1", body.encode(errors="replace")) for body in BODIES for status in ("200 OK", "400 No")]
    # every other one is good, so that the endpoint is not given up
    mixed = cycle(each for bad in made for each in (bad, good))
    with RawServer(lambda: next(mixed)) as server:
        answered = round_of(tmp_path, server, 0, len(made))
    assert answered > len(made) / 4
    assert len(server.sent) >= len(made)


def test_what_a_body_unpacks_to_is_bounded() -> None:
    import gzip
    import zlib

    packed = gzip.compress(bytes(10_000))
    assert _unpacked(packed, "gzip", 10_000) == bytes(10_000)
    assert _unpacked(zlib.compress(b"x"), "deflate", 9) == b"x"
    assert _unpacked(zlib.compress(b"x")[2:-4], "deflate", 9) == b"x"  # bare, as some servers send it
    for content, encoding, fault in (
        (packed, "gzip", "more than 9,999 bytes"),
        (packed[:-9], "gzip", "cut short"),
        (b"junk", "gzip", "no gzip"),
        (b"\xff\xff\xff\xff", "deflate", "no deflate"),
        (packed, "br", "not asked for"),
    ):
        with pytest.raises(NoReplyError, match=fault):
            _unpacked(content, encoding, 10_000 if fault == "cut short" else 9_999)
