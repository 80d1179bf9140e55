"""The one door to file rows and their bytes; every method takes a principal.

Order makes the promises: the blob is durable before its row exists, and the row is gone before
the blob goes. So each row has its bytes, and what a crash leaves over is an unseen blob.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from logging import WARNING

from sqlalchemy import Select

from files_api.accounts import Principal
from files_api.blobs import BlobStore
from files_api.files import listing, orphans, rows
from files_api.files.contents import Contents
from files_api.files.expiry import DeleteHook, Expiry
from files_api.files.listing import Filters, Listing
from files_api.files.receiving import Meter
from files_api.files.records import (
    Download,
    FileRecord,
    Received,
    StoredFile,
    Visibility,
    new_record,
    record_of,
    row_of,
)
from files_api.files.spare import Spare
from files_api.idempotency import InUnit
from files_api.kit.db import Database
from files_api.kit.errors import FileNotFound, InvalidLink, LinkForbidden, TooLarge
from files_api.kit.ids import check_id, new_id
from files_api.kit.observe import log
from files_api.kit.room import Room
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
    "new_record",
]


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
        spare: Spare | None = None,
        room: Room | None = None,
    ) -> None:
        """Take the parts; ``spare`` is of the database's disk, ``room`` for copies of files."""
        self.max_bytes = max_bytes
        self.on_delete: list[DeleteHook] = []
        """Called before a file goes; when one fails, the file stays. Add them before the service
        opens. To `get`, a file that has expired is gone already."""
        self._database = database
        self._blobs = blobs
        self._contents = Contents(blobs, database, room)
        self._links = links
        self._quota = quota
        self._clock = clock
        self._spare = spare or Spare(None)
        self.expiry = Expiry(database, clock, self.on_delete, self._remove, self._spare)
        """Makes room by deleting what has expired."""

    async def receive(
        self, principal: Principal, chunks: AsyncIterator[bytes], most: int | None = None
    ) -> Received:
        """Store bytes as they arrive, before all that is known about the file is.

        Args:
            principal: who uploads.
            chunks: the bytes.
            most: how many may come; None means ``max_bytes``.

        Raises:
            TooLarge: more than ``most`` came; nothing is left.
            StorageFull: the blob store has no room; nothing is left.
        """
        file_id, began = new_id(), self._clock()
        key = f"{principal.org_id}/{file_id[-2:]}/{file_id}"
        meter = Meter(self.max_bytes if most is None else most)
        await self._blobs.put(key, meter.pass_through(chunks))
        return Received(file_id, key, meter.size, meter.sha256(), meter.media_type(), began)

    async def measure(self, _principal: Principal, chunks: AsyncIterator[bytes]) -> Received:
        """Take bytes as `receive` does and store nothing, where a request comes a second time.

        Raises:
            TooLarge: as `receive`.
        """
        meter = Meter(self.max_bytes)
        async for _ in meter.pass_through(chunks):
            pass
        return Received(new_id(), "", meter.size, meter.sha256(), meter.media_type())

    async def check_room(self, principal: Principal, size: int = 1) -> None:
        """Look whether a file of ``size`` bytes has room, before its bytes come.

        Raises:
            QuotaExceeded: it has none; there may be none left in the end all the same.
        """
        check = partial(self._quota.check, self._database, principal, size)
        await self.expiry.with_room(principal, check)

    async def discard(self, received: Received) -> None:
        """Remove received bytes that will not be kept; a failure is logged, not raised."""
        await finished(self._contents.delete(received.id, received.blob_key))

    async def keep(
        self,
        principal: Principal,
        received: Received,
        filename: str,
        purpose: str,
        visibility: Visibility = "workspace",
        expires_in: int | None = None,
        within: InUnit | None = None,
    ) -> FileRecord:
        """Make received bytes a file, and count it; when that fails, the bytes are removed.

        Args:
            principal: who uploads.
            received: what `receive` gave for the same principal.
            filename: as the client sent it; it is cleaned here.
            purpose: what the file is for.
            visibility: kept and shown; both mean the organisation while keys have no users.
            expires_in: seconds until the file vanishes, or None for never.
            within: what belongs to the file and must happen with it or not at all. It is called
                before the file is counted, so that it may give back what was counted before.

        Raises:
            QuotaExceeded: the organisation has no room.
            BodyTimeout: the bytes came so slowly that they were swept.
            StorageFull: the database has no room.
        """
        try:
            record = new_record(
                principal.org_id, received, filename, purpose, visibility, expires_in
            )
            row = row_of(record, principal.key_id)
        except BaseException:
            await self.discard(received)
            raise
        await finished(self._insert(row, received, within))
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
        """Return a file to be downloaded.

        Raises:
            InvalidFileId, FileNotFound: as `get`.
        """
        return Download(await self.get(principal, file_id))

    async def content(
        self, download: Download, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[bytes]:
        """Return a download's bytes from ``start`` to before ``stop``; the first are read already.

        Raises:
            FileNotFound: the bytes are gone.
        """
        return await self._contents.stream(download.record, start, stop)

    async def presign(self, download: Download) -> str | None:
        """Return the store's own link to what a signed link of ours led to, for as long as that.

        None where the store has no links of its own, or no link led here.
        """
        if download.link is None:
            return None
        left = int(int(download.link.exp) - self._clock())
        record = download.record
        return await self._blobs.presign(
            record.blob_key, max(1, left), filename=record.filename, media_type=record.media_type
        )

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
        return Download(await self.get(Principal(link.org), link.file_id), link)

    @asynccontextmanager
    async def open_file(self, principal: Principal, file_id: str) -> AsyncIterator[StoredFile]:
        """Open a file for reading from this machine's disk, inside the block.

        Raises:
            InvalidFileId, FileNotFound: as `get`.
            TooLarge: it came in parts, and has more than ``max_bytes``.
            RateLimited, Overloaded: there is no room for a copy of it.
        """
        async with self._open(await self.get(principal, file_id), principal) as file:
            yield file

    @asynccontextmanager
    async def _open(self, record: FileRecord, reader: Principal) -> AsyncIterator[StoredFile]:
        if record.bytes > self.max_bytes:  # told before a store's bytes are copied here
            raise TooLarge
        async with self._contents.local(record, reader.org_id) as path:
            yield StoredFile(
                record.id, path, record.bytes, record.filename, record.media_type, record.sha256
            )

    @asynccontextmanager
    async def open_link(self, reader: Principal, url: str) -> AsyncIterator[StoredFile | None]:
        """Open the file behind a signed link of ours; None when the URL is somebody else's.

        Where the store makes a copy, it is the reader's, who needs no right to the file.

        Raises:
            InvalidLink: it is altered or expired, its file is gone, or it only looks like ours.
        """
        link = self._links.parse(url)
        if link is None:
            if self._links.leads_home(url):
                raise InvalidLink
            yield None
            return
        async with AsyncExitStack() as stack:
            try:
                self._links.verify(link, self._clock())
                record = await self.get(Principal(link.org), link.file_id)
                file = await stack.enter_async_context(self._open(record, reader))
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

        async def go() -> int:
            for hook in self.on_delete:
                await hook(principal, record.id)
            return await self._remove([record])

        if not await self._spare.run(go):
            raise FileNotFound  # somebody else deleted it meanwhile
        return record.id

    async def expire(self, batch: int = 100) -> int:
        """Delete the files whose time has passed, ``batch`` in a unit; return how many.

        As `delete` does it; a file whose hook fails stays, hidden, until the next call.
        """
        await self._spare.keep()
        return await self.expiry.run(batch)

    async def sweep_orphans(self) -> int:
        """Remove blobs that no row knows and that are older than an hour; return how many.

        None, and the log says why, where the store is not this database's alone.

        Raises:
            StorageUnavailable, StorageFull: something failed; nothing more is removed then.
        """
        return await orphans.sweep(self._database, self._blobs, self._quota, self._clock)

    async def _insert(self, row: Row, received: Received, within: InUnit | None) -> None:
        """Write the row; remove the blob when the row is known not to be there."""

        async def ready() -> None:
            # The sweep may have taken it for an orphan; it looks under the same lock as this.
            if self._clock() >= received.began + orphans.GRACE_SECONDS / 2:
                await self._contents.check(received.blob_key)

        try:
            insert = partial(rows.insert, self._database, self._quota, row, ready, within)
            await self.expiry.with_room(Principal(row.org_id), insert)
        except rows.UnsureError as unsure:
            # The commit may have gone through: an unseen blob is better than a lost file.
            log(__name__, "blob_left", level=WARNING, file_id=received.id)
            raise unsure.__cause__ or unsure from None
        except Exception:
            await self._contents.delete(received.id, received.blob_key)
            raise

    async def _remove(self, records: Sequence[FileRecord]) -> int:
        """Delete rows in one unit, then their blobs; return how many were still there."""

        async def remove() -> int:
            removed = await rows.remove(self._database, self._quota, records)
            for record in records:
                if record.id in removed:
                    await self._contents.delete(record.id, record.blob_key)
            return len(removed)

        return await finished(remove())

    def _visible(self, principal: Principal) -> Select[Row]:
        return listing.visible(principal, self._clock())
