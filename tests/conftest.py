"""A clean environment for every test: our own variables gone, the example settings loaded."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from starlette.types import ASGIApp, Message

from ocr_api import app as ocr_app
from ocr_api.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
SCAN = ROOT / "docs" / "demo" / "scan.pdf"


def example_settings() -> dict[str, str]:
    """Return the settings of ``configs/example.env``, by variable name."""
    lines = (ROOT / "configs" / "example.env").read_text("utf-8").splitlines()
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {name: value for name, value in pairs if value}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RECTO_")]:
        monkeypatch.delenv(name)
    for name, value in example_settings().items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=["sqlite"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database; a test that asks for it runs once for each kind."""
    return f"sqlite:///{tmp_path / 'a b.db'}"


@pytest.fixture(params=["file"])
def blob_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty blob store; a test that asks for it runs once for each kind."""
    return (tmp_path / "blobs").as_uri()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The example settings, with data in a temporary folder and the fake engine shown."""
    return Settings(
        data_dir=tmp_path / "data",
        show_hidden_models=True,
        render_processes=1,
        engine_processes=1,
        max_file_bytes=16 * 2**20,
        max_inline_bytes=2 * 2**20,
        max_answer_bytes=120_000,
        fetch_allow=("127.0.0.1",),
    )


@asynccontextmanager
async def running(service: ASGIApp) -> AsyncIterator[None]:
    """Run the ASGI lifespan of a service around a block."""
    requests: asyncio.Queue[Message] = asyncio.Queue()
    answers: asyncio.Queue[Message] = asyncio.Queue()
    task = asyncio.create_task(
        service({"type": "lifespan", "asgi": {}, "state": {}}, requests.get, answers.put)
    )
    await requests.put({"type": "lifespan.startup"})
    started = await answers.get()
    assert started["type"] == "lifespan.startup.complete", started
    try:
        yield
    finally:
        await requests.put({"type": "lifespan.shutdown"})
        await answers.get()
        await task


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the whole service over ASGI, started and stopped as a server would."""
    service = ocr_app.create(settings)
    async with (
        running(service),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(service), base_url="http://127.0.0.1:8000"
        ) as client,
    ):
        yield client
