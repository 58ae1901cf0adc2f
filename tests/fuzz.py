"""Does anything a model or an endpoint may say break the judges, or pass for a verdict that it is not?

    python -m tests.fuzz [--minutes 10] [--seed 0]

One process mutates the hostile answers of tests/hostile.py, replies in every documented shape and raw chat completions,
and checks what must hold for all of them: a reader returns a verdict only for the shape that an independent reading
finds too, and raises nothing but UnreadableError; what came from a judged text is never read as a verdict; every text
stays in its slot; an endpoint's reply becomes an answer that a file can hold. The first failure of each kind is shown
with the input that caused it, and any failure exits with 1. The last line is JSON.
"""

import argparse
import json
import math
import random
import re
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from judges import parsing
from judges.listwise import ranking_from_json, ranking_from_text
from judges.pairwise import GRADES
from judges.pointwise import scores_from_json, scores_from_text
from judges.rendering import fill
from judges.sealing import sealed, unsealed
from pipeline.control_tokens import JOINER, defused, holds_control
from pipeline.engines.base import Request
from pipeline.engines.chat import read_answer
from pipeline.transcript import transcript
from tests.endpoints import chat
from tests.hostile import structural

LONGEST = 4000
INT64 = 2**63
SECRET = b"fuzz"
ASPECTS = ("accuracy", "clarity")
VALID = (
    "Because.\nVerdict: A",
    "Verdict: tie",
    "x\nVerdict: B>>A",
    "x\nVerdict: accuracy 4, clarity 5",
    "Verdict: 3",
    "Verdict: A > B = C",
    '{"rationale": "r", "verdict": "A"}',
    '{"rationale": "r", "verdict": "A>B"}',
    '{"rationale": "r", "scores": {"accuracy": 4, "clarity": 5}}',
    '{"rationale": "r", "ranking": [["A"], ["B", "C"]]}',
    '{"rationale": "r", "code": "0a1b2c3d", "verdict": "A", "end": "0a1b2c3d"}',
    "Verdict 0a1b2c3d: A 0a1b2c3d",
)
PIECES = (
    *(
        "Verdict: ",
        "verdict",
        "A",
        "B",
        "tie",
        "A>B",
        "\n",
        "\r",
        "\x85",
        "\u2028",
        "\x0b",
        "\x1c",
        " ",
        "\t",
        "\xa0",
        "\u200b",
    ),
    *(
        '{"',
        '"}',
        '"',
        "\\",
        "\\u0041",
        "\\ud83d",
        ":",
        ",",
        "{",
        "}",
        "[",
        "]",
        "null",
        "NaN",
        "1e999",
        "4.0",
        "5",
        "-0",
        "\ufeff",
    ),
    *(
        "<<first ",
        ">>",
        "<</first ",
        "{first}",
        "{second}",
        "{prompt}",
        "<|im_end|>",
        "</s>",
        "[INST]",
        "\x00",
        "\u202e",
        "[user]",
    ),
    *(
        "accuracy 4",
        "clarity 5",
        ", ",
        " > ",
        " = ",
        "0a1b2c3d",
        "code",
        "rationale",
        "scores",
        "ranking",
        "```",
        "`",
        "\U0001f600",
    ),
)


def mutated(rng: random.Random, seeds: Sequence[str]) -> str:
    """One text: a seed with up to eight edits, or two spliced."""
    text = rng.choice(seeds)
    for _ in range(rng.randrange(9)):
        at, end = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        match rng.randrange(7):
            case 0:
                text = text[:at] + rng.choice(PIECES) + text[at:]
            case 1:
                text = text[:at] + text[min(end, at + 8) :]
            case 2:
                text = text[:at] + text[at : at + 40] + text[at:]
            case 3:
                text = text[:at] + chr(rng.choice((rng.randrange(128), rng.randrange(0xD800)))) + text[at + 1 :]
            case 4:
                other = rng.choice(seeds)
                text = text[:at] + other[rng.randrange(len(other) + 1) :]
            case 5:
                text = text[:at] + text[at:end].swapcase() + text[end:]
            case _:
                text = text + "\n" + rng.choice(VALID)
    return text[:LONGEST]


def _read(read: Callable[[], Any]) -> Any:
    """What a reader makes of a reply, None when it refuses it."""
    try:
        return read()
    except parsing.UnreadableError:
        return None


def _object(text: str) -> Any:
    """An independent reading of the JSON object of a reply: no key twice; or a rationale of raw words, and one key."""

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in found}) < len(found):
            raise ValueError("twice")
        return dict(found)

    def load(part: str) -> Any:
        try:
            return json.JSONDecoder(object_pairs_hook=pairs).decode(part)
        except (ValueError, RecursionError):
            return None

    block = re.fullmatch(r"\s*```\w*\s*(\{.*\})\s*```\s*", text, re.DOTALL)
    reply = (block[1] if block else text).strip()
    value = load(reply)
    if value is not None or reply == "null":
        return value
    for key in ("verdict", "scores", "ranking"):
        shape = rf'\{{\s*"rationale"\s*:\s*"(.*)"\s*,\s*"{key}"\s*:(.*)\}}'
        raw = re.fullmatch(shape, reply, re.DOTALL) if reply.count(f'"{key}"') == 1 else None
        if raw is not None and load(raw[2]) is not None:
            return {"rationale": raw[1], key: load(raw[2])}
    return None


def readers(rng: random.Random, text: str) -> None:
    """Every reader of every kind, against an independent reading of the shape."""
    grades = GRADES[rng.choice(tuple(GRADES))]
    last = re.split(r"[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]", text.strip())[-1].strip()
    found = _read(lambda: parsing.from_text(text, grades))
    assert found is None or grades[last.removeprefix("Verdict: ")] == found.first
    value = _object(text)
    found = _read(lambda: parsing.from_json(text, grades))
    assert (found is not None) == (
        isinstance(value, dict)
        and set(value) == {"rationale", "verdict"}
        and isinstance(value["rationale"], str)
        and isinstance(value["verdict"], str)
        and value["verdict"] in grades
    )
    assert found is None or (found.first == grades[value["verdict"]] and _holds(found.rationale))
    scores = _read(lambda: scores_from_json(text, ASPECTS, 5))
    assert scores is None or (
        set(value) == {"rationale", "scores"}
        and [value["scores"][name] for name in ASPECTS] == list(scores.values)
        and all(score in range(1, 6) for score in scores.values)
    )
    scores = _read(lambda: scores_from_text(text, ASPECTS, 5))
    assert scores is None or sorted(last.removeprefix("Verdict: ").split(", ")) == [
        f"{name} {score:.0f}" for name, score in zip(ASPECTS, scores.values, strict=True)
    ]
    ranked = _read(lambda: ranking_from_json(text, "ABC"))
    assert ranked is None or sorted(letter for group in value["ranking"] for letter in group) == ["A", "B", "C"]
    ranked = _read(lambda: ranking_from_text(text, "ABC"))
    assert ranked is None or sorted(re.findall("[A-Z]", last.removeprefix("Verdict: "))) == ["A", "B", "C"]
    assert ranked is None or (_holds(ranked.rationale) and sum(ranked.places.values()) == 3)


def logprobs(rng: random.Random, text: str) -> None:
    """Probabilities from tokens cut out of the text: a share in [0, 1], or no verdict."""
    tokens = {
        text[at : at + rng.randrange(4)]: rng.choice((-0.1, -5.0, 0.0, 3.0, math.nan, -math.inf, math.inf))
        for at in (rng.randrange(len(text) + 1) for _ in range(4))
    }
    found = _read(lambda: parsing.from_logprobs(tokens | {rng.choice(("A", " B", "**A**")): -rng.random()}))
    assert found is None or 0 <= found.first <= 1


def quotations(rng: random.Random, one: str, other: str) -> None:
    """Whatever a judge copies out of the texts it was shown, its own words around it, is no verdict."""
    texts = [transcript((("user", "Why?"),)), one, other]
    schema = rng.choice((None, parsing.schema()))
    asked = sealed(Request((("user", "Which?"),), 9, response_schema=schema), texts, SECRET)
    assert not asked.code or not any(asked.code in text for text in texts)
    start, end = sorted(rng.randrange(len(one) + 1) for _ in range(2))
    read = parsing.from_text if schema is None else parsing.from_json
    for reply in (one, one[start:], one[start:end], f"I think\n{one}", f"{one[:end]}\nand\n{other}", f"{one}\n\nDone."):
        assert _read(lambda reply=reply: read(unsealed(asked, reply))) is None, reply
    code = asked.code
    if schema is None:
        said = f"{one}\nVerdict {code}: B {code}" if code else "Verdict: B"
        assert parsing.from_text(unsealed(asked, said)).first == 0
        return
    fields = {"code": code, "verdict": "B", "end": code} if code else {"verdict": "B"}
    assert parsing.from_json(unsealed(asked, json.dumps({"rationale": one, **fields}))).first == 0
    raw = f'{{"rationale": "{one}", {json.dumps(fields)[1:]}'
    assert parsing.from_json(unsealed(asked, raw)).first == 0, raw


def slots(rng: random.Random, one: str, other: str) -> None:
    """A filled template taken apart by its fences gives back the texts, and nothing else moved."""
    texts = {"prompt": transcript((("user", one), ("assistant", other))), "first": one, "second": other}
    made = fill("P {prompt} A {first} B {second} {rubric}", texts, SECRET)
    at, outside = 0, ""
    for name, text in texts.items():
        opening = re.compile(rf"<<{name} ([0-9a-f]{{8}})>>\n").search(made, at)
        assert opening is not None
        closing = f"\n<</{name} {opening[1]}>>"
        end = made.index(closing, opening.end() - 1)
        assert made[opening.end() : end] == defused(text)
        outside += made[at : opening.start()]
        at = end + len(closing)
    assert outside + made[at:] == "P  A  B  {rubric}"
    assert not holds_control(made)
    assert defused(one).replace(JOINER, "") == one.replace(JOINER, "")
    del rng


def replies(rng: random.Random, text: str) -> None:
    """A raw chat completion with a value replaced anywhere becomes an answer that a file can hold."""
    body: Any = chat(text or None, logprobs={"A": -0.1, text[:3]: -2.0})
    wrong: tuple[Any, ...] = (None, True, -1, 10**30, 1e400, math.nan, "", "\ud83d", text, [], {}, [text], {"a": text})
    inner: Any = body
    while True:
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        if not keys:
            break
        key = rng.choice(keys)
        if rng.randrange(3) == 0 or not isinstance(inner[key], dict | list):
            if isinstance(inner, dict) and rng.randrange(3) == 0:
                del inner[key]
            else:
                inner[key] = rng.choice(wrong)
            break
        inner = inner[key]
    answer = read_answer("k", body, 0.0, 0.1)
    assert (answer.text is None) == (answer.error is not None), answer
    assert all(map(_holds, (answer.text, answer.error, answer.finish_reason))), answer
    counts = (answer.call.prompt_tokens, answer.call.cached_tokens, answer.call.completion_tokens)
    assert all(count is None or 0 <= count < INT64 for count in counts), counts
    assert answer.logprob is None or (math.isfinite(answer.logprob) and answer.logprob <= 0), answer.logprob
    _read(lambda: parsing.from_logprobs(answer.choice_logprobs or {}))


def _holds(text: str | None) -> bool:
    """Whether a file can hold it: no lone surrogate."""
    return text is None or text.encode(errors="ignore").decode() == text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    rng = random.Random(chosen.seed)
    seeds = [attack.text[:LONGEST] for attack in structural()] + list(VALID) * 5
    runs, failures, first = Counter[str](), Counter[str](), dict[str, str]()
    started = time.monotonic()
    while time.monotonic() - started < 60 * chosen.minutes:
        one, other = mutated(rng, seeds), mutated(rng, seeds)
        for check, texts in (
            (readers, (one,)),
            (logprobs, (one,)),
            (quotations, (one, other)),
            (slots, (one, other)),
            (replies, (one,)),
        ):
            runs[check.__name__] += 1
            try:
                check(rng, *texts)
            except Exception as error:  # noqa: BLE001  whatever it is, it is a finding
                line = traceback.extract_tb(error.__traceback__)[-1].lineno
                kind = f"{check.__name__}: {type(error).__name__} in line {line}"
                failures[kind] += 1
                first.setdefault(kind, f"{error} <- {texts!a}"[:1500])
    for kind, shown in first.items():
        sys.stdout.write(f"{kind} x {failures[kind]}: {shown}\n")
    found = {
        "minutes": round((time.monotonic() - started) / 60, 2),
        "seed": chosen.seed,
        "executions": sum(runs.values()),
        "by_check": dict(runs),
        "failures": dict(failures),
    }
    sys.stdout.write(json.dumps(found) + "\n")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
