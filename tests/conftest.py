"""Fixtures that any test may ask for by name."""

from tests.browser import browser
from tests.postgres import ledger_place, postgres, postgres_url

__all__ = ["browser", "ledger_place", "postgres", "postgres_url"]
