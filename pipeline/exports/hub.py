"""Uploads a run's dataset and adapter to the Hugging Face Hub. Reads the run's folder, talks to the Hub only.

The token is read from the environment variable that the config names, and is in no message.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from httpx2 import HTTPError
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

from pipeline import secrets
from pipeline.config import Config, PushConfig
from pipeline.errors import ConfigError, JobError
from pipeline.exports import card
from pipeline.store import RunFolder

UNFILLED = "Model Card for Model ID"
"""What an adapter's README says when PEFT wrote it and nobody filled it in."""
LEFT_OUT = re.compile(r"(^|/)(checkpoint-\d+/|\.|training_args\.bin$)")
"""Checkpoints, hidden files and pickled arguments stay here."""
SERVER_FAULT = 500


def push(run: RunFolder, config: Config) -> list[str]:
    """Send ``dataset/`` to the dataset repository ``push.repo`` and ``model/`` to ``<push.repo>-adapter``.

    Without ``model/`` only the dataset goes. Each is one commit with its card at the root; a repository is
    created where there is none, and pushing the same files again changes nothing. ``HF_ENDPOINT`` names
    another Hub.

    Returns:
        The repositories' addresses.

    Raises:
        ConfigError: `push` is not set.
        JobError: there is no token or no dataset, what is there is damaged, or the Hub refused or could not be reached.
    """
    if config.push is None:
        raise ConfigError("`push` is not set, so there is nowhere to upload to; add push: org/name to the config")
    dataset, model = run.local("dataset"), run.local("model")
    if not (dataset / "README.md").is_file():
        raise JobError(f"{dataset} has no README.md, so there is no dataset; run `jurybox export CONFIG` first")
    run.verify(("dataset", "model", "certificate.json"))
    target = config.push
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=_token(target))
    urls = [_upload(api, target, target.repo, "dataset", _files(dataset))]
    if model.is_dir():
        files = _files(model) | _adapter_readme(run, config, target.repo)
        urls.append(_upload(api, target, f"{target.repo}-adapter", "model", files))
    return urls


def _token(target: PushConfig) -> str:
    try:
        token = secrets.read(target.token_env)
    except ValueError as error:
        raise JobError(str(error)) from None
    if not token:
        raise JobError(
            f"the environment variable {target.token_env} is not set, so nothing can be pushed to "
            f"{target.repo}; set it to a token with write access (huggingface.co/settings/tokens), or name "
            "another variable with push.token_env"
        )
    return token


def _files(folder: Path) -> dict[str, Path | bytes]:
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path for name, path in found.items() if LEFT_OUT.search(name) is None}


def _adapter_readme(run: RunFolder, config: Config, dataset: str) -> dict[str, Path | bytes]:
    """The adapter's card, unless somebody wrote one. Not written into ``model/``."""
    readme = run.local("model/README.md")
    told = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""
    if told and UNFILLED not in told and card.ADAPTER not in told and card.MODEL not in told:
        return {}
    adapter: Mapping[str, Any] = run.read_json("model/adapter_config.json") or {}
    base = adapter.get("base_model_name_or_path")
    text = card.adapter_card(
        dataset=dataset,
        licence=config.licence,
        base_model=base if isinstance(base, str) and base else None,
        adapter=adapter,
        training=[step.model_dump(mode="json") for step in config.train],
        evaluation=run.read_json("evaluation.json"),
        report=run.read_json("model/training.json"),
    )
    return {"README.md": text.encode()}


def _upload(api: HfApi, target: PushConfig, repo: str, kind: str, files: Mapping[str, Path | bytes]) -> str:
    additions = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=what) for name, what in files.items()]
    try:
        url = api.create_repo(repo, repo_type=kind, private=target.private, exist_ok=True)
        api.create_commit(repo, additions, commit_message=f"jurybox: {kind}", repo_type=kind)
    except (OSError, ValueError, RuntimeError, HTTPError) as error:
        raise JobError(_explain(error, repo, kind, target.token_env)) from None
    return str(url)


def _explain(error: BaseException, repo: str, kind: str, variable: str) -> str:
    """What the Hub said, without the token (struck before anything is cut), with the status and the remedy."""
    where = f"pushing to the {kind} repository {repo} failed"
    told: list[str] = []
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, HfHubHTTPError):
        told.append(secrets.struck(str(cause)))
        cause = cause.__cause__
    if cause is None:
        return f"{where}: {card.plain(': '.join(told))}; mend that, then push again"
    told.append(secrets.struck(cause.server_message or ""))
    said = card.plain(" ".join(told))
    status = cause.response.status_code
    owner = repo.partition("/")[0]
    remedies = {
        400: "the Hub found the request wrong, most often the card's header; mend what it names",
        401: f"the Hub does not accept the token in {variable}; set one that is valid and may write",
        403: f"the token in {variable} may not write to {owner}; use one that may, or another push.repo",
        404: f"there is no {owner} that this token can see; check push.repo and the token in {variable}",
        429: "too many requests; wait some minutes and push again",
    }
    fallback = "the Hub has a fault; push again later" if status >= SERVER_FAULT else "check push.repo, then push again"
    return f"{where} with HTTP {status}{said and f' ({said})'}: {remedies.get(status, fallback)}"
