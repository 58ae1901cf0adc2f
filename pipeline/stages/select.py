"""select: verdicts -> kept and dropped pairs, and the frame ``scores``. Pure; reads the patterns of refusals.

Chosen and rejected follow the verdict, never the position. A strategy takes pairs of each prompt; filters follow.
Drop reasons, in this order, the first that holds: ``tie`` (the verdict is exactly one half), ``not_selected`` (the
strategy took another pair of the prompt), ``length_ratio``, ``near_identical`` (select.max_similarity), ``refusal``,
``flagged`` (select.drop_flagged), ``language``, those of select.filters, ``low_margin`` (below select.min_margin),
``below_top`` (outside select.top_fraction), ``below_gate`` (below the certified threshold). Every pair with a verdict
is kept or dropped, once. The threshold comes last and every rule before it looks at verdicts and texts alone, so a
higher threshold keeps a part of what a lower one keeps.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
import polars as pl

from judges.suspicion import mark
from pipeline import discovery, ids
from pipeline.aggregation import bradley_terry
from pipeline.arrays import numbered, positions, together
from pipeline.config import Config, SelectConfig
from pipeline.errors import ConfigError, StageError
from pipeline.filters.base import Filter
from pipeline.filters.languages import known_languages, languages
from pipeline.filters.refusals import PATTERNS, refuses
from pipeline.filters.similarity import jaccard
from pipeline.frames import conversation, lengths
from pipeline.stages.base import Result, Shard, Stage
from pipeline.transcript import transcript
from pipeline.workbench import Workbench

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.uint8]
Rows = pl.DataFrame | pl.LazyFrame
Languages = Literal["prompt"] | tuple[str, ...] | None
SCORE_DIGITS = 9
"""Scores are compared to this many digits, so that what is equal by symmetry is equal."""
WORDS = ("tie", "not_selected", "length_ratio", "near_identical", "refusal", "flagged", "language")
MARGINS = ("low_margin", "below_top", "below_gate")
KEPT = np.iinfo(np.uint8).max
"""Stands where a reason's place would."""


def reasons_of(filters: Sequence[Filter] = ()) -> tuple[str, ...]:
    """Why a pair is dropped, in the order in which is asked; the *filters* stand between words and margins."""
    return (*WORDS, *dict.fromkeys(one.reason for one in filters if one.reason not in {*WORDS, *MARGINS}), *MARGINS)


def filters_of(rule: SelectConfig, base: Path) -> list[Filter]:
    """The filters of ``select.filters``.

    Raises:
        ConfigError: there is no such kind, file or name.
    """
    found = [
        (options, discovery.find("pipeline.filters", options.kind, "{Kind}Filter", base)) for options in rule.filters
    ]
    return [kind(options) for options, kind in found]


def decide(
    verdicts: pl.DataFrame,
    pairs: Rows,
    samples: Rows,
    rule: SelectConfig,
    decide_by: str,
    threshold: float | None,
    *,
    prompts: Rows | None = None,
    seed: int = 0,
    filters: Sequence[Filter] = (),
) -> pl.DataFrame:
    """Every verdict with ``prompt_id``, ``chosen_id``, ``rejected_id`` and ``reason`` (null: kept), by ``pair_id``.

    Args:
        verdicts: frame ``verdicts``.
        pairs: frame ``pairs``.
        samples: frame ``samples``, for texts and their lengths.
        rule: strategy and filters.
        decide_by: ``p_a`` or ``p_a_lc``.
        threshold: the gate's smallest margin, if it certified one.
        prompts: frame ``prompts``; needed for ``languages: prompt`` and for *filters*.
        seed: of the random rejected answer.
        filters: those of ``rule.filters``.

    Raises:
        StageError: a verdict's pair or answers are missing.
        ConfigError: a language cannot be recognised, or the package for it is missing.
    """
    compared = Compared.of(verdicts, pairs, samples, decide_by)
    reason = _reasons(compared, Ranked.of(compared), samples, rule, threshold, prompts, seed, filters)
    asked = compared.answers["prompt_id"].gather(compared.a)
    names = reasons_of(filters)
    reasons = pl.Series("reason", (*names, None)).gather(np.minimum(reason, len(names)))
    return _sided(compared.table, decide_by).with_columns(asked, reasons)


@dataclass(frozen=True)
class Compared:
    """Verdicts and what they compare; rows are verdicts by ``pair_id``, and so are the arrays."""

    table: pl.DataFrame
    """The verdicts' columns, ``sample_a`` and ``sample_b``."""
    decide_by: str
    """``p_a`` or ``p_a_lc``: the outcome of a comparison."""
    a: Integers
    """Place of the first answer among *answers*."""
    b: Integers
    answers: pl.DataFrame
    """``sample_id``, ``characters`` and ``prompt_id`` of every answer, compared or not."""
    prompt_of: Integers
    """(answers,) a number for the prompt of each."""

    @property
    def p(self) -> Array:
        """P(a preferred) by which is decided."""
        return self.table[self.decide_by].to_numpy()

    @property
    def margin(self) -> Array:
        """The verdicts' margins."""
        return self.table["margin"].to_numpy()

    @classmethod
    def of(cls, verdicts: pl.DataFrame, pairs: Rows, samples: Rows, decide_by: str) -> "Compared":
        """From the frames of those names.

        Raises:
            StageError: a verdict's pair or answers are missing.
        """
        compared = pairs.lazy().select("pair_id", "sample_a", "sample_b")
        ends, answers = together(lambda: compared.collect(engine="streaming"), lambda: lengths(samples, "prompt_id"))
        told = verdicts if verdicts["pair_id"].is_sorted() else verdicts.sort("pair_id")
        at = positions(told["pair_id"], ends["pair_id"])
        missing = int((at < 0).sum())
        ends = ends.drop("pair_id")
        if not np.array_equal(at, np.arange(ends.height)):
            ends = ends[at[at >= 0]]
        both = pl.concat([ends["sample_a"], ends["sample_b"]])
        places, prompt = together(lambda: positions(both, answers["sample_id"]), lambda: numbered(answers["prompt_id"]))
        a, b = places.reshape(2, -1)
        missing += int(((a < 0) | (b < 0)).sum())
        if missing:
            raise StageError(
                f"{missing} verdicts have a pair or an answer that is not there; run the stages from `pair` on again"
            )
        return cls(told.hstack(ends), decide_by, a, b, answers, prompt)


@dataclass(frozen=True)
class Ranked:
    """The answers that were compared, and how good each is."""

    answer: Integers
    """Place among *answers*, rising."""
    prompt: Integers
    """The prompt's number."""
    found: bradley_terry.Scores

    @classmethod
    def of(cls, compared: Compared) -> "Ranked":
        """By all verdicts."""
        there = np.zeros(compared.answers.height, bool)
        there[compared.a] = there[compared.b] = True
        answer, number = np.flatnonzero(there), np.cumsum(there) - 1
        prompt = compared.prompt_of[answer]
        return cls(answer, prompt, bradley_terry.scores(number[compared.a], number[compared.b], compared.p, prompt))

    def frame(self, compared: Compared) -> pl.DataFrame:
        """The frame ``scores``."""
        named = compared.answers.select("sample_id", "prompt_id")
        named = named if len(self.answer) == named.height else named[self.answer]
        return named.with_columns(score=self.found.score, se=self.found.se, n=self.found.n)


def _sided(table: pl.DataFrame, decide_by: str) -> pl.DataFrame:
    """*table* with ``chosen_id`` and ``rejected_id``, by its verdicts."""
    a_wins = pl.col(decide_by) > 1 / 2
    return table.with_columns(
        pl.when(a_wins).then("sample_a").otherwise("sample_b").alias("chosen_id"),
        pl.when(a_wins).then("sample_b").otherwise("sample_a").alias("rejected_id"),
    )


def _reasons(
    compared: Compared,
    ranked: Ranked,
    samples: Rows,
    rule: SelectConfig,
    threshold: float | None,
    prompts: Rows | None,
    seed: int,
    filters: Sequence[Filter],
) -> Codes:
    """(verdicts,) the place in :func:`reasons_of` of the first reason that holds, or KEPT."""
    reason = np.full(len(compared.p), KEPT, np.uint8)
    names = reasons_of(filters)

    def drop(name: str, where: Mask) -> None:
        reason[where & (reason == KEPT)] = names.index(name)

    drop("tie", compared.p == 1 / 2)
    if rule.strategy != "all":
        drop("not_selected", ~_taken(compared, ranked, rule, seed))
    if rule.max_length_ratio is not None:
        drop("length_ratio", _length_ratio(compared) > rule.max_length_ratio)
    left = np.flatnonzero(reason == KEPT)
    for name, found in _by_text(compared, left, samples, rule, prompts, filters).items():
        where = np.zeros(len(reason), bool)
        where[left] = found
        drop(name, where)
    drop("low_margin", compared.margin < rule.min_margin)
    if rule.top_fraction is not None:
        drop("below_top", ~_top(compared.margin, reason == KEPT, rule.top_fraction))
    drop("below_gate", compared.margin < (threshold or 0.0))
    return reason


def _length_ratio(compared: Compared) -> Array:
    """Characters of the longer over those of the shorter answer of each row."""
    told = compared.answers["characters"].to_numpy()
    one, other = told[compared.a], told[compared.b]
    return np.maximum(one, other) / np.minimum(one, other)


def _taken(compared: Compared, ranked: Ranked, rule: SelectConfig, seed: int) -> Mask:
    """Whether each row is the pair that the strategy takes of its prompt.

    A prompt's pairs, ties left out, are ranked with chosen and rejected as their own verdicts say, and the first is
    taken; so where the pair that the strategy is after was not compared, or its verdict says the opposite, the next
    best takes its place.
    """
    score = _by_number(ranked.answer, np.round(ranked.found.score, SCORE_DIGITS))
    a_wins = compared.p > 1 / 2
    a, b, prompt = score[compared.a], score[compared.b], compared.prompt_of[compared.a]
    chosen, rejected = np.where(a_wins, a, b), np.where(a_wins, b, a)
    if rule.strategy == "best_vs_random":
        keys = (-chosen, _draws(compared.table["pair_id"], seed))
    elif rule.strategy == "best_vs_mu_minus_2sigma":
        of_prompts = pl.DataFrame({"prompt": ranked.prompt, "score": ranked.found.score}).group_by("prompt")
        about = of_prompts.agg(at=pl.col("score").mean() - 2 * pl.col("score").std(ddof=0))
        at = _by_number(about["prompt"].to_numpy(), about["at"].to_numpy())
        off = np.abs(rejected - at[prompt]).round(SCORE_DIGITS)
        keys = (-chosen, off, -compared.margin)
    else:
        keys = ((rejected - chosen).round(SCORE_DIGITS), -compared.margin)
    return _least(prompt, compared.p != 1 / 2, keys)


def _least(group: Integers, allowed: Mask, keys: Sequence[Array]) -> Mask:
    """Whether each row is the one of its *group* that is allowed and least by the keys in turn, then by place."""
    alive = allowed.copy()
    for key in (*keys, np.arange(len(group), dtype=np.float64)):
        rows = np.flatnonzero(alive)
        least = np.full(group.max(initial=-1) + 1, np.inf)
        np.minimum.at(least, group[rows], key[rows])
        alive[rows] = key[rows] == least[group[rows]]
    return alive


def _by_number(numbers: Integers, values: Array) -> Array:
    """An array that holds each of *values* at the place that its number names."""
    table = np.zeros(int(numbers.max(initial=-1)) + 1)
    table[numbers] = values
    return table


def _draws(pair_ids: pl.Series, seed: int) -> Array:
    """In [0, 1) for each pair, hanging on its id and *seed* alone (splitmix64; Steele, Lea & Flood 2014)."""
    start = ids.seed_from(seed, "best_vs_random")
    z = pair_ids.str.slice(0, 16).str.to_integer(base=16, dtype=pl.UInt64).to_numpy() + np.uint64(start)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    return (z ^ (z >> np.uint64(31))) / 2.0**64


def _by_text(
    compared: Compared,
    rows: Integers,
    samples: Rows,
    rule: SelectConfig,
    prompts: Rows | None,
    filters: Sequence[Filter],
) -> dict[str, Mask]:
    """Reasons that the answers' words give -> whether each of *rows* has it; other rows are not read."""
    built_in = rule.max_similarity is not None or rule.refusals != "keep" or rule.languages is not None
    if not (built_in or rule.drop_flagged or filters):
        return {}
    asked = compared.answers["prompt_id"].gather(compared.a[rows])
    left = _sided(compared.table[rows], compared.decide_by).select(asked, "chosen_id", "rejected_id")
    wanted = pl.concat([left["chosen_id"], left["rejected_id"]]).unique().implode()
    words = (
        samples.lazy()
        .filter(pl.col("sample_id").is_in(wanted))
        .select("sample_id", "completion")
        .unique("sample_id", keep="any")
        .collect(engine="streaming")
    )
    for side in ("chosen", "rejected"):
        named = words.rename({"sample_id": f"{side}_id", "completion": side})
        left = left.join(named, on=f"{side}_id", how="left", maintain_order="left")
    alike = refused = pl.Series(np.zeros(left.height, bool))
    if rule.max_similarity is not None:
        alike = jaccard(left["chosen"], left["rejected"]) > rule.max_similarity
    if rule.refusals != "keep":
        refused = refuses(left["chosen"])
        if rule.refusals == "drop_any":
            refused |= refuses(left["rejected"])
    flagged = [rule.drop_flagged and _flagged(row) for row in left.select("chosen", "rejected").iter_rows()]
    found = {
        "near_identical": alike.to_numpy(),
        "refusal": refused.to_numpy(),
        "flagged": np.array(flagged, bool),
        "language": np.array(_foreign(left, rule.languages, prompts), bool),
    }
    for name, where in _filtered(left, prompts, filters).items():
        found[name] = found[name] | where if name in found else where
    return found


def _filtered(left: pl.DataFrame, prompts: Rows | None, filters: Sequence[Filter]) -> dict[str, Mask]:
    """Reasons of *filters* -> whether each row has it.

    Raises:
        StageError: the prompts are missing, or a filter does not say of each pair whether it goes.
    """
    if not filters:
        return {}
    if prompts is None:
        raise StageError("select.filters needs the prompts; run `jurybox load CONFIG` first")
    asked = prompts.lazy().filter(pl.col("prompt_id").is_in(left["prompt_id"].unique().implode()))
    told = {
        key: transcript(conversation(turns)) for key, turns in asked.select("prompt_id", "messages").collect().rows()
    }
    pairs = left.select(
        pl.Series("prompt", [told[key] for key in left["prompt_id"]], dtype=pl.String), "chosen", "rejected"
    )
    found: dict[str, Mask] = {}
    for one in filters:
        found[one.reason] = found.get(one.reason, np.zeros(pairs.height, bool)) | _goes(one, pairs)
    return found


def _goes(one: Filter, pairs: pl.DataFrame) -> Mask:
    goes = cast("object", one.drops(pairs))
    if isinstance(goes, pl.Series) and goes.dtype == pl.Boolean and len(goes) == pairs.height and not goes.null_count():
        return goes.to_numpy()
    raise StageError(
        f"the filter {type(one).__name__} returned {str(goes)[:200]!r} for {pairs.height} pairs; it must return a "
        "Polars series of as many booleans, none of them null"
    )


def _flagged(answers: tuple[str, ...]) -> bool:
    """Whether one of the answers looks written for the judge."""
    return any(mark(text) is not None for text in answers)


def _foreign(left: pl.DataFrame, allowed: Languages, prompts: Rows | None) -> list[bool]:
    """Whether an answer's language is recognised and not one that the pair's prompt or the config allows."""
    if allowed is None:
        return [False] * left.height
    spoken = zip(*(languages(left[side].to_list()) for side in ("chosen", "rejected")), strict=True)
    if allowed == "prompt":
        if prompts is None:
            raise StageError("select.languages: prompt needs the prompts; run `jurybox load CONFIG` first")
        said = prompts.lazy().filter(pl.col("prompt_id").is_in(left["prompt_id"].unique().implode()))
        last = said.select("prompt_id", pl.col("messages").list.last().struct.field("content")).collect()
        of_prompt = dict(zip(last["prompt_id"], languages(last["content"].to_list()), strict=True))
        wanted = [{of_prompt[key]} - {None} for key in left["prompt_id"]]
    else:
        unknown = sorted(set(allowed) - set(known_languages()))
        if unknown:
            raise ConfigError(
                f"select.languages: {', '.join(unknown)} cannot be recognised; allowed: {', '.join(known_languages())}"
            )
        wanted = [set(allowed)] * left.height
    return [
        bool(may) and any(language is not None and language not in may for language in both)
        for may, both in zip(wanted, spoken, strict=True)
    ]


def _top(margin: Array, left: Mask, fraction: float) -> Mask:
    """Whether each row is of the *fraction* with the largest margins among those *left*; equal ones by place."""
    rows = np.flatnonzero(left)
    order = rows[np.argsort(-margin[rows], kind="stable")]
    top = np.zeros(len(margin), bool)
    top[order[: math.ceil(fraction * len(rows))]] = True
    return top


def _run(shard: Shard, config: Config, bench: Workbench) -> Result:
    del shard
    certificate = bench.folder.read_json("certificate.json")
    if certificate is None:
        raise StageError("there is no certificate.json; run `jurybox gate CONFIG` first")
    if config.gate.required and not certificate["certified"]:
        raise StageError(f"gate.required is set and nothing is certified: {certificate['reason']}")
    side = config.aggregate.decide_by
    pairs, samples, prompts = map(bench.folder.scan, ("pairs", "samples", "prompts"))
    compared = Compared.of(bench.folder.read("verdicts"), pairs, samples, side)
    ranked = Ranked.of(compared)
    filters = filters_of(config.select, bench.base)
    told = certificate["threshold"]
    reason = _reasons(compared, ranked, samples, config.select, told, prompts, config.seed, filters)
    kept = pl.Series(reason == KEPT)

    def dropped() -> pl.DataFrame:
        why = pl.Series("reason", reasons_of(filters)).gather(reason[reason != KEPT])
        return compared.table.select(id="pair_id").filter(~kept).with_columns(why, stage=pl.lit("select"))

    chosen, scores, left = together(
        lambda: _sided(compared.table.filter(kept), side), lambda: ranked.frame(compared), dropped
    )
    return Result({"kept": chosen, "scores": scores, "dropped": left})


def reads(config: Config) -> Mapping[str, object]:
    """The config that decides which pairs are kept."""
    return {
        **config.select.model_dump(mode="json"),
        "decide_by": config.aggregate.decide_by,
        "seed": config.seed if config.select.strategy == "best_vs_random" else None,
    }


STAGE = Stage(
    name="select",
    inputs=("verdicts", "pairs", "samples", "prompts"),
    outputs=("kept", "scores"),
    artefacts_in=("certificate.json",),
    run=_run,
    reads=lambda config: [reads(config), config.gate.required],
    files=lambda config: [] if config.select.refusals == "keep" else [PATTERNS],
    version=3,
)
