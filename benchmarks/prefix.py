"""Does the order in which a judge's calls go out let a real vLLM server reuse what they share?

    python benchmarks/prefix.py [--prompts 8] [--answers 6] [--blocks 128] [--json]; --help for the rest

Starts vLLM's server from this environment (the CPU build serves) with a small KV cache, and
asks a pairwise judge's calls, all pairs in both orders, as the judge sends them, pair by pair, and shuffled; then with
the server's prefix caching off. Counts are the server's own: `cached_tokens` of each reply's usage. The last line is
JSON.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[1]
# A script finds its own folder; the flat packages lie one up.
sys.path.insert(0, str(ROOT))

from judges.pairwise import PairwiseJudge  # noqa: E402
from pipeline import ids  # noqa: E402
from pipeline.comparison import Comparison  # noqa: E402
from pipeline.config import Config  # noqa: E402
from pipeline.workbench import Workbench  # noqa: E402

BLOCK = 32
"""Tokens in a block of the KV cache: what is cached is whole blocks."""
READY_S = 600
JUDGES_OWN = "as the judge sends them"
COLUMNS = ("order sent", "prefix caching", "calls", "prompt tokens", "of them cached", "share", "s")


def comparisons(prompts: int, answers: int, sentences: int) -> list[Comparison]:
    """All pairs of *answers* answers to each of *prompts* prompts, of so many *sentences* from the demo's questions."""
    lines = (ROOT / "data" / "demo" / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    words = [str(json.loads(line)["messages"][0]["content"]) for line in lines]
    made: list[Comparison] = []
    for number in range(prompts):
        rng = random.Random(number)  # noqa: S311
        question = " ".join(rng.sample(words, 8))
        texts = {ids.content_hash(number, at): " ".join(rng.sample(words, sentences)) for at in range(answers)}
        samples = sorted(texts)
        made += [
            Comparison(
                ids.pair_id(a, b), ids.content_hash(number), (("user", question),), None, a, b, texts[a], texts[b]
            )
            for at, a in enumerate(samples)
            for b in samples[at + 1 :]
        ]
    return made


@contextmanager
def server(model: Path, *, blocks: int, in_flight: int, caching: bool, log: Path) -> Iterator[str]:
    """Serve *model* by vLLM; gives the root URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", "judge", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--max-model-len", "2048", "--enforce-eager", "--block-size", str(BLOCK)]
    command += ["--num-gpu-blocks-override", str(blocks), "--max-num-seqs", str(in_flight)]
    command += ["--enable-prompt-tokens-details", f"--{'' if caching else 'no-'}enable-prefix-caching"]
    # The development mode has the route that empties the prefix cache between two orders.
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with log.open("w") as output:
        started = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + READY_S
        while not _healthy(f"http://127.0.0.1:{port}/health"):
            if started.poll() is not None or time.monotonic() > until:
                sys.exit(f"the server did not start:\n{log.read_text()[-3000:]}")
            time.sleep(1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(started.pid, signal.SIGTERM)
        try:
            started.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()


def asked(url: str, pairs: Sequence[Comparison], order: str, in_flight: int, folder: Path) -> dict[str, Any]:
    """What the server counted when the judge's calls went out in *order*."""
    judge = {"name": "j", "kind": "pairwise", "endpoint": "e", "model": "judge", "verdict": "logprob"}
    endpoint = {"base_url": f"{url}/v1", "concurrency": in_flight}
    config = Config.model_validate({"name": "prefix", "endpoints": {"e": endpoint}, "judges": [judge]})
    httpx.post(f"{url}/reset_prefix_cache", timeout=60).raise_for_status()
    with Workbench(config, folder / order, folder) as bench:
        options: Any = config.judges[0]
        judge = PairwiseJudge(options, bench)
        requests = judge.requests(pairs)
        if order == "shuffled":
            random.Random(0).shuffle(requests)  # noqa: S311
        engine = bench.engine(options)
        started = time.monotonic()
        if order == JUDGES_OWN:
            calls = judge.judge(pairs).calls
        else:
            calls = [answer.call for answer in engine.complete(requests, _nothing)]
        seconds = time.monotonic() - started
    if len(calls) < len(requests) or any(call.status != "answered" for call in calls):
        sys.exit(f"{len(requests)} calls were to be made, {len(calls)} were, not all of them answered")
    prompt = sum(call.prompt_tokens or 0 for call in calls)
    cached = sum(call.cached_tokens or 0 for call in calls)
    return {"calls": len(requests), "prompt_tokens": prompt, "cached_tokens": cached, "seconds": round(seconds, 1)}


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--answers", type=int, default=6)
    parser.add_argument("--blocks", type=int, default=128, help=f"blocks of {BLOCK} tokens in the KV cache")
    parser.add_argument("--sentences", type=int, default=26, help="in an answer, about 15 tokens each")
    parser.add_argument("--in-flight", type=int, default=2)
    parser.add_argument("--model", type=Path, default=ROOT / "data" / "models" / "judge")
    parser.add_argument("--json", action="store_true", help="only the last line")
    options = parser.parse_args()
    pairs = comparisons(options.prompts, options.answers, options.sentences)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for caching in (True, False):
            orders = (JUDGES_OWN, "pair by pair", "shuffled") if caching else (JUDGES_OWN,)
            folder = Path(scratch) / str(caching)
            folder.mkdir()
            with server(
                options.model,
                blocks=options.blocks,
                in_flight=options.in_flight,
                caching=caching,
                log=folder / "log.txt",
            ) as url:
                rows += [
                    {"order": order, "caching": caching, **asked(url, pairs, order, options.in_flight, folder)}
                    for order in orders
                ]
    for row in rows:
        row["share"] = round(row["cached_tokens"] / row["prompt_tokens"], 3)
    if not options.json:
        print(f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}", sep="\n")
        for row in rows:
            how = "on" if row["caching"] else "off"
            print(
                f"| {row['order']} | {how} | {row['calls']} | {row['prompt_tokens']} | {row['cached_tokens']} | "
                f"{row['share']:.1%} | {row['seconds']} |"
            )
    print(json.dumps({"rows": rows}))


def _healthy(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.HTTPError:
        return False


def _nothing(done: int) -> None:
    del done


if __name__ == "__main__":
    main()
