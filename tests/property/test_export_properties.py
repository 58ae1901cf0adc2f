"""What holds of the export for every run: conserved rows, no prompt in two splits, order that does not matter."""

import tempfile
from pathlib import Path

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.exports import kto, trl_dpo
from pipeline.stages.export import dataset_rows
from tests.export_frames import Choice, asked, frames

Made = dict[str, pl.DataFrame]
SEEDS = st.integers(0, 2**31)
FRACTIONS = st.floats(0, 0.99)
QUICK = settings(max_examples=30, deadline=None)


@st.composite
def runs(draw: st.DrawFn) -> Made:
    """Up to 8 prompts with up to 3 kept pairs each; every answer is in one pair, either side may be canonical a."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=8))
    choices = [
        Choice(
            asked(f"Question {prompt}?"),
            f"Good {prompt}.{pair}",
            f"Bad {prompt}.{pair}",
            p_chosen=draw(st.floats(0.5, 1.0)),
        )
        for prompt, size in enumerate(sizes)
        for pair in range(size)
    ]
    return frames(choices)


def rows_of(made: Made, seed: int, test_fraction: float) -> pl.DataFrame:
    return dataset_rows(
        made["kept"], made["pairs"], made["samples"], made["prompts"], seed=seed, test_fraction=test_fraction
    )


@QUICK
@given(runs(), SEEDS, FRACTIONS)
def test_no_prompt_crosses_a_split_and_rows_are_conserved(made: Made, seed: int, fraction: float) -> None:
    rows = rows_of(made, seed, fraction)
    assert rows.group_by("prompt_id").agg(pl.col("split").n_unique())["split"].to_list() == [1] * (
        made["prompts"].height
    )
    assert rows["pair_id"].to_list() == made["kept"]["pair_id"].sort().to_list()
    assert set(rows["split"]) <= {"train", "test"}


@QUICK
@given(runs(), SEEDS, FRACTIONS, st.randoms(use_true_random=False))
def test_row_order_of_the_inputs_changes_nothing(made: Made, seed: int, fraction: float, order: object) -> None:
    shuffled = {}
    for name, rows in made.items():
        places = list(range(rows.height))
        order.shuffle(places)  # type: ignore[attr-defined]
        shuffled[name] = rows[places]
    assert rows_of(shuffled, seed, fraction).equals(rows_of(made, seed, fraction))


@QUICK
@given(runs(), SEEDS, FRACTIONS)
def test_another_prompt_moves_no_prompt_to_another_split(made: Made, seed: int, fraction: float) -> None:
    more = frames([Choice(asked("One more?"), "Yes.", "No.")])
    before = rows_of(made, seed, fraction)
    grown = {name: pl.concat([rows, more[name]]) for name, rows in made.items()}
    after = rows_of(grown, seed, fraction)
    assert after.height == before.height + 1
    assert before.join(after, on=["pair_id", "split"], how="semi").equals(before)


@QUICK
@given(runs(), SEEDS, FRACTIONS)
def test_swapping_the_label_swaps_the_texts_and_nothing_else(made: Made, seed: int, fraction: float) -> None:
    kept = made["kept"].with_columns(
        chosen_id=pl.col("rejected_id"), rejected_id=pl.col("chosen_id"), p_a=1 - pl.col("p_a")
    )
    rows, turned = rows_of(made, seed, fraction), rows_of(made | {"kept": kept}, seed, fraction)
    for one, other in (("chosen", "rejected"), ("rejected", "chosen")):
        for what in ("", "_model", "_temperature"):
            assert turned[f"{one}{what}"].to_list() == rows[f"{other}{what}"].to_list()
    same = ["pair_id", "prompt_id", "messages", "margin", "judges", "split"]
    assert turned.select(same).equals(rows.select(same))
    # p is P(a preferred): turning the label round and p with it leaves the chosen answer's probability
    assert (turned["p_chosen"] - rows["p_chosen"]).abs().max() < 1e-12  # type: ignore[operator]


@QUICK
@given(runs(), SEEDS, FRACTIONS)
def test_swapping_the_roles_of_the_samples_changes_nothing(made: Made, seed: int, fraction: float) -> None:
    pairs = made["pairs"].with_columns(sample_a=pl.col("sample_b"), sample_b=pl.col("sample_a"))
    kept = made["kept"].with_columns(p_a=1 - pl.col("p_a"))
    turned = rows_of(made | {"pairs": pairs, "kept": kept}, seed, fraction)
    rows = rows_of(made, seed, fraction)
    assert turned.drop("p_chosen").equals(rows.drop("p_chosen"))
    assert (turned["p_chosen"] - rows["p_chosen"]).abs().max() < 1e-12  # type: ignore[operator]


@QUICK
@given(runs(), SEEDS)
def test_the_formats_conserve_rows_and_kto_alternates(made: Made, seed: int) -> None:
    rows = rows_of(made, seed, 0.5)
    with tempfile.TemporaryDirectory() as folder:
        paired = pl.read_parquet(trl_dpo.export(rows, Path(folder) / "dpo", seed))
        single = pl.read_parquet(kto.export(rows, Path(folder) / "kto", seed))
    assert paired["pair_id"].to_list() == rows["pair_id"].to_list()
    blocks = [single["label"].slice(start, 2).to_list() for start in range(0, single.height, 2)]
    assert all(sorted(block) == [False, True] for block in blocks)
    for good, side in ((True, "chosen"), (False, "rejected")):
        half = single.filter(pl.col("label") == good).sort("pair_id")
        assert half["pair_id"].to_list() == rows["pair_id"].to_list()
        assert [turn[0]["content"] for turn in half["completion"]] == rows[side].to_list()
