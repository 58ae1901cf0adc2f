"""Pins down how ids are numbered and looked up: the quick ways give what a dictionary gives, whatever the ids."""

from functools import partial

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import arrays, frames, ids
from pipeline.arrays import distinct, in_blocks, numbered, positions
from pipeline.frames import bucketed

digits = st.text("0123456789abcdef", min_size=32, max_size=32)
alike = st.sampled_from(["0" * 31, "0" * 15 + "1" + "f" * 15, "f" * 31]).flatmap(
    lambda start: st.sampled_from("01ef").map(start.__add__)
)
odd = st.sampled_from(["", "p1", "+" + "0" * 31, "A" * 32, "a" * 32, "é" * 16, "z" * 32])
ids_of_any_kind = st.one_of(st.lists(digits), st.lists(st.one_of(digits, alike)), st.lists(st.one_of(digits, odd)))


@given(known=ids_of_any_kind, more=ids_of_any_kind, data=st.data(), ordered=st.booleans())
def test_positions_are_those_of_a_dictionary(
    known: list[str], more: list[str], data: st.DataObject, ordered: bool
) -> None:
    unique = list(dict.fromkeys(known))
    unique = sorted(unique) if ordered else unique
    wanted = data.draw(st.permutations(unique + more))
    at = {one: place for place, one in enumerate(unique)}
    found = positions(pl.Series(wanted, dtype=pl.String), pl.Series(unique, dtype=pl.String))
    assert found.tolist() == [at.get(one, -1) for one in wanted]


@pytest.mark.parametrize("rows", [1, 7, 1 << 17])
def test_many_ids_are_found_block_by_block(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(arrays, "in_blocks", partial(in_blocks, size=rows))
    # 2 ** 61 - 1 is prime: multiples of a number wander over all 16 leading digits.
    known = sorted(f"{at * 7_919_993_777_111 * 2**20 % (2**61 - 1):016x}{at:016x}" for at in range(1, 400))
    wanted = [*known[::-3], "f" * 32, known[0][:31] + "x"]
    at = {one: place for place, one in enumerate(known)}
    assert positions(pl.Series(wanted), pl.Series(known)).tolist() == [at.get(one, -1) for one in wanted]


@given(wanted=st.lists(st.integers(0, 120), max_size=3), ordered=st.booleans(), prefix=st.sampled_from(["", "ä", "0"]))
def test_a_few_among_many_are_those_of_a_dictionary(wanted: list[int], ordered: bool, prefix: str) -> None:
    known = [f"{prefix}{at * 37 % 101:03}" for at in range(101)]
    known = sorted(known) if ordered else known
    asked = [f"{prefix}{at:03}" for at in wanted]
    at = {one: place for place, one in enumerate(known)}
    found = positions(pl.Series(asked, dtype=pl.String), pl.Series(known))
    assert found.tolist() == [at.get(one, -1) for one in asked]


def test_a_large_run_has_no_more_than_256_shards_of_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "SHARD_PROMPTS", 1)
    rows = pl.DataFrame({"prompt_id": [ids.content_hash(at) for at in range(1500)]})
    parts = bucketed(rows)
    assert len(parts) <= 256
    assert all(name.endswith("of0256") for name, _ in parts)
    assert pl.concat([part for _, part in parts]).sort("prompt_id").equals(rows.sort("prompt_id"))


def test_real_ids_are_looked_up_as_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "_joined", None)  # the slow way, for what is no id
    known = [f"{at * 7_919_993_777_111 * 2**20 % (2**61 - 1):016x}{at:016x}" for at in range(1, 400)]
    assert positions(pl.Series(known[::-1]), pl.Series(known)).tolist() == list(range(399))[::-1]


@given(word=st.text("0123456789abcdef", min_size=8, max_size=8))
def test_eight_digits_are_spelt_as_python_spells_them(word: str) -> None:
    assert arrays._spelt(np.frombuffer(word.encode(), np.uint64)).tolist() == [int(word, 16)]


@given(ids=ids_of_any_kind)
def test_numbers_are_equal_where_ids_are_and_have_no_gaps(ids: list[str]) -> None:
    found = numbered(pl.Series(ids, dtype=pl.String)).tolist()
    assert sorted(set(found)) == list(range(len(set(ids))))
    assert len(set(zip(ids, found, strict=True))) == len(set(ids))


@given(ids=st.lists(st.sampled_from("abcdef")), ordered=st.booleans())
def test_distinct_is_what_a_set_says(ids: list[str], ordered: bool) -> None:
    given_ids = sorted(ids) if ordered else ids
    assert distinct(pl.Series(given_ids, dtype=pl.String)) is (len(set(ids)) == len(ids))
