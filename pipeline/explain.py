"""jurybox explain: everything behind one pair. Reads the run's folder."""

from typing import Any

import polars as pl

from pipeline.errors import InputError
from pipeline.workbench import Workbench


def explain(bench: Workbench, pair: str) -> dict[str, Any]:
    """Every vote, weight, rule and call behind a pair, by its id, the start of its id, or its imported id.

    Raises:
        InputError: no such pair, or several.
    """
    run = bench.folder
    pairs = run.read("pairs")
    matches = pairs.filter((pl.col("external_id") == pair) | pl.col("pair_id").str.starts_with(pair))
    if matches.height != 1:
        dropped = run.read("dropped").filter(pl.col("id") == pair)
        if matches.is_empty() and dropped.height:
            row = dropped.row(0, named=True)
            return {"pair_id": pair, "outcome": f"dropped by {row['stage']}: {row['reason']}"}
        example = f"; an example is {pairs['pair_id'][0]}" if pairs.height else ""
        raise InputError(f"{matches.height} pairs of {pairs.height} match {pair!r}; give one pair's id{example}")
    row = matches.row(0, named=True)
    key = row["pair_id"]
    samples = {s["sample_id"]: s for s in run.read("samples").filter(_one_of("sample_id", row)).iter_rows(named=True)}
    panel = run.read_json("panel.json") or {"judges": {}}
    verdict = _first(run.read("verdicts"), key)
    kept = _first(run.read("kept"), key)
    drops = run.read("dropped").filter(pl.col("id") == key)
    calls = run.read("calls")
    flags = dict(run.read("flags").select("sample_id", pl.col("flag").cast(pl.String)).iter_rows())
    votes: list[dict[str, Any]] = []
    for vote in run.read("judgments").filter(pl.col("pair_id") == key).sort("judge", "order").iter_rows(named=True):
        about = panel["judges"].get(vote["judge"], {})
        made = calls.filter(pl.col("call_key").is_in(vote["call_keys"])).to_dicts()
        votes.append({**vote, "weight": about.get("weight"), "in_panel": about.get("in_panel"), "calls": made})
    dropped = f"dropped by {drops['stage'][0]}: {drops['reason'][0]}" if drops.height else "not decided yet"
    return {
        "pair_id": key,
        "external_id": row["external_id"],
        "prompt": run.read("prompts").filter(pl.col("prompt_id") == row["prompt_id"]).to_dicts()[0],
        "a": {**samples[row["sample_a"]], "flag": flags.get(row["sample_a"])},
        "b": {**samples[row["sample_b"]], "flag": flags.get(row["sample_b"])},
        "votes": votes,
        "labels": run.read("labels").filter(pl.col("pair_id") == key).to_dicts(),
        "verdict": verdict,
        "certificate": run.read_json("certificate.json"),
        "outcome": "kept" if kept else dropped,
        "chosen": None if kept is None else kept["chosen_id"],
    }


def _one_of(column: str, row: dict[str, Any]) -> pl.Expr:
    return pl.col(column).is_in([row["sample_a"], row["sample_b"]])


def _first(frame: pl.DataFrame, key: str) -> dict[str, Any] | None:
    found = frame.filter(pl.col("pair_id") == key)
    return found.row(0, named=True) if found.height else None


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
