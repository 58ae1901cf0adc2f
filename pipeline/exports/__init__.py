"""Exports: dataset formats, one file per format."""
