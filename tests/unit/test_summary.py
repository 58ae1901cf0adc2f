"""Pins down what the summary counts of calls and margins, by hand."""

from typing import Any

import polars as pl
import pytest

from pipeline import schemas
from pipeline import summary as margins
from pipeline import summary as spending


def call(key: str, judge: str, status: str = "answered", **fields: Any) -> dict[str, object]:
    none = dict.fromkeys(("prompt_tokens", "cached_tokens", "completion_tokens", "latency_s"))
    return {"call_key": key, "judge": judge, "status": status, "cost_usd": 0.0, **none, **fields}


def test_calls_are_summed_by_who_made_them_the_dearest_first() -> None:
    rows = [
        call("1", "free", prompt_tokens=5),
        call("2", "free"),
        call("3", "dear", cost_usd=0.25, prompt_tokens=10, cached_tokens=4, completion_tokens=3, latency_s=1.0),
        call("4", "dear", cost_usd=0.5, prompt_tokens=20, cached_tokens=0, completion_tokens=7, latency_s=3.0),
        call("5", "dear", "unanswered"),
    ]
    found = spending.by_caller(schemas.frame("calls", rows).lazy())
    assert list(found) == ["dear", "free"]
    assert found["dear"] == {
        "calls": 3,
        "unanswered": 1,
        "cost_usd": 0.75,
        "prompt_tokens": 30,
        "cached_tokens": 4,
        "completion_tokens": 10,
        "latency_s": 2.0,
    }
    assert (found["free"]["calls"], found["free"]["prompt_tokens"], found["free"]["latency_s"]) == (2, 5, None)
    assert spending.by_caller(schemas.frame("calls", []).lazy()) == {}


def test_every_verdict_is_in_one_bin_kept_or_dropped() -> None:
    # .05 lies on an edge and counts above it; 1 belongs to the last bin
    verdicts = pl.LazyFrame({"margin": [0.0, 0.049, 0.05, 0.5, 1.0, 1.0]})
    found = margins.histogram(verdicts, pl.LazyFrame({"margin": [0.05, 1.0]}))
    assert found["edges"][0] == 0.0
    assert found["edges"][-1] == 1.0
    assert found["edges"][1] == pytest.approx(0.05)
    assert (found["kept"][1], found["kept"][19], sum(found["kept"])) == (1, 1, 2)
    assert (found["dropped"][0], found["dropped"][10], found["dropped"][19], sum(found["dropped"])) == (2, 1, 1, 4)
