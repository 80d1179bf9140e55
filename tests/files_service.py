"""The files service alone, over ASGI, and what lies in its store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from fastapi import FastAPI

from files_api.app import FilesService
from files_api.files.installation import MARKERS
from files_api.kit.web import FrontDoor
from files_api.routes import router


@asynccontextmanager
async def asking(service: FilesService) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of a service that is open."""
    app = FastAPI(redirect_slashes=False)
    app.include_router(router())
    service.attach(app)
    transport = httpx.ASGITransport(FrontDoor(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://recto.localhost") as made:
        yield made


def blobs(service: FilesService) -> list[Path]:
    """Return the files of a store in the data folder, all but the store's own markers."""
    root = service.settings.data_dir / "blobs"
    files = {path for path in root.rglob("*") if path.is_file()}
    return sorted(files - {root / marker for marker in MARKERS})
