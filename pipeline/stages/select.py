"""select: verdicts -> kept and dropped pairs, and the frame ``scores``. Pure; reads the patterns of refusals.

Chosen and rejected follow the verdict, never the position. A strategy takes pairs of each prompt; filters follow. Drop
reasons, in this order, the first that holds: ``tie`` (the verdict is exactly one half), ``not_selected`` (the strategy
took another pair of the prompt), ``length_ratio``, ``near_identical`` (select.max_similarity), ``refusal``,
``language``, ``low_margin`` (below select.min_margin), ``below_top`` (outside select.top_fraction), ``below_gate``
(below the certified threshold). Every pair with a verdict is kept or dropped, once. The threshold comes last and every
rule before it looks at verdicts and texts alone, so a higher threshold keeps a part of what a lower one keeps.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline import bradley_terry, ids, texts
from pipeline.config import Config, SelectConfig
from pipeline.errors import ConfigError, StageError
from pipeline.frames import lengths, positions
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
    """Bradley-Terry scores of the answers that were compared.

    Args:
        compared: what :func:`_compared` gives.
        decide_by: ``p_a`` or ``p_a_lc``: the outcome of a comparison.

    Returns:
        ``answer`` and ``prompt`` (numbers), ``sample_id``, ``prompt_id``, ``score``, ``se``, ``n``, by ``answer``.
    """
    sides = [
        compared.select(pl.col(side).alias("answer"), pl.col(name).alias("sample_id"), "prompt_id")
        for side, name in (("a", "sample_a"), ("b", "sample_b"))
    ]
    answers = pl.concat(sides).unique("answer", keep="any").sort("answer")
    answers = answers.with_columns(pl.col("prompt_id").rank("dense").cast(pl.Int64).alias("prompt"))
    row_of = _by_number(answers["answer"], np.arange(answers.height))
    found = bradley_terry.scores(
        row_of[compared["a"].to_numpy()],
        row_of[compared["b"].to_numpy()],
        compared[decide_by].to_numpy(),
        answers["prompt"].to_numpy(),
    )
    return answers.with_columns(score=found.score, se=found.se, n=found.n)


def _by_number(numbers: pl.Series, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An array that holds each of *values* at the place its number names."""
    table = np.zeros(int(numbers.to_numpy().max(initial=-1)) + 1, values.dtype)
    table[numbers.to_numpy()] = values
    return table


def _compared(verdicts: pl.DataFrame, pairs: pl.DataFrame, samples: Rows, decide_by: str) -> pl.DataFrame:
    """Verdicts with ids, ``chosen_id``, ``rejected_id``, the answers' numbers ``a`` and ``b`` and their lengths."""
    told = lengths(samples)
    table = verdicts.join(
        pairs.select("pair_id", "prompt_id", "sample_a", "sample_b"), on="pair_id", how="left", maintain_order="left"
    )
    length = np.append(told["length"].to_numpy(), 0)
    for side in ("a", "b"):
        number = positions(table[f"sample_{side}"], told["sample_id"])
        table = table.with_columns(pl.Series(side, number), pl.Series(f"length_{side}", length[number]))
    missing = table.filter((pl.col("a") < 0) | (pl.col("b") < 0))
    if missing.height:
        raise StageError(
            f"{missing.height} verdicts have a pair or an answer that is not there ({missing['pair_id'][0]}, ...); run "
            "the stages from `pair` on again"
        )
    a_wins = pl.col(decide_by) > 1 / 2
    return table.with_columns(
        pl.when(a_wins).then("sample_a").otherwise("sample_b").alias("chosen_id"),
        pl.when(a_wins).then("sample_b").otherwise("sample_a").alias("rejected_id"),
    ).sort("pair_id")


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
    taken = pl.lit(value=True) if rule.strategy == "all" else pl.Series(_taken(compared, scored, rule, decide_by, seed))
    longer, shorter = pl.max_horizontal("length_a", "length_b"), pl.min_horizontal("length_a", "length_b")
    early = [
        pl.when(pl.col(decide_by) == 1 / 2).then(pl.lit("tie")),
        pl.when(~taken).then(pl.lit("not_selected")),
        pl.when(longer / shorter > (rule.max_length_ratio or math.inf)).then(pl.lit("length_ratio")),
    ]
    table = compared.with_columns(pl.coalesce(early).alias("reason"))
    table = _by_text(table, samples, rule, prompts)
    table = _first_reason(table, pl.when(pl.col("margin") < rule.min_margin).then(pl.lit("low_margin")))
    if rule.top_fraction is not None:
        table = _first_reason(table, pl.when(~_top(table, rule.top_fraction)).then(pl.lit("below_top")))
    table = _first_reason(table, pl.when(pl.col("margin") < (threshold or 0.0)).then(pl.lit("below_gate")))
    return table.drop("a", "b", "length_a", "length_b")


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
    score = _by_number(scored["answer"], scored["score"].round(SCORE_DIGITS).to_numpy())
    prompt = _by_number(scored["answer"], scored["prompt"].to_numpy())[compared["a"].to_numpy()]
    p = compared[decide_by].to_numpy()
    a, b = compared["a"].to_numpy(), compared["b"].to_numpy()
    chosen, rejected = score[np.where(p > 1 / 2, a, b)], score[np.where(p > 1 / 2, b, a)]
    margin = compared["margin"].to_numpy()
    if rule.strategy == "best_vs_random":
        keys = (_draws(compared["pair_id"], seed), -chosen)
    elif rule.strategy == "best_vs_mu_minus_2sigma":
        about = scored.group_by("prompt").agg((pl.col("score").mean() - 2 * pl.col("score").std(ddof=0)).alias("at"))
        off = np.abs(rejected - _by_number(about["prompt"], about["at"].to_numpy())[prompt]).round(SCORE_DIGITS)
        keys = (-margin, off, -chosen)
    else:
        keys = (-margin, (rejected - chosen).round(SCORE_DIGITS))
    # The rows are sorted by pair_id and the sort is stable, so what is equal goes by pair_id.
    order = np.lexsort((*keys, prompt))
    order = order[p[order] != 1 / 2]
    first = np.ones(len(order), bool)
    first[1:] = prompt[order][1:] != prompt[order][:-1]
    taken = np.zeros(len(p), bool)
    taken[order[first]] = True
    return taken


def _draws(pair_ids: pl.Series, seed: int) -> npt.NDArray[np.uint64]:
    """A random number of each pair that hangs on its id and *seed* alone (splitmix64; Steele, Lea & Flood 2014)."""
    start = ids.seed_from(seed, "best_vs_random")
    z = pair_ids.str.slice(0, 16).str.to_integer(base=16, dtype=pl.UInt64).to_numpy() + np.uint64(start)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    return z ^ (z >> np.uint64(31))


def _by_text(table: pl.DataFrame, samples: Rows, rule: SelectConfig, prompts: Rows | None) -> pl.DataFrame:
    """*table* with the reasons that the answers' words give; only rows that have none yet are read."""
    if rule.max_similarity is None and rule.refusals == "keep" and rule.languages is None:
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
    foreign = pl.Series(_foreign(left, rule.languages, prompts), dtype=pl.Boolean)
    reason = pl.coalesce(
        pl.when(alike).then(pl.lit("near_identical")),
        pl.when(refused).then(pl.lit("refusal")),
        pl.when(foreign).then(pl.lit("language")),
    )
    found = left.select("pair_id", reason.alias("by_text"))
    table = table.join(found, on="pair_id", how="left", maintain_order="left")
    return _first_reason(table, pl.col("by_text")).drop("by_text")


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
    compared = _compared(frames["verdicts"], frames["pairs"], samples, side)
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
