"""Tests: unit and property for the pure code, integration and e2e for the parts together."""
