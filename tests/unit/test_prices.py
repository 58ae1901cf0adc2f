"""Pins down the shipped price table: whose model it is, how old a price may be, and that a config's own goes first."""

import datetime as dt

import pytest

from pipeline import prices
from pipeline.config import Config, EndpointConfig, ModelConfig, Price
from pipeline.prices import listed

OPENAI = "https://api.openai.com/v1"


@pytest.mark.parametrize("model", ["gpt-4.1", "gpt-4.1-2025-04-14", "gpt-4.1-latest"])
def test_a_model_and_its_snapshots_have_one_price(model: str) -> None:
    found = listed(OPENAI, model)
    assert found is not None
    assert (found.input, found.output, found.cached_input, found.batch) == (2.0, 8.0, 0.5, 0.5)


@pytest.mark.parametrize(
    ("base_url", "model"),
    [
        (OPENAI, "gpt-4.1-mini-of-mine"),  # begins like a listed name, and is another model
        (OPENAI, "gpt-4"),
        ("https://api.openai.com.example/v1", "gpt-4.1"),
        ("https://proxy.example/api.openai.com/v1", "gpt-4.1"),
        ("http://127.0.0.1:8000/v1", "gpt-4.1"),
        ("https://api.mistral.ai/v1", "gpt-4.1"),
    ],
)
def test_no_other_model_and_no_other_host_has_it(base_url: str, model: str) -> None:
    assert listed(base_url, model) is None


def test_every_row_is_whole_and_dated() -> None:
    table = prices._table()
    assert isinstance(prices.table_date(), dt.date)
    rows = [
        (name, listed(vendor["base_urls"][0], name))
        for vendor in table["vendors"].values()
        for name in vendor["models"]
    ]
    assert len(rows) >= 12
    for name, row in rows:
        assert row is not None, name
        assert 0 < row.cached_input <= row.input <= row.output, name
        assert row.checked <= prices.table_date(), name
        assert row.source, name
        assert row.page.startswith("https://"), name
        assert row.batch is None or 0 < row.batch < 1, name


def test_a_price_is_old_after_ninety_days() -> None:
    row = listed(OPENAI, "gpt-4.1")
    assert row is not None
    assert not row.is_old(row.checked + dt.timedelta(days=90))
    assert row.is_old(row.checked + dt.timedelta(days=91))


def test_the_configs_own_price_goes_first() -> None:
    endpoint = EndpointConfig(base_url=OPENAI)
    own = Price(input=1, output=1)
    assert endpoint.price_of(ModelConfig(model="gpt-4.1", endpoint="e", price=own)) == own
    assert endpoint.price_of(ModelConfig(model="gpt-4.1", endpoint="e")) == Price(input=2, output=8, cached_input=0.5)
    assert endpoint.price_of(ModelConfig(model="unheard-of", endpoint="e")) is None


def test_a_listed_model_needs_no_price_under_a_budget() -> None:
    def config(base_url: str) -> Config:
        return Config.model_validate(
            {
                "name": "r",
                "endpoints": {"e": {"base_url": base_url}},
                "judges": [{"name": "j", "kind": "pairwise", "endpoint": "e", "model": "gpt-4.1"}],
                "budget": {"usd": 1},
            }
        )

    assert config(OPENAI).judges
    with pytest.raises(ValueError, match="has no `price`"):
        config("http://127.0.0.1:1/v1")
