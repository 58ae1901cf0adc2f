"""Pins down which models and temperatures win, by hand."""

import polars as pl
import pytest

from pipeline import schemas
from pipeline.statistics import win_rates as winning


def ident(at: int) -> str:
    return f"{at:032x}"


def sample(at: int, model: str, temperature: float | None) -> dict[str, object]:
    return {
        "sample_id": ident(at),
        "prompt_id": ident(at // 10),
        "model": model,
        "temperature": temperature,
        "sample_index": 0,
        "seed": None,
        "completion": f"answer {at}",
        "characters": len(f"answer {at}"),
        "finish_reason": None,
        "completion_tokens": None,
        "logprob": None,
        "external_id": None,
    }


def pair(key: int, a: int, b: int) -> dict[str, object]:
    ends = {"sample_a": ident(a), "sample_b": ident(b), "external_id": None, "external_flipped": False}
    return {"pair_id": ident(key), "prompt_id": ident(a // 10), **ends}


def verdict(key: int, p: float) -> dict[str, object]:
    rest = {"margin": abs(2 * p - 1), "judges": ["j"], "calls": 1, "agreement": 1.0}
    return {"pair_id": ident(key), "p_a": p, "p_a_lc": 1 - p, **rest}


SAMPLES = schemas.frame(
    "samples",
    [sample(1, "m", 0.3), sample(2, "m", 1.0), sample(3, "m", 1.0), sample(11, "m", 0.3), sample(12, "other", None)],
)
PAIRS = schemas.frame("pairs", [pair(1, 1, 2), pair(2, 1, 3), pair(3, 2, 3), pair(4, 11, 12)])
VERDICTS = schemas.frame("verdicts", [verdict(1, 0.8), verdict(2, 0.6), verdict(3, 0.9), verdict(4, 0.25)])


def test_win_rates_by_hand() -> None:
    made = schemas.valid("win_rates", winning.table(VERDICTS, PAIRS, SAMPLES, "p_a", 0))
    found = {row["made_by"]: row for row in made.iter_rows(named=True)}
    # m at .3 wins .8 and .6 from m at 1, and .25 from other; pair 3 is between answers of one kind and says nothing
    assert set(found) == {"m at 0.3", "m at 1", "other"}
    assert (found["m at 0.3"]["win_rate"], found["m at 0.3"]["n"], found["m at 0.3"]["prompts"]) == (
        pytest.approx((0.8 + 0.6 + 0.25) / 3),
        3,
        2,
    )
    assert (found["m at 1"]["win_rate"], found["m at 1"]["n"]) == (pytest.approx(0.3), 2)
    assert (found["other"]["win_rate"], found["other"]["temperature"]) == (0.75, None)
    assert found["m at 0.3"]["low"] <= found["m at 0.3"]["win_rate"] <= found["m at 0.3"]["high"]


def test_the_side_that_decides_is_the_one_that_counts() -> None:
    made = winning.table(VERDICTS, PAIRS, SAMPLES, "p_a_lc", 0)
    other = made.filter(pl.col("made_by") == "other")
    assert other["win_rate"].item() == 0.25


def test_row_order_changes_nothing() -> None:
    shuffled = winning.table(VERDICTS.reverse(), PAIRS.reverse(), SAMPLES.reverse(), "p_a", 0)
    assert shuffled.equals(winning.table(VERDICTS, PAIRS, SAMPLES, "p_a", 0))


def test_nothing_compared_is_an_empty_frame() -> None:
    assert winning.table(VERDICTS.head(0), PAIRS, SAMPLES, "p_a", 0).is_empty()
