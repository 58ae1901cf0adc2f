"""Pins down that a thousand calls in flight on 256 file handles are made once each, and that it is said once."""

import json
import os
import resource
import subprocess
from pathlib import Path

import pytest

from tests.endpoints import Endpoint
from tests.recorded_endpoint import PATIENCE_S, command, scripted

CONFIG = """\
name: wide
prompts: {{path: prompts.jsonl}}
endpoints: {{local: {{base_url: "{url}", concurrency: 1000}}}}
generators:
  - {{endpoint: local, model: student, temperatures: [0.3, 1.0], max_tokens: 16, samples: 2}}
"""
PROMPTS = 75
HANDLES = 256


@pytest.mark.slow
def test_a_thousand_calls_in_flight_fit_256_file_handles(tmp_path: Path) -> None:
    with Endpoint(lambda body: scripted(body)._replace(delay=0.2)) as server:
        (tmp_path / "c.yaml").write_text(CONFIG.format(url=server.url), encoding="utf-8")
        lines = (json.dumps({"prompt": f"Question {number}?"}) for number in range(PROMPTS))
        (tmp_path / "prompts.jsonl").write_text("\n".join(lines), encoding="utf-8")
        done = subprocess.run(
            command("run", "c.yaml", "--to", "generate"),
            cwd=tmp_path,
            env=dict(os.environ),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (HANDLES, HANDLES)),
        )
        assert done.returncode == 0, done.stderr
        assert len(server.log) == 4 * PROMPTS
        assert 16 < server.most_at_once < HANDLES
    assert done.stderr.count("concurrency 1000 does not fit the 256 files") == 1
