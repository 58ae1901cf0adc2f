"""Pins down the Python API on rows as notebooks hold them: nulls, repeats, sides swapped."""

from pathlib import Path

import polars as pl

import jurybox as jb

CONFIG = "name: api\njudges:\n- {name: longer, kind: length}\n"


def test_every_row_gets_a_verdict_in_its_own_terms(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG)
    rows = [
        {"pair_id": "one", "prompt": "Q?", "response_a": "short", "response_b": "long and full", "model_a": None},
        {"pair_id": "two", "prompt": "Q?", "response_a": "long and full", "response_b": "short", "model_a": None},
        {"pair_id": None, "prompt": "R?", "response_a": "x", "response_b": "y and more", "model_a": "m"},
    ]
    found = jb.judge(pl.DataFrame(rows), tmp_path / "c.yaml")
    assert found["pair_id"].to_list() == ["2", "one", "two"]
    p = dict(found.select("pair_id", "p_a").iter_rows())
    # the length judge prefers the longer answer, whichever side it stands on
    assert p["one"] < 0.5 < p["two"]
    assert p["one"] == 1 - p["two"]
    assert p["2"] < 0.5
