"""jurybox batches: the batches that wait at a vendor's, and how one is given up. Touches the ledger and the network."""

from datetime import UTC, datetime
from typing import Any

import openai

from pipeline.calls.records import OpenBatch
from pipeline.config import BatchConfig, Config, ModelConfig
from pipeline.engines.batch import BatchEngine
from pipeline.errors import InputError, JuryboxError
from pipeline.workbench import Workbench


def listed(bench: Workbench) -> list[dict[str, Any]]:
    """The run's batches that are not over, the oldest first.

    Keys: ``batch`` (the vendor's id, or ours while it has none), ``endpoint`` (null where the config has none with its
    address), ``model``, ``calls`` (that wait for it), ``since`` (ISO 8601), ``status`` (the vendor's word, or why there
    is none).
    """
    rows: list[dict[str, Any]] = []
    for one in _open(bench):
        options = _options(bench.config, one)
        rows.append(
            {
                "batch": one.batch_id or one.tag,
                "endpoint": options.endpoint if options else None,
                "model": one.model,
                "calls": one.calls,
                "since": datetime.fromtimestamp(one.claimed_at, UTC).isoformat(timespec="seconds"),
                "status": _status(bench, options, one),
            }
        )
    return rows


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """For a terminal."""
    if not rows:
        return ["no batch of this run waits at a vendor's"]
    return [
        f"{row['batch']}: {row['status']}; {row['calls']} calls of {row['model']} at "
        f"{row['endpoint'] or 'an endpoint that the config does not name'} since {row['since']}"
        for row in rows
    ]


def give_up(bench: Workbench, batch: str, *, now: bool = False) -> str:
    """Cancel a batch and read what it has done; what came of it, in words.

    Args:
        bench: the opened run.
        batch: the vendor's id of it, or ours.
        now: do not ask the vendor: all of its calls stay charged.

    Raises:
        InputError: the run has no such open batch, a live process keeps it, or the config names no such endpoint.
        EndpointError: the vendor cannot be reached.
    """
    known = _open(bench)
    found = next((one for one in known if batch in (one.batch_id, one.tag)), None)
    if found is None:
        names = ", ".join(one.batch_id or one.tag for one in known) or "none"
        raise InputError(f"this run has no open batch {batch!r}; open: {names}")
    return _engine(bench, found).give_up(found.tag, now=now)


def _open(bench: Workbench) -> list[OpenBatch]:
    records = bench.records()
    if records is None:
        return []
    with records:
        return records.batches()


def _options(config: Config, batch: OpenBatch) -> ModelConfig | None:
    """A model of the config at the batch's endpoint: the one it was made for, else any other there."""
    every = [*config.generators, *(one for one in config.judges if isinstance(one, ModelConfig))]
    there = [one for one in every if one.endpoint and config.endpoints[one.endpoint].base_url == batch.base_url]
    return next((one for one in there if one.model == batch.model), there[0] if there else None)


def _engine(bench: Workbench, batch: OpenBatch) -> BatchEngine:
    options = _options(bench.config, batch)
    if options is None:
        raise InputError(
            f"the config names no endpoint at {batch.base_url}, where batch {batch.batch_id or batch.tag} is; add one "
            "with a model, as it was when the batch was made"
        )
    how = options.batch or BatchConfig()
    return BatchEngine(options.model_copy(update={"model": batch.model, "batch": how}), bench)


def _status(bench: Workbench, options: ModelConfig | None, batch: OpenBatch) -> str:
    """The vendor's word for a batch."""
    if batch.batch_id is None:
        return "not sent yet" if batch.state == "claimed" else "sent, not confirmed"
    if options is None:
        return "unknown"
    try:
        engine = _engine(bench, batch)
        try:
            return str(engine.vendor.retrieve(batch.batch_id).status)
        finally:
            engine.vendor.client.close()
    except (openai.APIError, JuryboxError) as error:
        return f"unknown ({error})"
