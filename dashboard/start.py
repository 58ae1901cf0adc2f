"""Starts the dashboard on a folder of runs. Binds a port, by way of ``dashboard.serve``."""

import importlib
from pathlib import Path

from dashboard import runs
from dashboard.serve import serve
from pipeline.errors import InputError

APP = Path(__file__).with_name("app.py")
HEAVY = (
    "altair",
    "polars",
    "streamlit.elements.vega_charts",
    "dashboard.live",
    *(f"dashboard.views.{name}" for name in ("overview", "agreement", "bias", "gate", "pairs", "training", "compare")),
)
"""Imported before the first visitor comes, so that the first page does not wait for them."""


def start(place: Path, host: str, port: int | None) -> None:
    """Serve the dashboard over the runs in *place*, or the run that it is, until Ctrl-C.

    Raises:
        InputError: there is no run, or *host* may not be served.
    """
    if not runs.found(place):
        raise InputError(
            f"{place} holds no run; make one with `jurybox demo` or `jurybox run CONFIG`, or name a run's folder, or a "
            "folder of runs, with --run-dir"
        )
    for module in HEAVY:
        importlib.import_module(module)
    serve(APP, [str(place)], host, port)
