"""Builds the files service from its settings."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from logging import ERROR, WARNING
from pathlib import Path

from fastapi import FastAPI
from pydantic import SecretStr

from files_api.accounts import Principal, ensure_local
from files_api.blobs import open_store
from files_api.callers import Callers
from files_api.files import Files, installation
from files_api.files.spare import Spare
from files_api.idempotency import Idempotency
from files_api.keys import Keys
from files_api.kit.bodies import SMALL_BYTES
from files_api.kit.db import Database, UnfitDatabase
from files_api.kit.disk import make_folders
from files_api.kit.observe import log
from files_api.kit.room import Room
from files_api.limits import Limits, Rates
from files_api.links import Links, load_or_make_secret
from files_api.quota import Quota
from files_api.settings import FilesSettings
from files_api.uploads import Uploads

_SWEEP_SECONDS = 3600.0
_SWEEP_JITTER = 0.1
"""Part of the time between two sweeps by which it differs, so that processes drift apart."""
_FIRST_SWEEP_SECONDS = 30.0
"""Within so many seconds each of several processes sweeps first; one that is alone does at once."""
_MARK_SECONDS = 5.0
"""How long a start waits at most for a store that does not answer."""


def room_for_documents(settings: FilesSettings) -> Room:
    """Return the room for documents that lie on this machine's disk only while they are read."""
    refusal = "The organisation has too many bytes of documents being read; try again later."
    total, least = settings.max_temporary_bytes, settings.max_file_bytes
    return Room("documents", total, least, refusal=refusal, seconds=30, free=SMALL_BYTES)


class FilesService:
    """The parts of the files service: database, blobs, links, keys, limits, files, uploads."""

    def __init__(self, settings: FilesSettings) -> None:
        """Make the parts, the data folder and, without ``secret_key``, the secret.

        Raises:
            OSError: the data folder cannot be written.
            UnknownLeafError: no blob store has the scheme of ``blob_url``.
        """
        self.settings = settings
        make_folders(settings.data_dir.absolute())
        secret = _bytes(settings.secret_key) or load_or_make_secret(settings.data_dir)
        previous = _bytes(settings.previous_secret_key)
        self.links = Links(secret, previous, settings.public_url)
        self.database = Database(settings.effective_database_url())
        self.keys = Keys(self.database, secret, previous, required=settings.require_keys)
        self.limits = Limits(_rates(settings))
        self.idempotency = Idempotency(self.database)
        self.blobs = open_store(settings.effective_blob_url())
        self._quota = quota = Quota(settings.max_org_bytes, settings.max_org_files)
        self.room = room_for_documents(settings)
        """For documents that lie on this machine's disk only while they are read."""
        self.files = Files(
            self.database,
            self.blobs,
            self.links,
            quota,
            settings.max_file_bytes,
            spare=_spare(self.database),
            room=self.room,
        )
        self.uploads = Uploads(
            self.database, self.blobs, self.files, quota, settings.max_upload_bytes
        )
        self.sweeps: dict[str, Callable[[], Awaitable[int]]] = {
            "expired_files": self.files.expire,
            "expired_uploads": self.uploads.expire,
            "old_idempotency_keys": self.idempotency.sweep,
            "orphans": self.files.sweep_orphans,
            "temporary_files": self.blobs.sweep,
        }
        """What the hourly sweep does, by what it removes; upper floors may add to it."""
        self._local: Principal | None = None
        self._sweeping: asyncio.Task[None] | None = None

    @property
    def local(self) -> Principal:
        """Return the local organisation's principal, once the service is open."""
        if self._local is None:
            raise RuntimeError("the files service is not open")
        return self._local

    async def open(self, upgrade: Callable[[Database], Awaitable[None]]) -> None:
        """Bring the database up to date, clear what a crash left, find the local organisation.

        The blob store is marked as this database's before anything is stored there; a store that
        does not answer is marked by a later sweep.

        From then on a task sweeps, soon and every hour, until `close`; nobody waits for it.

        Args:
            upgrade: brings the database to the newest revision, or refuses it; the migrations
                know tables of upper floors, so the caller hands them in.

        Raises:
            UnfitDatabase: another process serves from the SQLite file, it lies on a network file
                system, or ``upgrade`` refuses the database. The log says so.
            StorageUnavailable, StorageFull: the database or the blob store does not answer.
            OSError: the lock beside the SQLite file cannot be made.
        """
        try:
            self.database.reserve()
            await upgrade(self.database)
        except UnfitDatabase as error:
            log(__name__, "database_refused", level=ERROR, problem=str(error))
            raise
        if self.database.is_sqlite:
            await self.idempotency.forget_claims()  # this process is the only one
        self._local = await ensure_local(self.database)
        await self._mark_store()
        self._sweeping = asyncio.create_task(self._sweep_hourly(), name="sweep")

    def attach(self, app: FastAPI) -> None:
        """Put the parts where the routes find them: ``app.state``. Call after `open`."""
        settings, state = self.settings, app.state
        state.callers = Callers(self.local, self.keys, self.limits, settings.public_url)
        state.files = self.files
        state.uploads = self.uploads
        state.idempotency = self.idempotency
        state.limits = self.limits
        state.public_url = settings.public_url
        state.redirect_downloads = settings.redirect_downloads

    async def check(self) -> None:
        """Raise `StorageUnavailable` or `StorageFull` when a part does not answer."""
        await self.database.check()
        await self.blobs.check()

    async def sweep(self) -> dict[str, int]:
        """Remove what has expired and what crashes left; return how many of each, where any.

        What fails is logged, and tried again the next time; the rest is swept all the same.
        """
        swept = {}
        for name, sweep in self.sweeps.items():
            try:
                swept[name] = await sweep()
            except Exception as error:  # noqa: BLE001 - whatever fails is tried again
                facts = {"what": name, "error": type(error).__name__}
                log(__name__, "sweep_failed", level=WARNING, **facts)
        return {name: count for name, count in swept.items() if count}

    async def close(self) -> None:
        """End the sweeping; let go of the database and the blob store.

        Works after an `open` that failed, too.
        """
        if self._sweeping:
            self._sweeping.cancel()
            await asyncio.wait({self._sweeping})
        await self.keys.close()
        await self.database.close()
        await self.blobs.close()

    async def _mark_store(self) -> None:
        try:
            async with asyncio.timeout(_MARK_SECONDS):
                await installation.may_sweep(self.database, self.blobs, self._quota)
        except Exception as error:  # noqa: BLE001 - as with sweeps, it is tried again
            facts = {"what": "store_marker", "error": type(error).__name__}
            log(__name__, "sweep_failed", level=WARNING, **facts)

    async def _sweep_hourly(self) -> None:
        if not self.database.is_sqlite:
            await asyncio.sleep(random.uniform(0, _FIRST_SWEEP_SECONDS))  # noqa: S311 - no secret
        while True:
            if swept := await self.sweep():
                log(__name__, "swept", **swept)
            jitter = random.uniform(-_SWEEP_JITTER, _SWEEP_JITTER)  # noqa: S311 - no secret
            await asyncio.sleep(_SWEEP_SECONDS * (1 + jitter))


def _bytes(secret: SecretStr | None) -> bytes | None:
    return secret.get_secret_value().encode() if secret else None


def _rates(settings: FilesSettings) -> Rates:
    return Rates(
        requests_per_minute=settings.requests_per_minute,
        pages_per_minute=settings.pages_per_minute,
        bytes_per_minute=settings.bytes_per_minute,
        uploads=settings.max_uploads,
        org_uploads=settings.max_org_uploads,
    )


def _spare(database: Database) -> Spare:
    """Return the room for deletions on a full disk: beside a SQLite file, 2 MiB."""
    path = database.engine.url.database
    known = database.is_sqlite and path and path != ":memory:" and not path.startswith("file:")
    return Spare(Path(f"{path}.spare") if known else None)
