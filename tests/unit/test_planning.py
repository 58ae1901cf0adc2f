"""Pins down the plan's arithmetic by hand: what every stage and judge will ask, from a config alone and from a run."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.commands import plan as planning
from pipeline.commands.plan import Plan, plan
from pipeline.config_file import load
from pipeline.runner import run_stage
from pipeline.workbench import Workbench

PROMPTS = 40
ENGINE = '''
"""A model in this process: it answers prompts with an even number the same way each time, others never twice alike."""
from pipeline.engines.base import Answer, Call


class Engine:
    def __init__(self, options, toolbox):
        self.model = options.model

    def complete(self, requests, advance):
        return [self._answer(request) for request in requests]

    def close(self):
        pass

    def _answer(self, request):
        said = request.messages[-1][1]
        call = Call(str(hash(repr((self.model, request)))), "answered", len(said), 0, 7)
        if self.model == "judge":
            return Answer(call, '{"rationale": "so", "verdict": "A"}', "stop")
        same = int(said.split()[-1]) % 2 == 0
        return Answer(call, "same" if same else f"{request.temperature} {request.sample_index}", "stop")
'''
HERE = {"engine": "./engine.py:Engine"}
JUDGE = {"name": "one", "kind": "pairwise", "model": "judge", **HERE}
WRITER = {"model": "writer", "temperatures": [0.3, 1.0], "samples": 2, "max_tokens": 100, **HERE}


def project(folder: Path, prompts: list[dict[str, Any]] | None = None, **changes: Any) -> Path:
    """A config in *folder*: 40 prompts, 4 answers each, one judge in both orders."""
    (folder / "engine.py").write_text(ENGINE, encoding="utf-8")
    rows = prompts or [{"prompt": f"Say {number}"} for number in range(PROMPTS)]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    whole = {"name": "r", "prompts": {"path": "prompts.jsonl"}, "generators": [WRITER], "judges": [JUDGE]}
    config = {**whole, "controls": {"share": 0}, **changes}
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def opened(path: Path) -> Workbench:
    return Workbench(load(path), path.parent / "run", path.parent)


def planned(path: Path, pilot: int = 0) -> Plan:
    with opened(path) as bench:
        return plan(bench, pilot)


def calls(made: Plan) -> dict[str, tuple[int, int]]:
    """Who -> (expected, at most)."""
    return {f"{row.stage} {row.who}": (row.calls, row.calls_most) for row in made.rows}


def test_from_the_config_alone_all_answers_differ(tmp_path: Path) -> None:
    """40 prompts x 4 answers; 6 pairs of 4 in 2 orders; scored alone: 4 answers; a list in 2 orders; no call at all.

    Constant answers meet 24 answers, a tenth of 240 pairs: in 2 orders, 1, scored alone both, in a list of two twice.
    """
    judges = [
        JUDGE,
        {**JUDGE, "name": "half", "order": "random"},
        {**JUDGE, "name": "twice", "max_attempts": 2},
        {**JUDGE, "name": "points", "kind": "pointwise"},
        {**JUDGE, "name": "list", "kind": "listwise"},
        {"name": "longer", "kind": "length"},
    ]
    made = planned(project(tmp_path, judges=judges, controls={}))
    assert calls(made) == {
        "generate generate:writer": (160, 160),
        "judge one": (480, 480),
        "judge half": (240, 240),
        "judge twice": (480, 960),
        "judge points": (160, 160),
        "judge list": (80, 80),
        "controls one": (48, 48),
        "controls half": (24, 24),
        "controls twice": (48, 96),
        "controls points": (48, 48),
        "controls list": (48, 48),
    }
    assert made.total()["usd"] == 0
    assert {row.hours for row in made.rows} == {None}
    assert not (tmp_path / "run").exists(), "a plan leaves nothing behind"


def test_a_pilot_finds_the_answers_that_are_alike(tmp_path: Path) -> None:
    """Half of the prompts get one answer four times over, and no pair: 20 x 6 x 2 calls, counted on all 40 prompts."""
    made = planned(project(tmp_path), pilot=PROMPTS)
    assert calls(made) == {"generate generate:writer": (160, 160), "judge one": (240, 240)}
    rows = {row.stage: row for row in made.rows}
    # The engine's own count: the prompt's letters ("Say " and a number: 10 of one digit, 30 of two) and 7 an answer.
    assert rows["generate"].prompt_tokens == 4 * (10 * 5 + 30 * 6)
    assert rows["generate"].completion_tokens == 160 * 7
    assert rows["generate"].basis == "pilot"
    assert rows["generate"].hours is not None


def test_constant_answers_are_counted(tmp_path: Path) -> None:
    """Of 40 prompts 20 have pairs, 120 of them: a tenth are 12 comparisons, in 2 orders; a share of a half is 60."""
    path = project(tmp_path, controls={})
    with opened(path) as bench:
        for stage in ("load", "generate", "pair", "labels", "judge"):
            run_stage(bench, stage)
        assert calls(plan(bench, 0)) == {"controls one": (24, 24)}
        run_stage(bench, "controls")
        assert calls(plan(bench, 0)) == {}
    project(tmp_path, controls={"number": 100, "share": 0.5})
    assert calls(planned(path)) == {"controls one": (120, 120)}


def test_a_smaller_pilot_is_scaled_up(tmp_path: Path) -> None:
    made = planned(project(tmp_path), pilot=20)
    judge = next(row for row in made.rows if row.stage == "judge")
    # 12 calls for each odd one among the 20 tried, then twice that; at most: 240 known differences and 20 x 12 unknown.
    assert judge.calls % 24 == 0
    assert judge.calls_most == judge.calls / 2 + 240
    assert abs(judge.calls - 240) <= 96
    assert (judge.basis, judge.completion_tokens) == ("pilot", judge.calls * 7)


def test_what_is_done_is_left_out(tmp_path: Path) -> None:
    path = project(tmp_path)
    with opened(path) as bench:
        for stage in ("load", "generate"):
            run_stage(bench, stage)
    assert calls(planned(path)) == {"judge one": (240, 240)}
    with opened(path) as bench:
        for stage in ("pair", "labels", "judge"):
            run_stage(bench, stage)
    assert calls(planned(path)) == {}
    # An edited judge runs again alone.
    project(tmp_path, judges=[JUDGE, {**JUDGE, "name": "new", "order": "ab"}])
    assert calls(planned(path)) == {"judge new": (120, 120)}


def test_many_prompts_are_counted_on_a_part_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "MOST_PROMPTS", 10)
    path = project(tmp_path)
    # 10 of 40 prompts are rendered, each for 4; what will be is the same.
    assert calls(planned(path)) == {"generate generate:writer": (160, 160), "judge one": (480, 480)}
    with opened(path) as bench:
        for stage in ("load", "generate"):
            run_stage(bench, stage)
    made = planned(path)
    ((expected, most),) = calls(made).values()
    # 12 calls for each odd one among the ten, times 4.
    assert expected == most
    assert expected % 48 == 0
    assert 0 < expected < 480
    assert "counted on 10 of 40 prompts that have answers" in made.notes


def test_later_turns_are_answered_first(tmp_path: Path) -> None:
    """Two conversations of 3 turns: 2 x 2 answers to freeze, 6 prompts x 4 answers, 6 x 6 pairs x 2 orders."""
    turns = [{"turns": [f"first {at}", "second 1", "third 1"]} for at in range(2)]
    made = planned(project(tmp_path, prompts=turns))
    assert calls(made) == {
        "load generate:writer": (4, 4),
        "generate generate:writer": (24, 24),
        "judge one": (72, 72),
    }


def test_list_prices_are_named_with_their_dates(tmp_path: Path) -> None:
    endpoint = {"base_url": "https://api.openai.com/v1"}
    judge = {"name": "one", "kind": "pairwise", "endpoint": "vendor", "model": "gpt-4.1", "verdict": "logprob"}
    made = planned(project(tmp_path, endpoints={"vendor": endpoint}, judges=[judge]))
    row = next(row for row in made.rows if row.who == "one")
    # One token at US$ 8 and the prompt at US$ 2 a million; logprobs need no assumption about lengths.
    assert row.completion_tokens == row.calls == 480
    assert row.usd == pytest.approx((row.prompt_tokens * 2 + 480 * 8) / 1e6)
    assert row.usd < row.usd_most
    assert any("gpt-4.1 has no `price`: list price as read on 2026-07-30" in note for note in made.notes)
    assert any("table of 2026-11-21" in note for note in made.notes)
    assert any("more than 90 days old" in warning for warning in made.warnings)
    assert "gpt-4.1" in "\n".join(made.lines())


def test_calls_by_the_batch_api_cost_half(tmp_path: Path) -> None:
    vendor = {"vendor": {"base_url": "https://api.openai.com/v1"}}
    judge = {"name": "now", "kind": "pairwise", "endpoint": "vendor", "model": "gpt-4.1"}
    made = planned(project(tmp_path, endpoints=vendor, judges=[judge, {**judge, "name": "later", "batch": True}]))
    usd = {row.who: (row.usd, row.usd_most) for row in made.rows}
    # The worst case counts bytes, and a judge's seeds have a digit more or less.
    assert usd["later"] == pytest.approx((usd["now"][0] / 2, usd["now"][1] / 2), rel=1e-3)
    assert any("a day at most" in note for note in made.notes)


def test_held_out_prompts_are_counted(tmp_path: Path) -> None:
    """Of 5 held-out prompts: 2 answers and one for the divergence each, and the panel's opinion in both orders."""
    rows = [{"prompt": f"Held {at}"} for at in range(5)]
    (tmp_path / "held.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    changes = {"train": {"model": "writer"}, "evaluate": {"prompts": {"path": "held.jsonl"}}}
    found = calls(planned(project(tmp_path, **changes)))
    assert found["evaluate evaluate:writer"] == (15, 15)
    assert found["evaluate one"] == (10, 10)
