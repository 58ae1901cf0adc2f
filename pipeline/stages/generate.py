"""generate: prompts -> samples, by every generator at every temperature. Touches models through engines only.

Drop reasons are those of ``pipeline.calls.finality``: ``too_long`` (the prompt leaves no room for an answer),
``cut_off`` (the answer ended at ``max_tokens``), ``refused``, ``content_filter``, ``empty_answer``, and, asked again by
the next run, ``unanswered`` and ``rejected``. What the endpoint said stands beside each.
"""

from collections.abc import Sequence

import polars as pl

from judges.asking import Heard, ask, attempt_seed
from judges.parsing import UnreadableError
from pipeline import ids, schemas
from pipeline.config import Config, GeneratorConfig
from pipeline.engines.base import ASKED_AGAIN, Answer, Request
from pipeline.errors import StageError
from pipeline.frames import bucketed, conversation
from pipeline.sampling.turns import with_system
from pipeline.stages.base import Frames, Result, Shard, Stage, calls_frame, dropped_frame
from pipeline.workbench import Workbench

SHOWN = 3
"""Kinds of failure that an error repeats."""


def requests(prompts: pl.DataFrame, generator: GeneratorConfig, seed: int) -> list[tuple[str, float, int, Request]]:
    """(prompt_id, temperature, sample_index, request) for every answer wanted; each has a seed of its own."""
    wanted: list[tuple[str, float, int, Request]] = []
    for row in prompts.sort("prompt_id").iter_rows(named=True):
        messages = with_system(conversation(row["messages"]), generator.system)
        for temperature in generator.temperatures:
            for index in range(generator.samples):
                own = ids.seed_from(seed, "generate", row["prompt_id"], generator.label, temperature, index)
                request = Request(messages, generator.max_tokens, temperature, generator.top_p, own, index)
                wanted.append((row["prompt_id"], temperature, index, request))
    return wanted


def usable(answer: Answer, *, keep_cut_off: bool) -> Answer:
    """*answer*, where it is one that is kept.

    Raises:
        UnreadableError: there is no text, or it is cut off and such are not kept.
    """
    if answer.text is None or not answer.text.strip():
        raise UnreadableError(answer.error or "no text", answer.reason or "empty_answer")
    if answer.finish_reason == "length" and not keep_cut_off:
        raise UnreadableError("cut off at max_tokens; raise it, or set keep_cut_off: true", "cut_off")
    return answer


def taken(answer: Answer, generator: GeneratorConfig) -> Heard[Answer]:
    """What is taken of the one answer to a request."""
    keys = (answer.call.call_key,)
    try:
        return Heard(usable(answer, keep_cut_off=generator.keep_cut_off), None, answer.text, keys)
    except UnreadableError as error:
        return Heard(None, str(error), answer.text, keys, error.reason)


def samples(
    wanted: Sequence[tuple[str, float, int, Request]], heard: Sequence[Heard[Answer]], model: str
) -> tuple[pl.DataFrame, dict[str, str], dict[str, str | None]]:
    """The frame ``samples``; and of the others why there is none (id -> reason), and in what words (id -> detail)."""
    rows: list[dict[str, object]] = []
    reasons: dict[str, str] = {}
    details: dict[str, str | None] = {}
    for (prompt, temperature, index, request), one in zip(wanted, heard, strict=True):
        answer = one.value
        if answer is None or answer.text is None:
            key = f"{prompt}:{model}:{temperature}:{index}"
            reasons[key], details[key] = one.reason or "empty_answer", one.error
            continue
        seed = attempt_seed(request.seed, len(one.call_keys) - 1)
        rows.append(
            {
                "sample_id": ids.sample_id(prompt, model, temperature, seed, answer.text),
                "prompt_id": prompt,
                "model": model,
                "temperature": temperature if answer.temperature_sent else None,
                "sample_index": index,
                "seed": seed,
                "completion": answer.text,
                "characters": len(answer.text),
                "finish_reason": answer.finish_reason,
                "completion_tokens": answer.call.completion_tokens,
                "logprob": answer.logprob,
                "reasoning": answer.reasoning,
                "external_id": None,
            }
        )
    return schemas.frame("samples", rows), reasons, details


def _shards(frames: Frames, config: Config, bench: Workbench) -> list[Shard]:
    del bench
    prompts = frames["prompts"]
    if config.generators and prompts.is_empty():
        raise StageError("there are no prompts to answer; set prompts.path or run `jurybox import prompts FILE`")
    return [
        Shard(
            f"{number}-{generator.label}-{bucket}",
            {"prompts": rows},
            {
                "generator": generator.model_dump(mode="json", exclude={"price"}),
                "base_url": config.base_url(generator),
                "seed": config.seed,
            },
            rows.height * len(generator.temperatures) * generator.samples,
            config.endpoints_of(generator),
        )
        for number, generator in enumerate(config.generators)
        # Batches may take a day each: all of a generator's calls wait together.
        for bucket, rows in (bucketed(prompts) if generator.batch is None else [("all", prompts)])
    ]


def _run(shard: Shard, config: Config, bench: Workbench) -> Result:
    generator = config.generators[int(shard.name.split("-")[0])]
    wanted = requests(shard.frames["prompts"], generator, config.seed)
    heard, calls = ask(
        bench.engine(generator),
        [request for *_, request in wanted],
        lambda _at, answer: usable(answer, keep_cut_off=generator.keep_cut_off),
        generator.max_attempts,
        bench.advance,
    )
    made, reasons, details = samples(wanted, heard, generator.label)
    return Result(
        {
            "samples": made,
            "calls": calls_frame(calls, f"generate:{generator.label}"),
            "dropped": dropped_frame("generate", reasons, details),
        },
        complete=not any(one.reason in ASKED_AGAIN for one in heard),
    )


REMEDIES = {
    "rejected": "set what it names in `body`, or remove it there with null",
    "cut_off": "raise max_tokens, or set keep_cut_off: true",
    "too_long": "shorten the prompts or lower max_tokens",
    "refused": "ask another model, or change the prompts",
    "content_filter": "ask another endpoint, or change the prompts",
    "unanswered": "mend what it names, then run the same command again",
}


def _something_came(bench: Workbench) -> None:
    """Raises StageError when answers were wanted and not one came."""
    dropped = bench.folder.read("dropped").filter(pl.col("stage") == "generate")
    if not bench.config.generators or dropped.is_empty() or bench.folder.height("samples"):
        return
    told = dropped.group_by("reason", "detail").len().sort("len", "reason", descending=[True, False]).head(SHOWN)
    worst = "; ".join(f"{count} x {reason}: {detail}" for reason, detail, count in told.iter_rows())
    remedy = REMEDIES.get(told["reason"][0], "change model, prompts or max_tokens")
    raise StageError(f"none of {dropped.height} answers came ({worst}); {remedy}")


STAGE = Stage(
    name="generate",
    inputs=("prompts",),
    outputs=("samples", "calls"),
    run=_run,
    reads=lambda _config: None,
    shards=_shards,
    verify=_something_came,
    version=3,
)
