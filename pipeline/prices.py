"""The shipped table of list prices. Reads ``prices.yaml`` beside it and nothing else.

A price of the config's own always goes before the table's. A table ages: every entry says when it was checked.
"""

import datetime as dt
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import yaml

TABLE = Path(__file__).parent / "prices.yaml"
OLD_AFTER_DAYS = 90
SNAPSHOT = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8}|latest)")
"""What may follow a listed model's name: a dated snapshot of it costs the same."""


@dataclass(frozen=True, slots=True)
class Listed:
    """What a vendor's own endpoint charges for a model, US$ per million tokens."""

    input: float
    output: float
    cached_input: float
    batch: float | None
    """A call by the vendor's batch API, as a share of these; None where there is none."""
    checked: dt.date
    source: str
    page: str
    """The vendor's own page."""

    def is_old(self, today: dt.date) -> bool:
        """Whether it was checked more than OLD_AFTER_DAYS days ago."""
        return (today - self.checked).days > OLD_AFTER_DAYS


def listed(base_url: str, model: str) -> Listed | None:
    """The list price of *model* where *base_url* is its vendor's; None where the table knows no such model there."""
    for vendor in _table()["vendors"].values():
        if not any(_at(base_url, known) for known in vendor["base_urls"]):
            continue
        for name, row in vendor["models"].items():
            if model == name or (model.startswith(name) and SNAPSHOT.fullmatch(model[len(name) :])):
                return Listed(batch=vendor.get("batch"), page=vendor["page"], **row)
    return None


def table_date() -> dt.date:
    """The day on which the table was last gone through."""
    return cast("dt.date", _table()["date"])


def _at(base_url: str, known: str) -> bool:
    """The host decides, and the whole of it: ``https://api.openai.com.example`` is not OpenAI."""
    return f"{base_url.rstrip('/')}/".startswith(f"{known.rstrip('/')}/")


@cache
def _table() -> dict[str, Any]:
    return cast("dict[str, Any]", yaml.safe_load(TABLE.read_text(encoding="utf-8")))
