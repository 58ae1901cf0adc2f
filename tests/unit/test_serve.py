"""Pins down who may reach a page: this machine, or people who log in."""

import socket
from pathlib import Path

import pytest

from dashboard import serve
from dashboard.theme import contrast
from pipeline.errors import InputError

LOGIN = {
    "redirect_uri": "https://x.example/oauth2callback",
    "cookie_secret": "s",
    "client_id": "i",
    "client_secret": "c",
    "server_metadata_url": "https://id.example/.well-known/openid-configuration",
}
PAGE = Path("page.py")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine(address: str) -> None:
    assert serve.is_loopback(address)


@pytest.mark.parametrize("address", [None, "", "0.0.0.0", "::", "10.0.0.1", "example.org", "localhost.evil.example"])
def test_others(address: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not serve.is_loopback(address)
    monkeypatch.chdir(tmp_path)
    if address:
        with pytest.raises(InputError, match=r"without a login.*secrets\.toml"):
            serve.serve(PAGE, [], address, None)


@pytest.mark.parametrize("key", sorted(LOGIN))
def test_a_login_is_complete_or_none(key: str) -> None:
    assert serve.login_fault(LOGIN) is None
    assert key in str(serve.login_fault({name: value for name, value in LOGIN.items() if name != key}))
    assert key in str(serve.login_fault({**LOGIN, key: ""}))


def test_named_providers() -> None:
    own = {key: LOGIN[key] for key in serve.NEEDED}
    named = {key: LOGIN[key] for key in serve.PROVIDER}
    assert serve.login_fault({**own, "google": named}) is None
    assert serve.providers({**own, "google": named}) == ["google"]
    assert serve.providers({**LOGIN, "google": named, "half": {"client_id": "x"}}) == [None, "google"]
    assert serve.login_fault(None) == "there is no [auth] section"


def test_a_taken_port_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="cannot be used"):
            serve.serve(PAGE, [], "127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_themes_texts_are_legible(scheme: str) -> None:
    colours = {key.rpartition(".")[2]: value for key, value in serve.THEME.items() if f".{scheme}." in key}
    for background in ("backgroundColor", "secondaryBackgroundColor"):
        for text in ("textColor", "linkColor", "primaryColor"):
            assert contrast(colours[text], colours[background]) >= 4.5


def test_no_folder_is_served_beside_the_labelling_page() -> None:
    # Streamlit serves each script of a folder named pages under an address of its own: verdicts, beside a blind page.
    assert not (Path(serve.__file__).parent / "pages").exists()
