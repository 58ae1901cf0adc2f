"""Fixtures that any test may ask for by name."""

from tests.postgres import postgres, postgres_url

__all__ = ["postgres", "postgres_url"]
