"""Pins down the config: every error names file, line and key, what was found, what is allowed, and the remedy."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from pipeline.config import Config
from pipeline.config_file import load
from pipeline.errors import ConfigError

HEAD = "name: x\n"
ENDPOINT = "endpoints: {e: {base_url: 'http://h/v1'}}\n"
BATCH = "kind: pairwise, model: m, endpoint: e, batch: true"


def fault(tmp_path: Path, text: str) -> str:
    file = tmp_path / "c.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as found:
        load(file)
    assert found.value.exit_code == 2
    assert str(file) in str(found.value)
    return str(found.value).replace(str(file), "c.yaml")


@pytest.mark.parametrize(
    ("text", "where", "hints"),
    [
        ("sed: 3\n", "c.yaml:2: sed:", ("unknown key", "'seed'")),
        ("zzz: 3\n", "c.yaml:2: zzz:", ("unknown key", "allowed:", "generators")),
        ("labels:\n  fit_fraction: 0.5\n  judge_flor: 0.6\n", "c.yaml:4: labels.judge_flor:", ("'judge_floor'",)),
        ("gate: {target_agreement: 1.2}\n", "c.yaml:2: gate.target_agreement:", ("less than 1", "found 1.2")),
        (
            "select: {strategy: best}\n",
            "c.yaml:2: select.strategy:",
            ("'best_vs_mu_minus_2sigma' or 'all'", "found 'best'"),
        ),
        ("seed: many\n", "c.yaml:2: seed:", ("integer", "found 'many'")),
        (
            "prompts: {near_duplicates: 0.8}\n",
            "c.yaml:2: prompts.path:",
            ("required key is missing", "A file, a saved dataset"),
        ),
        (
            "judges:\n  - {name: l, kind: length}\n  - kind: pairwise\n    name: g\n    rubrik: y\n",
            "c.yaml:6: judges.1.rubrik:",
            ("unknown key", "'rubric'"),
        ),
        (
            "judges:\n  - {name: v, kind: verifier, program: ./a.py:f, programm: 3}\n",
            "c.yaml:3: judges.0.programm:",
            ("'program'",),
        ),
        ("judges:\n  - {name: l, kind: length, scale: -1}\n", "c.yaml:3: judges.0.scale:", ("found -1",)),
        (
            "judges:\n  - {name: l, kind: lenght}\n",
            "c.yaml:3: judges.0:",
            ("unknown", "'lenght'", "length, listwise, pairwise, pointwise", "./file.py:Name"),
        ),
        ("judges:\n  - {name: l}\n", "c.yaml:3: judges.0.kind:", ("required key is missing", "`pairwise`")),
        ("judges:\n  - {name: l, kind: ./no.py:J}\n", "c.yaml:3: judges.0:", ("no.py, which does not exist",)),
        ("judges:\n  - {name: 'a b', kind: length}\n", "c.yaml:3: judges.0.name:", ("found 'a b'",)),
        (
            "judges:\n  - {name: l, kind: length}\n  - {name: l, kind: length}\n",
            "c.yaml:",
            ("two judges are named 'l'",),
        ),
        (
            "generators:\n  - {model: m, engine: vllm}\n  - model: m\n    endpoint: nope\n",
            "c.yaml:5: generators.1.endpoint:",
            ("'nope'", "not defined", "endpoints has: nothing"),
        ),
        (
            "endpoints: {e: {base_url: 'http://h/v1'}}\nbudget: {usd: 1}\ngenerators:\n  - {model: m, endpoint: e}\n",
            "c.yaml:5: generators.0.price:",
            ("'m' has no `price`", "under `budget`", "add price:"),
        ),
        ("generators:\n  - {model: m}\n", "c.yaml:3: generators.0:", ("exactly one of `endpoint` and `engine`",)),
        (
            "generators:\n  - {model: m, engine: vllm, temperatures: [0.7, 0.7]}\n",
            "c.yaml:3: generators.0.temperatures:",
            ("twice", "`samples: 2`"),
        ),
        (
            "generators:\n  - {model: m, engine: vllm, temperatures: [0.7, 3]}\n",
            "c.yaml:3: generators.0.temperatures.1:",
            ("found 3",),
        ),
        ("endpoints: {e: {base_url: 'ftp://h'}}\n", "c.yaml:2: endpoints.e.base_url:", ("https?", "found 'ftp://h'")),
        ("train: {betta: 1}\n", "c.yaml:2: train.betta:", ("'beta'",)),
        ("push: nobody\n", "c.yaml:2: push.repo:", ("found 'nobody'",)),
        ("labels: {path: l.jsonl, simulated: {kind: './p.py:P'}}\n", "c.yaml:", ("`path` or `simulated`, not both",)),
        ("judges: 3\n", "c.yaml:2: judges:", ("found 3",)),
        (
            f"panel: {{mode: adaptive}}\n{ENDPOINT}judges:\n  - {{name: l, kind: length}}\n  - {{name: b, {BATCH}}}\n",
            "c.yaml:6: judges.1.batch:",
            ("'b' has `batch`", "rounds would wait", "leave out `batch`", "`panel.mode: full`"),
        ),
        (
            f"{ENDPOINT}judges:\n  - {{name: r, kind: reward_model, model: m, endpoint: e, batch: true}}\n",
            "c.yaml:4: judges.0:",
            ("reward model takes no `batch`", "leave it out", "`kind: pairwise`"),
        ),
        *(
            (
                f"generators:\n  - {{model: m, engine: {engine}}}\n",
                "c.yaml:3: generators.0.engine:",
                (f"'{engine}' returns a number", "allowed: transformers, vllm, vllm_batch", "`endpoint` instead"),
            )
            for engine in ("vllm_pooling", "vllm_pooling_server")
        ),
    ],
)
def test_an_error_names_file_line_key_and_remedy(tmp_path: Path, text: str, where: str, hints: tuple[str, ...]) -> None:
    said = fault(tmp_path, HEAD + text)
    assert where in said
    for hint in hints:
        assert hint in said


def test_batches_are_for_a_whole_panel_and_for_judges_that_an_adaptive_one_asks_as_a_whole() -> None:
    endpoints = {"e": {"base_url": "http://h/v1"}}
    judge = {"name": "b", "model": "m", "endpoint": "e", "batch": True}
    for mode, kind in (("full", "pairwise"), ("adaptive", "pointwise")):
        settings = {"name": "x", "endpoints": endpoints, "panel": {"mode": mode}, "judges": [{**judge, "kind": kind}]}
        assert Config.model_validate(settings).judges[0].name == "b"


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    said = fault(tmp_path, "name: x\nsed: 1\ngaet: 2\n")
    assert [line.split(":")[1] for line in said.splitlines()] == ["2", "3"]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("- 1\n", "a config is a mapping"),
        ("", "a config is a mapping"),
        ("a: [\n", "not valid YAML"),
        ("seed: 1\n", "name"),
    ],
)
def test_what_is_no_config_says_so(tmp_path: Path, text: str, hint: str) -> None:
    assert hint in fault(tmp_path, text)


def test_a_missing_file_and_one_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        load(tmp_path / "none.yaml")
    (tmp_path / "c.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "c.yaml")


def test_the_defaults_of_the_design(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        HEAD + "generators: [{model: m, engine: vllm}]\njudges: [{name: j, kind: pairwise, model: m, engine: vllm}]\n"
    )
    found = load(tmp_path / "c.yaml")
    assert found.generators[0].temperatures == (0.3, 0.5, 0.7, 1.0)
    assert found.pairing.strategy == "all"
    assert found.judges[0].model_dump()["order"] == "both"
    assert found.aggregate.method == "calibrated"
    assert found.select.strategy == "best_vs_worst"
    assert found.export == ("trl_dpo",)


def test_paths_start_at_the_configs_folder(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "c.yaml").write_text(
        HEAD + "prompts: {path: p.jsonl}\ngenerators: [{model: model, engine: vllm}, {model: org/name, engine: vllm}]\n"
    )
    found = load(tmp_path / "c.yaml")
    assert found.prompts is not None
    assert found.prompts.path == tmp_path / "p.jsonl"
    assert [one.model for one in found.generators] == [str((tmp_path / "model").resolve()), "org/name"]


def test_a_config_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config(name="x").seed = 3  # type: ignore[misc]


def test_a_dumped_config_loads_to_the_same(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        HEAD + "judges: [{name: l, kind: length, scale: 9}]\ntrain: {beta: 0.3}\npush: org/name\n"
    )
    first = load(tmp_path / "c.yaml")
    (tmp_path / "d.yaml").write_text(yaml.safe_dump(first.model_dump(mode="json")))
    assert load(tmp_path / "d.yaml") == first


def test_a_repeated_key_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("name: x\nseed: 1\nseed: 2\n")
    with pytest.raises(ConfigError, match=r"config\.yaml:3: seed: the key is given twice"):
        load(path)


@pytest.mark.parametrize(
    "line",
    [
        "export: [trl_dp]",
        "pairing: {strategy: al}",
        "aggregate: {method: calibratd}",
        "prompts: {path: x, format: jsonx}",
    ],
)
def test_a_misspelt_kind_is_told_before_any_stage_runs(tmp_path: Path, line: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"name: x\n{line}\n")
    with pytest.raises(ConfigError, match=r"config\.yaml:2: .*unknown \w+ kind .*allowed: "):
        load(path)
