"""Aggregation: from votes to a preference, one file per method."""
