"""Filters of prompts and pairs, one file a subject."""
