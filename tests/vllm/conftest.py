"""The servers of a test run, and Recto in front of them: started once, shared by every module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Server as Recto
from tests.vllm import chain
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


@pytest.fixture(scope="session")
def recto(servers: dict[str, Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recto]:
    """The whole service; "text" annotates for models that were not trained to."""
    folder = tmp_path_factory.mktemp("recto")
    with chain.running(servers, folder, KEY, annotator=chain.ANNOTATOR) as server:
        yield server


@pytest.fixture(scope="session")
def stranger(
    servers: dict[str, Server], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Recto]:
    """The whole service with a key that "text" refuses, and without an annotator."""
    folder = tmp_path_factory.mktemp("stranger")
    with chain.running(servers, folder, "another-key", annotator=None) as server:
        yield server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let what kills a server come last: nobody starts it again."""
    items.sort(key=lambda item: "killed" in item.name)
