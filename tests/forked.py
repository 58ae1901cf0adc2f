"""jurybox as a process of its own that is there at once: forked from a server that has imported everything.

A fresh interpreter needs seconds to import everything, which a hundred starts would pay a hundred times. The server
itself runs nothing; its children are ordinary processes, with their own number and their own death.
"""

import multiprocessing
import os
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

# What a judging process imports, beside the command line.
import judges.pairwise  # noqa: F401
import pipeline.engines.endpoint
import pipeline.stages.judge  # noqa: F401
from jurybox.cli import main


def start(arguments: list[str], cwd: Path, said: Path) -> ForkServerProcess:
    """Start a jurybox process that writes its standard error to the file *said*; its ``exitcode`` is jurybox's."""
    context: ForkServerContext = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_run, args=(arguments, str(cwd), str(said)), daemon=True)
    process.start()
    return process


def _run(arguments: list[str], cwd: str, said: str) -> None:
    os.chdir(cwd)
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    main(arguments)
