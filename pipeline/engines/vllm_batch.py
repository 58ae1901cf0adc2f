"""A model through vLLM's offline ``run-batch``: the batch API's own file in, its output file out. Starts a process.

Like every model on this machine it costs nothing, so its calls are in no ledger. ``engine_args`` are options of the
command: ``{max_model_len: 512, enforce_eager: true}`` becomes ``--max-model-len 512 --enforce-eager``.
"""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from pipeline.calls.batch_lines import Line, read_lines
from pipeline.calls.batches import line
from pipeline.calls.finality import no_reply, outcome
from pipeline.config import ModelConfig
from pipeline.engines.base import Advance, Answer, Call, Request, Toolbox
from pipeline.engines.chat import OK, read_answer, request_body
from pipeline.engines.vllm import QUIET
from pipeline.errors import ConfigError, StageError

COMMAND = "vllm.entrypoints.openai.run_batch"
"""As a module: the CPU build's ``vllm`` command does not start."""
TAIL = 600
"""Characters of what vLLM said last that an error repeats."""


class VllmBatchEngine:
    """Completes requests with one run of the command for all of them."""

    def __init__(self, options: ModelConfig, toolbox: Toolbox) -> None:
        del toolbox
        if importlib.util.find_spec("vllm") is None:
            raise ConfigError(
                "engine `vllm_batch` is not installed; install the `vllm` extra on a machine with a GPU, or use "
                "`engine: transformers` or an `endpoint`"
            )
        self.options = options

    def complete(self, requests: Sequence[Request], advance: Advance) -> list[Answer]:
        """See Engine.

        Raises:
            StageError: vLLM ended without an output file.
        """
        bodies = [json.dumps(request_body(self.options.model, request)) for request in requests]
        keys = [
            hashlib.sha256(repr((self.options.engine_args, body, one.sample_index, one.attempt)).encode()).hexdigest()
            for body, one in zip(bodies, requests, strict=True)
        ]
        found = self._run(dict(zip(keys, bodies, strict=True))) if requests else {}
        advance(len(requests))
        return [_answer(key, found.get(key)) for key in keys]

    def close(self) -> None:
        """Nothing is held between calls."""

    def _run(self, calls: dict[str, str]) -> dict[str, Line]:
        with tempfile.TemporaryDirectory(prefix="jurybox-") as folder:
            source, target = Path(folder) / "in.jsonl", Path(folder) / "out.jsonl"
            source.write_bytes(b"".join(line(key, body) for key, body in calls.items()))
            done = subprocess.run(  # noqa: S603  the words are the config's own
                [sys.executable, "-m", COMMAND, "-i", source, "-o", target, *self._options()],
                env={**QUIET, **os.environ},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                check=False,
            )
            if done.returncode or not target.is_file():
                said = done.stdout.decode(errors="replace").strip()[-TAIL:]
                raise StageError(
                    f"vLLM's run-batch of model {self.options.model!r} ended with exit code {done.returncode}: {said}; "
                    "mend what it names (`engine_args` are its options), then run the same command again"
                )
            return {one.key: one for one in read_lines(target.read_bytes())}

    def _options(self) -> list[str]:
        words = ["--model", self.options.model, "--served-model-name", self.options.model]
        for name, value in self.options.engine_args.items():
            option = name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{option}" if value else f"--no-{option}")
            else:
                words += [f"--{option}", value if isinstance(value, str) else json.dumps(value)]
        return words


def _answer(key: str, found: Line | None) -> Answer:
    if found is None:
        return Answer(Call(key, "unanswered"), reason="unanswered", error="run-batch wrote no line for it")
    if found.status == OK and isinstance(cast("object", found.body), dict):
        return read_answer(key, cast("dict[str, Any]", found.body), 0.0, None)
    told = outcome(found.status or 0, found.body) if found.status else no_reply(found.error)
    status = "answered" if told.final else "unanswered"
    return Answer(Call(key, status), reason=told.reason, error=told.words)
