"""A conversation as one text, and tags that no text holds. Pure: strings in, strings out."""

import hmac
import re
from collections.abc import Sequence

ROLES = ("system", "user", "assistant", "tool", "developer")
HEX = re.compile(r"(?=([0-9a-f]{8}))")


def fence_tag(secret: bytes, text: str, others: Sequence[str] = ()) -> str:
    """Eight hex digits for *text* that occur neither in it nor in *others*."""
    drawn = hmac.digest(secret, f"0\x00{text}".encode(), "sha256")
    # No tag spans two of them.
    shown = "\n".join((text, *others))
    if (tag := drawn.hex()[:8]) not in shown:
        return tag
    # A text may hold as many tags that its author foresaw as it has letters: they are all found in one pass.
    foreseen = {match[1] for match in HEX.finditer(shown)}
    attempt = 0
    while (tag := drawn.hex()[:8]) in foreseen:
        attempt += 1
        drawn = hmac.digest(secret, attempt.to_bytes(8, "big") + drawn, "sha256")
    return tag


def transcript(messages: Sequence[tuple[str, str]]) -> str:
    """A conversation as one text: a lone user turn is its own words, anything else is labelled by role.

    Where a turn's own words hold such a label, every label carries eight hex digits that occur in none of the turns, so
    that nobody can speak in another role.
    """
    contents = [content for _, content in messages]
    held = any("[" in content for content in contents) and any(
        f"[{role}]" in content for content in contents for role in {*ROLES, *(role for role, _ in messages)}
    )
    if len(messages) == 1 and messages[0][0] == "user" and not held:
        return contents[0]
    tag = f" {fence_tag(b'', repr(contents), contents)}" if held else ""
    return "\n\n".join(f"[{role}{tag}]\n{content}" for role, content in messages)
