"""Importer: a line a question, `question | known answer`. Reads the user's file and nothing else."""

from pathlib import Path

from pipeline.importers.base import Conversation, Refused


def read_prompts(path: Path) -> tuple[list[Conversation], Refused]:
    """One conversation a line; a line without a question is refused as ``no_question``."""
    found, refused = list[Conversation](), Refused()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        question, _, answer = (part.strip() for part in line.partition("|"))
        if question:
            found.append(Conversation(f"{path.name}:{number}", (("user", question),), (), answer or None))
        else:
            refused.add(f"{path.name}:{number}", "no_question")
    return found, refused
