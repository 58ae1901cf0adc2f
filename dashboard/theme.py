"""Colours that everyone can tell apart, on light and on dark. Pure: no page, no chart.

Marks have at least 3:1 against both backgrounds, so that a chart is drawn once and shown in either scheme; what colour
says is said by place, shape or dash too. The hues are Okabe & Ito's (2008), darkened where they need it.
"""

LIGHT, DARK = "#ffffff", "#0e1117"
"""Backgrounds."""
BLUE, VERMILION, GREEN, PURPLE, GREY = "#0072b2", "#d55e00", "#00855f", "#b5608f", "#7a7a7a"
SERIES = (BLUE, VERMILION, GREEN, PURPLE, GREY)
"""For categories, in this order."""


def luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb`` (WCAG 2.2)."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]  # noqa: PLR2004
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2.2)."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def ink(background: str) -> str:
    """Black or white, whichever reads better on *background*; one of them always has 4.5:1."""
    return max(("#000000", "#ffffff"), key=lambda text: contrast(text, background))
