"""jurybox check, doctor and schema: what can be said before a run. Reads config, packages, endpoints.

A check makes one call per model at an endpoint, the smallest that shows what the run will ask for; it goes through the
ledger like any other, so a budget holds and an answer that is there already is not paid again.
"""

import asyncio
import os
import platform
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, cast

from pipeline import discovery
from pipeline.config import (
    Config,
    EndpointConfig,
    FilterConfig,
    Frozen,
    GeneratorConfig,
    JudgeConfig,
    ModelConfig,
    PairingConfig,
    TrainConfig,
)
from pipeline.engines.base import Request
from pipeline.errors import ConfigError, EndpointError, InputError, StorageError, UnreachableError
from pipeline.runner import stages_of
from pipeline.shown import line
from pipeline.stages.base import installed_versions
from pipeline.workbench import Workbench

TIMEOUT_S = 15
HTTP_ERROR = 400
SMALLEST_TOKENS = 16
"""Longest answer of the call that a check makes: OpenAI's newer models take no smaller limit."""
MENDED = {
    "rejected": "set what it names in `body` of the endpoint or model, or remove it there with null",
    "too_long": "a model with so small a context cannot be asked",
    "unanswered": "mend what it names, then check again",
}


def whole(bench: Workbench) -> list[str]:
    """How many of the run's files are as they were written.

    Raises:
        InputError: there is no run.
        StorageError: some are damaged or gone; it names each.
    """
    known = bench.folder.checksums()
    if not known:
        raise InputError(f"{bench.folder} holds no run with checksums; start one with `jurybox run`")
    faults = bench.folder.faults()
    if faults:
        raise StorageError("\n".join([*faults, "run the same run again: what its stages made, they make again"]))
    return [f"run {bench.folder}: {len(known)} files are as they were written"]


def check(bench: Workbench) -> list[str]:
    """What was found to be in order.

    Raises:
        InputError: a file or kind is missing or wrong.
        EndpointError: an endpoint does not answer, refuses the key, or does not take what the run will ask.
        BudgetError: the calls of the check do not fit the budget.
    """
    from pipeline.commands.imports import refuse_judges_of_two_kinds
    from pipeline.labels import queues as labelling
    from pipeline.stages import judge, load

    config = bench.config
    found = [f"config {config.name}: stages {', '.join(stages_of(config))}"]
    if config.prompts is not None:
        conversations, refused = load.read_file(config.prompts, bench.base)
        found.append(f"prompts {config.prompts.path}: {len(conversations)} usable, {len(refused.rows)} not")
    if config.labels.path is not None and not config.labels.path.is_file():
        raise ConfigError(f"labels.path {config.labels.path} does not exist; correct it or remove it")
    labelling.guidelines(config.labels)
    refuse_judges_of_two_kinds(bench)
    for kind in config.export:
        discovery.find("pipeline.exports", kind, "export", bench.base)
    for options in config.judges:
        # Made, not used: its files are there, and its rubric fits its kind. No model is loaded.
        options.files(bench.base)
        judge.make(options, bench)
        found.append(f"judge {options.name}: {options.kind}")
    models = [*config.generators, *(one for one in config.judges if isinstance(one, ModelConfig))]
    found += [f"endpoint {name}: {served(name, endpoint)}" for name, endpoint in config.endpoints.items()]
    found += [answered(bench, options) for options in _different(models) if options.endpoint is not None]
    for engine in sorted({one.engine for one in models if one.engine}):
        if engine == "vllm" and find_spec("vllm") is None:
            raise ConfigError("engine `vllm` is not installed; install the `vllm` extra, or use another engine")
        discovery.find("pipeline.engines", engine, "{Kind}Engine", bench.base)
        found.append(f"engine {engine}")
    return found


def served(name: str, endpoint: EndpointConfig) -> str:
    """What an endpoint says that it serves; many serve what they do not list.

    Raises:
        EndpointError: no connection, or it refuses the key.
    """
    from pipeline.calls.client import NoReplyError, Reply
    from pipeline.calls.dialect import family_of
    from pipeline.calls.finality import decoded, outcome
    from pipeline.engines.wire import client

    async def asked() -> Reply:
        where = client(name, endpoint, None, family_of(endpoint.base_url, "").key_header)
        async with where.session(1, min(endpoint.timeout_s, TIMEOUT_S)) as session:
            return await session.get("models")

    place = f"endpoint {name!r} ({endpoint.base_url})"
    try:
        reply = asyncio.run(asked())
    except NoReplyError as error:
        raise UnreachableError(f"{place}: {error}; start it, or correct base_url", name) from None
    body = decoded(reply.body)
    if reply.status >= HTTP_ERROR:
        told = outcome(reply.status, body)
        if told.about == "key":
            raise EndpointError(f"{place}: {told.words}; correct base_url and the key, or set `headers` or `query`")
        return f"lists no models ({told.words})"
    rows: object = cast("dict[str, Any]", body).get("data") if isinstance(body, dict) else None
    some = cast("list[Any]", rows if isinstance(rows, list) else [])
    rows_of = [cast("dict[str, Any]", row) for row in some if isinstance(row, dict)]
    listed = [str(row["id"]) for row in rows_of if "id" in row]
    return f"serves {', '.join(line(one, 200) for one in listed[:5]) or 'no listed model'}"


def _different(models: Sequence[ModelConfig]) -> list[ModelConfig]:
    """One of those that are spoken to alike."""
    alike = {"model", "endpoint", "body", "headers", "query", "structured", "verdict"}
    return list({one.model_dump_json(include=alike): one for one in models}.values())


def answered(bench: Workbench, options: ModelConfig) -> str:
    """That a model answers the smallest call with everything that the run will ask of it.

    Raises:
        EndpointError: it does not, in the endpoint's words, with the key that mends it.
        BudgetError: the call does not fit the budget.
    """
    request = smallest(options)
    engine = bench.engine(options.model_copy(update={"batch": None}))
    (answer,) = engine.complete([request], lambda _done: None)
    who = f"model {options.model} at {options.endpoint}"
    if answer.reason not in (None, "cut_off", "refused"):
        raise EndpointError(f"{who}: {answer.error}; {MENDED.get(answer.reason or '', 'correct what it names')}")
    if request.choices and answer.choice_logprobs is None:
        raise EndpointError(f"{who} returns no logprobs, which `verdict: logprob` reads; set verdict to json or text")
    changes = [f"`{name}` refused: {done}" for name, done in bench.dialect(options).refused.items()]
    return f"{who}: answers{''.join(f'; {change}' for change in changes)}"


def smallest(options: ModelConfig) -> Request:
    """The smallest request that has every part which the run's own will have."""
    from judges.parsing import CHOICES, schema

    verdict = getattr(options, "verdict", None)
    words = (
        'Reply with JSON only: {"rationale": "x", "verdict": "A"}.' if verdict == "json" else "Reply with the letter A."
    )
    turns = (("user", words),)
    if isinstance(options, GeneratorConfig):
        system = options.system
        turns = turns if system is None else (("system", system), *turns)
        temperature, top_p = options.temperatures[0], options.top_p
    else:
        temperature, top_p = float(getattr(options, "temperature", 0.0)), 1.0
    return Request(
        turns,
        1 if verdict == "logprob" else min(options.max_tokens, SMALLEST_TOKENS),
        temperature,
        top_p,
        choices=CHOICES if verdict == "logprob" else (),
        response_schema=schema() if verdict == "json" else None,
    )


def doctor() -> dict[str, Any]:
    """What this machine can run."""
    import torch

    gpus = [torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "gpus": gpus or "none: models run on the CPU through transformers; vLLM needs a GPU or its CPU build",
        "vllm": "installed" if find_spec("vllm") else "not installed",
        "versions": installed_versions(),
        **{name.removeprefix("pipeline.").replace(".", " "): discovery.kinds(name) for name in discovery.KINDS},
    }


def config_schema() -> dict[str, Any]:
    """JSON Schema of the config, the keys of every kind of judge, pairing, filter and training method included."""
    schema = Config.model_json_schema()
    definitions: dict[str, Any] = schema.setdefault("$defs", {})

    def variants(package: str, attribute: str, base: type[Frozen]) -> dict[str, Any]:
        references: list[dict[str, str]] = []
        for kind in discovery.kinds(package):
            options = cast("type[Frozen]", getattr(discovery.find(package, kind, attribute), "Options", base))
            made = options.model_json_schema(ref_template="#/$defs/{model}")
            definitions.update(made.pop("$defs", {}))
            title = f"{package.rsplit('.', maxsplit=1)[-1]}:{kind}"
            definitions[title] = {**made, "title": title}
            references.append({"$ref": f"#/$defs/{title}"})
        return {"anyOf": references}

    properties = schema["properties"]
    properties["pairing"].pop("$ref")
    properties["pairing"] |= variants("pipeline.pairing", "{Kind}Pairing", PairingConfig)
    filters = definitions["SelectConfig"]["properties"]["filters"]
    own = [{"type": "string"}, filters["items"]]
    filters["items"] = {"anyOf": [*own, *variants("pipeline.filters", "{Kind}Filter", FilterConfig)["anyOf"]]}
    properties["judges"]["items"] = variants("judges", "{Kind}Judge", JudgeConfig)
    one = variants("training.methods", "{Kind}Method", TrainConfig)
    properties["train"] = {
        **{key: value for key, value in properties["train"].items() if key in {"title", "description", "default"}},
        "anyOf": [*one["anyOf"], {"type": "array", "items": one}, {"type": "null"}],
    }
    return schema
