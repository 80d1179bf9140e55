"""A server to be killed, and the sweep that comes hours later."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from files_api.app import FilesService
from files_api.settings import FilesSettings
from tests.durability.process import Recto

LATER = 2 * 3600.0
"""Seconds after which every grace is over: an orphan's hour, an upload's hour."""

Sweep = Callable[[], Awaitable[dict[str, int]]]


@pytest.fixture(params=["local", "remote"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which stores: ``local`` is SQLite and a folder, ``remote`` PostgreSQL and S3."""
    return str(request.param)


@pytest.fixture
def database_url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database. Not each with each blob store: they do not know each other."""
    if kind == "remote":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path / 'a b.db'}"


@pytest.fixture
def blob_url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty blob store."""
    if kind == "remote":
        return str(request.getfixturevalue("s3_url"))
    return (tmp_path / "blobs").as_uri()


@pytest.fixture
def recto(tmp_path: Path, database_url: str, blob_url: str) -> Iterator[Recto]:
    """The service in a process of its own, not started, on each database and blob store."""
    made = Recto(tmp_path / "recto", DATABASE_URL=database_url, BLOB_URL=blob_url)
    made.upgrade()
    yield made
    made.close()


@pytest.fixture
def sweep_later(tmp_path: Path, database_url: str, blob_url: str) -> Sweep:
    """Sweep once, as a service that starts two hours from now would; stop the server before."""

    async def sweep() -> dict[str, int]:
        settings = FilesSettings(
            data_dir=tmp_path / "sweeper", database_url=database_url, blob_url=blob_url
        )
        service = FilesService(settings)
        set_clocks(service, LATER)
        swept = await service.sweep()
        await service.close()
        return swept

    return sweep


def set_clocks(service: FilesService, seconds: float) -> None:
    """Let the parts of a service see a time that lies ahead."""
    for part in (service.files, service.files.expiry, service.uploads, service.idempotency):
        part._clock = lambda: time.time() + seconds
