"""How fast are judgments, against a bare aiohttp loop on the same endpoint in the same run, and against peers?

    python benchmarks/judging.py [--calls 4000] [--in-flight 1000] [--latency 0.5] [--rounds 5] [--no-peers] [--json]

A local HTTP/1.1 server in a process of its own answers every chat completion with the same verdict after a fixed
latency. In turns, a bare aiohttp loop (uvloop, the same bodies, every reply read and decoded) and jurybox (a pairwise
judge: prompts rendered, calls claimed in a new ledger on disk, sent, replies committed, verdicts parsed) make the same
calls; the ratio is the median over rounds of (bare seconds / jurybox seconds) of neighbours. ``stage_ratio`` is the
same for the whole judge stage. Memory is the peak of a
process of its own that makes 100,000 calls in shards, as the judge stage does. Peers, each in an environment of its
own (``--environments``, made at first use), do the whole job as their documentation has it. The last line is JSON; the
bar: ``ratio_to_bare_aiohttp`` at least 0.80, ``peak_rss_mb`` at most 400.
"""

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

VERDICT = json.dumps({"rationale": "The first answer is correct, complete and to the point. " * 4, "verdict": "A"})
MEMORY_CALLS = 100_000
MEMORY_SHARD = 4_000
"""Calls in a shard: the most that the judge stage puts into one with a thousand in flight, about."""
MEMORY_LATENCY_S = 0.05
WAIT_S = 1800


# The endpoint.


class _Connection(asyncio.Protocol):
    """One connection: requests with a Content-Length in, the same reply out after the latency."""

    def __init__(self, reply: bytes, latency_s: float) -> None:
        self.reply, self.latency_s = reply, latency_s
        self.buffer = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            length = re.search(rb"content-length: *(\d+)", self.buffer[:end], re.IGNORECASE)
            whole = end + 4 + (int(length.group(1)) if length else 0)
            if len(self.buffer) < whole:
                return
            self.buffer = self.buffer[whole:]
            self.loop.call_later(self.latency_s, self.transport.write, self.reply)


def serve(latency_s: float) -> None:
    """Serve until killed; prints the port."""
    import uvloop

    message = {"role": "assistant", "content": VERDICT}
    usage = {"prompt_tokens": 600, "completion_tokens": 50, "total_tokens": 650}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    body = json.dumps(
        {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    ).encode()
    reply = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Connection(reply, latency_s), "127.0.0.1", 0, backlog=4096)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    uvloop.run(main())


@contextmanager
def endpoint(latency_s: float) -> Iterator[str]:
    """The base URL of a server in a process of its own."""
    command = [sys.executable, __file__, "--serve", str(latency_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None  # noqa: S101  it is a pipe
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
        finally:
            process.kill()


# The ways.


@dataclass(frozen=True)
class Timed:
    """One round of one way."""

    seconds: float
    cpu_s: float

    @classmethod
    @contextmanager
    def taken(cls, found: "list[Timed]") -> Iterator[None]:
        """Append what the block takes."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        found.append(cls(time.perf_counter() - wall, time.process_time() - cpu))


def comparisons(count: int) -> list[Any]:
    """*count* pairs of answers of 100 words, four to a prompt."""
    from pipeline.comparison import Comparison

    def words(seed: int, many: int) -> str:
        return " ".join(f"w{(seed * 7919 + at * 104729) % 5003}" for at in range(many))

    return [
        Comparison(
            pair_id=f"{at:032x}",
            prompt_id=f"{at // 4:032x}",
            messages=(("user", f"Question {at // 4}: {words(at // 4, 40)}?"),),
            reference=None,
            sample_a=f"{2 * at:032x}",
            sample_b=f"{2 * at + 1:032x}",
            completion_a=words(2 * at + 1, 100),
            completion_b=words(2 * at + 2, 100),
        )
        for at in range(count)
    ]


def opened(folder: Path, url: str, in_flight: int) -> Any:
    """A run in *folder* with one pairwise judge behind the endpoint."""
    from pipeline.config import Config
    from pipeline.workbench import Workbench

    judge = {"name": "judge", "kind": "pairwise", "endpoint": "local", "model": "m"}
    settings = {
        "name": "speed",
        "endpoints": {"local": {"base_url": url, "concurrency": in_flight}},
        "judges": [{**judge, "price": {"input": 1, "output": 2}}],
    }
    return Workbench(Config.model_validate(settings, context={"base": folder}), folder / "run", folder)


def ours(items: Sequence[Any], url: str, in_flight: int, found: list[Timed]) -> None:
    """The pairwise judge of the judge stage on a new ledger."""
    from pipeline.stages.judge import make

    with tempfile.TemporaryDirectory() as folder, opened(Path(folder), url, in_flight) as run:
        judge = make(run.config.judges[0], run)
        with Timed.taken(found):
            opinions = judge.judge(items)
        failed = [one.error for one in opinions.judgments if one.error is not None]
        if failed or len(opinions.judgments) != 2 * len(items):
            raise RuntimeError(f"{len(failed)} of {len(opinions.judgments)} judgments failed: {failed[:1]}")


def staged(items: Sequence[Any], url: str, in_flight: int, found: list[Timed]) -> None:
    """The judge stage on the same pairs: planned, cut into shards, judged, validated, written."""
    from pipeline import ids, schemas
    from pipeline.runner import run_stage

    prompts: dict[str, dict[str, object]] = {}
    samples: list[dict[str, object]] = []
    pairs: list[dict[str, object]] = []
    for item in items:
        prompt = ids.prompt_id(item.messages)
        turns = [{"role": role, "content": content} for role, content in item.messages]
        prompts[prompt] = {"prompt_id": prompt, "messages": turns, "source": "benchmark", "tags": []}
        texts = (item.completion_a, item.completion_b)
        keys = [ids.sample_id(prompt, "writer", None, None, text) for text in texts]
        samples += [
            {"sample_id": key, "prompt_id": prompt, "model": "writer", "sample_index": 0}
            | {"completion": text, "characters": len(text)}
            for key, text in zip(keys, texts, strict=True)
        ]
        a, b = sorted(keys)
        pair = {"pair_id": ids.pair_id(a, b), "prompt_id": prompt, "sample_a": a, "sample_b": b}
        pairs.append({**pair, "external_flipped": False})
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder), url, in_flight) as run:
        for frame, rows in (("prompts", list(prompts.values())), ("samples", samples), ("pairs", pairs)):
            empty = dict.fromkeys(schemas.frame(frame, []).columns)
            run.folder.write_part(frame, "import", "all", schemas.frame(frame, [{**empty, **row} for row in rows]), {})
        with Timed.taken(found):
            report = run_stage(run, "judge")
        if report.incomplete or report.rows_out["judgments"] != 2 * len(items):
            raise RuntimeError(f"the stage made {report.rows_out}, incomplete: {report.incomplete}")


def bodies(items: Sequence[Any], url: str, in_flight: int) -> list[bytes]:
    """What jurybox sends."""
    from pipeline.stages.judge import make

    with tempfile.TemporaryDirectory() as folder, opened(Path(folder), url, in_flight) as run:
        judge = make(run.config.judges[0], run)
        engine = run.engine(judge.options)
        return [engine.prepared(at, request).body for at, request in enumerate(judge.requests(items))]


def way(name: str, file: Path, url: str, in_flight: int) -> None:
    """Make the calls one way in this process and print what it took: [seconds, seconds of CPU].

    The bare loop imports nothing else, so that Python's garbage collector has as little to look at as anybody's bare
    loop gives it.
    """
    import uvloop

    sent = [line.encode() for line in file.read_text(encoding="utf-8").splitlines()]
    run = asyncio.run if name in ("sdk", "sdk_aiohttp") else uvloop.run
    found: list[Timed] = []
    made = {"bare": _bare, "client": _client}.get(name) or partial(_sdk, name)
    with Timed.taken(found):
        run(made(sent, url, in_flight))
    print(json.dumps([found[0].seconds, found[0].cpu_s]))


async def _all(sent: Sequence[Any], in_flight: int, call: Callable[[Any], Awaitable[object]]) -> None:
    feed = iter(sent)

    async def work() -> None:
        for body in feed:
            await call(body)

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(work())


async def _bare(sent: Sequence[bytes], url: str, in_flight: int) -> None:
    """A bare aiohttp loop: post, read, decode, forget."""
    import aiohttp

    headers = {"Content-Type": "application/json", "Authorization": "Bearer none"}
    connector = aiohttp.TCPConnector(limit=in_flight)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        feed = iter(sent)

        async def work() -> None:
            for body in feed:
                async with session.post(f"{url}/chat/completions", data=body) as response:
                    json.loads(await response.read())

        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(work())


async def _client(sent: Sequence[bytes], url: str, in_flight: int) -> None:
    """The project's own client, without ledger, limiter and judge."""
    from pipeline.calls.client import Client

    async with Client(url, "none").session(in_flight, 120) as session:

        async def call(body: bytes) -> None:
            json.loads((await session.post(body)).body)

        await _all(sent, in_flight, call)


async def _sdk(name: str, sent: Sequence[bytes], url: str, in_flight: int) -> None:
    """The openai package: as it comes, over aiohttp, and with raw responses."""
    import openai

    transport = {} if name == "sdk" else {"http_client": openai.DefaultAioHttpClient()}
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=WAIT_S, **transport) as client:
        completions = client.chat.completions
        create = completions.with_raw_response.create if name.endswith("raw") else completions.create

        async def call(body: dict[str, Any]) -> None:
            reply = await create(**body)
            if name.endswith("raw"):
                json.loads(reply.text)

        await _all([json.loads(body) for body in sent], in_flight, call)


def in_turn(name: str, file: Path, url: str, in_flight: int, found: list[Timed]) -> None:
    """One way in a process of its own."""
    command = [sys.executable, __file__, "--way", name, "--bodies", str(file), "--url", url]
    done = subprocess.run([*command, "--in-flight", str(in_flight)], capture_output=True, text=True, check=True)
    found.append(Timed(*json.loads(done.stdout.splitlines()[-1])))


def memory(calls: int, in_flight: int) -> None:
    """Judge shard after shard in this process and print its peak, MB (for a process of its own)."""
    from pipeline.stages.judge import make

    with (
        endpoint(MEMORY_LATENCY_S) as url,
        tempfile.TemporaryDirectory() as folder,
        opened(Path(folder), url, in_flight) as run,
    ):
        judge = make(run.config.judges[0], run)
        items = comparisons(MEMORY_SHARD // 2)
        for shard in range(calls // MEMORY_SHARD):
            fresh = [_renamed(item, shard) for item in items]
            judge.judge(fresh)
    print(high_water_mb())


def high_water_mb() -> float:
    """Most memory this program has held. Not getrusage's figure, which begins with what the parent held at the fork."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]) / 1024


def _renamed(item: Any, shard: int) -> Any:
    return replace(item, completion_a=f"{shard} {item.completion_a}", completion_b=f"{shard} {item.completion_b}")


def peak_rss_mb(in_flight: int) -> float:
    """Peak resident memory of a process that makes MEMORY_CALLS calls."""
    command = [sys.executable, __file__, "--memory", str(MEMORY_CALLS), "--in-flight", str(in_flight)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


# The peers, each the whole job as its documentation has it, in an environment of its own.

DISTILABEL = """
import json, sys, time
from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import UltraFeedback

if __name__ == "__main__":
    file, url, in_flight = sys.argv[1], sys.argv[2], int(sys.argv[3])
    rows = json.load(open(file))
    with Pipeline(name="speed") as pipeline:
        load = LoadDataFromDicts(data=rows, batch_size=in_flight)
        llm = OpenAILLM(model="m", base_url=url, api_key="none", generation_kwargs={"max_new_tokens": 512})
        load >> UltraFeedback(llm=llm, aspect="overall-rating", input_batch_size=in_flight)
    started = time.perf_counter()
    made = pipeline.run(use_cache=False)
    seconds = time.perf_counter() - started
    print(json.dumps([seconds, len(made["default"]["train"])]))
"""
CURATOR = """
import json, sys, time
import tiktoken
from bespokelabs import curator
from datasets import Dataset

class Judge(curator.LLM):
    def prompt(self, row):
        first, second = row["generations"]
        return (
            f"Which answer is better? Reply with JSON: rationale, verdict (A, B or tie).\\n\\n{row['instruction']}"
            f"\\n\\nA: {first}\\n\\nB: {second}"
        )

    def parse(self, row, response):
        return {"verdict": json.loads(response)["verdict"]}

try:
    tiktoken.get_encoding("cl100k_base")
except Exception:
    # No network: its count of tokens, which paces nothing here, is one of bytes.
    ranks = {bytes([byte]): byte for byte in range(256)}
    by_bytes = tiktoken.Encoding("bytes", pat_str=r"\\S+|\\s+", mergeable_ranks=ranks, special_tokens={})
    tiktoken.get_encoding = tiktoken.encoding_for_model = lambda _name: by_bytes

if __name__ == "__main__":
    file, url, in_flight = sys.argv[1], sys.argv[2], int(sys.argv[3])
    rows = json.load(open(file))
    judge = Judge(
        model_name="m",
        backend="openai",
        backend_params={
            "base_url": url,
            "api_key": "none",
            "max_requests_per_minute": 10**6,
            "max_tokens_per_minute": 10**9,
            "max_concurrent_requests": in_flight,
            "max_retries": 0,
        },
    )
    started = time.perf_counter()
    made = judge(Dataset.from_list(rows))
    seconds = time.perf_counter() - started
    made = getattr(made, "dataset", made)
    print(json.dumps([seconds, len(made)]))
"""
PEERS = {
    "distilabel 1.5.3": ("distilabel", ("distilabel[openai]==1.5.3", "requests"), DISTILABEL),
    "bespokelabs-curator 0.1.31": ("curator", ("bespokelabs-curator==0.1.31",), CURATOR),
}
QUIET = {
    "OPENAI_API_KEY": "none",
    "ARGILLA_TELEMETRY": "0",
    "DISTILABEL_LOG_LEVEL": "WARNING",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "TELEMETRY_ENABLED": "false",
    "CURATOR_DISABLE_CACHE": "1",
    "CURATOR_DISABLE_RICH_DISPLAY": "1",
}
"""Telemetry off, nothing from a cache."""


def peer(name: str, items: Sequence[Any], url: str, in_flight: int, environments: Path) -> float:
    """Calls a second of a peer's whole job; its environment is made where there is none.

    Raises:
        subprocess.CalledProcessError: it cannot be installed, or failed.
    """
    short, requirements, script = PEERS[name]
    place = environments / short
    python = place / "bin" / "python"
    if not (place / "installed").is_file():
        subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
        (place / "installed").touch()
    # Both orders, as the judge asks: two rows a pair.
    rows = [
        {"instruction": item.messages[-1][1], "generations": texts}
        for item in items
        for texts in ([item.completion_a, item.completion_b], [item.completion_b, item.completion_a])
    ]
    with tempfile.TemporaryDirectory() as folder:
        data, program = Path(folder) / "rows.json", Path(folder) / "peer.py"
        data.write_text(json.dumps(rows), encoding="utf-8")
        program.write_text(script, encoding="utf-8")
        done = subprocess.run(
            [python.absolute(), program, data, url, str(in_flight)],
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, **QUIET, "HOME": folder, "CURATOR_CACHE_DIR": folder},
            timeout=WAIT_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{name} failed: {done.stderr[-2000:]}")
    seconds, made = json.loads(done.stdout.splitlines()[-1])
    if made != len(rows):
        raise RuntimeError(f"{name} made {made} rows of {len(rows)}")
    return len(rows) / seconds


WAYS = {
    "sdk": "AsyncOpenAI as it comes",
    "sdk_aiohttp": "AsyncOpenAI on DefaultAioHttpClient",
    "sdk_aiohttp_uvloop": "the same under uvloop",
    "sdk_aiohttp_uvloop_raw": "the same with raw responses",
    "client": "pipeline.calls.client alone",
}


def median_ratio(slower: Sequence[Timed], base: Sequence[Timed]) -> float:
    """Rate of one way over the base's, neighbours in time compared: the median over rounds."""
    return statistics.median(one.seconds / other.seconds for one, other in zip(base, slower, strict=True))


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Everything in turns; what the last line says."""
    items = comparisons(given.calls // 2)
    names = list(WAYS) if given.ways else []
    found: dict[str, list[Timed]] = {name: [] for name in ("bare", "jurybox", "stage", *names)}
    peers: dict[str, float] = {}
    with endpoint(given.latency) as url, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bodies.jsonl"
        file.write_bytes(b"\n".join(bodies(items, url, given.in_flight)))
        for at in range(given.rounds):
            in_turn("bare", file, url, given.in_flight, found["bare"])
            ours(items, url, given.in_flight, found["jurybox"])
            staged(items, url, given.in_flight, found["stage"])
            for name in names:
                in_turn(name, file, url, given.in_flight, found[name])
            if not given.json:
                said = (f"{name} {took[-1].seconds:.2f} s" for name, took in found.items())
                print(f"round {at + 1}: {', '.join(said)}", flush=True)
        if not given.no_peers:
            for name in PEERS:
                peers[name] = peer(name, items, url, given.in_flight, given.environments)
    rows = [("bare aiohttp loop", found["bare"]), ("jurybox, whole judge", found["jurybox"])]
    rows += [("jurybox, whole judge stage", found["stage"])]
    rows += [(WAYS[name], found[name]) for name in names]
    print("| way | calls/s | of bare aiohttp | CPU ms a call |\n|---|---|---|---|")
    for name, took in rows:
        rate = given.calls / statistics.median(one.seconds for one in took)
        cpu = statistics.median(one.cpu_s for one in took) / given.calls * 1000
        print(f"| {name} | {rate:.0f} | {median_ratio(took, found['bare']):.2f} | {cpu:.2f} |")
    base = given.calls / statistics.median(one.seconds for one in found["bare"])
    for name, rate in peers.items():
        print(f"| {name}, whole job | {rate:.0f} | {rate / base:.3f} | |")
    return {
        "ratio_to_bare_aiohttp": round(median_ratio(found["jurybox"], found["bare"]), 3),
        "stage_ratio": round(median_ratio(found["stage"], found["bare"]), 3),
        "judgments_per_s": round(given.calls / statistics.median(one.seconds for one in found["jurybox"]), 1),
        "cpu_ms_per_call": round(statistics.median(one.cpu_s for one in found["jurybox"]) / given.calls * 1000, 3),
        "peak_rss_mb": round(peak_rss_mb(given.in_flight), 1),
        "peers": {name: {"per_s": round(rate, 1), "ratio": round(rate / base, 3)} for name, rate in peers.items()},
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=4000)
    parser.add_argument("--in-flight", type=int, default=1000)
    parser.add_argument("--latency", type=float, default=0.5, help="seconds")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", action="store_true", help="measure the openai package's layers as well")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--environments", type=Path, default=Path("runs") / "peers", help="of the peers")
    parser.add_argument("--json", action="store_true", help="no line for each round; the last line is JSON anyway")
    for name, kind in (("serve", float), ("memory", int), ("way", str), ("bodies", Path), ("url", str)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        serve(given.serve)
    elif given.memory is not None:
        memory(given.memory, given.in_flight)
    elif given.way is not None:
        way(given.way, given.bodies, given.url, given.in_flight)
    else:
        print(json.dumps(measure(given)))


if __name__ == "__main__":
    # A script finds its own folder's modules only; the project's packages lie beside it.
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
