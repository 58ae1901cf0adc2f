"""Fixtures that any test may ask for by name."""

from tests.postgres import ledger_place, postgres, postgres_url

__all__ = ["ledger_place", "postgres", "postgres_url"]
