"""Names and seeds derived from content, never from row order. Pure: touches nothing outside its arguments.

Every id is the first 16 bytes of a SHA-256 over length-prefixed fields, in hex, so that two different
tuples of fields can never spell the same input. Adding a row changes no other row's id or seed.
"""

import hashlib
import json
from collections.abc import Sequence

Field = str | int | float | None
HALF = 16
"""Digits of a prompt's id that tell the prompt, and as many that tell its conversation."""


def content_hash(*fields: Field) -> str:
    """32 hex digits over the fields, in order; ``None`` differs from every string, ``1`` from ``"1"``."""
    digest = hashlib.sha256()
    for field in fields:
        encoded = b"n" if field is None else type(field).__name__.encode() + b":" + str(field).encode()
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()[:32]


def prompt_id(messages: Sequence[tuple[str, str]], reference: str | None = None) -> str:
    """Id of a prompt: its (role, content) turns and its reference; the second half tells the turns alone."""
    turns = [field for role, content in messages for field in (role, content)]
    whole = content_hash("prompt", *turns, "reference", reference)
    return whole[:HALF] + content_hash("prompt", *turns, "reference", None)[:HALF]


def conversation_id(prompt: str) -> str:
    """What a prompt has in common with the same conversation under another reference: the unit of every split."""
    return prompt[-HALF:]


def sample_id(prompt: str, model: str, temperature: float | None, seed: int | None, completion: str) -> str:
    """Id of one answer. The text is part of it: new text is a new id, so no label attaches to other words."""
    heat = None if temperature is None else float(temperature)
    return content_hash("sample", prompt, model, heat, seed, completion)


def pair_id(sample_a: str, sample_b: str) -> str:
    """Id of an unordered pair of samples: the same whichever way round it is given."""
    first, second = sorted((sample_a, sample_b))
    return content_hash("pair", first, second)


def seed_from(run_seed: int, *fields: Field) -> int:
    """A 31-bit seed for one content-addressed event of a run."""
    return int(content_hash("seed", run_seed, *fields)[:8], 16) & 0x7FFFFFFF


def uniform_from(run_seed: int, *fields: Field) -> float:
    """A number in [0, 1) for one content-addressed event of a run: the coin behind every split and draw."""
    return int(content_hash("uniform", run_seed, *fields)[:13], 16) / 16**13


def digest(value: object) -> str:
    """SHA-256 of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
