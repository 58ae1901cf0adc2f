"""How much of the ranking a sparser schedule of pairs keeps, and how many calls it saves. Simulated, and called so.

    python benchmarks/pairing.py [--answers 8] [--prompts 2000] [--noise 1.0] [--json]

Each prompt's answers have true scores from N(0, 1.5^2) nats; a verdict on a pair is the true difference plus normal
noise of `--noise` nats, as a probability. Bradley-Terry scores of each schedule are held against the truth: Kendall's
tau over a prompt's answers, the share of prompts whose best answer is found, and the true difference between the
answers taken as best and worst. Calls count one judge and both orders. The last line is JSON.
"""

import argparse
import json
from itertools import combinations
from typing import Any

import numpy as np

from pipeline.aggregation.bradley_terry import scores
from pipeline.config import PairingConfig
from pipeline.pairing.all import AllPairing
from pipeline.pairing.base import Pairing
from pipeline.pairing.rounds import RoundsPairing
from pipeline.pairing.sparse import SparsePairing

SPREAD = 1.5


def measured(pairing: Pairing, truth: np.ndarray, noise: float) -> dict[str, float]:
    """What *pairing* finds of the *truth* (prompts, answers)."""
    prompts, answers = truth.shape
    names = [f"{at:03d}" for at in range(answers)]
    edges = [(prompt, *two) for prompt in range(prompts) for two in pairing.pairs(names, prompt)]
    prompt, a, b = (np.array([int(edge[at]) for edge in edges]) for at in range(3))
    random = np.random.default_rng(1)
    logit = truth[prompt, a] - truth[prompt, b] + random.normal(0, noise, len(edges))
    owner = np.repeat(np.arange(prompts), answers)
    found = scores(prompt * answers + a, prompt * answers + b, 1 / (1 + np.exp(-logit)), owner).score.reshape(
        truth.shape
    )
    tau = [
        np.sign(found[:, one] - found[:, other]) * np.sign(truth[:, one] - truth[:, other])
        for one, other in combinations(range(answers), 2)
    ]
    rows = np.arange(prompts)
    best, worst = found.argmax(axis=1), found.argmin(axis=1)
    return {
        "calls_per_prompt": 2 * len(edges) / prompts,
        "kendall_tau": float(np.mean(tau)),
        "best_found": float((best == truth.argmax(axis=1)).mean()),
        "true_gap_best_worst": float((truth[rows, best] - truth[rows, worst]).mean()),
    }


def main() -> None:
    """Measure every schedule and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("--noise", type=float, default=1.0)
    parser.add_argument("--json", action="store_true", help="print the last line only")
    arguments = parser.parse_args()
    truth = np.random.default_rng(0).normal(0, SPREAD, (arguments.prompts, arguments.answers))
    schedules: dict[str, Pairing] = {"all": AllPairing(PairingConfig())}
    for degree in (2, 3, 4):
        schedules[f"sparse {degree}"] = SparsePairing(SparsePairing.Options(degree=degree))
        schedules[f"rounds {degree}"] = RoundsPairing(RoundsPairing.Options(rounds=degree))
    found: dict[str, Any] = {}
    for name, pairing in schedules.items():
        found[name] = {key: round(value, 3) for key, value in measured(pairing, truth, arguments.noise).items()}
        if not arguments.json:
            print(f"{name:10}", found[name], flush=True)
    print(json.dumps({"simulated": True, "answers": arguments.answers, "noise": arguments.noise, "schedules": found}))


if __name__ == "__main__":
    main()
