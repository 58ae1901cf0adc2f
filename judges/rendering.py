"""Puts untrusted text into a judge's prompt. Pure: strings in, strings out.

Two defences, both structural. Every text stands between fences whose tag is an HMAC of the text, drawn
again while it occurs in any of the texts, so no text can close its own block or open another. And the
template is filled in one pass, so a placeholder inside an answer stays the words it is. The same text
under the same secret gets the same fence: ledger keys and prefix caches hit.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence

PLACEHOLDER = re.compile(r"\{(prompt|first|second|reference|answer(?:_[a-z])?)\}")


def fence_tag(secret: bytes, text: str, others: Sequence[str] = ()) -> str:
    """Eight hex digits for *text* that occur neither in it nor in *others*."""
    attempt = 0
    while True:
        tag = hmac.new(secret, f"{attempt}\x00{text}".encode(), hashlib.sha256).hexdigest()[:8]
        if not any(tag in candidate for candidate in (text, *others)):
            return tag
        attempt += 1


def fill(template: str, texts: Mapping[str, str], secret: bytes) -> str:
    """Fill *template* with fenced *texts*, keyed by placeholder, in one pass.

    Raises:
        KeyError: the template names a placeholder that *texts* does not hold.
    """
    every = tuple(texts.values())

    def block(match: re.Match[str]) -> str:
        name = match.group(1)
        tag = fence_tag(secret, texts[name], every)
        return f"<<{name} {tag}>>\n{texts[name]}\n<</{name} {tag}>>"

    return PLACEHOLDER.sub(block, template)


def transcript(messages: Sequence[tuple[str, str]]) -> str:
    """A conversation as one text: a lone user turn is its own words, anything else is labelled by role."""
    if len(messages) == 1 and messages[0][0] == "user":
        return messages[0][1]
    return "\n\n".join(f"[{role}]\n{content}" for role, content in messages)
