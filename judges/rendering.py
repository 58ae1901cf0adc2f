"""Puts untrusted text into a judge's prompt. Pure: strings in, strings out.

Three defences, all structural. Every text stands between fences whose tag is an HMAC of the text, drawn again while it
occurs in any of the texts, so no text can close its own block or open another. The template is filled in one pass, so a
placeholder inside an answer stays the words it is. And strings that a chat model's tokenizer reads as control are kept
text (``pipeline.control_tokens``). The same text under the same secret gets the same fence: ledger keys and prefix
caches hit.
"""

import hmac
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from pipeline.control_tokens import defused

NAMES = ("prompt", "first", "second", "reference", "answer")
"""Placeholders that a template may have besides those of the texts it is filled with."""
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


def fill(template: str, texts: Mapping[str, str], secret: bytes) -> str:
    """Fill *template* with fenced *texts*, keyed by placeholder, in one pass.

    Raises:
        KeyError: the template names a placeholder that *texts* does not hold.
    """
    shown = {name: defused(text) for name, text in texts.items()}
    every = ("\n".join(shown.values()),)

    def block(match: re.Match[str]) -> str:
        name = match.group(1)
        tag = fence_tag(secret, shown[name], every)
        return f"<<{name} {tag}>>\n{shown[name]}\n<</{name} {tag}>>"

    return _placeholder(tuple(shown)).sub(block, template)


@lru_cache(maxsize=64)
def _placeholder(names: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"\{{({'|'.join(map(re.escape, dict.fromkeys((*NAMES, *names))))})\}}")


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
