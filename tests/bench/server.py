"""A server process to measure, and the little HTTP that it needs."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def running(folder: Path) -> Iterator[tuple[str, int]]:
    """Start a server on a free port; give its base URL and process id."""
    env = {**os.environ, "RECTO_DATA_DIR": str(folder / "server"), "RECTO_LOG_LEVEL": "ERROR"}
    env["RECTO_SHOW_HIDDEN_MODELS"] = "true"
    command = [sys.executable, "-m", "ocr_api.cli", "serve", "--port", "0"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            found = re.search(r"http://[\w.]+:\d+", server.stdout.readline())
            assert found
            yield found[0], server.pid
        finally:
            server.terminate()


def read(base: str, document: bytes, model: str, **body: object) -> dict[str, Any]:
    """Read a document that goes inside the request."""
    inline = {"document_content": base64.b64encode(document).decode()}
    data = json.dumps({"model": model, "document": inline, **body}).encode()
    request = urllib.request.Request(f"{base}/v1/ocr", data=data)
    with urllib.request.urlopen(request, timeout=600) as response:
        answer: dict[str, Any] = json.load(response)
    return answer
