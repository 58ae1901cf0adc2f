"""The dataset card: README.md with a YAML header, and the adapter's. Pure: frames and findings in, text out.

What a model, a file or a person wrote goes through :func:`plain` (YAML) or :func:`escaped` (Markdown), so
that no text can end the header, draw a table of its own or carry HTML. No clocks: the same run gives the
same bytes.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import polars as pl
import yaml

from pipeline.figures import number, share
from pipeline.ids import HALF
from pipeline.schemas import ORDER
from pipeline.shown import escaped, plain

UNCOUNTED = "an unknown number of"
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_LICENCES = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear
c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0
cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl
ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0
isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib
pddl lgpl-lr deepfloyd-if-license llama2 gemma unknown other
"""
HUB_LICENCES = frozenset(_LICENCES.split())
"""Ids that the Hub takes (huggingface.co/docs/hub/repositories-licenses); it refuses others."""
MEANING = (
    "`p_chosen` is the calibrated probability that people prefer the chosen answer, `margin` is abs(2p - 1) "
    "of the probability that decided, `agreement` the share of the judges on the chosen side."
)


@dataclass(frozen=True)
class Written:
    """One format of the dataset on disk."""

    name: str
    files: Mapping[str, str]
    """Split -> path from the card's folder."""


@dataclass(frozen=True)
class Provenance:
    """What the card tells of how a dataset was made."""

    name: str
    """The run."""
    licence: str
    """SPDX id, or `unknown`."""
    rows: pl.DataFrame
    """The dataset, as ``pipeline.stages.export.dataset_rows`` gives it."""
    single: pl.DataFrame
    """``prompt_id`` and ``split`` of the answers that are in no pair (``pipeline.labels.unpaired``)."""
    samples: pl.DataFrame
    """The frame ``samples``."""
    sources: Sequence[str]
    """Where the prompts come from."""
    dropped: pl.DataFrame
    """The frame ``dropped`` of the stages before."""
    panel: Mapping[str, Any] | None
    """panel.json, None when there is none."""
    certificate: Mapping[str, Any] | None
    """certificate.json, None when there is none."""
    versions: Mapping[str, str]
    """Package -> version."""


def shown_model(model: str) -> str:
    """A model's name without the local folder it lies in."""
    return Path(model).name if Path(model).is_absolute() else model


def header(fields: Mapping[str, object]) -> str:
    """*fields* as a YAML header, between its two lines of dashes."""
    return f"---\n{yaml.safe_dump(dict(fields), sort_keys=False, allow_unicode=True, width=1000)}---\n"


def licence_fields(licence: str) -> dict[str, object]:
    """The header's `license` for an SPDX id; what the Hub does not know is `other` with its name."""
    wanted = plain(licence).lower()
    for known in (wanted, re.sub(r"-(only|or-later)$", "", wanted), wanted.removesuffix("-1.0")):
        if known in HUB_LICENCES:
            return {"license": known}
    name = re.sub(r"[^a-z0-9.]+", "-", wanted).strip("-.")
    return {"license": "other", "license_name": name or "unnamed"}


def dataset_card(made: Provenance, formats: Sequence[Written]) -> str:
    """README.md of the dataset: a header that `huggingface_hub.DatasetCard` parses, then how it was made.

    The first format is the default. `datasets` refuses a split without rows and reads all of a repository's
    configs with one builder, so the header leaves out empty splits and formats whose files have another suffix
    than the first one's; the table of formats says how each is loaded. Missing findings and keys become a
    sentence that says so.
    """
    splits = pl.concat([made.rows["split"], made.single["split"]])
    filled = [split for split in ("train", "test") if (splits == split).any()]
    configs = [
        {
            "config_name": one.name,
            **({"default": True} if at == 0 else {}),
            "data_files": [{"split": split, "path": one.files[split]} for split in filled],
        }
        for at, one in enumerate(_configured(formats))
    ]
    fields = {
        "pretty_name": plain(made.name),
        **licence_fields(made.licence),
        "task_categories": ["text-generation"],
        "tags": ["preference", "dpo", "jurybox", "synthetic"],
        "size_categories": [next((name for most, name in SIZES if made.rows.height < most), "n>1M")],
        **({"configs": configs} if filled and configs else {}),
    }
    sections = (
        _opening(made, formats, filled),
        _section("Certificate", certificate_words(made.certificate)),
        _section("Judges", *_judges(made.panel)),
        _section("Answers", *_answers(made)),
        _section("What was dropped", *_drops(made.dropped)),
        _section("Versions", _versions(made.versions)),
        _section("Licence", _licence_words(made.licence)),
    )
    return header(fields) + "\n" + "\n".join(sections)


def certificate_words(certificate: Mapping[str, Any] | None) -> str:
    """What certificate.json says, in words; a missing one is `NOT CERTIFIED`."""
    if certificate is None:
        return "**NOT CERTIFIED**: there is no certificate.json, so nothing is known of agreement with people."
    found = certificate
    reason = escaped(str(found.get("reason") or "no reason was recorded")).rstrip(".")
    who = "simulated people" if found.get("simulated") else "people"
    words: list[str] = []
    if found.get("certified") is True:
        delta = found.get("delta")
        words.append(
            f"**Certified**: the kept pairs agree with {who} at least "
            f"{_percent(found.get('target_agreement'))} of the time (mean over prompts), with confidence "
            f"{_percent(None if delta is None else 1 - delta)} ({reason})."
        )
    else:
        needed = found.get("labels_needed")
        more = f" About {needed} more audited prompts are needed." if needed else ""
        words.append(
            f"**NOT CERTIFIED** (wanted: {_percent(found.get('target_agreement'))} agreement with {who}): "
            f"{reason}.{more}"
        )
    if found.get("agreement") is not None:
        words.append(
            f"Measured on {found.get('n_units', UNCOUNTED)} audited {found.get('unit', 'prompt')}s: "
            f"{_percent(found['agreement'])} agreement (a tie counts one half; strictly "
            f"{_percent(found.get('strict_agreement'))}), lower bound {_percent(found.get('lower_bound'))}."
        )
    if found.get("threshold") is not None:
        words.append(
            f"Margin threshold {_number(found['threshold'])}, which keeps "
            f"{_percent(found.get('coverage'))} of the selected pairs."
        )
    if found.get("simulated"):
        words.append("The labels came from **simulated people**, a written rule and not humans.")
    return " ".join(words)


ADAPTER, MODEL = "# Adapter trained by jurybox", "# Model trained by jurybox"
"""Headings of the cards that we write."""


def adapter_card(
    *,
    dataset: str | None,
    licence: str,
    base_model: str | None,
    adapter: Mapping[str, Any],
    training: Sequence[Mapping[str, Any]],
    evaluation: Mapping[str, Any] | None,
    report: Mapping[str, Any] | None = None,
) -> str:
    """README.md of the trained adapter.

    Args:
        dataset: Hub name of the dataset it was trained on, where it has one.
        licence: SPDX id.
        base_model: what the adapter goes on; only a Hub name (`org/name`) enters the header.
        adapter: adapter_config.json.
        training: the config's `train`: methods in their order.
        evaluation: evaluation.json, None when there is none.
        report: training.json, None when there is none.
    """
    known = base_model is not None and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", base_model) is not None
    fields = {
        **licence_fields(licence),
        "library_name": "peft" if adapter else "transformers",
        **({"base_model": base_model, "base_model_relation": "adapter" if adapter else "finetune"} if known else {}),
        **({"datasets": [dataset]} if dataset is not None else {}),
        "pipeline_tag": "text-generation",
        "tags": [*dict.fromkeys(map(_method, training)), *(["lora"] if adapter else []), "preference", "jurybox"],
    }
    base = "an unnamed model" if base_model is None else escaped(shown_model(base_model))
    facts = [
        ("Base model", base),
        *(
            [("Dataset", f"[{escaped(dataset)}](https://huggingface.co/datasets/{dataset})")]
            if dataset is not None
            else []
        ),
        *(
            (f"train{f'[{at}]' if len(training) > 1 else ''}.{escaped(key)}", escaped(str(value)))
            for at, step in enumerate(training)
            for key, value in sorted(step.items())
        ),
        *(
            (f"LoRA {key}", escaped(str(adapter[key])))
            for key in ("r", "lora_alpha", "lora_dropout", "target_modules")
            if key in adapter
        ),
    ]
    body = "\n".join(_table(("what", "value"), facts))
    told = "\n\n".join([*_trained(report), _win_rate(evaluation)])
    return f"{header(fields)}\n{ADAPTER if adapter else MODEL}\n\n{told}\n\n{body}\n"


def _method(training: Mapping[str, Any]) -> str:
    """The method's name: a built-in kind, or the class in a user's own ``./file.py:Name``."""
    return plain(str(training.get("method", "preference")).rpartition(":")[2])


def _trained(report: Mapping[str, Any] | None) -> Iterator[str]:
    if report is None:
        return
    rows = cast("Mapping[str, Any]", report.get("rows") or {})
    before = cast("Sequence[Mapping[str, Any]]", report.get("before") or ())
    methods = ", then ".join(escaped(_method(step)) for step in (*before, report))
    yield (
        f"Trained with {methods} on {rows.get('train', UNCOUNTED)} rows, "
        f"{report.get('steps', UNCOUNTED)} steps. How the data was made, and how far people agree with it, is on the "
        "card of the dataset; the loss by step is in `training.json`."
    )
    accuracy = report.get("reward_accuracy")
    if isinstance(accuracy, int | float):
        yield (
            f"Reward accuracy on the {rows.get('test', UNCOUNTED)} rows of the test split: {_percent(accuracy)} (share "
            "of pairs on which the implicit reward of the chosen answer is the larger one)."
        )
    for warning in cast("Sequence[str]", report.get("warnings") or ()):
        yield f"Unusual: {escaped(warning)}"


def _win_rate(evaluation: Mapping[str, Any] | None) -> str:
    found = evaluation or {}
    if not isinstance(found.get("win_rate"), int | float):
        return "It has not been compared with its base model."
    return (
        f"Win rate over its base model on held-out prompts: {_percent(found['win_rate'])} (95% interval "
        f"{_percent(found.get('win_rate_low'))} to {_percent(found.get('win_rate_high'))}, "
        f"n = {found.get('n', 'unknown')})."
    )


def _section(title: str, *lines: str) -> str:
    return "\n".join([f"## {title}", "", *lines, ""])


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _opening(made: Provenance, formats: Sequence[Written], filled: Sequence[str]) -> str:
    counts = dict(made.rows["split"].value_counts().iter_rows())
    everything = pl.concat([made.rows.select("prompt_id", "split"), made.single])
    pairs = " + ".join(f"{counts.get(split, 0)} {split}" for split in ("train", "test"))
    sources = ", ".join(escaped(source) for source in sorted(set(made.sources))) or "an unknown source"
    what = (
        f"{made.rows.height} preference pairs ({pairs}) over {made.rows['prompt_id'].n_unique()} prompts "
        f"from {sources}, made by jurybox: models wrote the answers, a panel of judges compared them."
        f"{apart(everything, filled)}{_single(made.single)}"
    )
    lines = [
        f"# {escaped(made.name)}",
        "",
        what,
        "",
        MEANING,
        "",
        "REPOSITORY is the name of this repository, or this folder's path; the calls are those of `datasets`.",
        "",
        *_table(("format", "how to load it"), ([escaped(one.name), _call(one, formats, filled)] for one in formats)),
        "",
    ]
    return "\n".join(lines)


def _single(single: pl.DataFrame) -> str:
    if single.is_empty():
        return ""
    what = "single answers that were called good or bad"
    return f" Beside them stand {single.height} {what}, in the formats that take them."


def apart(rows: pl.DataFrame, filled: Sequence[str]) -> str:
    """Whether the splits share a conversation, as counted; nothing where there is one split only."""
    split = rows.select(pl.col("prompt_id").str.tail(HALF), "split").unique()
    shared = split.filter(pl.col("prompt_id").is_duplicated())["prompt_id"].n_unique()
    if len(filled) < len(("train", "test")):
        return ""
    return f" {shared} prompts are in both splits." if shared else " No prompt is in both splits."


def _configured(formats: Sequence[Written]) -> list[Written]:
    """The formats that one builder of `datasets` reads: those with the first one's suffix."""
    suffixes = [Path(one.files["train"]).suffix for one in formats]
    return [one for one, suffix in zip(formats, suffixes, strict=True) if suffix == suffixes[0]]


def _call(one: Written, formats: Sequence[Written], filled: Sequence[str]) -> str:
    if one in _configured(formats):
        return f'`load_dataset(REPOSITORY, "{one.name}")`'
    files = ", ".join(f'"{split}": "{one.files[split]}"' for split in filled)
    return f"`load_dataset(REPOSITORY, data_files={{{files}}})`"


def _answers(made: Provenance) -> list[str]:
    """Answers written, chosen and rejected, by model and temperature."""
    key = ["model", "temperature"]
    written = made.samples.group_by(key).agg(pl.len().alias("written"))
    for side in ("chosen", "rejected"):
        uses = made.rows.select(
            pl.col(f"{side}_model").alias("model"), pl.col(f"{side}_temperature").alias("temperature")
        )
        counts = uses.group_by(key).agg(pl.len().alias(side))
        written = written.join(counts, on=key, how="left", nulls_equal=True)
    rows = [
        [
            escaped(shown_model(model)),
            "unknown" if temperature is None else _number(temperature),
            *(str(count or 0) for count in counts),
        ]
        for model, temperature, *counts in written.sort(key).iter_rows()
    ]
    return _table(("model", "temperature", "written", "chosen", "rejected"), rows)


def _judges(panel: Mapping[str, Any] | None) -> list[str]:
    if panel is None:
        return ["There is no panel.json, so nothing is known of the judges."]
    judges = cast("Mapping[str, Mapping[str, Any]]", panel.get("judges") or {})
    rows = [_judge(name, judges[name]) for name in sorted(judges)]
    labels = cast("Mapping[str, Any]", panel.get("labels") or {})
    who = "simulated people" if labels.get("simulated") else "people"
    columns = (
        "judge",
        f"agreement with {who} (95% interval)",
        "weight",
        "in the panel",
        "same verdict when swapped",
        "prefers the first",
        "failed / judgments",
    )
    table = _table(columns, rows) if rows else ["No judge is recorded."]
    return [_panel_words(panel), "", *table]


def _panel_words(panel: Mapping[str, Any]) -> str:
    labels = cast("Mapping[str, Any]", panel.get("labels") or {})
    method = escaped(str(panel.get("method") or "an unrecorded method"))
    if panel.get("validated") is True:
        basis = (
            f"weights were fitted on {labels.get('fit_pairs', UNCOUNTED)} pairs labelled by "
            f"{labels.get('annotators', UNCOUNTED)} annotators; "
            f"{labels.get('certify_pairs', UNCOUNTED)} other pairs were kept for the certificate."
        )
    else:
        basis = "weights were **not validated** by labels from people."
    simulated = " The annotators are **simulated**, a written rule and not humans." if labels.get("simulated") else ""
    return f"Votes became probabilities by `{method}`; {basis}{simulated}"


def _judge(name: str, found: Mapping[str, Any]) -> list[str]:
    if found.get("agreement") is None:
        agreement = "unknown"
    else:
        interval = f"{_percent(found.get('low'))} to {_percent(found.get('high'))}"
        agreement = f"{_percent(found['agreement'])} ({interval}, n = {found.get('n', 'unknown')})"
    reason = escaped(str(found.get("reason") or "no reason was recorded"))
    return [
        escaped(name),
        agreement,
        _number(found.get("weight")),
        "yes" if found.get("in_panel") is True else f"no: {reason}",
        _percent(found.get("swap_consistency")),
        _percent(found.get("first_slot_rate")),
        f"{found.get('failures', 'unknown')} / {found.get('judgments', 'unknown')}",
    ]


def _drops(dropped: pl.DataFrame) -> list[str]:
    counts = {(stage, reason): n for stage, reason, n in dropped.group_by("stage", "reason").len().iter_rows()}
    if not counts:
        return ["Nothing was dropped."]
    place = {stage: at for at, stage in enumerate(ORDER)}
    ordered = sorted(counts, key=lambda key: (place.get(key[0], -1), key[0], -counts[key], key[1]))
    rows = ((escaped(stage), escaped(reason), str(counts[stage, reason])) for stage, reason in ordered)
    return _table(("stage", "reason", "rows"), rows)


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{escaped(name)} {escaped(versions[name])}" for name in sorted(versions)) + "."


def _licence_words(licence: str) -> str:
    return (
        f"{escaped(licence)}. Answers may also fall under the terms of the models that wrote them, prompts "
        "under those of their source."
    )


def _percent(value: object) -> str:
    found = number(value)
    return "unknown" if found is None else share(found)


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "unknown"
