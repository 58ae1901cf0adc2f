"""How a number looks, on pages, cards, terminal and in warnings. Touches nothing."""

from math import isfinite
from typing import Any

NOTHING = "\N{EN DASH}"
"""In place of a figure that is not there."""


def number(value: Any) -> float | None:
    """*value* when it is a finite number."""
    return float(value) if isinstance(value, int | float) and isfinite(value) else None


def share(value: float | None) -> str:
    """.668 as ``66.8%``."""
    return NOTHING if value is None else f"{value:.1%}"


def plain(value: float | None) -> str:
    """.668 as ``0.67``."""
    return NOTHING if value is None else f"{value:.2f}"


def precise(value: float | None) -> str:
    """.6684 as ``0.668``: thresholds, probabilities, nats."""
    return NOTHING if value is None else f"{value:.3f}"


def count(value: float | None) -> str:
    """1990 as ``1,990``."""
    return NOTHING if value is None else f"{value:,.0f}"


def usd(value: float | None) -> str:
    """US$, to the cent or, where it is little, to the hundredth of one."""
    return NOTHING if value is None else f"US$ {value:,.2f}" if value >= 1 or not value else f"US$ {value:.4f}"


def interval(low: float | None, high: float | None, *, shares: bool = True) -> str:
    """(.633, .7) as ``63.3% to 70.0%``."""
    if low is None or high is None:
        return NOTHING
    return f"{share(low)} to {share(high)}" if shares else f"{plain(low)} to {plain(high)}"


def points(low: float | None, high: float | None) -> str:
    """(-.09, -.03), a difference of shares whose sign words tell, as ``3 to 9 points``."""
    if low is None or high is None:
        return NOTHING
    least, most = sorted((abs(low), abs(high)))
    return f"{100 * least:.0f} to {100 * most:.0f} points"
