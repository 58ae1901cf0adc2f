"""Pins down votes and verdict frames: by hand, whatever the order and the cutting of the rows, eager or lazy."""

import itertools
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import schemas
from pipeline.aggregation.votes import ORDERS, Said, Votes, runs_of, swap_consistency, verdict_frame, votes_of
from pipeline.arrays import in_blocks
from tests.worlds import Frames, judgments, longer, world

NAN = math.nan


def votes(rows: list[list[float]]) -> Votes:
    judges = ["x", "y", "z"][: len(rows[0])]
    return Votes.level([f"{at:032x}" for at in range(len(rows))], judges, np.array(rows), np.zeros(len(rows)))


def rows_of(judge: str, pair: str, verdicts: dict[str, float | None]) -> list[dict[str, object]]:
    return [
        {
            "pair_id": pair,
            "judge": judge,
            "order": order,
            "preference": preference,
            "rationale": None,
            "error": "e" if preference is None else None,
            "call_keys": [],
        }
        for order, preference in verdicts.items()
    ]


def test_a_vote_is_the_mean_over_orders_and_a_failure_is_no_vote() -> None:
    made = world({"q": ["x", "yyyy"]})
    (pair,) = made["pairs"]["pair_id"]
    a_is_long = made["pairs"]["sample_a"][0] == made["samples"].filter(pl.col("completion") == "yyyy")["sample_id"][0]
    rows = [
        *rows_of("j", pair, {"ab": 0.9, "ba": 0.6}),
        *rows_of("k", pair, {"ab": None, "ba": None}),
        *rows_of("l", pair, {"ab": 0.5, "ba": None}),
        *rows_of("j", "f" * 32, {"ab": 0.1}),  # of a pair that is not there
    ]
    found = votes_of(schemas.frame("judgments", rows), made["pairs"], made["samples"])
    assert found.pair_ids.to_list() == [pair]
    assert found.judges == ["j", "l"]  # k never answered
    # 2 * .9 - 1, 2 * .6 - 1; a tie is a vote of 0 and not a missing one
    assert found.ab[0].tolist() == pytest.approx([0.8, 0.0])
    assert found.ba[0].tolist() == pytest.approx([0.2, NAN], nan_ok=True)
    assert found.votes[0].tolist() == pytest.approx([0.5, 0.0])
    # log((1 + 4) / (1 + 1))
    assert found.length[0] == pytest.approx(math.log(5 / 2) * (1 if a_is_long else -1))
    assert found.calls.tolist() == [6]
    assert found.judgments == {"j": 3, "k": 2, "l": 2}
    assert found.failures == {"j": 0, "k": 2, "l": 1}
    assert found.consistency == {"j": 1.0}


def test_pairs_of_one_prompt_have_one_number() -> None:
    made = world({"q": ["a", "bb", "ccc"], "r": ["a", "bb"]})
    found = votes_of(judgments(made, {"j": longer}), made["pairs"], made["samples"])
    owner = dict(made["pairs"].select("pair_id", "prompt_id").iter_rows())
    names = [owner[key] for key in found.pair_ids]
    assert len(set(zip(names, found.prompts.tolist(), strict=True))) == len(set(names)) == 2


def test_swap_consistency_by_hand() -> None:
    # j: same winner, other winner, a tie against a winner, two ties, one failed (does not count): 2 of 4
    ab = np.array([[0.8], [0.8], [0.0], [0.0], [0.8]])
    ba = np.array([[0.2], [-0.8], [0.8], [0.0], [NAN]])
    assert swap_consistency(["j"], ab, ba) == {"j": 0.5}
    # k saw no pair in both orders
    assert swap_consistency(["k"], np.array([[NAN], [0.1]]), np.array([[0.3], [NAN]])) == {}


def test_the_rate_of_the_first_slot_by_hand() -> None:
    # fair names the same winner in both orders; first always what it sees first; the last pair has one order only
    ab = np.array([[0.8, 0.8], [-0.4, 0.8], [0.9, 0.9]])
    ba = np.array([[0.2, -0.8], [-0.2, -0.8], [NAN, NAN]])
    base = votes([[0.0]] * 3)
    made = replace(base, judges=["fair", "first"], ab=ab, ba=ba)
    assert made.first_slot() == {"fair": 0.5, "first": 1.0}
    # a tie is one half: first won, tie | first lost, tie -> (1 + .5 + 0 + .5) / 4
    half = replace(votes([[0.0]] * 2), judges=["j"], ab=ab[:2, :1], ba=np.zeros((2, 1)))
    assert half.first_slot() == {"j": 0.5}


def test_a_verdict_row_by_hand() -> None:
    given = votes([[1.0, -0.5, NAN], [NAN, NAN, NAN]])
    made, silent = verdict_frame(given, np.array([0.9, 0.5]), np.array([0.2, 0.5]), "p_a")
    assert silent.to_list() == [given.pair_ids[1]]
    (row,) = schemas.Verdicts.validate(made).to_dicts()
    assert (row["p_a"], row["p_a_lc"], row["margin"]) == (0.9, 0.2, 0.8)
    assert row["judges"] == ["x", "y"]
    assert row["calls"] == 4
    assert row["agreement"] == 0.5  # x of x and y
    by_length_control, _ = verdict_frame(given, np.array([0.9, 0.5]), np.array([0.2, 0.5]), "p_a_lc")
    assert by_length_control["margin"].to_list() == [0.6]
    # nobody is left in the panel: nothing is decided
    none, everyone = verdict_frame(given.of([]), np.array([0.5, 0.5]), np.array([0.5, 0.5]), "p_a")
    assert none.is_empty()
    assert everyone.to_list() == given.pair_ids.to_list()


def test_a_pair_and_its_mirror_have_the_same_margin() -> None:
    # sigmoid(x) and 1 - sigmoid(-x) differ in the last digit for many x; a threshold must not fall between them
    logit = np.linspace(0.01, 6, 200)
    p = 1 / (1 + np.exp(-np.concatenate([logit, -logit])))
    assert (abs(2 * p[:200] - 1) != abs(2 * p[200:] - 1)).any()
    made, _ = verdict_frame(votes([[1.0]] * 400), p, p, "p_a")
    margin = made["margin"].to_numpy()
    assert (margin[:200] == margin[200:]).all()


@given(st.lists(st.lists(st.booleans(), min_size=11, max_size=11), min_size=1, max_size=20))
@settings(max_examples=30, deadline=None)
def test_the_judges_of_a_verdict_are_those_that_voted(there: list[list[bool]]) -> None:
    # eleven judges: the packed patterns need two bytes
    names = [f"judge{at:02d}" for at in range(11)]
    given = Votes.level(
        [f"{at:032x}" for at in range(len(there))], names, np.where(there, 0.5, NAN), np.zeros(len(there))
    )
    made, silent = verdict_frame(given, np.full(len(there), 0.7), np.full(len(there), 0.7), "p_a")
    wanted = [[name for name, voted in zip(names, row, strict=True) if voted] for row in there]
    assert made["judges"].to_list() == [row for row in wanted if row]
    assert made.height + len(silent) == len(there)


def same(one: Votes, other: Votes) -> None:
    assert one.pair_ids.equals(other.pair_ids)
    assert one.judges == other.judges
    for name in ("ab", "ba", "length", "calls"):
        assert np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True), name
    assert one.consistency == other.consistency
    assert one.judgments == other.judgments


def many() -> Frames:
    made = world({f"q{at}": ["x", "yyyy", "a long one"] for at in range(9)})
    return {**made, "judgments": judgments(made, {"length": longer, "k": lambda a, _b: 0.2 if a == "x" else None})}


def test_lazy_parts_give_the_same_votes_as_one_frame(tmp_path: Path) -> None:
    made = many()
    frames = (made["judgments"], made["pairs"], made["samples"])
    lazy: list[pl.LazyFrame] = []
    for name, rows in zip(("judgments", "pairs", "samples"), frames, strict=True):
        (tmp_path / name).mkdir()
        for at in range(3):
            rows.sample(fraction=1, shuffle=True, seed=1).gather_every(3, at).write_parquet(tmp_path / name / f"{at}")
        lazy.append(pl.scan_parquet(tmp_path / name / "*"))
    # two generators may have written the same answer: that is one sample
    made["samples"].head(2).write_parquet(tmp_path / "samples" / "again")
    same(votes_of(*lazy), votes_of(*frames))


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_many_votes_are_taken_block_by_block(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    made = many()
    frames = (made["judgments"].sample(fraction=1, shuffle=True, seed=1), made["pairs"], made["samples"])
    whole = votes_of(*frames)
    monkeypatch.setattr("pipeline.aggregation.votes.in_blocks", partial(in_blocks, size=rows))
    same(votes_of(*frames), whole)


def test_of_two_judgments_of_one_kind_the_last_one_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.aggregation.votes.in_blocks", partial(in_blocks, size=1))
    known = [f"{pair:032x}" for pair in range(200)]
    said = [(pair, "j", "ab", preference) for preference in (0.0, 0.25, 1.0) for pair in known]
    frame = pl.DataFrame(said, schema=["pair_id", "judge", "order", "preference"], orient="row").lazy()
    found = Said.of(frame, runs_of(frame), pl.Series(known))
    assert found.cells[:, 0].tolist() == [1.0] * 200
    assert found.made == {"j": 600}


@pytest.mark.parametrize("piece", [1, 2, 5, 6, 100])
def test_every_verdict_names_its_judges_whatever_the_pieces(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr("pipeline.aggregation.votes.PIECE", piece)
    half = np.full(6, 0.5)
    made, _ = verdict_frame(votes([[1.0, 0.5, -1.0]] * 6), half, half, "p_a")
    assert made["judges"].to_list() == [["x", "y", "z"]] * 6


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=4), max_size=5))
def test_runs_go_on_from_chunk_to_chunk(chunks: list[list[str]]) -> None:
    frames = [pl.DataFrame({"pair_id": chunk}, schema={"pair_id": pl.String}) for chunk in [*chunks, []]]
    runs = runs_of(pl.concat(frames, rechunk=False).lazy())
    whole = [(key, len(list(group))) for key, group in itertools.groupby(itertools.chain(*chunks))]
    assert runs.rows() == whole


def test_rows_are_found_by_id() -> None:
    given = votes([[1.0], [0.5], [0.2]])
    assert given.rows([given.pair_ids[2], "0" * 31 + "9", given.pair_ids[0]]).tolist() == [2, -1, 0]
    assert given.rows([]).tolist() == []
    part = given.at(np.array([2, 0]))
    assert part.pair_ids.to_list() == [given.pair_ids[2], given.pair_ids[0]]
    assert part.votes.tolist() == [[0.2], [1.0]]
    assert given.at(np.array([False, True, False])).ab.tolist() == [[0.5]]


def test_swapped_twice_is_the_same() -> None:
    made = many()
    given = votes_of(made["judgments"], made["pairs"], made["samples"])
    same(given.swapped().swapped(), given)
    assert np.array_equal(given.swapped().votes, -given.votes, equal_nan=True)
    # who saw a first now saw b first: the orders change places
    one = replace(votes([[0.0]]), ab=np.array([[0.8]]), ba=np.array([[0.2]]), length=np.array([1.5]))
    assert (one.swapped().ab.item(), one.swapped().ba.item(), one.swapped().length.item()) == (-0.2, -0.8, -1.5)


WAYS = ("full", "shuffled", "one missing", "one of another pair", "one twice")


@given(pairs=st.integers(1, 5), judges=st.integers(1, 3), way=st.sampled_from(WAYS), data=st.data())
def test_the_matrix_holds_what_each_judgment_says(pairs: int, judges: int, way: str, data: st.DataObject) -> None:
    known, names = [f"{pair:032x}" for pair in range(pairs)], [f"judge {at}" for at in range(judges)]
    rows = [(pair, judge, order) for pair in known for judge in names for order in ("ab", "ba")]
    if way == "shuffled":
        rows = data.draw(st.permutations(rows))
    elif way == "one missing":
        rows.pop(data.draw(st.integers(0, len(rows) - 1)))
    elif way == "one of another pair":
        rows.insert(data.draw(st.integers(0, len(rows))), ("f" * 32, names[0], "ab"))
    elif way == "one twice":  # as many rows as a full matrix has, but not one
        rows[-1] = rows[-2]
    said = {row: data.draw(st.sampled_from([None, 0.0, 0.25, 0.5, 1.0])) for row in rows}
    frame = pl.DataFrame(rows, schema=["pair_id", "judge", "order"], orient="row")
    frame = frame.with_columns(preference=pl.Series([said[row] for row in rows], dtype=pl.Float64))
    found = Said.of(frame.lazy(), runs_of(frame.lazy()), pl.Series(known))
    for (pair, judge, order), preference in said.items():
        if pair in known:
            cell = found.cells[known.index(pair), 2 * names.index(judge) + ORDERS.index(order)]
            assert np.isnan(cell) if preference is None else cell == 2 * preference - 1
    assert (~np.isnan(found.cells)).sum() == sum(said[row] is not None for row in said if row[0] in known)
    assert found.calls.tolist() == [sum(row[0] == pair for row in rows) for pair in known]
    assert found.made == {judge: sum(row[1] == judge for row in rows) for judge in names}
    assert found.failures == {judge: sum(row[1] == judge and said[row] is None for row in rows) for judge in names}
