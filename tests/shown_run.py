"""Runs for tests of the pages: some hundred pairs by the real stages, with hostile answers, names and rationales.

Models' parts are drawn from a seeded generator; aggregation, measures, gate, selection and summary are the real ones.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dashboard.report import page as report
from pipeline import ids
from pipeline.calls.ledger import Ledger
from pipeline.runner import run_stage
from pipeline.workbench import Workbench
from tests import ledgers
from tests.hostile import structural
from tests.worlds import bench

JUDGES = (
    "<script>window.harmed=1</script>",
    "![x](http://harm.example/x.png) :material/home: **b**",
    "\u202eegduj<img src=x onerror=window.harmed=1>",
)
TEXTS = (
    "<script>window.harmed = 1; alert(1)</script>",
    "<img src=x onerror='window.harmed=1'><svg onload='window.harmed=1'></svg>",
    "![x](http://harm.example/x.png) [link](javascript:window.harmed=1)",
    "<style>* { display: none !important; background: url(http://harm.example/y) }</style></div></div></table>",
    '"><iframe src="http://harm.example"></iframe><link rel=stylesheet href=http://harm.example/z.css>',
    "\u202e\u2066reversed \u0634\u0645\u0633 text\u202c" * 20,
    "<form action='http://harm.example'><input autofocus onfocus='window.harmed=1'><button>go</button></form>",
    "A" * 1_000_000,
    "# heading\n\n- list\n\n$$\\frac{1}{2}$$ :smile: :material/home: <b>bold</b> &lt;script&gt; {{ 7 * 7 }}",
)
ANSWERS = 4
CALL = "c" * 64
STAGES = ("aggregate", "measure", "gate", "select")


def made(folder: Path, *, prompts: int = 100, target: float = 0.7, seed: int = 0) -> Path:
    """A run of ``prompts * 6`` pairs in ``folder/run``; its first prompts and answers are TEXTS and the corpus."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    run = bench(folder, None, name="shown", gate={"target_agreement": target}, select={"min_margin": 0.1})
    run.folder.write_text("config.yaml", run.source)
    for name, rows in _frames(prompts, random).items():
        run.folder.write_part(name, "before", "all", rows, {})
    _artefacts(run, random)
    with run:
        for name in STAGES:
            run_stage(run, name)
        report.write(run)
    return run.folder.path


def _frames(prompts: int, random: np.random.Generator) -> dict[str, pl.DataFrame]:
    words = [*TEXTS, *(attack.text for attack in structural() if len(attack.text) < 5000)]
    asked = [ids.content_hash("prompt", str(at)) for at in range(prompts)]
    answers: list[dict[str, Any]] = []
    for at, prompt in enumerate(asked):
        for number in range(ANSWERS):
            place = at * ANSWERS + number
            text = words[place] if place < len(words) else f"Answer {place}. " + "word " * int(random.integers(1, 40))
            answers.append(_sample(prompt, number, text))
    strength = dict(zip((one["sample_id"] for one in answers), random.normal(0, 1, len(answers)), strict=True))
    pairs = [_pair(one, other) for one in answers for other in answers if one["prompt_id"] == other["prompt_id"]]
    pairs = [pair for pair in pairs if pair["sample_a"] < pair["sample_b"]]
    votes = [vote for pair in pairs for vote in _votes(pair, strength, random)]
    labels = [_label(pair, strength, random) for pair in pairs[::2]]
    return {
        "prompts": pl.DataFrame(
            [
                {
                    "prompt_id": prompt,
                    "messages": [
                        {"role": "system", "content": "Be <b>brief</b>."},
                        {"role": "user", "content": words[at % len(TEXTS)] if at < len(TEXTS) else f"Question {at}?"},
                    ],
                    "reference": None,
                    "whole": None,
                    "source": "<u>file</u>.jsonl",
                    "tags": ["<i>odd</i>" if at % 2 else "even"],
                }
                for at, prompt in enumerate(asked)
            ],
            schema_overrides={"reference": pl.String, "whole": pl.String},
        ),
        "samples": pl.DataFrame(answers, infer_schema_length=None, schema_overrides={"external_id": pl.String}),
        "pairs": pl.DataFrame(pairs, schema_overrides={"external_id": pl.String}),
        "judgments": pl.DataFrame(votes, infer_schema_length=None),
        "labels": pl.DataFrame(labels, schema_overrides={"labelled_at": pl.String, "seconds": pl.Float64}),
        "flags": pl.DataFrame([{"sample_id": answers[0]["sample_id"], "flag": "verdict"}]),
        "controls": pl.DataFrame(
            [_control(answers[at * ANSWERS + at % 2], random) for at in range(20)], infer_schema_length=None
        ),
        "calls": pl.DataFrame([_call(JUDGES[0], CALL), _call("generate:writer", "d" * 64)], infer_schema_length=None),
    }


def _sample(prompt: str, number: int, text: str) -> dict[str, Any]:
    return {
        "sample_id": ids.content_hash("sample", prompt, number, text),
        "prompt_id": prompt,
        "model": "<b>writer</b>",
        "temperature": 0.5 if number % 2 else 1.0,
        "sample_index": number,
        "seed": number,
        "completion": text or " ",
        "characters": len(text or " "),
        "finish_reason": "stop",
        "completion_tokens": 10,
        "logprob": -1.0,
        "external_id": None,
    }


def _pair(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {
        "pair_id": ids.content_hash("pair", one["sample_id"], other["sample_id"]),
        "prompt_id": one["prompt_id"],
        "sample_a": one["sample_id"],
        "sample_b": other["sample_id"],
        "external_id": None,
        "external_flipped": False,
    }


def _votes(pair: dict[str, Any], strength: dict[str, float], random: np.random.Generator) -> list[dict[str, Any]]:
    truth = strength[pair["sample_a"]] - strength[pair["sample_b"]]
    rows: list[dict[str, Any]] = []
    for at, judge in enumerate(JUDGES):
        for order, lean in (("ab", 0.4), ("ba", -0.4)):
            p = float(1 / (1 + np.exp(-(2 * truth + lean + random.normal(0, 0.5 + at / 2)))))
            failed = random.random() < 0.02
            rows.append(
                {
                    "pair_id": pair["pair_id"],
                    "judge": judge,
                    "order": order,
                    "preference": None if failed else p,
                    "rationale": None if failed else TEXTS[int(random.integers(len(TEXTS)))][:3000],
                    "error": "<script>window.harmed=1</script> no verdict" if failed else None,
                    "call_keys": [CALL] if at == 0 else [],
                }
            )
    return rows


def _label(pair: dict[str, Any], strength: dict[str, float], random: np.random.Generator) -> dict[str, Any]:
    truth = strength[pair["sample_a"]] - strength[pair["sample_b"]]
    return {
        "pair_id": pair["pair_id"],
        "annotator": "<b>ann</b>",
        "label": "a" if random.random() < 1 / (1 + np.exp(-4 * truth)) else "b",
        "queue": "audit",
        "inclusion_prob": 0.5,
        "seconds": None,
        "labelled_at": None,
    }


def _control(answer: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
    return {
        "judge": JUDGES[0],
        "control": "flattery",
        "prompt_id": answer["prompt_id"],
        "sample_id": answer["sample_id"],
        "order": "ab" if answer["sample_index"] % 2 else "ba",
        "preference": float(random.random()),
        "rationale": None,
        "error": None,
        "call_keys": [],
    }


def _call(judge: str, key: str) -> dict[str, Any]:
    tokens = {"prompt_tokens": 100, "cached_tokens": 10, "completion_tokens": 5}
    return {"call_key": key, "judge": judge, "status": "answered", **tokens, "cost_usd": 0.01, "latency_s": 0.5}


def _artefacts(run: Workbench, random: np.random.Generator) -> None:
    """What training and the ledger would have left."""
    steps = [{"step": at, "loss": 0.7 / at, "reward_accuracy": 0.8, "reward_margin": at / 10} for at in range(1, 41)]
    training: dict[str, Any] = {"method": "dpo", "steps": 40, "rows": {"train": 90, "test": 10}, "loss": steps}
    run.folder.write_json("model/training.json", training)
    win = 0.6 + 0.1 * float(random.random())
    found = {"win_rate": win, "win_rate_low": win - 0.05, "win_rate_high": win + 0.05, "n": 200, "decided_by": "people"}
    more = {"panel_win_rate": 0.6, "verifier": None, "kl": 3 * win, "kl_n": 200, "reward_accuracy": 0.8, "reason": None}
    run.folder.write_json("evaluation.json", {**found, **more})
    ledger = Ledger(run.folder.path / "ledger.sqlite")
    request = {"model": "m", "temperature": 0.0, "messages": [{"role": "user", "content": TEXTS[0]}]}
    ledgers.claim(ledger, CALL, request, 0.01)
    reply = {"choices": [{"message": {"role": "assistant", "content": TEXTS[1]}}]}
    ledgers.answer(ledger, CALL, reply, 0.01, 0.5)
    ledger.close()


def status(run: Path, stage: str, done: int, total: int, **fields: Any) -> None:
    """Write what a process that is at *stage* writes."""
    import os
    import socket
    import time

    told = {"stage": stage, "state": "running", "done": done, "total": total, "started_at": time.time()}
    own = {"updated_at": time.time(), "host": socket.gethostname(), "pid": os.getpid()}
    (run / "status.json").write_text(json.dumps({**told, **own, **fields}))


def pair_of(run: Path, texts: Sequence[str] = TEXTS[:1]) -> str:
    """The id of a pair whose first or second answer is one of *texts*."""
    samples = pl.read_parquet(run / "samples" / "*.parquet").filter(pl.col("completion").is_in(list(texts)))
    ends = samples["sample_id"].implode()
    pairs = pl.read_parquet(run / "pairs" / "*.parquet")
    return str(pairs.filter(pl.col("sample_a").is_in(ends) | pl.col("sample_b").is_in(ends))["pair_id"][0])
