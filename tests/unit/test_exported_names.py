"""What `import jurybox` offers is a promise: a name comes or goes here first."""

import inspect
import subprocess
import sys

import jurybox

PUBLIC = {
    "judge": ("dataset", "config", "run_dir"),
    "run": ("config", "run_dir"),
}
"""Name -> its arguments, in their order."""


def test_the_public_names_are_these() -> None:
    assert sorted(jurybox.__all__) == sorted(PUBLIC)
    found = {name for name in vars(jurybox) if not name.startswith("_")}
    # Python puts modules that were imported beside the names.
    assert {name for name in found if not inspect.ismodule(getattr(jurybox, name))} == set(PUBLIC)


def test_their_arguments_are_these() -> None:
    assert {name: tuple(inspect.signature(getattr(jurybox, name)).parameters) for name in PUBLIC} == PUBLIC


def test_a_star_import_brings_these_and_nothing_heavy() -> None:
    code = "import sys; before = {*dir(), 'before'}; from jurybox import *; print(*sorted({*dir()} - before))"
    heavy = "assert not {'torch', 'transformers', 'vllm', 'streamlit', 'prefect'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", f"{code}; {heavy}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == sorted(PUBLIC)
