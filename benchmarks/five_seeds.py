"""Is the trained student really better? The embedded default under five seeds, win rate by simulated people.

    python benchmarks/five_seeds.py [--seeds 1 2 3 4 5] [--json]

Runs the whole job once per seed in a temporary folder; the last line is JSON. The bar: the 95 % interval lies above one
half, and the verifier's pass rate is no worse, on every seed.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import yaml

import jurybox

CONFIGS = Path(__file__).parents[1] / "data" / "configs"
COLUMNS = (
    "seed",
    "win_rate",
    "win_rate_low",
    "win_rate_high",
    "n",
    "verifier_before",
    "verifier_after",
    "kl",
    "certified",
)


def one(seed: int, folder: Path) -> dict[str, Any]:
    """The embedded default under *seed*."""
    settings = yaml.safe_load((CONFIGS / "embedded.yaml").read_text(encoding="utf-8"))
    # Beside the shipped config, for its paths are relative to it.
    config = CONFIGS / f".seed-{seed}.yaml"
    config.write_text(yaml.safe_dump({**settings, "name": f"seed-{seed}", "seed": seed}), encoding="utf-8")
    try:
        made = jurybox.run(config, folder / str(seed))
    finally:
        config.unlink()
    return {
        "seed": seed,
        **{
            key: made[key]
            for key in ("win_rate", "win_rate_low", "win_rate_high", "n", "kl", "reward_accuracy", "seconds")
        },
        "verifier_before": made["verifier"]["before"],
        "verifier_after": made["verifier"]["after"],
        "certified": made["certificate"]["certified"],
        "lower_bound": made["certificate"]["lower_bound"],
        "weights": {name: judge["weight"] for name, judge in made["judges"].items()},
    }


def main() -> None:
    """Run the seeds and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--json", action="store_true", help="print the last line only")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows = []
        for seed in arguments.seeds:
            rows.append(one(seed, Path(scratch)))
            if not arguments.json:
                shown = {key: rows[-1][key] for key in COLUMNS}
                print(
                    "  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items()),
                    flush=True,
                )
    better = all(row["win_rate_low"] > 1 / 2 for row in rows)
    no_worse = all(row["verifier_after"] >= row["verifier_before"] for row in rows)
    print(json.dumps({"better_on_every_seed": better, "verifier_no_worse": no_worse, "seeds": rows}))


if __name__ == "__main__":
    main()
