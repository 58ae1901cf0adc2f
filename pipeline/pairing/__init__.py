"""Pairing: which answers are compared, one file per strategy."""
