"""People who label by way of the book: a process that says every label it was acknowledged. For tests."""

import sys
import time
from pathlib import Path

from pipeline import ids
from pipeline.labels.book import LABELS, AnsweredError, LabelBook, Queue

SEED = 5


def opinion(name: str, pair: str) -> str:
    """What *name* says of *pair*."""
    return LABELS[int(ids.uniform_from(SEED, "opinion", name, pair) * 3)]


def label_all(book: LabelBook, name: str, queue: Queue = "audit", *, pause_s: float = 0) -> list[tuple[str, str]]:
    """Label until nothing is left; (pair_id, label) of every label that was acknowledged.

    Now and then a pair is skipped, answered twice, or taken back and answered again. *pause_s* goes by before each:
    processes that never pause keep each other out of the file.
    """
    done: list[tuple[str, str]] = []
    for step in range(10_000):
        time.sleep(pause_s)
        task = book.take(name, queue)
        if task is None:
            break
        coin = ids.uniform_from(SEED, "mood", name, step)
        if coin < 0.1:
            book.skip(name, task.pair_id)
            continue
        label = opinion(name, task.pair_id)
        try:
            book.answer(name, task.pair_id, label)  # type: ignore[arg-type]
        except AnsweredError:
            continue
        done.append((task.pair_id, label))
        print(task.pair_id, label, flush=True)
        if coin < 0.2:
            book.answer(name, task.pair_id, label)  # type: ignore[arg-type]
        elif coin < 0.25:
            assert book.undo(name, queue) == task.pair_id
            done.pop()
            print("undo", task.pair_id, flush=True)
    return done


if __name__ == "__main__":
    opened = LabelBook(Path(sys.argv[1]), SEED)
    print("ready", flush=True)
    sys.stdin.readline()
    label_all(opened, sys.argv[2], pause_s=0.05)
