"""Two answers to one prompt: which is shown first, and what people say of them. Touches nothing.

Every swap of two answers, with what is said of them, is made here and nowhere else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import polars as pl

from pipeline.frames import conversation

Names = Mapping[str, tuple[str, bool]]
"""Every name of a pair -> (pair_id, whether its a is our b)."""
SWAPPED = {"a": "b", "b": "a", "tie": "tie"}
"""A label when the two answers change places."""
OTHER_ORDER = {"ab": "ba", "ba": "ab"}
"""An order when the two answers change places."""


def orientation(pairs: pl.DataFrame, aliases: pl.DataFrame | None = None) -> Names:
    """Every name of a pair -> (pair_id, whether its a is our b): its id, and its ids in imported files."""
    named = {key: (key, False) for key in pairs["pair_id"]}
    external = pairs.filter(pl.col("external_id").is_not_null())
    columns = external.select("external_id", "pair_id", "external_flipped").iter_rows()
    others = () if aliases is None else aliases.select("external_id", "pair_id", "flipped").iter_rows()
    return named | {name: (key, flipped) for name, key, flipped in (*columns, *others)}


class People(Protocol):
    """Simulated annotators."""

    names: tuple[str, ...]

    def label(
        self,
        *,
        annotator: str,
        messages: Sequence[tuple[str, str]],
        reference: str | None,
        answer_a: str,
        answer_b: str,
        seed: int,
    ) -> Literal["a", "b", "tie"]:
        """``a``, ``b`` or ``tie``; swapping the answers swaps the label."""
        ...


Order = str
"""``ab``: the judge saw sample a first; ``ba``: sample b first."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One pair, with its text, in canonical order (``sample_a < sample_b``)."""

    pair_id: str
    prompt_id: str
    messages: tuple[tuple[str, str], ...]
    reference: str | None
    sample_a: str
    sample_b: str
    completion_a: str
    completion_b: str
    orders: tuple[Order, ...] = ()
    """The orders wanted; empty: the judge's own option decides. A judge that sees one answer at a time has none."""


def comparisons(texts: pl.DataFrame) -> list[Comparison]:
    """Pairs with their texts (``pipeline.frames.with_texts``) as comparisons.

    Ordered so that calls which share a prompt and a first answer stand next to each other.
    """
    columns = ("pair_id", "prompt_id", "reference", "sample_a", "sample_b", "completion_a", "completion_b")
    return [
        Comparison(messages=conversation(row["messages"]), **{name: row[name] for name in columns})
        for row in texts.sort("prompt_id", "sample_a", "sample_b").iter_rows(named=True)
    ]
