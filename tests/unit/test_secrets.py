"""Pins down the one place that knows secrets: what it strikes, in which spellings, and what a config refuses."""

import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import secrets
from pipeline.calls.ledger import Claim, Ledger, Release, Reply
from pipeline.config_file import load
from pipeline.engines.wire import api_key
from pipeline.errors import ConfigError, EndpointError, StorageError
from pipeline.store import RunFolder
from tests.worlds import bench

KEY = "sk-test/4f9a+8c71="
ESCAPED = "sk-test\\/4f9a+8c71="
QUOTED = "sk-test%2F4f9a%2B8c71%3D"
PROMPT = "0" * 32


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    secrets.forget()
    yield
    secrets.forget()


@pytest.mark.parametrize("spelt", [KEY, ESCAPED, QUOTED])
def test_a_secret_is_struck_in_every_spelling(spelt: str) -> None:
    secrets.register(KEY)
    assert secrets.struck(f"Bearer {spelt}, again {spelt}") == "Bearer ***, again ***"


def test_of_two_secrets_the_longer_goes_first() -> None:
    secrets.register("abcdefgh")
    secrets.register("abcdefghij")
    assert secrets.struck("abcdefghij abcdefgh") == "*** ***"


@pytest.mark.parametrize("word", ["", "none", "EMPTY", "not-needed", "sk-no-key-required"])
def test_words_that_stand_for_no_key_stay_in_texts(word: str) -> None:
    secrets.register(word)
    assert secrets.struck(f"The plate is {word}.") == f"The plate is {word}."


@given(st.text(min_size=8), st.lists(st.text(max_size=20), min_size=1, max_size=4))
def test_no_text_keeps_a_secret(secret: str, words: list[str]) -> None:
    secrets.forget()
    secrets.register(secret)
    text = secrets.struck(secret.join(["", *words, ""]))
    assert secret not in text or secret in secrets.STRUCK or secret in secrets.NO_SECRET


def test_what_a_url_holds_is_known() -> None:
    secrets.register_url(
        "postgresql://me:pass%2Fword%201@host/db?sslpassword=another%20one&application_name=jurybox-run"
    )
    said = secrets.struck("pass/word 1, pass%2Fword%201, another one, another%20one, jurybox-run")
    assert said == "***, ***, ***, ***, jurybox-run"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see https://u:k@host/v1 now", "see https://***@host/v1 now"),
        ("postgresql://u:a/b@host/db", "postgresql://***@host/db"),
        ("'https://h/v1?api-key=abc&api-version=3'", "'https://h/v1?api-key=***&api-version=3'"),
        ("https://h/v1?%61pi_key=abc", "https://h/v1?%61pi_key=***"),
        ("https://h/v1?passfile=/home/me/.pgpass", "https://h/v1?passfile=/home/me/.pgpass"),
    ],
)
def test_unchecked_text_is_shown_without_what_its_urls_hold(text: str, shown: str) -> None:
    assert secrets.masked(text) == shown


# Keys.


@pytest.mark.parametrize("written", [KEY, f"{KEY}\n", f"  {KEY}\r\n", f"\t{KEY} "])
def test_a_key_is_taken_without_the_white_space_around_it(written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", written)
    assert secrets.read("A_KEY") == KEY
    assert secrets.struck(KEY) == "***"


@pytest.mark.parametrize("written", ["sk-one\nsk-two", "sk one", "sk-\x7fone", "sk-öne", "sk-\x1b[2J"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_repeated(
    written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", written)
    with (
        bench(tmp_path, endpoints={"e": {"base_url": "http://h/v1", "api_key_env": "A_KEY"}}) as run,
        pytest.raises(ConfigError, match="endpoint 'e': the environment variable A_KEY holds spaces") as found,
    ):
        api_key("e", run.endpoint("e"))
    assert "sk" not in str(found.value)


# What a config refuses.

HOLDS = "endpoints:\n  e:\n    base_url: "


@pytest.mark.parametrize(
    "text",
    [
        *(
            f"{HOLDS}{url}\n"
            for url in (
                f"https://{KEY}@host/v1",
                "https://user:sk-4f9a8c71@host/v1",
                "https://user:sk-4f9/a8c71@host/v1",
                "https://host/v1?api-key=sk-4f9a8c71",
                "https://host/v1?anything=sk-4f9a8c71",
                "https://host/v1#sk-4f9a8c71",
                "https://[sk-4f9a8c71/v1",
                "user:sk-4f9a8c71@host/v1",
                "ftp://user:sk-4f9a8c71@host/v1",
                "ftp://host/v1?%61pi-key=sk-4f9a8c71",
            )
        ),
        *(
            f"ledger: '{url}'\n"
            for url in (
                "postgresql://me:sk-4f9a8c71@host/db",
                "postgresql://me:sk-4f9/a8c71@host/db",
                "postgresql://me:sk-4f9@a8c71@host/db",
                "postgresql://me@host/db?password=sk-4f9a8c71",
                "postgresql://me@host/db?PASSWORD=sk-4f9a8c71",
                "postgresql://me@host/db?%70assword=sk-4f9a8c71",
                "postgresql://me@host/db?%2570assword=sk-4f9a8c71",
                "postgresql://me@host/db?application_name=a&sslpassword=sk-4f9a8c71",
                "postgresql://me@host/db?oauth_client_secret=sk-4f9a8c71",
                "postgresql://me@host/db?scram_client_key=sk-4f9a8c71",
                "mysql://me:sk-4f9a8c71@host/db",
            )
        ),
        "endpoints: {e: {base_url: 'https://host/v1', api_key_env: sk-4f9a8c71}}\n",
        "endpoints: {e: {base_url: 'https://host/v1', api_key_env: hf_sk4f9a8c71sk4f9a8c71}}\n",
        "push: {repo: me/it, token_env: hf_sk4f9a8c71sk4f9a8c71}\n",
        "generators: [{model: m, engine: vllm, engine_args: {hf_token: sk-4f9a8c71}}]\n",
        "endpoints: {e: {base_url: 'https://user:sk-4f9a8c71@host/v1': }}\n",
        "endpoints: {e: {base_url: 'https://host/v1', headers: {api-key: sk-4f9a8c71}}}\n",
        "endpoints: {e: {base_url: 'https://host/v1', headers: {Authorization: Bearer sk-4f9a8c71}}}\n",
        "endpoints: {e: {base_url: 'https://host/v1', query: {key: sk-4f9a8c71}}}\n",
    ],
)
def test_a_secret_in_a_config_is_refused_and_not_repeated(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"name: x\n{text}", encoding="utf-8")
    with pytest.raises(ConfigError) as found:
        load(path)
    said: BaseException | None = found.value
    assert "c.yaml" in str(said)
    while said is not None:
        assert "4f9" not in str(said)
        said = said.__cause__


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        (f"{HOLDS}https://user:sk-4f9a8c71@host/v1\n", "holds a user or a key before its `@`; put the key into an env"),
        (f"{HOLDS}https://host/v1?api-key=sk\n", "name that in `api_key_env`"),
        ("ledger: 'postgresql://me@host/db?sslpassword=x'\n", "name a variable with the whole URL in `url_env`"),
    ],
)
def test_the_remedy_is_named_with_the_line(tmp_path: Path, text: str, remedy: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"name: x\n{text}", encoding="utf-8")
    with pytest.raises(ConfigError) as found:
        load(path)
    line = 4 if text.startswith("endpoints") else 2
    assert f"c.yaml:{line}: " in str(found.value)
    assert remedy in str(found.value)


@pytest.mark.parametrize(
    "text",
    [
        "ledger: 'postgresql://me@host:5433/db?sslmode=require&passfile=/home/me/.pgpass&sslkey=/k.pem'\n",
        "ledger: 'postgresql+psycopg://me@a:1,b:2/db'\n",
        f"{HOLDS}https://api.host/client/v4/%40cf/v1\n",
        f"{HOLDS}'http://[::1]:8000/v1'\n",
        "endpoints: {e: {base_url: 'https://host/v1', api_key_env: OPENAI_API_KEY_2}}\n",
        "endpoints: {e: {base_url: 'https://host/v1', headers: {api-key: '${A}'}, query: {api-version: 2024-10-21}}}\n",
        "generators: [{model: m, engine: vllm, engine_args: {hf_token: true, max_num_batched_tokens: 9}}]\n",
    ],
)
def test_what_holds_no_secret_is_taken(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"name: x\n{text}", encoding="utf-8")
    assert load(path).name == "x"


# Everything written.


def test_errors_are_clean_when_they_are_made() -> None:
    secrets.register(KEY)
    assert str(EndpointError(f"the server said: Bearer {KEY}")) == "the server said: Bearer ***"
    assert KEY not in repr(StorageError(KEY))


def test_nothing_that_a_run_writes_keeps_a_key(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    secrets.register(KEY)
    words = [{"role": "user", "content": f"say {KEY}"}]
    row = {"prompt_id": PROMPT, "messages": words, "reference": KEY, "source": "s", "tags": [KEY]}
    run.write_part("prompts", "load", "all", pl.DataFrame([row]), {})
    run.write_text("config.yaml", f"# {KEY}")
    run.write_json("summary.json", {KEY: [KEY]})
    ledger = Ledger(tmp_path / "ledger.sqlite")
    reply = json.dumps({"echo": KEY}).replace("/", "\\/")
    ledger.submit([Claim("a", "{}", 0.0), Claim("b", "{}", 0.0)]).result()
    ledger.submit([Reply("a", reply, 0.0, None), Release("b", f"refused {KEY}")]).result()
    ledger.close()
    assert b'"***"' in (tmp_path / "ledger.sqlite").read_bytes()
    assert run.read("prompts")["messages"][0].to_list() == [{"role": "user", "content": "say ***"}]
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert not any(spelt.encode() in file.read_bytes() for spelt in (KEY, ESCAPED, QUOTED)), file


def test_parts_without_a_secret_are_the_same_bytes(tmp_path: Path) -> None:
    row = {
        "prompt_id": PROMPT,
        "messages": [{"role": "user", "content": "hi"}],
        "reference": None,
        "source": "s",
        "tags": [],
    }
    made: list[bytes] = []
    for place in ("one", "two"):
        RunFolder(tmp_path / place).write_part("prompts", "load", "all", pl.DataFrame([row]), {})
        made.append(RunFolder(tmp_path / place).parts("prompts")[0].read_bytes())
        secrets.register(KEY)
    assert made[0] == made[1]
