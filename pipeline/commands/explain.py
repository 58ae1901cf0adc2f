"""Everything behind one pair: for `jurybox explain` and the dashboard. Reads one run's folder, row by row.

Only the rows asked for are read: frames are scanned with their predicates, so that a pair of a run with millions of
judgments is found at once.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl
from pydantic import ValidationError

from pipeline.calls.records import Records, place_of
from pipeline.config import LedgerConfig
from pipeline.config_file import mapping
from pipeline.errors import ConfigError, InputError, StorageError
from pipeline.store import RunFolder
from pipeline.workbench import Workbench


def explain(bench: Workbench, pair: str) -> dict[str, Any]:
    """:func:`behind` a pair of the run of *bench*."""
    return behind(bench.folder, pair)


def behind(run: RunFolder, pair: str) -> dict[str, Any]:
    """Every vote, weight, rule and call behind a pair, by its id, the start of its id, or its imported id.

    Raises:
        InputError: no such pair, or several.
    """
    row = _pair(run, pair)
    if row is None:
        dropped = _rows(run, "dropped", pl.col("id") == pair)
        if not dropped:
            raise _unknown(run, pair, 0)
        return {"pair_id": pair, "outcome": _dropped(dropped[0])}
    key = row["pair_id"]
    ends = [row["sample_a"], row["sample_b"]]
    samples = {sample["sample_id"]: sample for sample in _rows(run, "samples", pl.col("sample_id").is_in(ends))}
    flags = {flag["sample_id"]: flag["flag"] for flag in _rows(run, "flags", pl.col("sample_id").is_in(ends))}
    kept = _rows(run, "kept", pl.col("pair_id") == key)
    drops = _rows(run, "dropped", pl.col("id") == key)
    dropped = _dropped(drops[0]) if drops else "not decided yet"
    return {
        "pair_id": key,
        "external_ids": _external(run, row),
        "prompt": _rows(run, "prompts", pl.col("prompt_id") == row["prompt_id"])[0],
        "a": {**samples[ends[0]], "flag": flags.get(ends[0])},
        "b": {**samples[ends[1]], "flag": flags.get(ends[1])},
        "votes": _votes(run, key),
        "labels": _rows(run, "labels", pl.col("pair_id") == key),
        "verdict": next(iter(_rows(run, "verdicts", pl.col("pair_id") == key)), None),
        "certificate": run.read_json("certificate.json"),
        "outcome": "kept" if kept else dropped,
        "chosen": kept[0]["chosen_id"] if kept else None,
    }


def _dropped(row: Mapping[str, Any]) -> str:
    """Who left it out, why, and the words with which an endpoint said so."""
    said = f" ({row['detail']})" if row["detail"] else ""
    return f"dropped by {row['stage']}: {row['reason']}{said}"


def _rows(run: RunFolder, frame: str, where: pl.Expr) -> list[dict[str, Any]]:
    """The few rows of *frame* that *where* holds for."""
    return run.scan(frame).filter(where).collect().to_dicts()


def _pair(run: RunFolder, pair: str) -> dict[str, Any] | None:
    """The one pair that *pair* names, or None.

    Raises:
        InputError: it names several.
    """
    # A whole id is looked up by the sorted column's statistics; only what is none is searched for.
    found = _rows(run, "pairs", pl.col("pair_id") == pair)
    if not found:
        others = [row["pair_id"] for row in _rows(run, "aliases", pl.col("external_id") == pair)]
        found = _rows(run, "pairs", (pl.col("external_id") == pair) | pl.col("pair_id").is_in(others))
    found = found or _rows(run, "pairs", pl.col("pair_id").str.starts_with(pair))
    if len(found) > 1:
        raise _unknown(run, pair, len(found))
    return found[0] if found else None


def _external(run: RunFolder, row: Mapping[str, Any]) -> list[str]:
    """The ids under which the pair was imported; none where a stage made it."""
    others = [one["external_id"] for one in _rows(run, "aliases", pl.col("pair_id") == row["pair_id"])]
    return [row["external_id"], *sorted(others)] if row["external_id"] is not None else []


def _unknown(run: RunFolder, pair: str, matches: int) -> InputError:
    some = run.scan("pairs", "pair_id").head(1).collect()["pair_id"].to_list()
    example = f"; an example is {some[0]}" if some else ""
    return InputError(f"{matches} pairs of {run.height('pairs')} match {pair!r}; give one pair's id{example}")


def _votes(run: RunFolder, key: str) -> list[dict[str, Any]]:
    """Judgments of a pair by judge and order, each with its judge's weight and its calls."""
    judges = (run.read_json("panel.json") or {"judges": {}})["judges"]
    votes = run.scan("judgments").filter(pl.col("pair_id") == key).collect().sort("judge", "order").to_dicts()
    keys = sorted({call for vote in votes for call in vote["call_keys"]})
    calls = {call["call_key"]: call for call in _rows(run, "calls", pl.col("call_key").is_in(keys))} if keys else {}
    made: list[dict[str, Any]] = []
    for vote in votes:
        about = judges.get(vote["judge"], {})
        behind_it = [calls[call] for call in vote["call_keys"] if call in calls]
        made.append({**vote, "weight": about.get("weight"), "in_panel": about.get("in_panel"), "calls": behind_it})
    return made


def raw_call(run: RunFolder, key: str) -> dict[str, Any]:
    """A call as the ledger has it: ``request`` (the body that was sent), ``response`` and ``status``.

    The ledger is opened for reading only, so that a run that is writing it is not held up. A request's body holds no
    header and no key of an endpoint.

    Raises:
        InputError: it is not in a ledger that can be read from here; the message says where it is.
    """
    wanted = _ledger(run)
    if wanted is None and not (run.path / "ledger.sqlite").is_file():
        raise InputError(
            "this run has no ledger: its models ran in its own process, and what they said is in its frames"
        )
    try:
        with Records(place_of(wanted, run.path)) as records:
            found = records.call(key)
    except (ConfigError, StorageError) as error:
        kind = "the ledger" if wanted is None else "this run's ledger, a PostgreSQL database,"
        where = f"look the call up there, by its call_key {key}"
        raise InputError(f"{kind} cannot be read now ({error}); {where}") from None
    if found is None:
        raise InputError("the ledger has no such call: a model in the run's own process made it, or nobody did")
    if not isinstance(found["request"], dict):
        raise InputError(f"the ledger's row of call {key} is damaged: its request is no JSON object")
    return {name: found[name] for name in ("request", "response", "status", "error")}


def _ledger(run: RunFolder) -> LedgerConfig | None:
    """What the run's config says of its ledger; None where it lies in the run's folder.

    Raises:
        InputError: it says what no config may.
    """
    wanted: Any = mapping(run.path / "config.yaml").get("ledger")
    if not wanted:
        return None
    try:
        return LedgerConfig.model_validate({"url": wanted} if isinstance(wanted, str) else wanted)
    except ValidationError:
        raise InputError("`ledger` in this run's config.yaml, a PostgreSQL database, cannot be read") from None


def as_text(found: dict[str, Any]) -> list[str]:
    """The explanation for a terminal."""
    if "votes" not in found:
        return [f"pair {found['pair_id']}: {found['outcome']}"]
    out = [f"pair {found['pair_id']}: {found['outcome']}", f"prompt: {found['prompt']['messages'][-1]['content']!r}"]
    for side in ("a", "b"):
        sample = found[side]
        mark = " (chosen)" if found["chosen"] == sample["sample_id"] else ""
        mark += f" (flagged: {sample['flag']})" if sample["flag"] else ""
        out.append(f"{side}{mark}: {sample['model']} at {sample['temperature']}: {sample['completion']!r}")
    for vote in found["votes"]:
        said = f"P(a) = {vote['preference']:.3f}" if vote["preference"] is not None else f"failed: {vote['error']}"
        place = f"weight {vote['weight']:.2f}" if vote["in_panel"] else "not in the panel"
        out.append(
            f"  {vote['judge']} ({vote['order']}): {said}; {place}; calls {', '.join(vote['call_keys']) or 'none'}"
        )
    out += [f"  {label['annotator']} ({label['queue']}): {label['label']}" for label in found["labels"]]
    if found["verdict"]:
        verdict = found["verdict"]
        out.append(
            f"verdict: p_a = {verdict['p_a']:.3f}, p_a_lc = {verdict['p_a_lc']:.3f}, margin {verdict['margin']:.3f}"
        )
    if found["certificate"]:
        out.append(f"gate: threshold {found['certificate']['threshold']}; {found['certificate']['reason']}")
    return out
