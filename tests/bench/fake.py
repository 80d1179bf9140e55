"""The stand-in for vLLM beside the project, in a process of its own; without it nothing starts."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FAKE = Path(__file__).resolve().parents[2].parent / "shared" / "tools" / "fake_vlm.py"
ABSENT = "Left out: {what} (there is no stand-in for vLLM here)."
CARD = "lightonai/LightOnOCR-2-1B"
"""The model that it plays where the measurement does not care."""


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


def is_absent(what: str) -> bool:
    """Tell whether there is no stand-in here; say so, with what is left out."""
    if FAKE.is_file():
        return False
    print(ABSENT.format(what=what))
    return True


def stats(base: str) -> dict[str, Any]:
    """Return what the stand-in has counted since it was told to forget."""
    with urllib.request.urlopen(f"{base}/_stats", timeout=10) as response:
        counted: dict[str, Any] = json.load(response)
    return counted


def tell(base: str, path: str, body: object) -> None:
    """Post a command to the stand-in."""
    request = urllib.request.Request(f"{base}{path}", data=json.dumps(body).encode())
    urllib.request.urlopen(request, timeout=10).close()


def forget(base: str) -> None:
    """Forget what was counted, and how often each page came."""
    tell(base, "/_reset", {})
