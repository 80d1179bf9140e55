"""The stand-in for vLLM beside the project, in a process of its own; without it nothing starts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FAKE = Path(__file__).resolve().parents[2].parent / "shared" / "tools" / "fake_vlm.py"
ABSENT = "Left out: {what} (there is no stand-in for vLLM here)."


@contextmanager
def running(*options: str) -> Iterator[tuple[str, int]]:
    """Run the stand-in on a free port; give its address, without ``/v1``, and its process id."""
    command = [sys.executable, str(FAKE), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            port = json.loads(process.stdout.readline())["port"]
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.terminate()
