"""Figures about judges, people and verdicts: agreement, bias, bounds, intervals."""
