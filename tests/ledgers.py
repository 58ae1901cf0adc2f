"""One step of a ledger at a time, as tests read best; a BudgetError or StorageError that is an outcome is raised."""

import json
from collections.abc import Mapping
from typing import Any, cast

from pipeline.calls.ledger import Abandon, Busy, Claim, Claimed, Ledger, Operation, Outcome, Recorded, Release, Reply
from tests.patience import patience

WAIT_S = patience(20)


def did(ledger: Ledger, operation: Operation) -> Outcome:
    """The outcome of one operation."""
    (outcome,) = ledger.submit((operation,)).result(WAIT_S)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def claim(ledger: Ledger, key: str, request: Mapping[str, Any], reserve_usd: float) -> Recorded | Claimed | Busy:
    """Ask to make a call."""
    return cast("Recorded | Claimed | Busy", did(ledger, Claim(key, json.dumps(request), reserve_usd)))


def answer(ledger: Ledger, key: str, response: Mapping[str, Any], cost_usd: float, latency_s: float | None) -> Outcome:
    """Commit a reply whose own count is what it is charged."""
    return did(ledger, Reply(key, json.dumps(response), cost_usd, latency_s, cost_usd))


def release(ledger: Ledger, key: str, error: str) -> Outcome:
    """Give a claim back."""
    return did(ledger, Release(key, error))


def abandon(ledger: Ledger, key: str) -> Outcome:
    """Give up a call in flight."""
    return did(ledger, Abandon(key))


def call(ledger: Ledger, key: str) -> dict[str, Any] | None:
    """Everything recorded of one call."""
    with ledger.records() as records:
        return records.call(key)
