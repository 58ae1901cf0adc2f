"""The dataset card and the adapter's: what the header says, what the words say, and what cannot break them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
from huggingface_hub import DatasetCard, ModelCard

from pipeline import schemas
from pipeline.exports import card
from pipeline.stages.export import dataset_rows
from tests.export_frames import frames, numbered

PANEL: dict[str, Any] = {
    "method": "calibrated",
    "validated": True,
    "labels": {"fit_pairs": 40, "certify_pairs": 38, "annotators": 3, "simulated": False},
    "judges": {
        "gpt": {
            "agreement": 0.8125,
            "low": 0.75,
            "high": 0.875,
            "n": 64,
            "weight": 1.5,
            "in_panel": True,
            "reason": None,
            "swap_consistency": 0.9,
            "first_slot_rate": 0.55,
            "failures": 2,
            "judgments": 128,
        },
        "long": {
            "agreement": 0.375,
            "low": 0.25,
            "high": 0.5,
            "n": 64,
            "weight": 0.0,
            "in_panel": False,
            "reason": "agrees with people on 37.5% of 64 fit pairs, below judge_floor 50.0%",
            "swap_consistency": 1.0,
            "first_slot_rate": None,
            "failures": 0,
            "judgments": 128,
        },
    },
    "weights": {"gpt": 1.5},
}
CERTIFIED: dict[str, Any] = {
    "certified": True,
    "reason": "agreement of at least 90% is certified at confidence 90%",
    "threshold": 0.25,
    "target_agreement": 0.9,
    "delta": 0.1,
    "lower_bound": 0.9125,
    "agreement": 0.975,
    "strict_agreement": 0.95,
    "n_units": 38,
    "coverage": 0.5,
    "labels_needed": 0,
    "simulated": False,
    "unit": "prompt",
    "rule": {},
}
REFUSED = CERTIFIED | {
    "certified": False,
    "reason": "12 audited prompts among the kept; 22 are needed even if people agreed on every one",
    "threshold": None,
    "lower_bound": None,
    "agreement": None,
    "strict_agreement": None,
    "coverage": None,
    "n_units": 12,
    "labels_needed": 10,
}
FORMATS = (
    card.Written("trl_dpo", {"train": "trl_dpo/train.parquet", "test": "trl_dpo/test.parquet"}),
    card.Written("jsonl", {"train": "jsonl/train.jsonl", "test": "jsonl/test.jsonl"}),
    card.Written("kto", {"train": "kto/train.parquet", "test": "kto/test.parquet"}),
)
HOSTILE = (
    "x\n---\nlicense: mit\n# Owned <script>alert(1)</script> | a | b |\n"
    "[go](https://evil.example) `c` **b** www.evil.example"
)


def provenance(count: int = 30, test_fraction: float = 0.3, **changes: Any) -> card.Provenance:
    made = frames(numbered(count))
    rows = dataset_rows(
        made["kept"],
        made["pairs"],
        made["samples"],
        made["prompts"],
        seed=2,
        test_fraction=test_fraction,
    )
    plain = card.Provenance(
        name="small",
        licence="Apache-2.0",
        single=pl.DataFrame(schema={"prompt_id": pl.String, "split": pl.String}),
        rows=rows,
        samples=made["samples"],
        sources=["questions.jsonl"],
        dropped=drops({"pair": ["identical"], "select": ["tie", "low_margin", "low_margin"]}),
        panel=PANEL,
        certificate=CERTIFIED,
        versions={"polars": "2.1.0", "jurybox": "0.1.0"},
    )
    return replace(plain, **changes)


def drops(reasons: Mapping[str, list[str]]) -> pl.DataFrame:
    rows = [
        {"stage": stage, "id": f"{stage}{at}", "reason": reason}
        for stage, found in reasons.items()
        for at, reason in enumerate(found)
    ]
    return schemas.frame("dropped", rows)


def body(text: str) -> str:
    return text.split("\n---\n", 1)[1]


def test_the_header_is_what_the_hub_reads() -> None:
    parsed = DatasetCard(card.dataset_card(provenance(), FORMATS)).data.to_dict()
    assert parsed == {
        "pretty_name": "small",
        "license": "apache-2.0",
        "task_categories": ["text-generation"],
        "tags": ["preference", "dpo", "jurybox", "synthetic"],
        "size_categories": ["n<1K"],
        "configs": [
            {
                "config_name": "trl_dpo",
                "default": True,
                "data_files": [
                    {"split": "train", "path": "trl_dpo/train.parquet"},
                    {"split": "test", "path": "trl_dpo/test.parquet"},
                ],
            },
            {
                "config_name": "kto",
                "data_files": [
                    {"split": "train", "path": "kto/train.parquet"},
                    {"split": "test", "path": "kto/test.parquet"},
                ],
            },
        ],
    }


def test_a_format_with_other_files_than_the_first_is_loaded_by_file() -> None:
    text = card.dataset_card(provenance(), FORMATS)
    assert '| trl\\_dpo | `load_dataset(REPOSITORY, "trl_dpo")` |' in text
    assert (
        '| jsonl | `load_dataset(REPOSITORY, data_files={"train": "jsonl/train.jsonl", "test": "jsonl/test.jsonl"})` |'
    ) in text
    assert '| kto | `load_dataset(REPOSITORY, "kto")` |' in text
    first = DatasetCard(card.dataset_card(provenance(), FORMATS[1:])).data.to_dict()["configs"]
    assert [one["config_name"] for one in first] == ["jsonl"]


def test_a_split_without_rows_is_left_out_of_the_header() -> None:
    parsed = DatasetCard(card.dataset_card(provenance(test_fraction=0.0), FORMATS)).data.to_dict()
    files = [one["data_files"] for one in parsed["configs"]]
    assert files == [
        [{"split": "train", "path": "trl_dpo/train.parquet"}],
        [{"split": "train", "path": "kto/train.parquet"}],
    ]


def test_the_words_say_how_it_was_made() -> None:
    made = provenance()
    text = body(card.dataset_card(made, FORMATS))
    test = (made.rows["split"] == "test").sum()
    assert f"30 preference pairs ({30 - test} train + {test} test) over 30 prompts from questions.jsonl" in text
    assert "| writer | 0.3 | 30 | 30 | 0 |" in text
    assert "| writer | 1 | 30 | 0 | 30 |" in text
    assert "weights were fitted on 40 pairs labelled by 3 annotators; 38 other pairs" in text
    assert "| gpt | 81.2% (75.0% to 87.5%, n = 64) | 1.5 | yes | 90.0% | 55.0% | 2 / 128 |" in text
    dropped = "no: agrees with people on 37.5% of 64 fit pairs, below judge\\_floor 50.0%"
    assert f"| long | 37.5% (25.0% to 50.0%, n = 64) | 0 | {dropped} | 100.0% | unknown | 0 / 128 |" in text
    # in the order of the stages, the most frequent first
    assert "| pair | identical | 1 |\n| select | low\\_margin | 2 |\n| select | tie | 1 |" in text
    assert "jurybox 0.1.0, polars 2.1.0." in text
    assert "Apache-2.0. Answers may also fall" in text
    assert "simulated" not in text


def test_answers_without_a_known_temperature_say_so() -> None:
    made = provenance(2)
    unknown = pl.lit(None, dtype=pl.Float64)
    text = card.dataset_card(
        replace(
            made,
            samples=made.samples.with_columns(temperature=unknown),
            single=pl.DataFrame(schema={"prompt_id": pl.String, "split": pl.String}),
            rows=made.rows.with_columns(chosen_temperature=unknown, rejected_temperature=unknown),
        ),
        FORMATS,
    )
    assert "| writer | unknown | 4 | 2 | 2 |" in text


def test_a_certificate_in_words() -> None:
    words = card.certificate_words(CERTIFIED)
    assert words.startswith(
        "**Certified**: the kept pairs agree with people at least 90.0% of the time (mean over prompts), "
        "with confidence 90.0%"
    )
    assert "Measured on 38 audited prompts: 97.5% agreement" in words
    assert "strictly 95.0%), lower bound 91.2%" in words
    assert "Margin threshold 0.25, which keeps 50.0% of the selected pairs." in words
    assert "NOT CERTIFIED" not in words
    assert "simulated" not in words


def test_a_refused_certificate_says_so_and_why_and_how_many_are_missing() -> None:
    words = card.certificate_words(REFUSED)
    assert words == (
        "**NOT CERTIFIED** (wanted: 90.0% agreement with people): 12 audited prompts among the kept; 22 are "
        "needed even if people agreed on every one. About 10 more audited prompts are needed."
    )


@pytest.mark.parametrize("found", [CERTIFIED, REFUSED])
def test_simulated_people_are_called_simulated(found: dict[str, Any]) -> None:
    words = card.certificate_words(found | {"simulated": True})
    assert "agree" in words
    assert "with simulated people" in words or "agree with simulated people" in words
    assert "The labels came from **simulated people**" in words
    panel = PANEL | {"labels": PANEL["labels"] | {"simulated": True}}
    text = card.dataset_card(provenance(panel=panel), FORMATS)
    assert "The annotators are **simulated**" in text
    assert "| agreement with simulated people (95% interval) |" in text


@pytest.mark.parametrize("claim", [None, "yes", 1, False])
def test_only_true_is_certified(claim: object) -> None:
    assert "NOT CERTIFIED" in card.certificate_words(CERTIFIED | {"certified": claim})


@pytest.mark.parametrize("empty", [None, {}])
def test_missing_findings_are_plain_sentences(empty: Mapping[str, Any] | None) -> None:
    made = provenance(panel=empty, certificate=empty, dropped=drops({}), sources=[])
    text = card.dataset_card(made, FORMATS)
    assert "**NOT CERTIFIED**" in text
    assert "Nothing was dropped." in text
    assert "an unknown source" in text
    assert "There is no panel.json" in text if empty is None else "No judge is recorded." in text
    assert "None" not in text
    bare = card.dataset_card(provenance(panel={"judges": {"gpt": {}}}), FORMATS)
    assert "| gpt | unknown | unknown | no: no reason was recorded | unknown | unknown |" in bare
    assert "**not validated**" in bare


def test_the_same_run_gives_the_same_bytes_in_any_row_order() -> None:
    made = provenance()
    turned = replace(made, rows=made.rows.reverse(), samples=made.samples.reverse(), dropped=made.dropped.reverse())
    assert card.dataset_card(made, FORMATS) == card.dataset_card(turned, FORMATS)


def test_text_from_outside_breaks_neither_header_nor_markdown() -> None:
    made = provenance(2)
    hostile = card.dataset_card(
        replace(
            made,
            name=HOSTILE,
            licence=HOSTILE,
            sources=[HOSTILE],
            samples=made.samples.with_columns(model=pl.lit(HOSTILE)),
            dropped=drops({"pair": [HOSTILE]}),
            panel=PANEL | {"method": HOSTILE, "judges": {HOSTILE: PANEL["judges"]["long"] | {"reason": HOSTILE}}},
            certificate=REFUSED | {"reason": HOSTILE},
            versions={HOSTILE: HOSTILE},
        ),
        FORMATS,
    )
    parsed = DatasetCard(hostile)
    assert parsed.data.to_dict()["license"] == "other"
    assert parsed.data.to_dict()["pretty_name"] == card.plain(HOSTILE)
    text = parsed.text
    assert [line for line in text.split("\n") if line.startswith("---")] == []
    assert "<script>" not in text.replace("\\<", "")
    assert "](https" not in text.replace("\\]", "")
    assert " www.evil" not in text
    assert "://" not in text.replace("\\:", "")
    headings = [line for line in text.split("\n") if line.startswith("#")]
    assert headings[1:] == [
        "## Certificate",
        "## Judges",
        "## Answers",
        "## What was dropped",
        "## Versions",
        "## Licence",
    ]
    for line in text.split("\n"):
        if line.startswith("|"):
            cells = line.replace("\\|", "").count("|") - 1
            assert cells in {2, 3, 5, 7}, line


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("a_b*c", "a\\_b\\*c"),
        ("1 | 2", "1 \\| 2"),
        ("<b>", "\\<b\\>"),
        ("see http://x.y", "see http\\://x.y"),
        ("WWW.x.y", "WWW\\.x.y"),
        ("two\n\n# lines\t\x07\u202e", "two \\# lines"),
        ("back\\slash", "back\\\\slash"),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
    ],
)
def test_escaping_by_hand(raw: str, shown: str) -> None:
    assert card.escaped(raw) == shown


def test_long_text_is_cut() -> None:
    assert card.plain("x" * 301) == "x" * 299 + "…"
    assert card.plain("x" * 300) == "x" * 300


@pytest.mark.parametrize(
    ("licence", "fields"),
    [
        ("unknown", {"license": "unknown"}),
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("GPL-3.0-or-later", {"license": "gpl-3.0"}),
        ("ODC-By-1.0", {"license": "odc-by"}),
        ("CC-BY-4.0", {"license": "cc-by-4.0"}),
        ("Our House Rules", {"license": "other", "license_name": "our-house-rules"}),
        ("!", {"license": "other", "license_name": "unnamed"}),
    ],
)
def test_licences_as_the_hub_spells_them(licence: str, fields: dict[str, str]) -> None:
    assert card.licence_fields(licence) == fields


def test_a_local_model_is_shown_without_its_folder() -> None:
    made = provenance(2)
    text = card.dataset_card(
        replace(made, samples=made.samples.with_columns(model=pl.lit("/home/me/secret/student"))), FORMATS
    )
    assert "| student |" in text
    assert "/home/me" not in text


def adapter(base_model: str | None, evaluation: dict[str, Any] | None = None) -> ModelCard:
    return ModelCard(
        card.adapter_card(
            dataset="org/name",
            licence="MIT",
            base_model=base_model,
            adapter={"r": 64, "lora_alpha": 128},
            training=[{"method": "dpo", "beta": 0.1}],
            evaluation=evaluation,
        )
    )


def test_the_adapters_card() -> None:
    made = adapter("org/base", {"win_rate": 0.6, "win_rate_low": 0.55, "win_rate_high": 0.65, "n": 200})
    assert made.data.to_dict() == {
        "license": "mit",
        "library_name": "peft",
        "base_model": "org/base",
        "base_model_relation": "adapter",
        "datasets": ["org/name"],
        "pipeline_tag": "text-generation",
        "tags": ["dpo", "lora", "preference", "jurybox"],
    }
    assert "60.0% (95% interval 55.0% to 65.0%, n = 200)" in made.text
    assert "| LoRA r | 64 |" in made.text
    assert "| train.beta | 0.1 |" in made.text


@pytest.mark.parametrize("base", ["/home/me/secret/student", "data/models/student", None])
def test_a_base_model_that_is_not_on_the_hub_stays_out_of_the_header(base: str | None) -> None:
    made = adapter(base)
    assert "base_model" not in made.data.to_dict()
    assert "/home/me" not in made.text
    assert "has not been compared" in made.text


def test_a_card_names_every_method_and_says_what_was_unusual() -> None:
    report = {
        "method": "./mine.py:Mine|<b>",
        "before": [{"method": "sft"}],
        "rows": {"train": 8, "test": 2},
        "steps": 3,
        "reward_accuracy": 0.5,
        "warnings": ["train.beta is 9 | <script>"],
    }
    text = card.adapter_card(
        dataset=None,
        licence="MIT",
        base_model=None,
        adapter={},
        training=[{"method": "sft"}, {"method": "./mine.py:Mine|<b>", "beta": 9}],
        evaluation=None,
        report=report,
    )
    made = ModelCard(text)
    assert made.data.tags == ["sft", "Mine|<b>", "preference", "jurybox"]
    assert made.data.library_name == "transformers"
    assert "Trained with sft, then " in text
    assert "on 8 rows, 3 steps" in text
    assert "Reward accuracy on the 2 rows of the test split: 50.0%" in text
    assert "| train\\[1\\].beta | 9 |" in text or "| train[1].beta | 9 |" in text
    assert "<b>" not in text.split("---", 2)[2]
    assert "<script>" not in text
