"""Which language a text is in. Touches nothing but the identifier's own model."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from pipeline.errors import ConfigError

CONFIDENT = 0.5
"""Probability from which a language counts as recognised; short or mixed texts and code stay below it."""


def languages(texts: Sequence[str]) -> list[str | None]:
    """Of each text, the ISO 639 code of its language, or None where it is not recognised with confidence.

    Raises:
        ConfigError: the extra `language` is not installed.
    """
    identifier = _identifier()
    found = [identifier.classify(text) for text in texts]
    return [language if confidence >= CONFIDENT else None for language, confidence in found]


def known_languages() -> list[str]:
    """Codes that can be recognised.

    Raises:
        ConfigError: the extra `language` is not installed.
    """
    return sorted(_identifier().labels)


@cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigError(
            "select.languages needs the package py3langid, which is not installed; run pip install 'jurybox[language]'"
        ) from error
    kind: Any = LanguageIdentifier
    return kind.from_model_file(MODEL_FILE, norm_probs=True)
