"""The secrets that this process has read, and the one place that strikes them from what is written or shown.

Touches the environment, to read a secret from the variable that a config names, and nothing else. Knows no other module
of the project, so that errors, store, ledger and terminal can all ask it.
"""

import os
import re
from urllib.parse import parse_qsl, quote, quote_plus, unquote

STRUCK = "***"
SHORTEST = 8
"""A shorter secret is not struck: it would be struck out of ordinary words (`none`, `EMPTY`), and so out of answers."""
NO_SECRET = frozenset({"not-needed", "not_needed", "notneeded", "no-key-required", "sk-no-key-required", "placeholder"})
"""What people write where a server wants some key and checks none."""
PRINTABLE = re.compile(r"[\x21-\x7e]+")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
CONFIDENTIAL = re.compile(r"(?i)pass(?!file)|secret|token|api[-_]?key|access[-_]?key|scram|^(key|code|sig|auth)$")
"""Names of a URL's parameters whose values are secrets; ``passfile`` names a file."""
TOKEN_LIKE = re.compile(r"(?=.*[a-z])(?=.*\d).{20,}")


class _Registry:
    """What is known; replaced as a whole, so that threads may ask while another registers."""

    spellings: tuple[str, ...] = ()
    """The longest first: a secret may be a part of another."""


def register(value: str) -> str:
    """Remember *value* as a secret, in every spelling that a URL or JSON text may give it; returns it."""
    if len(value) >= SHORTEST and value not in NO_SECRET:
        ways = (value, quote(value, safe=""), quote(value), quote_plus(value), value.replace("/", "\\/"))
        _Registry.spellings = tuple(sorted({*_Registry.spellings, *ways}, key=lambda one: (-len(one), one)))
    return value


def register_url(url: str) -> None:
    """Remember the password and the confidential parameters of *url*, as they are written and as they are meant."""
    place, _, query = url.partition("?")
    user = place.partition("://")[2].rpartition("@")[0]
    found = [user.partition(":")[2], *(value for name, value in parse_qsl(query) if confidential(name))]
    for value in found:
        register(value)
        register(unquote(value))


def struck(text: str) -> str:
    """*text* with every secret in it replaced by ``***``."""
    for secret in _Registry.spellings:
        if secret in text:
            text = text.replace(secret, STRUCK)
    return text


def spellings() -> tuple[str, ...]:
    """Every spelling of every secret, for whoever strikes whole columns at once."""
    return _Registry.spellings


def forget() -> None:
    """Forget every secret; for tests."""
    _Registry.spellings = ()


def read(variable: str, *, secret: bool = True) -> str:
    """What an environment variable holds, without white space around it; empty when it is not set.

    It is registered, unless it is no *secret*.

    Raises:
        ValueError: it holds what no key has, so it would be refused or break a header; the text never repeats it.
    """
    value = os.environ.get(variable, "").strip()
    if value and PRINTABLE.fullmatch(value) is None:
        raise ValueError(
            f"the environment variable {named(variable)} holds spaces, line breaks or characters that no key has; copy "
            "the key again"
        )
    return register(value) if secret else value


def named(variable: str) -> str:
    """The name of a variable as a message may repeat it; what looks like a secret itself is not repeated."""
    return variable if VARIABLE.fullmatch(variable) and not TOKEN_LIKE.fullmatch(variable) else STRUCK


def masked(text: str) -> str:
    """*text* with whatever its URLs hold before an ``@`` or in confidential parameters replaced by ``***``.

    For text that was never checked, such as the wrong value of a config: a secret in it is not registered.
    """
    text = re.sub(r"(://)[^\s'\"]*@", rf"\1{STRUCK}@", text)
    text = re.sub(r"[^\s'\"/:]+:(?!//)[^\s'\"]+@", f"{STRUCK}@", text)  # without its scheme
    return re.sub(r"([?&;])([^\s=&;'\"]+)=([^\s&;'\"]*)", _masked_parameter, text)


def _masked_parameter(found: re.Match[str]) -> str:
    mark, name, value = found.groups()
    return f"{mark}{name}={STRUCK if confidential(name) else value}"


def confidential(name: str) -> bool:
    """Whether a URL's parameter *name*, however it is written, holds a secret."""
    return CONFIDENTIAL.search(unquote(unquote(name))) is not None
