"""The one door to file rows and their bytes; every method takes a principal.

Order makes the promises: the blob is durable before its row exists, and the row is gone before
the blob goes. So each row has its bytes, and what a crash leaves over is an unseen blob.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256
from logging import ERROR, WARNING

from sqlalchemy import Select, delete

from files_api.accounts import Principal
from files_api.blobs import BlobMissing, BlobStore
from files_api.files import listing
from files_api.files.listing import Filters, Listing
from files_api.files.records import (
    Download,
    FileRecord,
    Received,
    StoredFile,
    Visibility,
    record_of,
)
from files_api.kit import filenames, sniff
from files_api.kit.db import Database
from files_api.kit.errors import AppError, FileNotFound, InvalidLink, LinkForbidden, TooLarge
from files_api.kit.ids import check_id, new_id, seconds_of
from files_api.kit.observe import log
from files_api.kit.tasks import finished
from files_api.links import Links
from files_api.quota import Quota
from files_api.tables import StoredFileRow as Row

__all__ = [
    "DeleteHook",
    "Download",
    "FileRecord",
    "Files",
    "Filters",
    "Listing",
    "Received",
    "StoredFile",
    "Visibility",
]

DeleteHook = Callable[[Principal, str], Awaitable[None]]
"""Removes what hangs on a file; takes the caller and the file's id."""


class Files:
    """Stores, finds, opens and deletes files.

    Unknown ids, other organisations' ids and expired files are the same `FileNotFound`; every
    method raises `StorageUnavailable` when the database or the blob store does not answer.
    """

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        links: Links,
        quota: Quota,
        max_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.max_bytes = max_bytes
        self.on_delete: list[DeleteHook] = []
        """Called before a file goes; when one fails, the file stays. Add them before the service
        opens. To `get`, a file that has expired is gone already."""
        self._database = database
        self._blobs = blobs
        self._links = links
        self._quota = quota
        self._clock = clock

    async def receive(self, principal: Principal, chunks: AsyncIterator[bytes]) -> Received:
        """Store bytes as they arrive, before all that is known about the file is.

        Raises:
            TooLarge: more than ``max_bytes`` came; nothing is left.
            StorageFull: the blob store has no room; nothing is left.
        """
        file_id = new_id()
        key = f"{principal.org_id}/{file_id[-2:]}/{file_id}"
        meter = _Meter(self.max_bytes)
        await self._blobs.put(key, meter.pass_through(chunks))
        return Received(file_id, key, meter.size, meter.sha256(), sniff.guess(meter.head))

    async def discard(self, received: Received) -> None:
        """Remove received bytes that will not be kept; a failure is logged, not raised."""
        await asyncio.shield(self._delete_blob(received.id, received.blob_key))

    async def keep(
        self,
        principal: Principal,
        received: Received,
        filename: str,
        purpose: str,
        visibility: Visibility = "workspace",
        expires_in: int | None = None,
    ) -> FileRecord:
        """Make received bytes a file.

        Args:
            principal: who uploads.
            received: what `receive` gave for the same principal.
            filename: as the client sent it; it is cleaned here.
            purpose: what the file is for.
            visibility: kept and shown; both mean the organisation while keys have no users.
            expires_in: seconds until the file vanishes, or None for never.

        Raises:
            StorageFull: the database has no room; the bytes are removed.
        """
        created = seconds_of(received.id)
        row = Row(
            id=received.id,
            org_id=principal.org_id,
            filename=filenames.clean(filename),
            media_type=received.media_type,
            purpose=purpose,
            bytes=received.bytes,
            sha256=received.sha256,
            blob_key=received.blob_key,
            visibility=visibility,
            created_at=created,
            expires_at=None if expires_in is None else created + expires_in,
            key_id=principal.key_id,
        )
        record = record_of(row)
        await finished(self._insert(row, received))
        return record

    async def get(self, principal: Principal, file_id: str) -> FileRecord:
        """Return a file's record.

        Raises:
            InvalidFileId: the id is no UUID.
            FileNotFound: there is no such file for this caller.
        """
        query = self._visible(principal).where(Row.id == check_id(file_id))
        async with self._database.read() as session:
            row = (await session.execute(query)).scalar_one_or_none()
        if row is None:
            raise FileNotFound
        return record_of(row)

    async def list_after(
        self,
        principal: Principal,
        *,
        after: str | None = None,
        limit: int = 10_000,
        newest_first: bool = True,
        filters: Filters | None = None,
        count: bool = False,
    ) -> Listing:
        """List files from a place in the list on, OpenAI's way.

        Args:
            principal: who asks.
            after: the id before the first one that is wanted; it may be deleted by now.
            limit: how many to return at most.
            newest_first: the order.
            filters: which files.
            count: whether to count all that match.

        Raises:
            InvalidFileId: ``after`` is no UUID.
        """
        matching = listing.filtered(self._visible(principal), filters)
        page = listing.after(matching, after, newest_first=newest_first)
        return await listing.fetch(self._database, page, limit, matching if count else None)

    async def list_page(
        self,
        principal: Principal,
        *,
        page: int = 0,
        page_size: int = 100,
        filters: Filters | None = None,
        count: bool = True,
    ) -> Listing:
        """List a numbered page of files, newest first, Mistral's way; pages count from 0."""
        matching = listing.filtered(self._visible(principal), filters)
        wanted = listing.after(matching, None, newest_first=True).offset(page * page_size)
        return await listing.fetch(self._database, wanted, page_size, matching if count else None)

    async def read(self, principal: Principal, file_id: str) -> Download:
        """Return a file with its bytes, of which the first chunk is read already.

        Raises:
            InvalidFileId, FileNotFound: as `get`.
        """
        record = await self.get(principal, file_id)
        stream = self._blobs.read(record.blob_key)
        try:
            first = await anext(stream, b"")
        except BlobMissing:
            raise self._lost(record) from None

        async def chunks() -> AsyncIterator[bytes]:
            yield first
            async for chunk in stream:
                yield chunk

        return Download(record, chunks())

    async def read_link(self, url: str) -> Download:
        """Return the file that a signed link leads to; the link is all the caller needs.

        Raises:
            LinkForbidden: the link is not ours, altered or expired.
            FileNotFound: the file is gone.
        """
        link = self._links.parse(url)
        if link is None:
            raise LinkForbidden
        self._links.verify(link, self._clock())
        return await self.read(Principal(link.org), link.file_id)

    @asynccontextmanager
    async def open_file(self, principal: Principal, file_id: str) -> AsyncIterator[StoredFile]:
        """Open a file for reading from this machine's disk, inside the block.

        Raises:
            InvalidFileId, FileNotFound: as `get`.
        """
        record = await self.get(principal, file_id)
        try:
            async with self._blobs.local(record.blob_key) as path:
                yield StoredFile(
                    path, record.bytes, record.filename, record.media_type, record.sha256
                )
        except BlobMissing:
            raise self._lost(record) from None

    @asynccontextmanager
    async def open_link(self, url: str) -> AsyncIterator[StoredFile | None]:
        """Open the file behind a signed link of ours; None when the URL is somebody else's.

        Raises:
            InvalidLink: the link is ours but altered or expired, or its file is gone.
        """
        link = self._links.parse(url)
        if link is None:
            yield None
            return
        async with AsyncExitStack() as stack:
            try:
                self._links.verify(link, self._clock())
                opening = self.open_file(Principal(link.org), link.file_id)
                file = await stack.enter_async_context(opening)
            except (LinkForbidden, FileNotFound):
                raise InvalidLink from None
            yield file

    async def sign(
        self, principal: Principal, file_id: str, base_url: str, seconds: int
    ) -> tuple[str, int]:
        """Return a download link for a file, and when it expires (unix seconds).

        Raises:
            InvalidFileId, FileNotFound: as `get`.
        """
        record = await self.get(principal, file_id)
        expires_at = int(self._clock()) + seconds
        return self._links.sign(base_url, record.org_id, record.id, expires_at), expires_at

    async def delete(self, principal: Principal, file_id: str) -> str:
        """Delete a file and return its id: first what hangs on it, then the row, then the bytes.

        Raises:
            InvalidFileId, FileNotFound: as `get`.
        """
        record = await self.get(principal, file_id)
        for hook in self.on_delete:
            await hook(principal, record.id)
        if not await finished(self._remove([record])):
            raise FileNotFound  # somebody else deleted it meanwhile
        return record.id

    async def expire(self, batch: int = 100) -> int:
        """Delete the files whose time has passed, as `delete` does; return how many.

        A file whose hook fails stays, hidden, until the next call.

        Args:
            batch: how many files one transaction deletes at most.
        """
        count, place = 0, ""
        while records := await self._expired(place, batch):
            ready = [record for record in records if await self._let_go(record)]
            count += await finished(self._remove(ready))
            place = records[-1].id
        return count

    async def sweep_orphans(self) -> int:
        """Remove blobs that no row knows; return how many."""
        return 0

    async def _insert(self, row: Row, received: Received) -> None:
        """Write the row; remove the blob when the row is known not to be there."""
        try:
            async with self._database.unit() as session:
                session.add(row)
        except Exception:
            try:
                async with self._database.read() as session:
                    there = await session.get(Row, received.id)
            except AppError:
                # The commit may have gone through: an unseen blob is better than a lost file.
                log(__name__, "blob_left", level=WARNING, file_id=received.id)
            else:
                if there:
                    return
                await self._delete_blob(received.id, received.blob_key)
            raise

    async def _expired(self, place: str, limit: int) -> list[FileRecord]:
        async with self._database.read() as session:
            query = listing.expired(self._clock(), place, limit)
            return [record_of(row) for row in (await session.execute(query)).scalars()]

    async def _let_go(self, record: FileRecord) -> bool:
        """Call the hooks of an expired file; tell whether it may go."""
        try:
            for hook in self.on_delete:
                await hook(Principal(record.org_id), record.id)
        except AppError as error:
            log(__name__, "expiry_failed", level=WARNING, file_id=record.id, code=error.code)
            return False
        return True

    async def _remove(self, records: Sequence[FileRecord]) -> int:
        """Delete rows in one transaction, then their blobs; return how many were still there."""
        gone = delete(Row).where(Row.id.in_([record.id for record in records])).returning(Row.id)
        async with self._database.unit() as session:
            removed = set((await session.execute(gone)).scalars())
        for record in records:
            if record.id in removed:
                await self._delete_blob(record.id, record.blob_key)
        return len(removed)

    async def _delete_blob(self, file_id: str, key: str) -> None:
        try:
            await self._blobs.delete(key)
        except AppError as error:
            log(__name__, "blob_left", level=WARNING, file_id=file_id, code=error.code)

    def _visible(self, principal: Principal) -> Select[Row]:
        return listing.visible(principal, self._clock())

    def _lost(self, record: FileRecord) -> FileNotFound:
        """Return the error for a row without bytes: deleted this moment, or truly lost."""
        log(__name__, "blob_missing", level=ERROR, file_id=record.id)
        return FileNotFound()


class _Meter:
    """Counts and hashes bytes that pass, and keeps the head."""

    def __init__(self, most: int) -> None:
        self.size = 0
        self.head = b""
        self._most = most
        self._hash = sha256()

    async def pass_through(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            self.size += len(chunk)
            if self.size > self._most:
                raise TooLarge(f"The file is larger than {self._most} bytes.", param="file")
            if len(self.head) < sniff.HEAD_BYTES:
                self.head += chunk[: sniff.HEAD_BYTES - len(self.head)]
            self._hash.update(chunk)
            yield chunk

    def sha256(self) -> str:
        return self._hash.hexdigest()
