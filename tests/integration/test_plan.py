"""Pins down that `jurybox plan` foretells what a run then does, by the endpoint's own count, and spends nothing.

A thousand pairs of plain English are judged through a local endpoint that counts tokens by the rule that 75 words are
100 tokens, which is not how the plan estimates them. The endpoint's reasons vary in length. Each figure of a plan must
lie within ten per cent of what happened.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.endpoints import Body, Endpoint, Reply, chat
from tests.recorded_endpoint import jurybox_here

PROMPTS, PAIRS_A_PROMPT = 200, 5
PAIRS = PROMPTS * PAIRS_A_PROMPT
WITHIN = 0.10
PRICE = {"input": 2.0, "output": 8.0}
CONCURRENCY = 32
SOAK = bool(os.environ.get("JURYBOX_SOAK"))
DELAY_S = 0.5 if SOAK else 0.05
ENGLISH = """\
The river rises in the hills to the north and reaches the sea after some two hundred miles of slow water.
A good teacher asks more questions than she answers, because a question stays in the mind for longer.
Most birds that winter here arrive in October, when the fields have been cut and food is easy to find.
Put the flour into a large bowl, make a hollow in the middle, and pour in the warm milk with the yeast.
The committee met four times last year and published its findings in a report that few people have read.
If the light on the front panel turns red, unplug the machine and wait ten minutes before you open it.
His grandfather had built the house with his own hands, and it showed in every crooked door and window.
Prices fell for the third month in a row, although wages in the same region went up by two per cent.
She learned to play the violin at the age of six and gave her first public concert seven years later.
Water boils at a lower temperature on a mountain, so potatoes take longer to cook there than at home.
The law says that a tenant must be told in writing, and at least three months before the rent goes up.
Nobody knows who wrote the letter, but the paper was made in Holland and the ink contains a little iron.
To find the largest number in a list, look at each number once and keep the largest one seen so far.
Trains leave from platform nine every half hour until midnight, and then once an hour until the morning.
The painting was thought to be a copy until somebody cleaned it and found the date under the old varnish.
It is cheaper to insulate the roof than to buy a larger heater, and the work can be done in a weekend.
Sleep helps people remember what they learned during the day, and a short nap after lunch may be enough.
The village has one shop, two churches, a school with forty children and a bus to town twice a day.
Iron ships are heavier than wooden ones of the same size, and yet they carry more and need less repair.
Every summer the lake grows warmer, and the fish that used to live near the surface go deeper each year.
""".splitlines()


def sentences() -> Iterator[str]:
    """Sentences, over and over."""
    return cycle(ENGLISH)


def counted(text: str) -> int:
    """The endpoint's own count of tokens."""
    return round(len(text.split()) * 100 / 75)


def judged(body: Body) -> Reply:
    """A verdict with a reason of 18 to 60 words, drawn from the request."""
    drawn = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest()
    words = 18 + int.from_bytes(drawn[:4]) % 43
    reason = " ".join(
        islice((word for sentence in sentences() for word in sentence.split()), drawn[5], drawn[5] + words)
    )
    text = json.dumps({"rationale": reason, "verdict": ("A", "B", "tie")[drawn[4] % 3]})
    prompt = sum(counted(message["content"]) for message in body["messages"])
    return Reply(200, chat(text, usage=(prompt, 0, counted(text))), DELAY_S)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with Endpoint(judged, models=("judge",)) as server:
        yield server


def project(folder: Path, endpoint: Endpoint) -> Path:
    text = sentences()
    rows = [
        {
            "prompt": f"{number}: {' '.join(islice(text, 2))}",
            "pair_id": f"{number}-{pair}",
            "response_a": f"{pair} {' '.join(islice(text, 3))}",
            "response_b": f"{pair} {' '.join(islice(text, 4))}",
        }
        for number in range(PROMPTS)
        for pair in range(PAIRS_A_PROMPT)
    ]
    prompts = {row["prompt"].split(":")[0]: row["prompt"] for row in rows}
    for row in rows:
        row["prompt"] = prompts[row["prompt"].split(":")[0]]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    write(folder, endpoint, ["helpfulness"])
    done = jurybox_here("import", "pairs", "pairs.jsonl", "--config", "c.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def write(folder: Path, endpoint: Endpoint, rubrics: list[str], **changes: object) -> None:
    judge = {"kind": "pairwise", "endpoint": "local", "model": "judge", "max_tokens": 200, "price": PRICE}
    config = {
        "name": "planned",
        "endpoints": {"local": {"base_url": endpoint.url, "concurrency": CONCURRENCY}},
        "judges": [{**judge, "name": rubric, "rubric": rubric} for rubric in rubrics],
        "export": ["jsonl"],
        **changes,
    }
    (folder / "c.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def planned(folder: Path) -> dict[str, Any]:
    done = jurybox_here("plan", "c.yaml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def happened(endpoint: Endpoint, start: int) -> dict[str, float]:
    """What the endpoint counted since its request number *start*."""
    usages = [judged(body).body["usage"] for body in endpoint.bodies[start:]]  # type: ignore[index]
    prompt = sum(usage["prompt_tokens"] for usage in usages)
    completion = sum(usage["completion_tokens"] for usage in usages)
    usd = (prompt * PRICE["input"] + completion * PRICE["output"]) / 1e6
    return {"calls": len(usages), "prompt_tokens": prompt, "completion_tokens": completion, "usd": usd}


def show(name: str, foretold: dict[str, Any], came: dict[str, float]) -> None:
    for key, value in came.items():
        print(f"{name}: {key} planned {foretold[key]:.6g}, happened {value:.6g}, off {foretold[key] / value - 1:+.1%}")


@pytest.mark.slow
def test_a_thousand_pairs_are_foretold(endpoint: Endpoint, tmp_path: Path) -> None:
    folder = project(tmp_path, endpoint)
    start = len(endpoint.log)
    before = planned(folder)
    assert len(endpoint.log) == start, "the plan asked the endpoint"
    assert before["total"]["hours"] is None
    assert [(row["stage"], row["basis"]) for row in before["rows"]] == [("judge", "assumed"), ("controls", "assumed")]

    assert jurybox_here("run", "c.yaml", cwd=folder).returncode == 0
    came = happened(endpoint, start)
    show("before anything was asked", before["total"], came)
    # 40 of the prompts meet a constant answer, in both orders.
    assert before["total"]["calls"] == before["total"]["calls_most"] == came["calls"] == 2 * PAIRS + 2 * 40
    for key, value in came.items():
        assert before["total"][key] == pytest.approx(value, rel=WITHIN), key
    assert came["usd"] < before["total"]["usd_most"]

    # Nothing is left, and what is answered is free.
    after = planned(folder)
    assert after["rows"] == []
    assert after["total"]["calls"] == after["total"]["usd"] == 0

    # Another judge of the same model: what was charged so far corrects the estimate.
    write(folder, endpoint, ["helpfulness", "concision"])
    start = len(endpoint.log)
    foretold = planned(folder)
    assert [(row["who"], row["basis"]) for row in foretold["rows"]] == [("concision", "observed")] * 2
    assert jurybox_here("run", "c.yaml", cwd=folder).returncode == 0
    came = happened(endpoint, start)
    show("after a thousand pairs", foretold["total"], came)
    for key, value in came.items():
        assert foretold["total"][key] == pytest.approx(value, rel=WITHIN / 2), key
    # 2,000 calls of some 50 ms, 32 at once: 3 s and what the machine makes of it.
    assert foretold["total"]["hours"] >= 2 * PAIRS * DELAY_S / CONCURRENCY / 3600
    manifest = json.loads((folder / "runs" / "planned" / "manifest.json").read_text(encoding="utf-8"))
    seconds = manifest["stages"]["judge"]["seconds"]
    print(f"hours planned {foretold['total']['hours']:.5f}; the stage with both judges: {seconds / 3600:.5f}")


def test_a_plan_says_whether_the_budget_lasts(endpoint: Endpoint, tmp_path: Path) -> None:
    folder = project(tmp_path, endpoint)
    expected = planned(folder)["total"]
    for usd, said in (
        (expected["usd"] * 0.9, "the run will stop before its end"),
        ((expected["usd"] + expected["usd_most"]) / 2, "enough for what is expected, not for the worst case"),
        (expected["usd_most"] * 1.01, "enough for the worst case"),
    ):
        write(folder, endpoint, ["helpfulness"], budget={"usd": usd})
        told = planned(folder)
        assert any(said in line for line in told["notes"] + told["warnings"]), told


def test_before_any_answer_a_plan_counts_what_may_come(endpoint: Endpoint, tmp_path: Path) -> None:
    """By hand: 3 prompts, 2 temperatures x 2 samples = 4 answers each, so 6 pairs, and 36 verdicts in both orders."""
    (tmp_path / "prompts.jsonl").write_text(
        "\n".join(json.dumps({"prompt": f"What is {number} and why?"}) for number in range(3)), encoding="utf-8"
    )
    generator = {"endpoint": "local", "model": "writer", "temperatures": [0.3, 1.0], "samples": 2, "max_tokens": 100}
    judges = [
        {"name": "both", "kind": "pairwise", "endpoint": "local", "model": "judge", "price": PRICE},
        {"name": "one", "kind": "pairwise", "endpoint": "local", "model": "judge", "order": "ab", "verdict": "logprob"},
        {"name": "longer", "kind": "length"},
    ]
    changes = {"prompts": {"path": "prompts.jsonl"}, "generators": [generator], "judges": judges}
    write(tmp_path, endpoint, [], controls={"share": 0}, **changes)
    told = planned(tmp_path)
    rows = {row["who"]: row for row in told["rows"]}
    assert {who: (row["calls"], row["calls_most"]) for who, row in rows.items()} == {
        "generate:writer": (12, 12),
        "both": (36, 36),
        "one": (18, 18),
    }
    # No longer than max_tokens allows; the verdict in JSON is assumed, the one by logprobs is one token.
    assert rows["generate:writer"]["completion_tokens"] == 12 * 100
    assert rows["both"]["completion_tokens"] == 36 * 60
    assert rows["one"]["completion_tokens"] == 18
    assert {row["basis"] for row in rows.values()} == {"assumed"}
    assert "model writer has no `price` and is counted as free" in told["warnings"]
    assert not (tmp_path / "runs" / "planned" / "ledger.sqlite").exists()
