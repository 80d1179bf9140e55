"""A real server process on loopback, for the real clients."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Server:
    base: str
    """http://127.0.0.1:PORT, without /v1."""
    data: Path
    banner: str
    """What it printed when it was ready."""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The whole service, CPU engine and fake engine, in a process of its own."""
    data = tmp_path_factory.mktemp("server")
    env = {name: value for name, value in os.environ.items() if not name.startswith("RECTO_")}
    env |= {"RECTO_DATA_DIR": str(data), "RECTO_SHOW_HIDDEN_MODELS": "true"}
    env |= {"RECTO_FETCH_ALLOW": "127.0.0.1"}
    log = (data / "log.jsonl").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "ocr_api.cli", "serve", "--port", "0"],
        env=env,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    with process, log:
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(3)]
        found = re.search(r"http://127\.0\.0\.1:\d+", lines[0])
        assert found, (data / "log.jsonl").read_text()
        yield Server(found[0], data, "".join(lines))
        process.terminate()
        # uvicorn ends in order, then dies of the signal it was sent.
        assert process.wait(30) == -signal.SIGTERM
