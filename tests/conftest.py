"""A clean environment for every test: our own variables gone, the example settings loaded."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from starlette.types import ASGIApp, Message

from ocr_api import app as ocr_app
from ocr_api.settings import Settings
from tests import postgres, s3server

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that runs the tests in the background ignores it, for the servers they start as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)

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


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[postgres.Cluster]:
    """The session's PostgreSQL server; without one, what needs it is skipped."""
    with postgres.for_session() as cluster:
        yield cluster


@pytest.fixture
def postgres_url(postgres_cluster: postgres.Cluster) -> Iterator[str]:
    """The URL of an empty PostgreSQL database; its user closes what it opens there."""
    with postgres_cluster.database() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database; a test that asks for it runs once for each kind."""
    if request.param == "postgresql":
        # Asked for here, so that the runs on SQLite start no server.
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path / 'a b.db'}"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[s3server.S3Server]:
    """The session's S3 server."""
    with s3server.S3Server() as server:
        yield server


@pytest.fixture
def s3_url(s3_server: s3server.S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket, and the credentials for it in the environment."""
    for name, value in s3server.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return s3_server.new_bucket()


@pytest.fixture(params=["file", "s3"])
def blob_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty blob store; a test that asks for it runs once for each kind."""
    if request.param == "s3":
        # Asked for here, so that the runs on the local disk start no server.
        return str(request.getfixturevalue("s3_url"))
    return (tmp_path / "a b%").as_uri()


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
