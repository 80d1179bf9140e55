"""The bytes of files in the blob store, with what is to be done where they are gone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from logging import ERROR, WARNING
from pathlib import Path

from files_api.blobs import BlobMissing, BlobStore
from files_api.files.records import FileRecord
from files_api.kit.db import Database
from files_api.kit.errors import AppError, BodyTimeout, FileNotFound
from files_api.kit.observe import log
from files_api.kit.room import Room
from files_api.tables import StoredFileRow


class Contents:
    """Reads and removes what files consist of."""

    def __init__(self, blobs: BlobStore, database: Database, room: Room | None) -> None:
        """Take the parts, and the room for copies; without it there is no bound."""
        self._blobs = blobs
        self._database = database
        self._room = room if blobs.makes_copies else None

    async def stream(
        self, record: FileRecord, start: int, stop: int | None
    ) -> AsyncIterator[bytes]:
        """Return a file's bytes from ``start`` to before ``stop``; the first are read already.

        Raises:
            FileNotFound: the bytes are gone.
        """
        stream = self._blobs.read(record.blob_key, start, stop)
        try:
            first = await anext(stream, b"")
        except BlobMissing:
            raise await self._lost(record) from None

        async def chunks() -> AsyncIterator[bytes]:
            yield first
            async for chunk in stream:
                yield chunk

        return chunks()

    @asynccontextmanager
    async def local(self, record: FileRecord, reader: str) -> AsyncIterator[Path]:
        """Give a file's bytes on this machine's disk, inside the block.

        A copy is the reader's: the organisation that asks, which a link may lead to another's file.

        Raises:
            FileNotFound: the bytes are gone.
            RateLimited, Overloaded: there is no room for a copy.
        """
        try:
            with self._copying(record, reader):
                async with self._blobs.local(record.blob_key) as path:
                    yield path
        except BlobMissing:
            raise await self._lost(record) from None

    @contextmanager
    def _copying(self, record: FileRecord, reader: str) -> Iterator[None]:
        if self._room is None:
            yield
            return
        with self._room.hold(reader) as hold:
            hold.take(record.bytes)
            yield

    async def check(self, key: str) -> None:
        """Raise `BodyTimeout` where the sweep took bytes that came too slowly."""
        try:
            async for _ in self._blobs.read(key, 0, 1):
                pass
        except BlobMissing:
            raise BodyTimeout from None

    async def delete(self, file_id: str, key: str) -> None:
        """Remove bytes; a failure is logged, not raised, and left to the sweep."""
        try:
            await self._blobs.delete(key)
        except AppError as error:
            log(__name__, "blob_left", level=WARNING, file_id=file_id, code=error.code)

    async def _lost(self, record: FileRecord) -> FileNotFound:
        """Return the error for bytes that are not there; the log tells where they are lost.

        A deletion takes the row first, so without a row the file was deleted this moment.
        """
        async with self._database.read() as session:
            if await session.get(StoredFileRow, record.id):
                log(__name__, "blob_missing", level=ERROR, file_id=record.id)
        return FileNotFound()
