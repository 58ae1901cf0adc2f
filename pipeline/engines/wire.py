"""How an endpoint is reached: its key, headers and query. Reads the environment."""

import re

from pipeline import secrets
from pipeline.calls.client import Client
from pipeline.config import EndpointConfig, ModelConfig
from pipeline.errors import ConfigError


def api_key(name: str, endpoint: EndpointConfig) -> str:
    """The endpoint's key from its environment variable.

    Raises:
        ConfigError: the variable is named and not set.
    """
    if endpoint.api_key_env is None:
        return "none"
    try:
        key = secrets.read(endpoint.api_key_env)
    except ValueError as error:
        raise ConfigError(f"endpoint {name!r}: {error}") from None
    if not key:
        raise ConfigError(
            f"endpoint {name!r} takes its key from {endpoint.api_key_env}, which is not set; export it, or remove "
            "api_key_env if the server needs none"
        )
    return key


def client(name: str, endpoint: EndpointConfig, options: ModelConfig | None, key_header: str | None) -> Client:
    """How an endpoint is spoken to: for a model with its own headers and query, or for itself.

    Args:
        name: of the endpoint.
        endpoint: its config.
        options: the model's.
        key_header: the header that takes the bare key besides ``Authorization``.

    Raises:
        ConfigError: a key or variable is named and not set.
    """
    key = api_key(name, endpoint)
    headers: dict[str, str | None] = {} if key_header is None or endpoint.api_key_env is None else {key_header: key}
    query: dict[str, str] = {}
    for wire in (endpoint, options):
        if wire is None:
            continue
        for header, value in wire.headers.items():
            headers[header] = (
                None if value is None else _filled(value.get_secret_value(), f"endpoint {name!r}, headers")
            )
        for field, given in wire.query.items():
            query[field] = _filled(given, f"endpoint {name!r}, query", secret=secrets.confidential(field))
    return Client(endpoint.base_url, key, headers, query)


def _filled(text: str, where: str, *, secret: bool = True) -> str:
    """*text* with each ``${NAME}`` replaced by that environment variable, registered if it is a *secret*."""

    def value(found: re.Match[str]) -> str:
        try:
            variable = secrets.read(found[1], secret=secret)
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from None
        if not variable:
            raise ConfigError(f"{where}: the environment variable {found[1]} is not set; export it")
        return variable

    made = re.sub(r"\$\{(\w+)\}", value, text)
    if not (made.isascii() and made.isprintable()):
        raise ConfigError(f"{where}: a value holds line breaks or characters that no header has; correct it")
    return made
