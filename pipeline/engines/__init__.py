"""Engines: models that complete requests, one file per kind."""
