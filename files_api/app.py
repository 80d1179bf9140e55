"""Builds the files service from its settings."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from logging import WARNING

from fastapi import FastAPI
from pydantic import SecretStr

from files_api.accounts import Principal, ensure_local
from files_api.blobs import open_store
from files_api.callers import Callers
from files_api.files import Files
from files_api.kit.db import Database
from files_api.kit.disk import make_folders
from files_api.kit.observe import log
from files_api.links import Links, load_or_make_secret
from files_api.settings import FilesSettings

_EXPIRY_SECONDS = 3600.0


class FilesService:
    """The parts of the files service: ``database``, ``blobs``, ``links`` and ``files``."""

    def __init__(self, settings: FilesSettings) -> None:
        """Make the parts, the data folder and, without ``secret_key``, the secret.

        Raises:
            OSError: the data folder cannot be written.
            UnknownLeafError: no blob store has the scheme of ``blob_url``.
        """
        self.settings = settings
        make_folders(settings.data_dir.absolute())
        secret = _bytes(settings.secret_key) or load_or_make_secret(settings.data_dir)
        self.links = Links(secret, _bytes(settings.previous_secret_key))
        self.database = Database(settings.effective_database_url())
        self.blobs = open_store(settings.effective_blob_url())
        self.files = Files(self.database, self.blobs, self.links, settings.max_file_bytes)
        self._local: Principal | None = None
        self._expiring: asyncio.Task[None] | None = None

    @property
    def local(self) -> Principal:
        """Return the local organisation's principal, once the service is open."""
        if self._local is None:
            raise RuntimeError("the files service is not open")
        return self._local

    async def open(self, upgrade: Callable[[Database], Awaitable[None]]) -> None:
        """Bring the database up to date, clear what a crash left, find the local organisation.

        From then on a task deletes expired files, now and every hour, until `close`.

        Args:
            upgrade: brings the database to the newest revision; the migrations know tables of
                upper floors, so the caller hands them in.

        Raises:
            StorageUnavailable, StorageFull: the database or the blob store does not answer.
        """
        await upgrade(self.database)
        self._local = await ensure_local(self.database)
        if swept := await self.blobs.sweep():
            log(__name__, "swept", temporary_files=swept)
        self._expiring = asyncio.create_task(self._expire_hourly(), name="expiry of files")

    def attach(self, app: FastAPI) -> None:
        """Put the parts where the routes find them: ``app.state``. Call after `open`."""
        app.state.callers = Callers(self.local, self.settings.public_url)
        app.state.files = self.files
        app.state.public_url = self.settings.public_url

    async def check(self) -> None:
        """Raise `StorageUnavailable` or `StorageFull` when a part does not answer."""
        await self.database.check()
        await self.blobs.check()

    async def close(self) -> None:
        """End the expiry of files; let go of the database and the blob store."""
        if self._expiring:
            self._expiring.cancel()
            await asyncio.wait({self._expiring})
        await self.database.close()
        await self.blobs.close()

    async def _expire_hourly(self) -> None:
        while True:
            try:
                if count := await self.files.expire():
                    log(__name__, "expired", files=count)
            except Exception as error:  # noqa: BLE001 - whatever fails is tried again in an hour
                log(__name__, "expiry_failed", level=WARNING, error=type(error).__name__)
            await asyncio.sleep(_EXPIRY_SECONDS)


def _bytes(secret: SecretStr | None) -> bytes | None:
    return secret.get_secret_value().encode() if secret else None
