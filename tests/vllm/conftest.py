"""The servers of a test run: started once, shared by every module in this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vllm.servers import VLLM, Server, running

KEY = "tiny-secret"
MOST_REQUESTS = 4
"""What "text" takes at once; the next is refused."""
WANTED = {
    "deepseek_ocr": (),
    "lighton_ocr": (),
    "lighton_ocr_bbox": (),
    "glm_ocr": (),
    "text": ("--api-key", KEY, "--max-num-queued-reqs", str(MOST_REQUESTS)),
}


@pytest.fixture(scope="session")
def vllm() -> Path:
    """The ``vllm`` command; without one, the tests that need it are skipped."""
    if not VLLM.is_file():
        pytest.skip("RECTO_TEST_VLLM names no vllm command: make test-vllm")
    return VLLM


@pytest.fixture(scope="session")
def servers(
    vllm: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[dict[str, Server]]:
    """Five servers, by the names of their model folders; "text" wants ``KEY``."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    starting = running(vllm, WANTED, tmp_path_factory.mktemp("vllm"))
    with capture.global_and_fixture_disabled():
        started = starting.__enter__()
    yield started
    starting.__exit__(None, None, None)
