"""Small runs for the tests of what leaves a run: prompts, samples, pairs and kept as frames. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from pipeline import ids, schemas

Turns = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Choice:
    """One kept pair: a conversation and the two answers, as the verdict has them."""

    turns: Turns
    chosen: str
    rejected: str
    p_chosen: float = 0.9


def asked(question: str) -> Turns:
    """A lone user turn."""
    return (("user", question),)


def numbered(count: int) -> list[Choice]:
    """*count* choices over as many prompts."""
    return [Choice(asked(f"Question {at}?"), f"Good {at}.", f"Bad {at}, sadly.") for at in range(count)]


def frames(choices: Sequence[Choice]) -> dict[str, pl.DataFrame]:
    """The four frames that the export reads, valid by their schemas. `writer` at 0.3 and at 1.0."""
    prompts: dict[str, Mapping[str, object]] = {}
    samples: dict[str, Mapping[str, object]] = {}
    pairs: list[dict[str, object]] = []
    kept: list[dict[str, object]] = []
    for choice in choices:
        prompt = ids.prompt_id(choice.turns)
        prompts[prompt] = {
            "prompt_id": prompt,
            "messages": [{"role": role, "content": content} for role, content in choice.turns],
            "reference": None,
            "source": "questions.jsonl",
            "tags": [],
        }
        good = _sample(samples, prompt, choice.chosen, 0.3)
        bad = _sample(samples, prompt, choice.rejected, 1.0)
        a, b = sorted((good, bad))
        pair = ids.pair_id(a, b)
        p_a = choice.p_chosen if good == a else 1 - choice.p_chosen
        pairs.append(
            {
                "pair_id": pair,
                "prompt_id": prompt,
                "sample_a": a,
                "sample_b": b,
                "external_id": None,
                "external_flipped": False,
            }
        )
        kept.append(
            {
                "pair_id": pair,
                "p_a": p_a,
                "p_a_lc": p_a,
                "margin": abs(2 * p_a - 1),
                "judges": ["gpt", "rm"],
                "calls": 4,
                "agreement": 1.0,
                "chosen_id": good,
                "rejected_id": bad,
            }
        )
    rows = {
        "prompts": list(prompts.values()),
        "samples": list(samples.values()),
        "pairs": pairs,
        "kept": kept,
    }
    return {
        name: schemas.FRAMES[name].validate(schemas.frame(name, [dict(row) for row in table]))
        for name, table in rows.items()
    }


def _sample(samples: dict[str, Mapping[str, object]], prompt: str, text: str, temperature: float) -> str:
    key = ids.sample_id(prompt, "writer", temperature, 1, text)
    samples[key] = {
        "sample_id": key,
        "prompt_id": prompt,
        "model": "writer",
        "temperature": temperature,
        "sample_index": 0,
        "seed": 1,
        "completion": text,
        "characters": len(text),
        "finish_reason": "stop",
        "completion_tokens": 3,
        "logprob": None,
        "external_id": None,
    }
    return key
