"""The public Python API: run a config, or judge a dataset in a notebook. Opens runs' folders.

import jurybox as jb
summary = jb.run("config.yaml")
verdicts = jb.judge(dataset, "config.yaml")
"""

from jurybox.api import judge, run

__all__ = ["judge", "run"]
