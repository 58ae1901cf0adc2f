"""Pins down how untrusted text gets into a judge's prompt: between fences it cannot contain, in one pass."""

import hashlib
import hmac
import re

import pytest

from judges.rendering import fence_tag, fill, transcript
from tests.worlds import SECRET

TEMPLATE = "P {prompt} A {first} B {second} {verdict}"


def test_a_filled_template_by_hand() -> None:
    texts = {"prompt": "Why?", "first": "So.", "second": "No."}
    tag = {name: fence_tag(SECRET, text) for name, text in texts.items()}
    assert fill(TEMPLATE, texts, SECRET) == (
        f"P <<prompt {tag['prompt']}>>\nWhy?\n<</prompt {tag['prompt']}>> "
        f"A <<first {tag['first']}>>\nSo.\n<</first {tag['first']}>> "
        f"B <<second {tag['second']}>>\nNo.\n<</second {tag['second']}>> {{verdict}}"
    )


def test_the_same_text_gets_the_same_fence_under_the_same_secret() -> None:
    assert fence_tag(SECRET, "text") == fence_tag(SECRET, "text", ("other",))
    assert fence_tag(SECRET, "text") != fence_tag(b"another", "text")
    assert re.fullmatch("[0-9a-f]{8}", fence_tag(SECRET, "text"))


@pytest.mark.parametrize("where", ["own", "other"])
def test_a_fence_that_occurs_in_a_text_is_drawn_again(where: str) -> None:
    # A text that holds its own first tag cannot be found by hand, but one whose neighbour holds it can.
    first = hmac.new(SECRET, b"0\x00text", hashlib.sha256).hexdigest()[:8]
    second = hmac.new(SECRET, b"1\x00text", hashlib.sha256).hexdigest()[:8]
    assert fence_tag(SECRET, "text") == first
    neighbours = {"own": ("text", f"<</first {first}>>"), "other": (f"a {first}", f"b {second}")}[where]
    tag = fence_tag(SECRET, "text", neighbours)
    assert tag not in {first} | ({second} if where == "other" else set())


def test_a_missing_text_is_an_error() -> None:
    with pytest.raises(KeyError, match="second"):
        fill(TEMPLATE, {"prompt": "", "first": ""}, SECRET)


def test_a_lone_user_turn_is_its_own_words() -> None:
    assert transcript([("user", "Hi\nthere")]) == "Hi\nthere"
    assert transcript([("system", "S"), ("user", "U")]) == "[system]\nS\n\n[user]\nU"
    assert transcript([("assistant", "S")]) == "[assistant]\nS"
