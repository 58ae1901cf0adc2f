"""jurybox check, doctor and schema: what can be said without spending anything. Reads config, packages, endpoints."""

import os
import platform
from importlib.util import find_spec
from typing import Any, cast

from pipeline import discovery
from pipeline.config import Config, EndpointConfig, Frozen, ModelConfig
from pipeline.errors import ConfigError, EndpointError
from pipeline.runner import installed_versions, stages_of
from pipeline.workbench import Workbench

TIMEOUT_S = 15


def check(bench: Workbench) -> list[str]:
    """What was found to be in order.

    Raises:
        InputError: a file or kind is missing or wrong.
        EndpointError: an endpoint does not answer, or refuses the key.
    """
    from pipeline import labelling
    from pipeline.stages import judge, load

    config = bench.config
    found = [f"config {config.name}: stages {', '.join(stages_of(config))}"]
    if config.prompts is not None:
        conversations, refused = load.read_file(config.prompts, bench.base)
        found.append(f"prompts {config.prompts.path}: {len(conversations)} usable, {len(refused.rows)} not")
    if config.labels.path is not None and not config.labels.path.is_file():
        raise ConfigError(f"labels.path {config.labels.path} does not exist; correct it or remove it")
    labelling.guidelines(config.labels)
    for kind in config.export:
        discovery.find("pipeline.exports", kind, "export", bench.base)
    for options in config.judges:
        # Made, not used: its files are there, and its rubric fits its kind. No model is loaded.
        options.files(bench.base)
        judge.make(options, bench)
        found.append(f"judge {options.name}: {options.kind}")
    for name, endpoint in config.endpoints.items():
        found.append(f"endpoint {name}: serves {', '.join(served(name, endpoint)[:5]) or 'no listed model'}")
    models = [*config.generators, *(one for one in config.judges if isinstance(one, ModelConfig))]
    for engine in sorted({one.engine for one in models if one.engine}):
        if engine == "vllm" and find_spec("vllm") is None:
            raise ConfigError("engine `vllm` is not installed; install the `vllm` extra, or use another engine")
        discovery.find("pipeline.engines", engine, "{Kind}Engine", bench.base)
        found.append(f"engine {engine}")
    return found


def served(name: str, endpoint: EndpointConfig) -> list[str]:
    """Models that an endpoint lists."""
    import openai

    from pipeline.engines.endpoint import api_key

    client = openai.OpenAI(
        base_url=endpoint.base_url, api_key=api_key(name, endpoint), max_retries=0, timeout=TIMEOUT_S
    )
    try:
        return [model.id for model in client.models.list().data]
    except openai.NotFoundError:
        return []
    except openai.APIError as error:
        status = getattr(error, "status_code", None)
        what = f"HTTP {status}" if status else str(error.__cause__ or error)
        raise EndpointError(
            f"endpoint {name!r} ({endpoint.base_url}): {what}; start it, or correct base_url and the key"
        ) from None
    finally:
        client.close()


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
        "judges": discovery.kinds("judges"),
        "engines": discovery.kinds("pipeline.engines"),
        "exports": discovery.kinds("pipeline.exports"),
        "training methods": discovery.kinds("training.methods"),
    }


def config_schema() -> dict[str, Any]:
    """JSON Schema of the config, every kind of judge and training method included."""
    schema = Config.model_json_schema()
    definitions: dict[str, Any] = schema.setdefault("$defs", {})

    def variants(package: str, attribute: str) -> dict[str, Any]:
        references: list[dict[str, str]] = []
        for kind in discovery.kinds(package):
            options = cast("type[Frozen]", discovery.find(package, kind, attribute).Options)
            made = options.model_json_schema(ref_template="#/$defs/{model}")
            definitions.update(made.pop("$defs", {}))
            title = f"{package.rsplit('.', maxsplit=1)[-1]}:{kind}"
            definitions[title] = {**made, "title": title}
            references.append({"$ref": f"#/$defs/{title}"})
        return {"anyOf": references}

    properties = schema["properties"]
    properties["judges"]["items"] = variants("judges", "{Kind}Judge")
    one = variants("training.methods", "{Kind}Method")
    properties["train"] = {
        **{key: value for key, value in properties["train"].items() if key in {"title", "description", "default"}},
        "anyOf": [*one["anyOf"], {"type": "array", "items": one}, {"type": "null"}],
    }
    return schema
