"""jurybox init: writes a commented config and three prompts into a folder of the user's."""

from pathlib import Path

from pipeline.errors import InputError

TEMPLATES = Path(__file__).parent / "templates"
FILES = {"starter.yaml": "jurybox.yaml", "starter.jsonl": "prompts.jsonl"}


def write(folder: Path) -> list[Path]:
    """Write the files; returns their paths.

    Raises:
        InputError: one of them is there already.
    """
    targets = {source: folder / name for source, name in FILES.items()}
    for target in targets.values():
        if target.exists():
            raise InputError(f"{target} exists already; give another folder, or delete it first")
    folder.mkdir(parents=True, exist_ok=True)
    for source, target in targets.items():
        target.write_text((TEMPLATES / source).read_text(encoding="utf-8"), encoding="utf-8")
    return list(targets.values())
