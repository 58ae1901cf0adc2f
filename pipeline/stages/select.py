"""select: verdicts -> kept and dropped pairs, and the frame ``scores``. Pure; reads the patterns of refusals.

Chosen and rejected follow the verdict, never the position. A strategy takes pairs of each prompt; filters follow.
Drop reasons, in this order, the first that holds: ``tie`` (the verdict is exactly one half), ``not_selected`` (the
strategy took another pair of the prompt), ``length_ratio``, ``near_identical`` (select.max_similarity), ``refusal``,
``flagged`` (select.drop_flagged), ``language``, ``low_margin`` (below select.min_margin), ``below_top`` (outside
select.top_fraction), ``below_gate`` (below the certified threshold). Every pair with a verdict is kept or dropped,
once. The threshold comes last and every rule before it looks at verdicts and texts alone, so a higher threshold keeps
a part of what a lower one keeps.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from judges.suspicion import mark
from pipeline import bradley_terry, ids, texts
from pipeline.config import Config, SelectConfig
from pipeline.errors import ConfigError, StageError
from pipeline.frames import distinct, lengths, numbered, positions
from pipeline.runner import Result, Shard, Stage
from pipeline.workbench import Workbench

Rows = pl.DataFrame | pl.LazyFrame
Languages = Literal["prompt"] | tuple[str, ...] | None
SCORE_DIGITS = 9
"""Scores are compared to this many digits, so that what is equal by symmetry is equal."""


def decide(
    verdicts: pl.DataFrame,
    pairs: pl.DataFrame,
    samples: Rows,
    rule: SelectConfig,
    decide_by: str,
    threshold: float | None,
    *,
    prompts: Rows | None = None,
    seed: int = 0,
) -> pl.DataFrame:
    """Every verdict with ``prompt_id``, ``chosen_id``, ``rejected_id`` and ``reason`` (null: kept), by ``pair_id``.

    Args:
        verdicts: frame ``verdicts``.
        pairs: frame ``pairs``.
        samples: frame ``samples``, for texts and their lengths.
        rule: strategy and filters.
        decide_by: ``p_a`` or ``p_a_lc``.
        threshold: the gate's smallest margin, if it certified one.
        prompts: frame ``prompts``; needed for ``languages: prompt``.
        seed: of the random rejected answer.

    Raises:
        StageError: a verdict's pair or answers are missing.
        ConfigError: a language cannot be recognised, or the package for it is missing.
    """
    compared = _compared(verdicts, pairs, samples, decide_by)
    return _decided(compared, scores(compared, decide_by), samples, rule, decide_by, threshold, prompts, seed)


def scores(compared: pl.DataFrame, decide_by: str) -> pl.DataFrame:
    """The frame ``scores`` of the answers that were compared, and the numbers ``answer`` and ``prompt``.

    Args:
        compared: what :func:`_compared` gives.
        decide_by: ``p_a`` or ``p_a_lc``: the outcome of a comparison.
    """
    sides = compared["a"].to_numpy(), compared["b"].to_numpy()
    count = 1 + int(max(side.max(initial=-1) for side in sides))
    # The last comparison that an answer is in, and its side there: where its id and its prompt are found.
    seen = np.full(count, -1)
    for at, side in enumerate(sides):
        seen[side] = 2 * np.arange(len(side)) + at
    answer = np.flatnonzero(seen >= 0)
    row, is_b = seen[answer] // 2, seen[answer] % 2 == 1
    number = np.full(count, -1)
    number[answer] = np.arange(len(answer))
    prompt = compared["prompt"].to_numpy()[row]
    found = bradley_terry.scores(number[sides[0]], number[sides[1]], compared[decide_by].to_numpy(), prompt)
    mine = compared.select("prompt_id", "sample_a", "sample_b")[row]
    return mine.select(
        pl.Series("answer", answer),
        pl.Series("prompt", prompt),
        pl.when(pl.Series(is_b)).then("sample_b").otherwise("sample_a").alias("sample_id"),
        "prompt_id",
        pl.Series("score", found.score),
        pl.Series("se", found.se),
        pl.Series("n", found.n),
    )


def _compared(verdicts: pl.DataFrame, pairs: pl.DataFrame, samples: Rows, decide_by: str) -> pl.DataFrame:
    """Verdicts by ``pair_id`` with ids, ``chosen_id``, ``rejected_id`` and the numbers ``prompt``, ``a`` and ``b``."""
    at = positions(verdicts["pair_id"], pairs["pair_id"])
    ends = pairs.select("prompt_id", "sample_a", "sample_b")
    known = samples.lazy().select("sample_id").collect(engine="streaming")["sample_id"]
    known = known if distinct(known) else known.unique(maintain_order=True)
    table = verdicts.hstack(ends[np.maximum(at, 0)]) if pairs.height else verdicts.head(0).hstack(ends.head(0))
    both = positions(pl.concat([table["sample_a"], table["sample_b"]]), known).reshape(2, -1)
    missing = int(((at < 0) | (both < 0).any(axis=0)).sum()) if pairs.height else verdicts.height
    if missing:
        raise StageError(
            f"{missing} verdicts have a pair or an answer that is not there; run the stages from `pair` on again"
        )
    a_wins = pl.col(decide_by) > 1 / 2
    table = table.with_columns(
        pl.Series("prompt", numbered(table["prompt_id"])),
        pl.Series("a", both[0]),
        pl.Series("b", both[1]),
        pl.when(a_wins).then("sample_a").otherwise("sample_b").alias("chosen_id"),
        pl.when(a_wins).then("sample_b").otherwise("sample_a").alias("rejected_id"),
    )
    return table if table["pair_id"].is_sorted() else table.sort("pair_id")


def _decided(
    compared: pl.DataFrame,
    scored: pl.DataFrame,
    samples: Rows,
    rule: SelectConfig,
    decide_by: str,
    threshold: float | None,
    prompts: Rows | None,
    seed: int,
) -> pl.DataFrame:
    early = [pl.when(pl.col(decide_by) == 1 / 2).then(pl.lit("tie"))]
    if rule.strategy != "all":
        taken = _taken(compared, scored, rule, decide_by, seed)
        early.append(pl.when(~pl.Series(taken)).then(pl.lit("not_selected")))
    if rule.max_length_ratio is not None:
        ratio = _length_ratio(compared, samples)
        early.append(pl.when(pl.Series(ratio > rule.max_length_ratio)).then(pl.lit("length_ratio")))
    table = compared.with_columns(pl.coalesce(early).alias("reason"))
    table = _by_text(table, samples, rule, prompts)
    table = _first_reason(table, pl.when(pl.col("margin") < rule.min_margin).then(pl.lit("low_margin")))
    if rule.top_fraction is not None:
        table = _first_reason(table, pl.when(~_top(table, rule.top_fraction)).then(pl.lit("below_top")))
    table = _first_reason(table, pl.when(pl.col("margin") < (threshold or 0.0)).then(pl.lit("below_gate")))
    return table.drop("prompt", "a", "b")


def _length_ratio(compared: pl.DataFrame, samples: Rows) -> npt.NDArray[np.float64]:
    """Characters of the longer over those of the shorter answer of each row."""
    told = lengths(samples)
    sides = (told["length"].to_numpy()[positions(compared[f"sample_{side}"], told["sample_id"])] for side in "ab")
    one, other = sides
    return np.maximum(one, other) / np.minimum(one, other)


def _first_reason(table: pl.DataFrame, reason: pl.Expr) -> pl.DataFrame:
    return table.with_columns(pl.coalesce("reason", reason).alias("reason"))


def _taken(
    compared: pl.DataFrame, scored: pl.DataFrame, rule: SelectConfig, decide_by: str, seed: int
) -> npt.NDArray[np.bool_]:
    """Whether each row is the pair that the strategy takes of its prompt.

    A prompt's pairs, ties left out, are ranked with chosen and rejected as their own verdicts say, and the first is
    taken; so where the pair that the strategy is after was not compared, or its verdict says the opposite, the next
    best takes its place.
    """
    score = _by_number(scored["answer"], scored["score"].round(SCORE_DIGITS))
    prompt, p = compared["prompt"].to_numpy(), compared[decide_by].to_numpy()
    a, b = compared["a"].to_numpy(), compared["b"].to_numpy()
    chosen, rejected = score[np.where(p > 1 / 2, a, b)], score[np.where(p > 1 / 2, b, a)]
    margin = compared["margin"].to_numpy()
    if rule.strategy == "best_vs_random":
        keys = (-chosen, _draws(compared["pair_id"], seed))
    elif rule.strategy == "best_vs_mu_minus_2sigma":
        about = scored.group_by("prompt").agg((pl.col("score").mean() - 2 * pl.col("score").std(ddof=0)).alias("at"))
        off = np.abs(rejected - _by_number(about["prompt"], about["at"])[prompt]).round(SCORE_DIGITS)
        keys = (-chosen, off, -margin)
    else:
        keys = ((rejected - chosen).round(SCORE_DIGITS), -margin)
    return _least(prompt, p != 1 / 2, keys)


def _least(
    group: npt.NDArray[np.int64], allowed: npt.NDArray[np.bool_], keys: Sequence[npt.NDArray[np.float64]]
) -> npt.NDArray[np.bool_]:
    """Whether each row is the one of its *group* that is allowed and least by the keys in turn, then by place."""
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    alive = allowed[order]
    for key in (*(key[order] for key in keys), np.arange(len(order), dtype=np.float64)):
        value = np.where(alive, key, np.inf)
        least = np.minimum.reduceat(value, starts) if len(starts) else value
        alive &= value == np.repeat(least, sizes)
    taken = np.zeros(len(order), bool)
    taken[order] = alive
    return taken


def _by_number(numbers: pl.Series, values: pl.Series) -> npt.NDArray[np.float64]:
    """An array that holds each of *values* at the place that its number names."""
    table = np.zeros(int(numbers.to_numpy().max(initial=-1)) + 1)
    table[numbers.to_numpy()] = values.to_numpy()
    return table


def _draws(pair_ids: pl.Series, seed: int) -> npt.NDArray[np.float64]:
    """In [0, 1) for each pair, hanging on its id and *seed* alone (splitmix64; Steele, Lea & Flood 2014)."""
    start = ids.seed_from(seed, "best_vs_random")
    z = pair_ids.str.slice(0, 16).str.to_integer(base=16, dtype=pl.UInt64).to_numpy() + np.uint64(start)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    return (z ^ (z >> np.uint64(31))) / 2.0**64


def _by_text(table: pl.DataFrame, samples: Rows, rule: SelectConfig, prompts: Rows | None) -> pl.DataFrame:
    """*table* with the reasons that the answers' words give; only rows that have none yet are read."""
    if rule.max_similarity is None and rule.refusals == "keep" and rule.languages is None and not rule.drop_flagged:
        return table
    left = table.filter(pl.col("reason").is_null()).select("pair_id", "prompt_id", "chosen_id", "rejected_id")
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
        alike = texts.jaccard(left["chosen"], left["rejected"]) > rule.max_similarity
    if rule.refusals != "keep":
        refused = texts.refuses(left["chosen"])
        if rule.refusals == "drop_any":
            refused |= texts.refuses(left["rejected"])
    flagged = pl.Series([rule.drop_flagged and _flagged(row) for row in left.select("chosen", "rejected").iter_rows()])
    foreign = pl.Series(_foreign(left, rule.languages, prompts), dtype=pl.Boolean)
    reason = pl.coalesce(
        pl.when(alike).then(pl.lit("near_identical")),
        pl.when(refused).then(pl.lit("refusal")),
        pl.when(flagged.cast(pl.Boolean)).then(pl.lit("flagged")),
        pl.when(foreign).then(pl.lit("language")),
    )
    found = left.select("pair_id", reason.alias("by_text"))
    table = table.join(found, on="pair_id", how="left", maintain_order="left")
    return _first_reason(table, pl.col("by_text")).drop("by_text")


def _flagged(answers: tuple[str, ...]) -> bool:
    """Whether one of the answers looks written for the judge."""
    return any(mark(text) is not None for text in answers)


def _foreign(left: pl.DataFrame, allowed: Languages, prompts: Rows | None) -> list[bool]:
    """Whether an answer's language is recognised and not one that the pair's prompt or the config allows."""
    if allowed is None:
        return [False] * left.height
    spoken = zip(*(texts.languages(left[side].to_list()) for side in ("chosen", "rejected")), strict=True)
    if allowed == "prompt":
        if prompts is None:
            raise StageError("select.languages: prompt needs the prompts; run `jurybox load CONFIG` first")
        said = prompts.lazy().filter(pl.col("prompt_id").is_in(left["prompt_id"].unique().implode()))
        last = said.select("prompt_id", pl.col("messages").list.last().struct.field("content")).collect()
        of_prompt = dict(zip(last["prompt_id"], texts.languages(last["content"].to_list()), strict=True))
        wanted = [{of_prompt[key]} - {None} for key in left["prompt_id"]]
    else:
        unknown = sorted(set(allowed) - set(texts.known_languages()))
        if unknown:
            raise ConfigError(
                f"select.languages: {', '.join(unknown)} cannot be recognised; allowed: "
                f"{', '.join(texts.known_languages())}"
            )
        wanted = [set(allowed)] * left.height
    return [
        bool(may) and any(language is not None and language not in may for language in both)
        for may, both in zip(wanted, spoken, strict=True)
    ]


def _top(table: pl.DataFrame, fraction: float) -> pl.Series:
    """Whether each row is of the *fraction* with the largest margins among those without a reason; equal ones by id."""
    left = np.flatnonzero(table["reason"].is_null().to_numpy())
    order = left[np.argsort(-table["margin"].to_numpy()[left], kind="stable")]
    kept = np.zeros(table.height, bool)
    kept[order[: math.ceil(fraction * len(left))]] = True
    return pl.Series(kept)


def _run(shard: Shard, config: Config, bench: Workbench) -> Result:
    frames = shard.frames
    certificate = bench.folder.read_json("certificate.json")
    if certificate is None:
        raise StageError("there is no certificate.json; run `jurybox gate CONFIG` first")
    if config.gate.required and not certificate["certified"]:
        raise StageError(f"gate.required is set and nothing is certified: {certificate['reason']}")
    side = config.aggregate.decide_by
    samples, prompts = bench.folder.scan("samples"), bench.folder.scan("prompts")
    pairs = bench.folder.scan("pairs", "pair_id", "prompt_id", "sample_a", "sample_b").collect(engine="streaming")
    compared = _compared(frames["verdicts"], pairs, samples, side)
    scored = scores(compared, side)
    table = _decided(
        compared,
        scored,
        samples,
        config.select,
        side,
        certificate["threshold"],
        prompts,
        config.seed,
    )
    kept = table.filter(pl.col("reason").is_null())
    dropped = table.filter(pl.col("reason").is_not_null()).select(
        pl.lit("select").alias("stage"), pl.col("pair_id").alias("id"), "reason"
    )
    return Result({"kept": kept, "scores": scored, "dropped": dropped})


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
    files=lambda config: [] if config.select.refusals == "keep" else [texts.PATTERNS],
    version=2,
)
