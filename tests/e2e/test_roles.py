"""The parts of a fleet as processes: the files API alone, the OCR APIs alone, a first key."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.conftest import SCAN
from tests.e2e.conftest import Server, recto, run_recto, started

FILES = ("/v1/files", "/v1/uploads")
OCR = ("/v1/ocr", "/v1/models", "/v1/files/{file_id}/ocr")


def paths(server: Server) -> set[str]:
    found: dict[str, object] = httpx.get(f"{server.base}/openapi.json").json()["paths"]
    return set(found)


def test_the_files_api_alone_has_no_engines(tmp_path: Path) -> None:
    with started(tmp_path, ROLE="files") as server:
        there = paths(server)
        assert there >= {*FILES, "/livez", "/readyz", "/metrics"}
        assert not there & set(OCR)
        ready = httpx.get(f"{server.base}/readyz").json()
        assert ready == {
            "status": "ok",
            "checks": {"database": "ok", "blob store": "ok"},
            "routes": {},
        }
        assert httpx.post(f"{server.base}/v1/ocr", json={}).status_code == 404
        kept = httpx.post(f"{server.base}/v1/files", files={"file": SCAN.read_bytes()})
        assert kept.status_code == 200
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()
        assert children == ""


def test_the_ocr_apis_alone_read_what_the_others_stored(tmp_path: Path) -> None:
    with started(tmp_path, ROLE="files") as server:
        kept = httpx.post(f"{server.base}/v1/files", files={"file": SCAN.read_bytes()}).json()
    with started(tmp_path, ROLE="ocr", SHOW_HIDDEN_MODELS="true") as server:
        there = paths(server)
        assert there >= {*OCR, "/livez", "/readyz", "/metrics"}
        assert not there & set(FILES)
        url = f"{server.base}/v1/files/{kept['id']}/ocr"
        answer = httpx.post(url, json={"model": "echo"}, timeout=60)
        assert answer.json()["pages"][0]["markdown"].startswith("# Page 0")


def test_the_line_that_the_ocr_apis_print_works(tmp_path: Path) -> None:
    with started(tmp_path, "--role", "ocr", SHOW_HIDDEN_MODELS="true") as server:
        line = server.banner.splitlines()[2].strip().replace('"pages": "0"', '"model": "echo"')
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["pages"][0]["markdown"].startswith("# Page 0")


def test_a_container_begins_with_a_first_key(tmp_path: Path) -> None:
    file = tmp_path / "keys" / "first.key"
    done = recto(tmp_path, "init", str(file))
    assert done.returncode == 0, done.stderr
    key = file.read_text().strip()
    assert key not in done.stdout + done.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    before = file.read_bytes()
    assert recto(tmp_path, "init", str(file)).returncode == 0
    assert file.read_bytes() == before
    # Who took the file away meant it: there is no second key for everything.
    taken = recto(tmp_path, "init", str(tmp_path / "keys" / "second.key"))
    assert (taken.returncode, (tmp_path / "keys" / "second.key").exists()) == (0, False)
    assert "made before" in taken.stderr
    assert run_recto(tmp_path, "keys", "list").count("first") == 1
    with started(tmp_path) as server:
        assert httpx.get(f"{server.base}/v1/files").status_code == 401
        headers = {"Authorization": f"Bearer {key}"}
        assert httpx.get(f"{server.base}/v1/files", headers=headers).status_code == 200


def test_whoever_runs_it_may_ask_how_it_is_whatever_is_served(tmp_path: Path) -> None:
    with started(tmp_path, DOORS="models") as server:
        for path in ("/livez", "/readyz", "/metrics", "/v1/models"):
            assert httpx.get(f"{server.base}{path}").status_code == 200, path
        assert httpx.post(f"{server.base}/v1/ocr", json={}).status_code == 404


def test_a_hang_up_ends_no_process_that_has_no_routes(tmp_path: Path) -> None:
    """And the end is the usual one."""
    with started(tmp_path, ROLE="files") as server:
        os.kill(server.pid, signal.SIGHUP)
        assert httpx.get(f"{server.base}/livez").status_code == 200


def test_keys_may_be_required_before_there_is_one(tmp_path: Path) -> None:
    with started(tmp_path, "--host", "0.0.0.0", REQUIRE_KEYS="true") as server:
        base = server.base.replace("0.0.0.0", "127.0.0.1")
        refused = httpx.get(f"{base}/v1/files")
        assert (refused.status_code, refused.json()["code"]) == (401, "invalid_api_key")
        assert httpx.get(f"{base}/livez").status_code == 200
        key = recto(tmp_path, "keys", "create", "--org", "local").stdout.strip()
        headers = {"Authorization": f"Bearer {key}"}
        assert httpx.get(f"{base}/v1/files", headers=headers).status_code == 200


@pytest.mark.parametrize("option", [[], ["--ready"]])
def test_a_container_asks_its_server_how_it_is(tmp_path: Path, option: list[str]) -> None:
    with started(tmp_path, ROLE="files") as server:
        port = server.base.rpartition(":")[2]
        done = recto(tmp_path, "health", "--port", port, *option)
        assert (done.returncode, json.loads(done.stdout)["status"]) == (0, "ok")
    done = recto(tmp_path, "health", "--port", port, *option)
    assert done.returncode == 1
    assert done.stderr.startswith(f"recto: No answer from 127.0.0.1, port {port}")


def test_the_role_of_several_processes_is_the_same(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ocr_api.cli", "serve", "--role", "nothing"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "'all', 'files', 'ocr'" in done.stderr
