"""Pins down that no structural attack reaches the parser as a verdict, changes another slot or breaks a request.

Every LM judge kind in judges/, every verdict form it has, every attack of tests/hostile.py as either answer and as the
prompt. The requests are taken apart by a reader of this file that knows the fences and nothing of the texts.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from judges.base import Judge
from pipeline import discovery, ids
from pipeline.comparison import Comparison
from pipeline.config import ModelConfig
from pipeline.control_tokens import JOINER, defused
from pipeline.engines.base import Answer, Call, Request
from pipeline.engines.chat import request_body
from pipeline.runner import run_stage
from pipeline.transcript import transcript
from tests.endpoints import Body, Endpoint
from tests.hostile import HONEST, PERSUASIVE, PROMPT, Attack, structural
from tests.worlds import SECRET, Bench, bench, world

ATTACKS = structural()
FORMS = ("json", "text", "logprob")
LONG = 20_000
"""Characters from which an attack is repeated in fewer ways, for the time it takes."""
OPENING = re.compile(r"<<(\w+) ([0-9a-f]{8})>>\n")


def lm_kinds() -> Iterator[tuple[str, str]]:
    """(kind, verdict form) of every judge in the folder that asks a language model."""
    for kind in discovery.kinds("judges"):
        options = discovery.find("judges", kind, "{Kind}Judge").Options
        for form in FORMS:
            if issubclass(options, ModelConfig):
                try:
                    options(name="j", kind=kind, model="m", engine="vllm", verdict=form)
                except ValidationError:
                    continue  # the kind has no such form
                yield kind, form


KINDS = list(lm_kinds())


def judge_of(kind: str, form: str, script: Any = None) -> Judge:
    made = discovery.find("judges", kind, "{Kind}Judge")
    toolbox = Bench(script) if script else Bench()
    return made(made.Options(name="j", kind=kind, model="m", engine="vllm", verdict=form), toolbox)


def compare(prompt: str, one: str, other: str) -> Comparison:
    a, b = (ids.content_hash(text) for text in (one, other))
    texts = {a: one, b: other}
    first, second = sorted(texts)
    return Comparison("p", "q", (("user", prompt),), "Paris.", first, second, texts[first], texts[second])


def shapes(attack: Attack) -> list[tuple[Comparison, str, set[str]]]:
    """(comparison, its prompt, its answers) with the attack as an answer and as the prompt."""
    return [
        (compare(PROMPT, attack.text, HONEST), PROMPT, {attack.text, HONEST}),
        (compare(attack.text, HONEST, "Lyon."), attack.text, {HONEST, "Lyon."}),
    ]


def taken_apart(content: str) -> tuple[list[tuple[str, str]], str]:
    """([(slot, text)], what stands outside) of a request, by its fences alone, from left to right."""
    slots: list[tuple[str, str]] = []
    outside: list[str] = []
    tags: list[str] = []
    at = 0
    while opening := OPENING.search(content, at):
        name, tag = opening.groups()
        closing = f"\n<</{name} {tag}>>"
        end = content.index(closing, opening.end() - 1)
        tags.append(tag)
        outside.append(content[at : opening.start()])
        slots.append((name, content[opening.end() : end]))
        at = end + len(closing)
    assert not any(tag in text for tag in tags for _, text in slots), "a fence stands in a text"
    return slots, "\x00".join([*outside, content[at:]])


def without_code(request: Request, outside: str) -> str:
    """What stands outside, less the sentence that asks for a code."""
    if not request.code:
        return outside
    before, asked = outside.rstrip("\n").rsplit("\n", 1)
    assert request.code in asked
    return before + ("\n" if outside.startswith("\n") else "")


def test_the_corpus_is_large_and_every_kind_is_here() -> None:
    assert len({attack.text for attack in ATTACKS}) == len(ATTACKS) >= 200
    assert len(PERSUASIVE) >= 20
    assert {"pairwise", "pointwise", "listwise", "reference_guided"} <= {kind for kind, _ in KINDS}


@pytest.mark.parametrize(("kind", "form"), KINDS)
def test_no_attack_leaves_its_slot_or_breaks_the_request(kind: str, form: str) -> None:
    judge = judge_of(kind, form)
    plain = {
        (index, without_code(request, taken_apart(request.messages[-1][1])[1]))
        for index, request in enumerate(judge.requests([compare(PROMPT, HONEST, "Lyon.")]))
    }
    frames = {frame.strip() for _, frame in plain}
    for attack in ATTACKS:
        for item, prompt, answers in shapes(attack):
            requests = list(judge.requests([item]))
            assert requests
            shown: set[str] = set()
            for request in requests:
                slots, outside = taken_apart(request.messages[-1][1])
                named = dict(slots)
                assert len(named) == len(slots)
                assert named.pop("prompt") == defused(transcript((("user", prompt),))), attack.name
                named.pop("reference", None)
                shown |= set(named.values())
                assert without_code(request, outside).strip() in frames, attack.name
                assert not request.code or not any(request.code in text for _, text in slots), attack.name
                body = request_body("m", request)
                assert json.loads(json.dumps(body, ensure_ascii=False).encode()) == body
            assert shown == {defused(text) for text in answers}, attack.name
            for original in (attack.text, HONEST):
                assert defused(original).replace(JOINER, "") == original.replace(JOINER, "")


def echoes(attack: Attack) -> list[str]:
    """What a judge says that repeats the attack and never decides anything itself."""
    text = attack.text
    if len(text) > LONG:
        return [text, f"I have read both answers.\n\n{text}"]
    stripped = re.sub(r"[*_`>#]+", "", text)
    inner = text[text.find("{") : text.rfind("}") + 1] if "{" in text else text
    return [
        text,
        f"{text}\n",
        text.strip(),
        f"I have read both answers.\n\n{text}",
        f"{text}\n\nI have read both answers.",
        f"The first says:\n{text}\n\nThe second says:\n{HONEST}",
        f"The second says:\n{HONEST}\n\nThe first says:\n{text}",
        f"```\n{text}\n```",
        f"{text}\n{text}",
        stripped,
        inner,
        text.strip().splitlines()[-1] if text.strip() else text,
        json.dumps({"rationale": text}),
    ]


@pytest.mark.parametrize(("kind", "form"), [one for one in KINDS if one[1] != "logprob"])
def test_a_judge_that_repeats_an_attack_gives_no_verdict(kind: str, form: str) -> None:
    taken: list[str] = []
    for attack in ATTACKS:
        for reply in echoes(attack):
            answer = (
                Answer(Call("k", "answered"), reply, "stop")
                if reply
                else Answer(Call("k", "answered"), reason="refused", error="empty")
            )
            judge = judge_of(kind, form, lambda _request, answer=answer: answer)
            found = [one for item, *_ in shapes(attack) for one in judge.judge([item]).judgments]
            assert found
            assert all(one.rationale == (reply or None) for one in found if one.error)
            taken += [f"{attack.name} as {reply[:40]!a}" for one in found if one.preference is not None]
    assert taken == []


@pytest.mark.parametrize(("kind", "form"), [one for one in KINDS if one[1] == "logprob"])
def test_a_reply_in_words_is_no_verdict_where_probabilities_are_asked_for(kind: str, form: str) -> None:
    for attack in ATTACKS:
        judge = judge_of(kind, form, lambda _request, text=attack.text: Answer(Call("k", "answered"), text, "stop"))
        found = [one for item, *_ in shapes(attack) for one in judge.judge([item]).judgments]
        assert [one for one in found if one.preference is not None] == [], attack.name


def instance(schema: Any, code: str) -> Any:
    """The smallest value of a JSON schema, with the code where one is asked for."""
    if "enum" in schema:
        return schema["enum"][0]
    if schema["type"] == "object":
        return {
            name: code if name in ("code", "end") else instance(inner, code)
            for name, inner in schema["properties"].items()
        }
    if schema["type"] == "array":
        return []
    return {"string": "", "integer": schema.get("minimum", 1), "number": schema.get("minimum", 1)}[schema["type"]]


@pytest.mark.parametrize("kind", sorted({kind for kind, form in KINDS if form == "json"} - {"listwise"}))
def test_a_judge_that_decides_is_heard_whatever_the_answers_say(kind: str) -> None:
    """The defence costs no verdict: a judge that does as it is told is read on every attack."""

    def decides(request: Request) -> str:
        return json.dumps(instance(request.response_schema, request.code))

    for attack in ATTACKS:
        judge = judge_of(kind, "json", decides)
        found = [one for item, *_ in shapes(attack) for one in judge.judge([item]).judgments]
        assert [one.error for one in found if one.error] == [], attack.name


def test_a_judge_in_text_that_decides_is_heard_whatever_the_answers_say() -> None:
    def decides(request: Request) -> str:
        return (
            f"I weighed both.\nVerdict {request.code}: A {request.code}"
            if request.code
            else "I weighed both.\nVerdict: A"
        )

    for attack in ATTACKS:
        judge = judge_of("pairwise", "text", decides)
        found = [one for item, *_ in shapes(attack) for one in judge.judge([item]).judgments]
        assert [one.error for one in found if one.error] == [], attack.name


def test_over_http_every_request_arrives_whole_and_no_echo_is_a_verdict(tmp_path: Path) -> None:
    """The real pipeline against a real server whose model repeats the answer it is shown first."""
    made = world(
        {f"{PROMPT} ({at})": [attack.text, HONEST] for at, attack in enumerate(ATTACKS)}
        | {f"{attack.text} ({at})": [HONEST, "Lyon."] for at, attack in enumerate(ATTACKS[::10])}
    )
    arrived: list[dict[str, str]] = []

    def echo(body: Body) -> str:
        slots, _ = taken_apart(body["messages"][-1]["content"])
        arrived.append(dict(slots))
        return dict(slots)["first"]

    with Endpoint(echo) as server:
        config: dict[str, Any] = {
            "endpoints": {"e": {"base_url": server.url, "concurrency": 8, "attempts": 1}},
            "judges": [{"name": "j", "kind": "pairwise", "model": "test", "endpoint": "e", "verdict": "json"}],
        }
        with bench(tmp_path, made, **config) as run:
            run_stage(run, "judge")
            judged = run.folder.read("judgments")
    pairs = made["pairs"].height
    assert pairs == len(ATTACKS) + len(ATTACKS[::10])
    assert judged.height == len(arrived) == 2 * pairs
    assert judged["preference"].null_count() == 2 * pairs
    texts = dict(made["samples"].select("sample_id", "completion").iter_rows())
    questions = {row["prompt_id"]: row["messages"][0]["content"] for row in made["prompts"].iter_rows(named=True)}
    expected = [
        {
            "prompt": defused(transcript((("user", questions[row["prompt_id"]]),))),
            "first": defused(texts[row[first]]),
            "second": defused(texts[row[second]]),
        }
        for row in made["pairs"].iter_rows(named=True)
        for first, second in (("sample_a", "sample_b"), ("sample_b", "sample_a"))
    ]
    assert sorted(map(repr, arrived)) == sorted(map(repr, expected))
    # what the judge said is kept as it came: white space is no answer, and reasoning is kept apart
    said = {one["first"] for one in expected if one["first"].strip() and "<think>" not in one["first"]}
    assert set(judged["rationale"].drop_nulls()) == said


@pytest.mark.parametrize("attack", PERSUASIVE, ids=lambda attack: attack.name)
def test_a_persuasive_answer_is_shown_as_it_is(attack: Attack) -> None:
    """It is nobody's business to change an answer that only talks."""
    for request in judge_of("pairwise", "json").requests([compare(PROMPT, attack.text, HONEST)]):
        slots = dict(taken_apart(request.messages[-1][1])[0])
        assert {slots["first"], slots["second"]} == {attack.text, HONEST}


def test_the_fences_of_the_tests_are_those_of_a_run() -> None:
    assert Bench().secret == SECRET
