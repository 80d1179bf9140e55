"""Fakes for faults: real stores and engines, of which one call fails.

A call fails before it does anything, or after: then its work is done and only its answer is lost,
as when a connection breaks. Only calls of the story under test are counted, not those of the
sweep beside it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Literal

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from files_api.blobs import BlobStore, StoredBlob, open_store
from files_api.kit.db import Database
from ocr_api.engines import PageTask
from ocr_api.engines.echo import Echo
from ocr_api.result import Reading

When = Literal["before", "after"]
_COUNTED: ContextVar[bool] = ContextVar("counted", default=False)
"""Set around the story: the tasks that a request starts inherit it, the hourly sweep does not."""


class Faults:
    """Counts calls, and lets one of them fail."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        """What was called, since `armed`."""
        self._number: int | None = None
        self._when: When = "before"
        self._error: type[Exception] = OSError

    @contextmanager
    def armed(
        self, number: int | None, when: When = "before", error: type[Exception] = OSError
    ) -> Iterator[None]:
        """Count the calls made inside the block; the one of this number (from 0) fails."""
        self.calls = []
        self._number, self._when, self._error = number, when, error
        token = _COUNTED.set(True)
        try:
            yield
        finally:
            _COUNTED.reset(token)
            self._number = None

    @property
    def struck(self) -> bool:
        """Whether the call that was to fail came."""
        return self._number is not None and len(self.calls) > self._number

    @contextmanager
    def call(self, name: str) -> Iterator[None]:
        """Stand around one call of the real thing."""
        if not _COUNTED.get():
            yield
            return
        fails = len(self.calls) == self._number
        self.calls.append(name)
        if fails and self._when == "before":
            raise self._error("fault")
        yield
        if fails:
            raise self._error("fault")

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Stand between every service that is made from now on and its stores and engine."""
        monkeypatch.setattr("files_api.app.open_store", lambda url: FaultyBlobs(url, self))
        monkeypatch.setattr("files_api.app.Database", lambda url: FaultyDatabase(url, self))
        real = Echo.read

        async def read(engine: Echo, task: PageTask) -> Reading:
            with self.call("engine.read"):
                return await real(engine, task)

        monkeypatch.setattr(Echo, "read", read)


class FaultyDatabase(Database):
    """The real database, of which a unit of work or a reading fails."""

    def __init__(self, url: str, faults: Faults) -> None:
        super().__init__(url)
        self._faults = faults

    @asynccontextmanager
    async def unit(self) -> AsyncIterator[AsyncSession]:
        """Fail before the unit begins, or after it was committed."""
        with self._faults.call("database.unit"):
            async with super().unit() as session:
                yield session

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """Fail before the session is opened, or after it was used."""
        with self._faults.call("database.read"):
            async with super().read() as session:
                yield session


class FaultyBlobs(BlobStore):
    """The real blob store, of which a call fails."""

    def __init__(self, url: str, faults: Faults) -> None:
        self._real = open_store(url)
        self._faults = faults

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> None:
        with self._faults.call("blobs.put"):
            await self._real.put(key, chunks)

    async def read(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        with self._faults.call("blobs.read"):
            async for chunk in self._real.read(key, start, stop):
                yield chunk

    @asynccontextmanager
    async def local(self, key: str) -> AsyncIterator[Path]:
        with self._faults.call("blobs.local"):
            async with self._real.local(key) as path:
                yield path

    async def delete(self, key: str) -> None:
        with self._faults.call("blobs.delete"):
            await self._real.delete(key)

    async def check(self) -> None:
        with self._faults.call("blobs.check"):
            await self._real.check()

    async def blobs(self) -> AsyncIterator[StoredBlob]:
        with self._faults.call("blobs.blobs"):
            async for blob in self._real.blobs():
                yield blob

    async def sweep(self) -> int:
        with self._faults.call("blobs.sweep"):
            return await self._real.sweep()

    async def presign(
        self, key: str, seconds: int, *, filename: str, media_type: str
    ) -> str | None:
        with self._faults.call("blobs.presign"):
            return await self._real.presign(key, seconds, filename=filename, media_type=media_type)

    async def close(self) -> None:
        await self._real.close()
