"""Judges: the one protocol, and one file per kind."""
