"""The unmodified TypeScript clients against a live server with keys; values are asserted.

``make node`` installs them into tests/typescript; without them the test is skipped, or fails
with ``RECTO_TEST_NEEDS_NODE=1``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import helpers
from tests.e2e.conftest import ROOT, Stack

CLIENTS = ROOT / "tests" / "typescript"
# Read here: the tests' own environment has none of our variables.
NEEDED = os.environ.get("RECTO_TEST_NEEDS_NODE", "") not in ("", "0")
PDF = helpers.pages_pdf(3)
SHA256 = hashlib.sha256(PDF).hexdigest()


@pytest.fixture(scope="module")
def program() -> str:
    """Return the program, or skip the test where it or the clients are missing."""
    program = shutil.which("node")
    if program and (CLIENTS / "node_modules" / "@mistralai").is_dir():
        return program
    reason = "node is not installed" if not program else "run `make node`: the clients are missing"
    if NEEDED:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def seen(program: str, stack: Stack, tmp_path: Path) -> dict[str, Any]:
    """What the script saw at a server with keys."""
    (tmp_path / "pages.pdf").write_bytes(PDF)
    done = subprocess.run(
        [program, "files.mjs"],
        cwd=CLIENTS,
        env={
            "PATH": os.environ["PATH"],
            "BASE_URL": stack.server.base,
            "API_KEY": stack.key,
            "FILE": str(tmp_path / "pages.pdf"),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_typescript_clients_do_all_file_work(seen: dict[str, Any]) -> None:
    """Mistral's and OpenAI's: upload, find, read, sign, OCR, delete; OpenAI's also in parts."""
    _check_mistral(seen["mistral"])
    _check_openai(seen["openai"])


def _check_mistral(saw: dict[str, Any]) -> None:
    file = saw["uploaded"]
    assert (file["filename"], file["sizeBytes"], file["purpose"]) == ("blåbär.pdf", len(PDF), "ocr")
    assert (file["object"], file["sampleType"], file["source"]) == ("file", "ocr_input", "upload")
    assert file["expiresAt"] == file["createdAt"] + 2 * 3600
    assert (saw["retrieved"]["id"], saw["retrieved"]["deleted"]) == (file["id"], False)
    assert [one["id"] for one in saw["listed"]["data"]] == [file["id"]]
    assert saw["listed"]["total"] == 1
    assert saw["downloaded"] == SHA256
    assert saw["signed"] == {"status": 200, "sha256": SHA256}
    assert saw["byFile"] == [[number, f"# Page {number}"] for number in range(3)]
    assert saw["byUrl"] == [[number, f"# Page {number}"] for number in (1, 2)]
    assert (saw["deleted"]["id"], saw["deleted"]["deleted"]) == (file["id"], True)
    assert saw["gone"] == {"name": "SDKError", "status": 404}
    assert saw["linkGone"] == 404
    assert saw["forged"] == {"name": "SDKError", "status": 401}


def _check_openai(saw: dict[str, Any]) -> None:
    file = saw["created"]
    assert (file["filename"], file["bytes"], file["status"]) == ("one.pdf", len(PDF), "processed")
    assert file["expires_at"] == file["created_at"] + 3600
    assert saw["waited"] == "processed"
    assert saw["listed"] == saw["ids"]
    assert saw["downloaded"] == saw["assembled"] == SHA256
    upload = saw["upload"]
    assert (upload["status"], upload["bytes"], upload["object"]) == ("pending", len(PDF), "upload")
    assert upload["expires_at"] == upload["created_at"] + 3600
    assert [part["object"] for part in saw["parts"]] == ["upload.part"] * 2
    assert {part["upload_id"] for part in saw["parts"]} == {upload["id"]}
    done = saw["completed"]
    assert (done["id"], done["status"]) == (upload["id"], "completed")
    assert (done["file"]["filename"], done["file"]["bytes"]) == ("parts.pdf", len(PDF))
    assert saw["cancelled"] == "cancelled"
    assert saw["deleted"] == [True] * 3
    assert saw["gone"] == {"name": "NotFoundError", "status": 404}


def test_typescript_lock_holds_hashes_and_no_registry() -> None:
    """So that `npm ci` works with any registry, and gets the same bytes from each."""
    text = (CLIENTS / "package-lock.json").read_text("utf-8")
    assert "://" not in text  # npm adds "funding"; take it out again
    lock = json.loads(text)
    packages = {name: facts for name, facts in lock["packages"].items() if name}
    assert {name.removeprefix("node_modules/") for name in packages} > {
        "@mistralai/mistralai",
        "openai",
    }
    for facts in packages.values():
        assert "resolved" not in facts
        assert facts["integrity"].startswith("sha512-")
