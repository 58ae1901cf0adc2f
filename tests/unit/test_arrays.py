"""Pins down work in blocks: every row once, results in order, errors reach the caller."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.arrays import at_once, in_blocks, together


@given(rows=st.integers(0, 50), size=st.integers(1, 9))
def test_every_row_is_in_one_block_and_results_stand_in_their_order(rows: int, size: int) -> None:
    found = in_blocks(rows, lambda block: np.arange(rows)[block].tolist(), size)
    assert [row for block in found for row in block] == list(range(rows))
    assert all(len(block) == size for block in found[:-1])


def test_many_tasks_give_their_results_in_order_and_the_first_error() -> None:
    assert at_once(lambda item: item * 2, range(5)) == [0, 2, 4, 6, 8]
    assert together(lambda: "a", lambda: "b") == ["a", "b"]
    assert at_once(str, []) == []
    with pytest.raises(ZeroDivisionError):
        in_blocks(10, lambda block: 1 // (block.start - 4), 2)
