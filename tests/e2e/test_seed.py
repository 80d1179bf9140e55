"""The snippets of the Nebul OCR page, as published; only host, key, model and address changed."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from tests import helpers
from tests.e2e.conftest import Server

QUICK_START = """
import httpx

API_URL = "https://api.inference.nebul.io"
API_KEY = "<YOUR_API_KEY>"
HEADERS = {"Authorization": f"Bearer {API_KEY}"}

# Step 1: Upload
with open("document.pdf", "rb") as f:
    upload = httpx.post(
        f"{API_URL}/v1/files",
        files={"file": ("document.pdf", f, "application/pdf")},
        data={"purpose": "ocr"},
        headers=HEADERS,
    )
file_id = upload.json()["id"]

# Step 2: OCR
result = httpx.post(
    f"{API_URL}/v1/files/{file_id}/ocr",
    json={"model": "deepseek-ai/DeepSeek-OCR"},
    headers={**HEADERS, "Content-Type": "application/json"},
    timeout=120.0,
).json()

for page in result["pages"]:
    print(f"Page {page['index']}: {page['markdown'][:100]}...")

# Cleanup
httpx.delete(f"{API_URL}/v1/files/{file_id}", headers=HEADERS)
"""

DIRECT = """
import httpx

url = "https://api.inference.nebul.io/v1/ocr"
payload = {
    "model": "deepseek-ai/DeepSeek-OCR",
    "document": {
        "type": "document_url",
        "document_url": "https://example.com/image.png"
    }
}
response = httpx.post(url, json=payload, headers={
    "Authorization": "Bearer <YOUR_API_KEY>",
    "Content-Type": "application/json",
}, timeout=120.0)
for page in response.json()["pages"]:
    print(page["markdown"])
"""

SIGNED = """
import httpx

API_URL = "https://api.inference.nebul.io"
HEADERS = {"Authorization": f"Bearer <YOUR_API_KEY>"}

# 1. Upload
with open("document.pdf", "rb") as f:
    file_id = httpx.post(
        f"{API_URL}/v1/files",
        files={"file": ("document.pdf", f, "application/pdf")},
        data={"purpose": "ocr"},
        headers=HEADERS,
    ).json()["id"]

# 2. Get signed URL
signed_url = httpx.get(
    f"{API_URL}/v1/files/{file_id}/url",
    headers=HEADERS,
).json()["url"]

# 3. OCR with document_url
result = httpx.post(
    f"{API_URL}/v1/ocr",
    json={
        "model": "deepseek-ai/DeepSeek-OCR",
        "document": {
            "type": "document_url",
            "document_url": signed_url,
        },
    },
    headers={**HEADERS, "Content-Type": "application/json"},
    timeout=120.0,
).json()

# Cleanup
httpx.delete(f"{API_URL}/v1/files/{file_id}", headers=HEADERS)
"""

CURL_UPLOAD = r"""
# Step 1: Upload
FILE_ID=$(curl -s -X POST https://api.inference.nebul.io/v1/files \
  -H "Authorization: Bearer <YOUR_API_KEY>" \
  -F "file=@document.pdf" \
  -F "purpose=ocr" | jq -r '.id')
# Step 2: OCR
curl -X POST https://api.inference.nebul.io/v1/files/$FILE_ID/ocr \
  -H "Authorization: Bearer <YOUR_API_KEY>" \
  -H "Content-Type: application/json" \
  -d '{"model": "deepseek-ai/DeepSeek-OCR"}'
"""

CURL_DIRECT = r"""
curl -X POST https://api.inference.nebul.io/v1/ocr \
  -H "Authorization: Bearer <YOUR_API_KEY>" \
  -H "Content-Type: application/json" \
  -d '{
    "model": "deepseek-ai/DeepSeek-OCR",
    "document": {
      "type": "document_url",
      "document_url": "https://example.com/image.png"
    }
  }'
"""

CURL_SIGNED = r"""
# 1. Upload
FILE_ID=$(curl -s -X POST https://api.inference.nebul.io/v1/files \
  -H "Authorization: Bearer <YOUR_API_KEY>" \
  -F "file=@document.pdf" \
  -F "purpose=ocr" | jq -r '.id')
# 2. Get signed URL
SIGNED_URL=$(curl -s https://api.inference.nebul.io/v1/files/$FILE_ID/url \
  -H "Authorization: Bearer <YOUR_API_KEY>" | jq -r '.url')
# 3. OCR with signed URL
curl -X POST https://api.inference.nebul.io/v1/ocr \
  -H "Authorization: Bearer <YOUR_API_KEY>" \
  -H "Content-Type: application/json" \
  -d "{
    \"model\": \"deepseek-ai/DeepSeek-OCR\",
    \"document\": {
      \"type\": \"document_url\",
      \"document_url\": \"$SIGNED_URL\"
    }
  }"
"""


@pytest.fixture(scope="module")
def pictures() -> Iterator[str]:
    """A web server on loopback in a thread of its own, in place of example.com; its base URL."""
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    started: list[str] = []

    async def serve() -> None:
        async with helpers.serving({"/image.png": helpers.pages_pdf(1)}) as base:
            started.append(base)
            await stop.wait()

    thread = Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    while not started:
        thread.join(0.01)
    yield started[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


def run(snippet: str, server: Server, pictures: str, folder: Path) -> str:
    (folder / "document.pdf").write_bytes(helpers.pages_pdf(3))
    code = (
        snippet.replace("https://api.inference.nebul.io", server.base)
        .replace("<YOUR_API_KEY>", "any")
        .replace("deepseek-ai/DeepSeek-OCR", "echo")
        .replace("https://example.com", pictures)
        # jq need not be there; this reads the same key.
        .replace("jq -r '.id'", _jq("id"))
        .replace("jq -r '.url'", _jq("url"))
    )
    command = ["bash", "-euo", "pipefail", "-c"] if "curl" in code else [sys.executable, "-c"]
    done = subprocess.run(
        [*command, code], check=False, capture_output=True, text=True, cwd=folder, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _jq(key: str) -> str:
    return f"{sys.executable} -c 'import json, sys; print(json.load(sys.stdin)[\"{key}\"])'"


def test_python_quick_start(server: Server, pictures: str, tmp_path: Path) -> None:
    printed = run(QUICK_START, server, pictures, tmp_path)
    assert re.findall(r"^Page (\d): # Page (\d)$", printed, re.MULTILINE) == [
        ("0", "0"),
        ("1", "1"),
        ("2", "2"),
    ]


def test_python_direct(server: Server, pictures: str, tmp_path: Path) -> None:
    assert run(DIRECT, server, pictures, tmp_path).startswith("# Page 0")


def test_python_signed(server: Server, pictures: str, tmp_path: Path) -> None:
    code = SIGNED + '\nprint(result["usage_info"]["pages_processed"], result["model"])'
    assert run(code, server, pictures, tmp_path).split() == ["3", "echo"]


@pytest.mark.parametrize(
    ("snippet", "pages"), [(CURL_UPLOAD, 3), (CURL_DIRECT, 1), (CURL_SIGNED, 3)]
)
def test_curl(snippet: str, pages: int, server: Server, pictures: str, tmp_path: Path) -> None:
    answer = json.loads(run(snippet, server, pictures, tmp_path))
    assert [page["index"] for page in answer["pages"]] == list(range(pages))
    counts = answer["usage_info"]
    assert counts["completion_tokens"] == answer["usage"]["completion_tokens"]
    # Every page is paid for, or was paid for by a snippet before this one.
    assert counts["pages_reused"] == sum(page["reused"] for page in answer["pages"])
    assert (counts["total_tokens"] > 0) == (counts["pages_reused"] < pages)
    assert (counts["reused_tokens"] > 0) == (counts["pages_reused"] > 0)
    assert answer["usage_info"]["doc_size_bytes"] > 0
