"""What integration tests talk to and through: recorded judges over HTTP, a scripted model, jurybox as a process.

``Recording`` answers with the verdict that a named judge is on record to have given for the pair it is shown,
in the order it is shown. It knows nothing of how jurybox renders a prompt: it looks for the words of the prompt and
of both responses, each on lines of its own, and for which response stands first.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.endpoints import Body, Endpoint, Reply, chat
from tests.patience import patience

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("JURYBOX_SHARED_DATA") or ROOT.parent / "shared" / "data")
SURE = 0.9
"""Probability that a recorded verdict gets where log-probabilities are asked for."""
PATIENCE_S = patience(120)
"""A process that takes longer hangs; on an idle machine it takes seconds."""
UNREADABLE = "Both have their merits, it is hard to say."
Span = tuple[int, int]


def shared(name: str) -> Path:
    """The folder of a set of real pairs; the test is skipped where there is none."""
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; set JURYBOX_SHARED_DATA to the folder that holds {name}/")
    return folder


def rows_of(file: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


@dataclass(frozen=True)
class Shown:
    """What a request shows."""

    pair_id: str
    order: str
    """``ab``: the file's response_a stands first."""


class Recording:
    """What judges are on record to have said of the pairs of one set."""

    def __init__(self, folder: Path) -> None:
        self.pairs = [
            row
            for row in rows_of(folder / "pairs.jsonl")
            if isinstance(row["response_a"], str) and isinstance(row["response_b"], str)
        ]
        self.verdicts = {
            (f"{row['judge']}/{row['mode']}", row["pair_id"], row["order"]): row["preference"]
            for row in rows_of(folder / "judgments.jsonl")
        }
        self.judges = sorted({judge for judge, _, _ in self.verdicts})

    def shown(self, text: str) -> Shown:
        """Which pair *text* shows, and in which order.

        Raises:
            ValueError: none, or it can be read in several ways.
        """
        found = {Shown(pair["pair_id"], order) for pair in self.pairs for order in _orders(text, pair)}
        if len(found) != 1:
            raise ValueError(f"the request shows {len(found)} pairs and orders: {sorted(map(str, found))[:4]}")
        return found.pop()

    def reply(self, body: Body) -> Reply:
        """The recorded verdict in the form that is asked for: log-probabilities, a JSON object, or a last line."""
        if body["model"] not in self.judges:
            return Reply(404, {"error": {"message": f"no judge {body['model']!r} on record"}})
        try:
            shown = self.shown("\n\n".join(message["content"] for message in body["messages"]))
        except ValueError as error:
            return Reply(422, {"error": {"message": str(error)}})
        preferred = self.verdicts[body["model"], shown.pair_id, shown.order]
        if preferred is None:
            return Reply(200, chat(UNREADABLE, logprobs={"Both": -0.01, "It": -5.0}))
        word = "tie" if preferred == "tie" else "AB"[shown.order.index(preferred)]
        if body.get("logprobs"):
            first = {"A": SURE, "B": 1 - SURE, "tie": 0.5}[word]
            return Reply(200, chat(word, logprobs={"A": math.log(first), "B": math.log(1 - first)}))
        # a model that does as it is told copies the code that it is given where an answer holds a verdict of its own
        asked = re.search(r"\nPut the code ([0-9a-f]{8}) on both sides", body["messages"][-1]["content"])
        code = asked[1] if asked else ""
        if "response_format" in body:
            fields = {"code": code, "verdict": word, "end": code} if code else {"verdict": word}
            return Reply(200, chat(json.dumps({"rationale": "on record", **fields})))
        return Reply(
            200, chat(f"On record.\nVerdict {code}: {word} {code}" if code else f"On record.\nVerdict: {word}")
        )


class RecordedJudges(Endpoint):
    """Serves every judge of a recording; the model's name is ``judge/mode``."""

    def __init__(self, folder: Path) -> None:
        recording = Recording(folder)
        super().__init__(recording.reply, models=recording.judges)


def _orders(text: str, pair: Mapping[str, str]) -> Iterator[str]:
    """The orders in which *text* can be said to show *pair*: prompt, then both responses, none inside another."""
    if pair["prompt"] not in text:
        return
    parts = [list(_alone(text, pair[key])) for key in ("prompt", "response_a", "response_b")]
    for prompt, a, b in product(*parts):
        if prompt[1] <= a[0] and a[1] <= b[0]:
            yield "ab"
        if prompt[1] <= b[0] and b[1] <= a[0]:
            yield "ba"


def _alone(text: str, part: str) -> Iterator[Span]:
    """Where *part* stands on lines of its own."""
    for match in re.finditer(rf"(?=(?:^|(?<=\n)){re.escape(part)}(?:\n|\Z))", text):
        yield match.start(), match.start() + len(part)


WORDS = ("brief", "plain", "kind", "exact", "warm", "dry", "long", "odd", "calm", "sharp")


def scripted(body: Body) -> Reply:
    """A student and judges without a model: the same body gets the same reply.

    A judge (its prompt asks for a verdict) names A, B or neither; any other model answers in a few words.
    """
    drawn = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest()
    if "response_format" in body:
        return Reply(200, chat(json.dumps({"rationale": "drawn", "verdict": ("A", "B", "tie")[drawn[0] % 3]})))
    return Reply(200, chat(" ".join(WORDS[byte % len(WORDS)] for byte in drawn[: 3 + drawn[0] % 5])))


PRELUDE = "import resource, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); {first}"
MAIN = "; from jurybox.cli import main; main(sys.argv[1:])"


def command(*arguments: str | Path, first: str = "pass") -> list[str]:
    """The command line of a jurybox process that runs the Python statement *first* before it starts."""
    return [sys.executable, "-c", PRELUDE.format(first=first) + MAIN, *map(str, arguments)]


def jurybox(
    *arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None, first: str = "pass"
) -> "subprocess.CompletedProcess[str]":
    """Run jurybox in a process of its own and wait for it."""
    return subprocess.run(
        command(*arguments, first=first),
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=PATIENCE_S,
        check=False,
    )


def jurybox_here(*arguments: str | Path, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """The same in this process: without the seconds that a fresh one needs to import everything."""
    from jurybox.cli import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
