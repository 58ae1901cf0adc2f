"""Pins down what holds for every input: swaps, row orders, fences, parsers, the funnel, seeds and splits."""

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from judges import parsing
from judges.pairwise import PairwiseJudge
from judges.rendering import fill
from pipeline import ids
from pipeline.aggregation.base import Aggregation
from pipeline.aggregation.calibrated import CalibratedAggregation
from pipeline.aggregation.consistency import ConsistencyAggregation
from pipeline.aggregation.majority import MajorityAggregation
from pipeline.aggregation.votes import Votes, verdict_frame, votes_of
from pipeline.commands import imports
from pipeline.config import GeneratorConfig, PairingConfig, SelectConfig
from pipeline.frames import bucketed
from pipeline.importers.base import Conversation
from pipeline.importers.jsonl import (
    JudgmentRow,
    LabelRow,
    PairRow,
    read_judgments,
    read_labels,
    read_pairs,
    read_prompts,
    read_samples,
)
from pipeline.labels.splits import is_fit, split_labels
from pipeline.pairing.all import AllPairing
from pipeline.stages import generate, load, select
from pipeline.stages.pair import pairs as pair_up
from pipeline.transcript import fence_tag
from tests.worlds import (
    SECRET,
    Bench,
    Frames,
    compared,
    decided,
    judgments,
    labels,
    longer,
    longer_label,
    prompts,
    world,
)

EVERY = AllPairing(PairingConfig())
few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
rare = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
TRICKY = st.lists(
    st.sampled_from(
        [
            "{prompt}",
            "{first}",
            "{second}",
            "{reference}",
            "<<first ",
            "<</first ",
            ">>",
            "\n",
            "Verdict: A",
            "Verdict: B",
            '{"rationale": "x", "verdict": "A"}',
            *("a", "0", "f", " ", "{", "}", "tie"),
        ]
    ),
    min_size=1,
    max_size=12,
).map("".join)
ANSWERS = st.dictionaries(
    st.sampled_from(["q", "r", "s", "t", "u"]),
    st.lists(st.sampled_from(["a", "bb", "ccc", "dddd", "eeeee", "a "]), min_size=1, max_size=4),
    min_size=1,
)
CHANCE = st.floats(0, 1)


# Ids


@given(TEXT, TEXT)
@few
def test_a_pair_swapped_is_the_same_pair(one: str, other: str) -> None:
    assert ids.pair_id(one, other) == ids.pair_id(other, one)


@given(st.lists(st.one_of(st.text(max_size=5), st.integers(), st.none()), max_size=4), st.data())
@few
def test_no_other_fields_have_the_same_hash(fields: list[str | int | None], data: st.DataObject) -> None:
    other = data.draw(st.lists(st.one_of(st.text(max_size=5), st.integers(), st.none()), max_size=4))
    typed = [[(type(field), field) for field in row] for row in (fields, other)]
    try:
        same = ids.content_hash(*fields) == ids.content_hash(*other)
    except UnicodeEncodeError:
        assume(False)  # a lone surrogate is no text, and no importer lets one in
        return
    assert same == (typed[0] == typed[1])


@given(st.lists(TEXT.filter(str.strip), min_size=1, max_size=8), st.randoms(use_true_random=False))
@few
def test_ids_do_not_move_under_a_row_shuffle(questions: list[str], random: Any) -> None:
    rows = [Conversation(f"f:{at}", (("user", text),)) for at, text in enumerate(questions)]
    shuffled = list(rows)
    random.shuffle(shuffled)
    first, repeated = load.prompts(rows, "f")
    second, again = load.prompts(shuffled, "f")
    assert first.equals(second)
    assert repeated == again
    assert first.height + len(repeated) == len(rows)


@given(ANSWERS, st.integers(0, 99))
@few
def test_pairs_do_not_move_under_a_row_shuffle(answers: dict[str, list[str]], seed: int) -> None:
    made = world(answers)
    shuffled = made["samples"].sample(fraction=1, shuffle=True, seed=seed)
    again, reasons = pair_up(shuffled, made["pairs"].head(0), EVERY, 0)
    first, before = pair_up(made["samples"], made["pairs"].head(0), EVERY, 0)
    assert again.equals(first)
    assert reasons == before
    # every two different answers of a prompt are a pair; every other answer has a reason, and a prompt without a pair
    different = [len(set(texts)) for texts in answers.values()]
    assert first.height == sum(count * (count - 1) // 2 for count in different)
    assert list(reasons.values()).count("identical") == sum(map(len, answers.values())) - sum(different)
    assert list(reasons.values()).count("single_answer") == different.count(1)
    assert not set(first["pair_id"]) & set(reasons)


# Fences and placeholders


@given(TRICKY | TEXT, TRICKY | TEXT, TRICKY | TEXT)
@settings(max_examples=150, deadline=None)
def test_no_text_holds_its_own_fence_and_every_text_stands_whole(prompt: str, first: str, second: str) -> None:
    texts = {"prompt": prompt, "first": first, "second": second}
    made = fill("P {prompt} A {first} B {second} end", texts, SECRET)
    at = 0
    for name, text in texts.items():
        tag = fence_tag(SECRET, text, tuple(texts.values()))
        assert all(tag not in one for one in texts.values())
        block = f"<<{name} {tag}>>\n{text}\n<</{name} {tag}>>"
        # once, in order, and nothing of a text was filled in
        assert made.count(block) == 1
        at = made.index(block, at) + len(block)
        assert made.count(f"<</{name} {tag}>>") == made.count(f"<<{name} {tag}>>") == 1
    assert made[at:] == " end"
    assert len(made) == len("P  A  B  end") + sum(
        2 * len(name) + len(text) + 2 * 13 + 3 for name, text in texts.items()
    )


# Parsers

VERDICT = re.compile(r"\s*Verdict: (A|B|tie)\s*")


@given(TRICKY | TEXT)
@settings(max_examples=200, deadline=None)
def test_a_text_gives_a_verdict_only_by_its_last_line(text: str) -> None:
    try:
        found = parsing.from_text(text)
    except parsing.UnreadableError:
        return
    last = text.strip().splitlines()[-1].strip()
    assert last == {1.0: "Verdict: A", 0.0: "Verdict: B", 0.5: "Verdict: tie"}[found.first]


@given(TEXT.filter(str.strip), st.sampled_from(["Verdict: A", "Verdict: B", "Verdict: tie"]), TEXT.filter(str.strip))
@few
def test_a_text_that_holds_a_verdict_elsewhere_gives_none(before: str, verdict: str, after: str) -> None:
    assume(not VERDICT.fullmatch(after.strip().splitlines()[-1]))
    for text in (f"{before}\n{verdict}\n{after}", f"{verdict} {after}", f"{before} x{verdict}"):
        with pytest.raises(parsing.UnreadableError):
            parsing.from_text(text)
        with pytest.raises(parsing.UnreadableError):
            parsing.from_json(text)


@given(TEXT.filter(str.strip), st.sampled_from(["A", "B", "tie"]), TEXT)
@few
def test_a_json_verdict_inside_something_else_gives_none(around: str, verdict: str, rationale: str) -> None:
    inner = {"rationale": rationale, "verdict": verdict}
    text = json.dumps(inner)
    assert parsing.from_json(text).first == {"A": 1.0, "B": 0.0, "tie": 0.5}[verdict]
    for wrapped in (f"x{around}{text}", f"{text}{around}x", json.dumps([inner]), json.dumps({"answer": inner})):
        with pytest.raises(parsing.UnreadableError):
            parsing.from_json(wrapped)


@given(st.dictionaries(st.sampled_from(["A", " A", "ĠB", "B", "\nB", "C", "AB"]), st.floats(-30, 0)))
@few
def test_logprobs_swapped_are_one_minus(logprobs: dict[str, float]) -> None:
    turned = {token.translate(str.maketrans("AB", "BA")): value for token, value in logprobs.items()}
    assume(len(turned) == len(logprobs))
    try:
        first = parsing.from_logprobs(logprobs).first
    except parsing.UnreadableError:
        with pytest.raises(parsing.UnreadableError):
            parsing.from_logprobs(turned)
        return
    assert parsing.from_logprobs(turned).first == pytest.approx(1 - first)


# Files from outside: swapping the two responses changes nothing

FILE = st.lists(
    st.tuples(
        st.sampled_from(["q", "r", "s"]),
        st.sampled_from(["a", "bb", "ccc", "dddd"]),
        st.sampled_from(["a", "bb", "ccc", "dddd"]),
        st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0, None]),
        st.sampled_from(["ab", "ba"]),
        st.sampled_from(["a", "b", "tie"]),
    ),
    min_size=1,
    max_size=8,
)
TURNED = {"a": "b", "b": "a", "tie": "tie", "ab": "ba", "ba": "ab"}


def imported(rows: Sequence[tuple[Any, ...]], swapped: Sequence[bool]) -> tuple[Frames, dict[str, str]]:
    """The frames of a file whose rows are written the other way round where *swapped* says so."""
    pairs, opinions, told = [], [], []
    for at, ((question, one, other, preference, order, label), turn) in enumerate(zip(rows, swapped, strict=True)):
        a, b = (other, one) if turn else (one, other)
        models = ("mb", "ma") if turn else ("ma", "mb")
        pairs.append(PairRow(Conversation(f"f:{at}", (("user", question),)), str(at), a, b, *models))
        seen = TURNED[order] if turn else order
        liked = preference if preference is None or not turn else 1 - preference
        opinions.append(JudgmentRow(str(at), "j", seen, liked, None))
        told.append(LabelRow(str(at), "ann", TURNED[label] if turn else label, "audit", 1.0, None, None))
    frames, reasons = imports.pairs(pairs, "f")
    made_judgments, _ = imports.judgments(opinions, frames["pairs"])
    made_labels, _ = imports.labels(told, frames["pairs"])
    return {**frames, "judgments": made_judgments, "labels": made_labels}, reasons


@given(FILE, st.data())
@settings(max_examples=60, deadline=None)
def test_swapping_the_responses_in_a_file_changes_nothing(rows: list[tuple[Any, ...]], data: st.DataObject) -> None:
    swapped = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    (first, why), (second, again) = imported(rows, [False] * len(rows)), imported(rows, swapped)
    assert why == again
    for name in ("samples", "prompts", "labels"):
        assert first[name].equals(second[name])
    assert first["judgments"].drop("preference").equals(second["judgments"].drop("preference"))
    assert kept_words(first) == kept_words(second)
    # and swapped twice is nothing at all
    twice = imported(rows, [False] * len(rows))[0]
    assert all(twice[name].equals(first[name]) for name in first)


def kept_words(made: Frames) -> list[tuple[str, str, str]]:
    """(pair, chosen, rejected) in words."""
    votes = votes_of(made["judgments"], made["pairs"], made["samples"])
    if not votes.judges:
        return []
    fitted = MajorityAggregation().fit_predict(votes, {})
    verdicts, _ = verdict_frame(votes, fitted.p_a, fitted.p_a_lc, "p_a")
    table = select.decide(verdicts, made["pairs"], made["samples"], SelectConfig(), "p_a", None)
    text = dict(made["samples"].select("sample_id", "completion").iter_rows())
    kept = table.filter(pl.col("reason").is_null())
    return sorted((p, text[c], text[r]) for p, c, r in kept.select("pair_id", "chosen_id", "rejected_id").iter_rows())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["a", "ab", "1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
KEYS = (
    *("prompt", "messages", "turns", "reference", "tags", "subset", "completion", "model", "id", "pair_id"),
    *("response_a", "response_b", "judge", "mode", "order", "preference", "rationale", "annotator", "label"),
    *("queue", "inclusion_prob", "seconds", "labelled_at"),
)
GOOD = {
    "prompt": "P",
    "completion": "c",
    "pair_id": "1",
    "response_a": "x",
    "response_b": "y",
    "judge": "j",
    "preference": "a",
    "annotator": "ann",
    "label": "a",
}


@given(st.lists(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=3), min_size=1, max_size=3))
@settings(max_examples=150, deadline=None)
def test_no_json_row_stops_an_import_and_every_row_is_accounted_for(rows: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "f.jsonl"
        file.write_text("".join(json.dumps({**GOOD, **row}) + "\n" for row in rows))
        for read in (read_prompts, read_samples, read_pairs, read_judgments, read_labels):
            found, refused = read(file)
            assert len(found) + len(refused.rows) <= len(rows)
            assert found or refused.rows
            if read is read_prompts:
                load.prompts(found, "f")
                assert len(found) + len(refused.rows) == len(rows)
            if read is read_samples:
                imports.samples(found, "f")
            if read is read_pairs:
                imports.pairs(found, "f")


# Aggregation

VOTE = st.one_of(st.floats(-1, 1, width=16), st.just(float("nan")))
PANEL = st.lists(st.tuples(VOTE, VOTE, VOTE, st.floats(-4, 4, width=16)), min_size=2, max_size=12)
METHODS = (MajorityAggregation(), ConsistencyAggregation(), CalibratedAggregation())


def panel(rows: Sequence[tuple[float, ...]], order: Sequence[int] | None = None) -> Votes:
    at = list(range(len(rows))) if order is None else list(order)
    table = np.array([rows[row] for row in at])
    keys = [f"{row:032x}" for row in at]
    return Votes.level(keys, ["x", "y", "z"], table[:, :3], table[:, 3], {"x": 0.9, "y": 0.4})


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
@given(rows=PANEL, human=st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=4))
@rare
def test_an_aggregate_is_antisymmetric(method: Aggregation, rows: list[tuple[float, ...]], human: list[float]) -> None:
    votes = panel(rows)
    told = dict(zip(votes.pair_ids, human, strict=False))
    fitted = method.fit_predict(votes, told)
    turned = method.fit_predict(votes.swapped(), {key: 1 - value for key, value in told.items()})
    assert turned.p_a == pytest.approx(1 - fitted.p_a, abs=1e-5)
    assert turned.p_a_lc == pytest.approx(1 - fitted.p_a_lc, abs=1e-5)
    assert ((fitted.p_a >= 0) & (fitted.p_a <= 1)).all()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
@given(rows=PANEL, data=st.data())
@rare
def test_an_aggregate_ignores_row_order(
    method: Aggregation, rows: list[tuple[float, ...]], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(rows))))
    votes, shuffled = panel(rows), panel(rows, order)
    told = dict.fromkeys(votes.pair_ids.head(2), 0.9)
    first, second = method.fit_predict(votes, told), method.fit_predict(shuffled, told)
    assert second.p_a == pytest.approx(first.p_a[list(order)], abs=1e-5)


@given(ANSWERS, st.integers(0, 99))
@rare
def test_votes_ignore_row_order(answers: dict[str, list[str]], seed: int) -> None:
    made = world(answers)
    assume(made["pairs"].height > 0)
    opinions = judgments(made, {"j": longer, "k": lambda _a, _b: 0.3})
    votes = votes_of(opinions, made["pairs"], made["samples"])
    shuffled = votes_of(
        *(rows.sample(fraction=1, shuffle=True, seed=seed) for rows in (opinions, made["pairs"], made["samples"]))
    )
    assert shuffled.pair_ids.equals(votes.pair_ids)
    assert shuffled.judges == votes.judges
    assert np.array_equal(shuffled.votes, votes.votes, equal_nan=True)
    assert np.array_equal(shuffled.length, votes.length)
    assert shuffled.consistency == votes.consistency


# Selection


@given(
    ANSWERS,
    st.lists(CHANCE | st.just(0.5), min_size=1, max_size=20),
    st.sampled_from(["all", "best_vs_worst", "best_vs_random", "best_vs_mu_minus_2sigma"]),
    st.fixed_dictionaries(
        {
            "min_margin": st.sampled_from([0.0, 0.3]),
            "max_length_ratio": st.sampled_from([None, 2.0]),
            "max_similarity": st.sampled_from([None, 0.5]),
            "refusals": st.sampled_from(["keep", "drop_any"]),
            "top_fraction": st.sampled_from([None, 0.4]),
        }
    ),
    st.sampled_from([None, 0.4]),
)
@settings(max_examples=60, deadline=None)
def test_kept_and_dropped_are_the_verdicts_with_one_reason_each(
    answers: dict[str, list[str]],
    chances: list[float],
    strategy: Any,
    filters: dict[str, Any],
    threshold: float | None,
) -> None:
    made = world(answers)
    drawn = iter(chances * 200)
    verdicts = decided(made, lambda _a, _b: next(drawn))
    rule = SelectConfig(strategy=strategy, **filters)
    table = select.decide(verdicts, made["pairs"], made["samples"], rule, "p_a", threshold)
    assert table["pair_id"].to_list() == sorted(verdicts["pair_id"])
    kept = table.filter(pl.col("reason").is_null())
    assert (kept["p_a"] != 1 / 2).all()
    sides = kept.select(pl.when(pl.col("p_a") > 1 / 2).then("sample_a").otherwise("sample_b").alias("side"))["side"]
    assert kept["chosen_id"].equals(sides, check_names=False)
    assert (kept["chosen_id"] != kept["rejected_id"]).all()
    if strategy != "all":
        assert kept["prompt_id"].is_unique().all()
    # a higher threshold keeps exactly those of the kept that reach it
    for higher in (0.5, 0.9):
        again = select.decide(verdicts, made["pairs"], made["samples"], rule, "p_a", max(higher, threshold or 0))
        assert again.filter(pl.col("reason").is_null()).equals(kept.filter(pl.col("margin") >= higher))


# Seeds, requests and splits: one more prompt changes no other prompt's


GENERATOR = GeneratorConfig(model="m", engine="vllm", temperatures=(0.0, 0.7), samples=2)


@given(st.lists(TEXT.filter(str.strip), min_size=1, max_size=6, unique=True), TEXT.filter(str.strip), st.integers(0, 9))
@few
def test_one_more_prompt_changes_no_other_prompts_requests(questions: list[str], new: str, seed: int) -> None:
    assume(new not in questions)
    before = generate.requests(prompts(questions), GENERATOR, seed)
    after = generate.requests(prompts([*questions, new]), GENERATOR, seed)
    own = ids.prompt_id((("user", new),))
    assert [row for row in after if row[0] != own] == before
    assert len(after) == len(before) + 4
    assert len({row[3].seed for row in after}) == len(after)


@given(ANSWERS, st.sampled_from(["both", "random", "ab", "ba"]))
@few
def test_one_more_prompt_changes_no_other_prompts_judge_requests(answers: dict[str, list[str]], order: Any) -> None:
    def asked(given_answers: dict[str, list[str]]) -> list[Any]:
        toolbox = Bench()
        options = PairwiseJudge.Options(
            name="j", kind="pairwise", model="m", engine="vllm", verdict="text", order=order
        )
        PairwiseJudge(options, toolbox).judge(compared(world(given_answers)))
        return toolbox.model.requests

    before, after = asked(answers), asked({**answers, "a new one": ["a", "bb"]})
    assert [request for request in after if "\na new one\n" not in request.messages[0][1]] == before


@given(st.integers(1, 400), st.integers(0, 9))
@rare
def test_one_more_prompt_changes_one_bucket_or_splits_each_in_two(count: int, seed: int) -> None:
    rows = pl.DataFrame({"prompt_id": [ids.content_hash(seed, at) for at in range(count + 1)]})
    before, after = dict(bucketed(rows.head(count))), dict(bucketed(rows))
    assert sum(part.height for part in after.values()) == count + 1
    if next(iter(before))[-4:] == next(iter(after))[-4:]:
        changed = [name for name in after if name not in before or not after[name].equals(before[name])]
        assert len(changed) == 1


@given(st.integers(0, 1000), st.floats(0.05, 0.95), ANSWERS)
@rare
def test_no_prompt_both_fits_and_certifies(seed: int, fraction: float, answers: dict[str, list[str]]) -> None:
    made = world(answers)
    told = labels(made, longer_label)
    fit, certify = split_labels(told, made["pairs"], seed, fraction)
    owner = dict(made["pairs"].select("pair_id", "prompt_id").iter_rows())
    fitting, certifying = ({owner[key] for key in rows["pair_id"]} for rows in (fit, certify))
    assert not fitting & certifying
    assert fit.height + certify.height == told.height
    assert all(is_fit(key, seed, fraction) for key in fitting)
    # a prompt's side does not hang on what other prompts there are
    one = made["pairs"].head(1)
    alone, _ = split_labels(told.join(one.select("pair_id"), on="pair_id"), one, seed, fraction)
    assert set(alone["pair_id"]) <= set(fit["pair_id"])
