"""Which losses the installed TRL has, by name. Reads TRL's source, and does not import it: that takes seconds."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

NAMED = re.compile(r'\bloss_type == "(\w+)"')


@cache
def known(trainer: str) -> tuple[str, ...]:
    """Losses of TRL's *trainer* (``dpo``, ``kto``) in the order of its code; none where TRL is not installed."""
    found = find_spec("trl")
    if found is None or found.origin is None:
        return ()
    source = Path(found.origin).parent / "trainer" / f"{trainer}_trainer.py"
    return tuple(dict.fromkeys(NAMED.findall(source.read_text(encoding="utf-8")))) if source.is_file() else ()


def weights(given: str | Sequence[str] | Mapping[str, float], trainer: str) -> dict[str, float]:
    """Loss -> weight of what a config names: one loss, a list of them, or a mapping to weights.

    Raises:
        ValueError: TRL has no such loss.
    """
    if isinstance(given, Mapping):
        found = dict(given)
    else:
        found = dict.fromkeys([given] if isinstance(given, str) else given, 1.0)
    allowed = known(trainer)
    wrong = [name for name in found if name not in allowed]
    if not found or (allowed and wrong):
        raise ValueError(f"unknown loss {', '.join(wrong) or '(none)'}; the installed TRL has: {', '.join(allowed)}")
    return found
