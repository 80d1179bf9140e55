"""The demo: start a server, read the scan beside this file through the HTTP API, stop it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

SCAN = Path(__file__).with_name("scan.pdf")
BOUNDARY = "recto-demo"


def main() -> None:
    """Run the demo."""
    with tempfile.TemporaryDirectory(prefix="recto-demo-") as data:
        env = {**os.environ, "RECTO_DATA_DIR": data, "RECTO_LOG_LEVEL": "ERROR"}
        command = [sys.executable, "-m", "ocr_api.cli", "serve", "--port", "0"]
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as server:
            try:
                show(address(server))
            finally:
                server.terminate()
    print("The server is stopped and its data removed.")


def address(server: subprocess.Popen[str]) -> str:
    """Return where the server says it listens."""
    for line in server.stdout or ():
        if found := re.search(r"http://[\w.]+:\d+", line):
            return found[0]
    sys.exit("The server did not start.")


def show(base: str) -> None:
    """Upload the scan, read it, print what came back, delete it."""
    print(f"Server at {base}. Uploading {SCAN.name} ({SCAN.stat().st_size} bytes) ...")
    uploaded = call(f"{base}/v1/files", *multipart(SCAN))
    print(f"File {uploaded['id']}. Reading it (about 5 s a page and core) ...\n")
    begun = time.perf_counter()
    answer = call(f"{base}/v1/files/{uploaded['id']}/ocr", b"{}", "application/json")
    took = time.perf_counter() - begun
    for page in answer["pages"]:
        size = page["dimensions"]
        drawn = f"{size['width']} x {size['height']} px at {size['dpi']} dpi"
        print(f"--- page {page['index']}: {drawn}, read in {page['seconds']:.1f} s")
        print(page["markdown"], end="\n\n")
    pages = len(answer["pages"])
    print(f"--- {pages} pages in {took:.1f} s: {took / pages:.1f} s per page")
    print(f"--- model: {answer['model']}, usage: {json.dumps(answer['usage_info'])}")
    call(f"{base}/v1/files/{uploaded['id']}", method="DELETE")


def multipart(path: Path) -> tuple[bytes, str]:
    """Return a form with one file and its content type."""
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nocr\r\n'
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; '
        f'filename="{path.name}"\r\nContent-Type: application/pdf\r\n\r\n'
    )
    body = head.encode() + path.read_bytes() + f"\r\n--{BOUNDARY}--\r\n".encode()
    return body, f"multipart/form-data; boundary={BOUNDARY}"


def call(
    url: str, body: bytes | None = None, content_type: str = "", method: str | None = None
) -> dict[str, Any]:
    """Send one request and return its JSON answer."""
    headers = {"Content-Type": content_type} if content_type else {}
    request = urllib.request.Request(url, data=body, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=600) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


if __name__ == "__main__":
    main()
