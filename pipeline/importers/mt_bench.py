"""MT-Bench's ``question.jsonl``: question_id, category, turns. Reads the user's file and nothing else."""

from pathlib import Path
from typing import cast

from pipeline.importers.base import Conversation, Refused, json_lines, turns_of


def read_prompts(path: Path) -> tuple[list[Conversation], Refused]:
    """One conversation a question; its second turn waits for an answer to the first."""
    refused = Refused()
    found: list[Conversation] = []
    for number, row in json_lines(path):
        where = f"{path.name}:{number}"
        turns = turns_of({"turns": row.get("turns")})
        if isinstance(turns, str):
            refused.add(where, turns)
        else:
            answers = row.get("reference")
            references = cast("list[object]", answers) if isinstance(answers, list) else []
            first = str(references[0]) if references else None
            found.append(Conversation(where, turns[0], turns[1], first, (str(row.get("category", "mt_bench")),)))
    return found, refused
