"""Importers: files of other origin, one file per format."""
