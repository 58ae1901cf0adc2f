"""Pins down what generate keeps of answers: cut off, refused, reasoned, and none at all; over real HTTP."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.engines import endpoint
from pipeline.errors import ConfigError, StageError
from pipeline.runner import run_stage
from pipeline.stages.export import dataset_rows
from pipeline.summary import lines, summary
from tests.endpoints import Endpoint, Reply, Script, chat
from tests.odd_endpoint import error
from tests.worlds import bench, prompts, samples, world


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "BACKOFF_S", 0.0)


def generated(folder: Path, script: Script, **generator: Any) -> tuple[pl.DataFrame, pl.DataFrame, list[str]]:
    """(samples, dropped, the summary's lines) of two prompts at one temperature."""
    with Endpoint(script) as server:
        settings = {
            "endpoints": {"e": {"base_url": server.url, "attempts": 1}},
            "generators": [{"model": "m", "endpoint": "e", "temperatures": [0.5], **generator}],
        }
        with bench(folder, {"prompts": prompts(["one?", "two?"])}, **settings) as run:
            run_stage(run, "generate")
            return run.folder.read("samples"), run.folder.read("dropped"), lines(summary(run), run.folder.path)


def half(body: dict[str, Any]) -> Reply:
    question = body["messages"][-1]["content"]
    return Reply(200, chat(f"Half of {question}", finish_reason="length" if question == "one?" else "stop"))


def test_an_answer_that_was_cut_off_is_dropped_counted_and_warned_of(tmp_path: Path) -> None:
    made, dropped, said = generated(tmp_path, half)
    assert made["completion"].to_list() == ["Half of two?"]
    assert dropped["reason"].to_list() == ["cut_off"]
    assert "keep_cut_off" in dropped["detail"][0]
    assert "warning: generate: 1 of 2 answers were cut off at max_tokens; raise it" in said


def test_cut_off_answers_are_kept_where_they_are_wanted(tmp_path: Path) -> None:
    made, dropped, said = generated(tmp_path, half, keep_cut_off=True)
    assert sorted(made["finish_reason"]) == ["length", "stop"]
    assert dropped.is_empty()
    assert "warning: generate: 1 of 2 answers were cut off at max_tokens; raise it" in said


def test_a_generator_asks_again_what_was_cut_off_or_refused(tmp_path: Path) -> None:
    seeds: list[int] = []

    def script(body: dict[str, Any]) -> Reply:
        if body["messages"][-1]["content"] == "two?":
            return Reply(200, chat("Whole."))
        seeds.append(body["seed"])
        cut_off, refused = chat("Ha", finish_reason="length"), chat(None, refusal="I cannot")
        return Reply(200, (cut_off, refused, chat("At last."))[len(seeds) - 1])

    made, dropped, _ = generated(tmp_path, script, max_attempts=3)
    assert sorted(made["completion"]) == ["At last.", "Whole."]
    assert dropped.is_empty()
    assert len(set(seeds)) == 3
    assert made.filter(pl.col("completion") == "At last.")["seed"].to_list() == [seeds[2]]


@pytest.mark.parametrize(
    ("reply", "hint"),
    [
        (
            error(400, "no such thing"),
            "none of 2 answers came (2 x rejected: HTTP 400: no such thing); set what it names",
        ),
        (error(400, "prompt is too long"), "2 x too_long: HTTP 400: prompt is too long); shorten the prompts"),
        (Reply(200, chat(None, finish_reason="length")), "2 x cut_off: cut off at max_tokens"),
        (Reply(503, "down"), "HTTP 503: down"),
    ],
)
def test_a_stage_in_which_nothing_succeeded_fails_in_the_endpoints_words(
    tmp_path: Path, reply: Reply, hint: str
) -> None:
    for _ in range(2):  # and again when it is run again
        with pytest.raises(StageError) as found:
            generated(tmp_path, lambda _body: reply)
        assert hint in str(found.value)


def test_reasoning_is_a_column_and_no_part_of_the_answer(tmp_path: Path) -> None:
    made, _, _ = generated(tmp_path, lambda body: f"<think>hm</think>{body['messages'][-1]['content']} Yes.")
    assert sorted(made["completion"]) == ["one? Yes.", "two? Yes."]
    assert made["reasoning"].to_list() == ["hm", "hm"]
    assert made["characters"].to_list() == [9, 9]


def test_a_temperature_that_the_endpoint_does_not_take_is_null_and_said(tmp_path: Path) -> None:
    refusal = error(400, "Unsupported value: only the default (1) value is supported", param="temperature")
    made, _, said = generated(tmp_path, lambda body: refusal if "temperature" in body else "Yes " + str(body["seed"]))
    assert made["temperature"].to_list() == [None, None]
    (told,) = [line for line in said if "refused `temperature`" in line]
    assert told.startswith(
        "warning: model 'm' at endpoint 'e' refused `temperature`, so `temperature` is not sent (HTTP"
    )


def test_the_endpoints_words_are_in_the_summary(tmp_path: Path) -> None:
    filtered = error(400, "caught", code="content_filter")
    _, dropped, said = generated(
        tmp_path, lambda body: filtered if body["messages"][-1]["content"] == "one?" else "Fine."
    )
    assert dropped["detail"].to_list() == ["HTTP 400: caught; code content_filter"]
    assert any("dropped 1: content_filter (HTTP 400: caught; code content_filter)" in line for line in said)


def test_exports_carry_how_answers_ended_and_reasoning_where_asked_for() -> None:
    made = world({"q?": ["yes", "no"]})
    answers = samples({"q?": ["yes", "no"]}).with_columns(
        finish_reason=pl.Series(["stop", "length"]), reasoning=pl.Series(["because", None])
    )
    pair = made["pairs"].row(0, named=True)
    kept = pl.DataFrame(
        {
            "pair_id": [pair["pair_id"]], "p_a": [0.9], "p_a_lc": [0.9], "margin": [0.8], "judges": [["j"]],
            "calls": [2],
            "agreement": [1.0], "chosen_id": [pair["sample_a"]], "rejected_id": [pair["sample_b"]],
        }
    )  # fmt: skip
    ended = dict(answers.select("sample_id", "finish_reason").iter_rows())
    thought = dict(answers.select("sample_id", "reasoning").iter_rows())
    rows = dataset_rows(kept, made["pairs"], answers, made["prompts"], seed=0, test_fraction=0, reasoning=True)
    row = rows.row(0, named=True)
    for side in ("chosen", "rejected"):
        key = pair["sample_a" if side == "chosen" else "sample_b"]
        assert row[f"{side}_finish_reason"] == ended[key]
        assert row[f"{side}_reasoning"] == thought[key]
    plain = dataset_rows(kept, made["pairs"], answers, made["prompts"], seed=0, test_fraction=0)
    assert "chosen_reasoning" not in plain.columns


def test_what_the_config_says_about_replies_is_checked(tmp_path: Path) -> None:
    place = {"endpoints": {"e": {"base_url": "http://h/v1"}}}
    generator = {"model": "m", "endpoint": "e", "price": {"input": 1, "output": 1}}
    with bench(tmp_path, export={"formats": ["jsonl"], "reasoning": "keep"}) as run:
        assert (run.config.export, run.config.export_reasoning) == (("jsonl",), "keep")
    for wrong, hint in (
        ({"generators": [{**generator, "body": {"messages": []}}], **place}, "'messages' is set by the data"),
        ({"generators": [{**generator, "body": {"n": 2}}], **place}, "'n' is set by `samples`"),
        ({"generators": [{"model": "m", "engine": "transformers", "body": {"a": 1}}]}, "need `endpoint`"),
        ({"export": {"reasonings": "keep"}}, "`export` takes formats and reasoning"),
        (
            {"generators": [{**generator, "body": {"max_tokens": None}}], **place, "budget": {"usd": 1}},
            "sends no `max_tokens`, so its calls cannot be held under `budget`",
        ),
    ):
        with pytest.raises((ValueError, ConfigError), match=hint):
            bench(tmp_path, **wrong)
