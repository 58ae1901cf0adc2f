"""Orchestration with Prefect. Turns telemetry off, unless the user decided, before anything imports Prefect."""

import os

os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
