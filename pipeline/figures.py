"""How a number looks, on pages, cards, terminal and in warnings. Touches nothing."""

from math import isfinite
from typing import Any


def number(value: Any) -> float | None:
    """*value* when it is a finite number."""
    return float(value) if isinstance(value, int | float) and isfinite(value) else None


def share(value: float | None) -> str:
    """.668 as ``66.8%``."""
    return "\u2013" if value is None else f"{value:.1%}"


def plain(value: float | None) -> str:
    """.668 as ``0.67``."""
    return "\u2013" if value is None else f"{value:.2f}"


def count(value: float | None) -> str:
    """1990 as ``1,990``."""
    return "\u2013" if value is None else f"{value:,.0f}"


def interval(low: float | None, high: float | None, *, shares: bool = True) -> str:
    """(.633, .7) as ``63.3% to 70.0%``."""
    if low is None or high is None:
        return "none"
    return f"{share(low)} to {share(high)}" if shares else f"{plain(low)} to {plain(high)}"
