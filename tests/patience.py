"""How long tests wait for what may hang. Touches nothing.

A limit guards against hanging, never against slowness: it is told in seconds of a quiet laptop with two cores, where
it would be ample already, and stretched for one that other work slows.
"""

SLOWED = 5


def patience(quiet_s: float) -> float:
    """Seconds after which what a quiet machine is sure to do within *quiet_s* counts as hung."""
    return SLOWED * quiet_s
