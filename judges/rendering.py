"""Puts untrusted text into a judge's prompt. Pure: strings in, strings out.

Three defences, all structural. Every text stands between fences whose tag is an HMAC of the text, drawn again while it
occurs in any of the texts, so no text can close its own block or open another. The template is filled in one pass, so a
placeholder inside an answer stays the words it is. And strings that a chat model's tokenizer reads as control are kept
text (``pipeline.control_tokens``). The same text under the same secret gets the same fence: ledger keys and prefix
caches hit.
"""

import re
from collections.abc import Mapping
from functools import lru_cache

from pipeline.control_tokens import defused
from pipeline.transcript import fence_tag

NAMES = ("prompt", "first", "second", "reference", "answer")
"""Placeholders that a template may have besides those of the texts it is filled with."""


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
