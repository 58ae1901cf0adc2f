"""Near-duplicate prompts: milliseconds a prompt, and how many of a thousand planted pairs are found. Synthetic.

``python -m benchmarks.near_duplicates`` makes PROMPTS texts of 60 words from a vocabulary of 100,000, the first PLANTED
of them with a twin that shares just over .8 of its word 3-grams, and looks for them with ``near_duplicates: 0.8``.
"""

import sys
import time

import numpy as np

from pipeline.filters.similarity import near_duplicate_ids

PROMPTS, PLANTED, WORDS, THRESHOLD = 20_000, 1000, 60, 0.8
GRAMS = WORDS - 2


def main() -> int:
    """Print the figures."""
    random = np.random.default_rng(0)
    same = int(np.ceil(THRESHOLD * 2 * GRAMS / (1 + THRESHOLD)))
    texts: dict[str, str] = {}
    for at in range(PROMPTS - PLANTED):
        words = [f"w{word}" for word in random.integers(0, 100_000, WORDS)]
        texts[f"{at:06d}a"] = " ".join(words)
        if at < PLANTED:
            texts[f"{at:06d}b"] = " ".join([*words[: same + 2], *(f"v{one}" for one in range(at, at + GRAMS - same))])
    wall, cpu = time.perf_counter(), time.process_time()
    found = near_duplicate_ids(texts, THRESHOLD)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    right = sum(key.endswith("b") for key in found)
    print(f"{right} of {PLANTED} planted found, {len(found) - right} others dropped")
    print(f"{1000 * wall / len(texts):.3f} ms wall and {1000 * cpu / len(texts):.3f} ms CPU a prompt")
    return 0


if __name__ == "__main__":
    sys.exit(main())
