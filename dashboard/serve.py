"""Starts Streamlit on a page and guards it. Binds a port; reads ``.streamlit/secrets.toml`` for a configured login.

Who can reach a page can read the run and label in it. So pages are served on this machine alone, unless Streamlit's
own login (``st.login``, OpenID Connect) is configured; a page started by hand checks the same.
"""

import ipaddress
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pipeline.errors import InputError

FIRST_PORT, PORTS = 8501, 100
NEEDED = ("redirect_uri", "cookie_secret")
PROVIDER = ("client_id", "client_secret", "server_metadata_url")
REMEDY = (
    "serve on 127.0.0.1, or configure Streamlit's login: an [auth] section with redirect_uri, cookie_secret, "
    "client_id, client_secret and server_metadata_url in .streamlit/secrets.toml, here or in the home folder"
)
THEME = {
    "theme.light.backgroundColor": "#ffffff",
    "theme.light.secondaryBackgroundColor": "#f3f5f7",
    "theme.light.textColor": "#111111",
    "theme.light.primaryColor": "#005b8f",
    "theme.light.linkColor": "#005b8f",
    "theme.light.borderColor": "#c9ced4",
    "theme.dark.backgroundColor": "#0e1117",
    "theme.dark.secondaryBackgroundColor": "#1b202a",
    "theme.dark.textColor": "#f2f4f7",
    "theme.dark.primaryColor": "#7cc4f0",
    "theme.dark.linkColor": "#7cc4f0",
    "theme.dark.borderColor": "#3b4350",
}
"""Every text has 4.5:1 on its background, captions (the text colour at 60 %) included. Buttons of the type `primary`
are not for use: Streamlit writes on them in white, in the dark too."""


def serve(script: Path, arguments: Sequence[str], host: str = "127.0.0.1", port: int | None = None) -> None:
    """Serve the Streamlit page *script* until Ctrl-C; prints the address to open.

    Args:
        script: the page.
        arguments: what it finds in ``sys.argv[1:]``.
        host: address to listen on.
        port: None takes the first free one from 8501 upwards.

    Raises:
        InputError: others could reach *host* and no login is configured, or the port is taken.
    """
    os.environ["DO_NOT_TRACK"] = "1"
    check(host)
    chosen = _free(host, port)

    from streamlit.web import bootstrap

    options: dict[str, Any] = {
        **THEME,
        "runner.magicEnabled": False,
        "server.address": host,
        "server.port": chosen,
        "server.headless": True,
        "server.fileWatcherType": "none",
        "server.runOnSave": False,
        # A page of another site whose name was turned to this address is not let in.
        "server.allowedHosts": ["localhost", "127.0.0.1", "::1", "[::1]"] if is_loopback(host) else [],
        "browser.gatherUsageStats": False,
        "browser.serverAddress": host,
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "type",
        "client.showErrorLinks": False,
        "logger.hideWelcomeMessage": True,
    }
    print(f"open http://{f'[{host}]' if ':' in host else host}:{chosen}  (Ctrl-C ends)", flush=True)
    bootstrap.load_config_options(options)
    bootstrap.run(str(script), False, list(arguments), options)


def check(host: str) -> None:
    """Raise InputError unless only this machine can reach *host*, or a login is configured."""
    if not is_loopback(host) and (fault := login_fault(_configured())):
        raise InputError(f"--host {host}: others could read and label without a login ({fault}); {REMEDY}")


def guard() -> str | None:
    """Called first by every page: stops it where others could reach it without a login.

    Returns:
        The verified e-mail address of who is logged in; None where no login is configured.
    """
    import streamlit as st

    fault = login_fault(_configured())
    if fault is None:
        return _logged_in()
    address = cast("str | None", st.get_option("server.address"))
    if not is_loopback(address):
        st.error(f"This page is not served: others could reach it without a login ({fault}). Remedy: {REMEDY}.")
        st.stop()
    return None


def is_loopback(address: str | None) -> bool:
    """Whether only this machine can reach a server that listens on *address*; None listens everywhere."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address or "").is_loopback
    except ValueError:
        return False


def login_fault(auth: Mapping[str, Any] | None) -> str | None:
    """What is missing for a login in the ``[auth]`` section *auth*; None when nothing is."""
    if auth is None:
        return "there is no [auth] section"
    missing = [key for key in NEEDED if not auth.get(key)]
    if not missing and not providers(auth):
        missing = [key for key in PROVIDER if not auth.get(key)]
    return f"[auth] has no {', '.join(missing)}" if missing else None


def providers(auth: Mapping[str, Any]) -> list[str | None]:
    """Names of the complete providers of an ``[auth]`` section; None is the section's own."""
    named = {name: cast("Mapping[str, Any]", part) for name, part in auth.items() if isinstance(part, Mapping)}
    found: list[str | None] = [name for name, part in named.items() if all(part.get(key) for key in PROVIDER)]
    return [None, *found] if all(auth.get(key) for key in PROVIDER) else found


def _configured() -> Mapping[str, Any] | None:
    """The ``[auth]`` section that Streamlit will use."""
    import streamlit as st

    secrets: Any = st.secrets
    if not secrets.load_if_toml_exists():
        return None
    return cast("Mapping[str, Any] | None", secrets.get("auth"))


def _logged_in() -> str:
    import streamlit as st

    user: Any = st.user
    if not user.is_logged_in:
        st.title("jurybox")
        st.write("Log in to go on.")
        for provider in providers(_configured() or {}):
            if st.button("Log in" if provider is None else f"Log in with {provider}", key=f"login-{provider}"):
                st.login(provider)
        st.stop()
    email = user.get("email")
    if not email or user.get("email_verified") not in (True, "true"):
        st.error("The login gave no verified e-mail address; ask whoever runs this page for another provider.")
        if st.button("Log out"):
            st.logout()
        st.stop()
    return str(email)


def _free(host: str, port: int | None) -> int:
    """*port*, or the first free one from FIRST_PORT on."""
    reason: OSError | None = None
    for one in [port] if port is not None else range(FIRST_PORT, FIRST_PORT + PORTS):
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, one))
        except OSError as error:
            reason = error
        else:
            return one
    if port is None:
        raise InputError(f"no port from {FIRST_PORT} to {FIRST_PORT + PORTS - 1} is free on {host} ({reason}); --port")
    raise InputError(f"--port {port}: cannot be used on {host} ({reason}); leave it out for a free one")
