"""generate: prompts -> samples, by every generator at every temperature. Touches models through engines only.

Drop reasons: ``too_long`` (the prompt leaves no room for an answer), ``empty_answer``, ``refused``, ``rejected``,
``malformed``, ``unanswered`` (no reply came; the next run asks again).
"""

from collections.abc import Sequence

import polars as pl

from pipeline import ids, schemas
from pipeline.config import Config, GeneratorConfig
from pipeline.engines.base import Answer, Request
from pipeline.errors import StageError
from pipeline.frames import bucketed, conversation
from pipeline.sampling.turns import with_system
from pipeline.stages.base import Frames, Result, Shard, Stage, calls_frame, dropped_frame
from pipeline.workbench import Workbench


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


def samples(
    wanted: Sequence[tuple[str, float, int, Request]], answers: Sequence[Answer], model: str
) -> tuple[pl.DataFrame, dict[str, str]]:
    """The frame ``samples``, and why there is none for the others (id -> reason)."""
    rows: list[dict[str, object]] = []
    reasons: dict[str, str] = {}
    for (prompt, temperature, index, request), answer in zip(wanted, answers, strict=True):
        if answer.text is None or not answer.text.strip():
            reasons[f"{prompt}:{model}:{temperature}:{index}"] = (answer.error or "empty_answer").split(":")[0]
            continue
        rows.append(
            {
                "sample_id": ids.sample_id(prompt, model, temperature, request.seed, answer.text),
                "prompt_id": prompt,
                "model": model,
                "temperature": temperature,
                "sample_index": index,
                "seed": request.seed,
                "completion": answer.text,
                "characters": len(answer.text),
                "finish_reason": answer.finish_reason,
                "completion_tokens": answer.call.completion_tokens,
                "logprob": answer.logprob,
                "external_id": None,
            }
        )
    return schemas.frame("samples", rows), reasons


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
    answers = bench.engine(generator).complete([request for *_, request in wanted], bench.advance)
    made, reasons = samples(wanted, answers, generator.label)
    return Result(
        {
            "samples": made,
            "calls": calls_frame([answer.call for answer in answers], f"generate:{generator.label}"),
            "dropped": dropped_frame("generate", reasons),
        },
        complete=not any(answer.unanswered for answer in answers),
    )


STAGE = Stage(
    name="generate",
    inputs=("prompts",),
    outputs=("samples", "calls"),
    run=_run,
    reads=lambda _config: None,
    shards=_shards,
    version=2,
)
