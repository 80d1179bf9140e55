"""Large uploads in parts, as OpenAI's clients send them: open, add, complete, cancel.

Until an upload is completed nothing of it is a file. A part is a blob with a row, written in that
order; completing copies the parts into one new blob and then, in one unit, makes the file and
ends the upload. So a crash leaves at most blobs that no row knows.

Why the parts are copied: a file is one blob everywhere else, and stores have no way in common to
put blobs together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from logging import WARNING
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from files_api.accounts import Principal
from files_api.blobs import BlobMissing, BlobStore
from files_api.files import Files, Received
from files_api.idempotency import InUnit
from files_api.kit import filenames
from files_api.kit.db import Database
from files_api.kit.errors import (
    AppError,
    FileNotFound,
    InvalidFileId,
    QuotaExceeded,
    TooLarge,
    UploadClosed,
    UploadIncomplete,
)
from files_api.kit.ids import check_id, new_id, seconds_of
from files_api.kit.observe import log
from files_api.kit.tasks import finished
from files_api.quota import Quota
from files_api.tables import UploadPartRow, UploadRow
from files_api.uploads import rows
from files_api.uploads.assembly import MAX_PART_BYTES, Meter, chosen, joined
from files_api.uploads.records import PartRecord, Status, UploadRecord, part_of, upload_of
from files_api.uploads.rows import MAX_PARTS
from files_api.uploads.turns import Turns

__all__ = [
    "MAX_PARTS",
    "MAX_PART_BYTES",
    "PartRecord",
    "Remember",
    "Status",
    "UploadRecord",
    "Uploads",
]

LIFETIME_SECONDS = 3600
"""An upload that is not completed ends after an hour, as OpenAI's do. Not longer than the grace of
the sweep for orphans: a part that comes slowly must not look left over."""
_KEPT_SECONDS = 7 * 24 * 3600
_DELETED_AT_ONCE = 8

Record = TypeVar("Record")
Remember = Callable[[Record], InUnit]
"""Gives what else to write in the unit that makes a thing, from the thing's record."""


class Uploads:
    """Takes files in parts; nothing is visible until an upload is completed.

    Unknown ids and other organisations' ids are the same `UploadNotFound`; an upload whose time
    has passed is expired to every method. Every method raises `StorageUnavailable` when the
    database or the blob store does not answer.
    """

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        files: Files,
        quota: Quota,
        max_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._files = files
        self._quota = quota
        self._max_bytes = max_bytes
        self._clock = clock
        self._turns = Turns()

    async def open(
        self,
        principal: Principal,
        size: int,
        filename: str,
        mime_type: str,
        purpose: str,
        file_expires_in: int | None = None,
        remember: Remember[UploadRecord] | None = None,
    ) -> UploadRecord:
        """Begin an upload; its bytes count in the quota from now on.

        Args:
            principal: who uploads.
            size: how many bytes the parts will add up to, 1 at least.
            filename: as the client sent it; it is cleaned here.
            mime_type: as the client declares it.
            purpose: what the file will be for.
            file_expires_in: seconds that the file will live, or None for ever.
            remember: what else to write in the same unit.

        Raises:
            TooLarge: the file would be larger than an upload may be.
            QuotaExceeded: the organisation has no room for it.
            StorageFull: the database has no room.
        """
        if size > self._max_bytes:
            raise TooLarge(f"The file is larger than {self._max_bytes} bytes.", param="bytes")
        now = int(self._clock())
        row = UploadRow(
            id=new_id(),
            org_id=principal.org_id,
            key_id=principal.key_id,
            filename=filenames.clean(filename),
            declared_type=mime_type,
            purpose=purpose,
            bytes=size,
            created_at=now,
            expires_at=now + LIFETIME_SECONDS,
            file_expires_in=file_expires_in,
            status="pending",
        )
        upload = upload_of(row)
        insert = partial(self._insert, row, remember and remember(upload))
        try:
            await finished(self._files.expiry.with_room(principal, insert))
        except QuotaExceeded:
            await self.expire(org_id=principal.org_id)  # holds what it declared
            await finished(insert())
        return upload

    async def get(self, principal: Principal, upload_id: str) -> UploadRecord:
        """Return an upload, with the file that it became while that is there.

        Raises:
            InvalidFileId: the id is no UUID.
            UploadNotFound: there is no such upload for this caller.
        """
        upload_id = _checked(upload_id)
        async with self._database.read() as session:
            upload = await rows.find(session, principal, upload_id, self._clock())
        if upload.file_id is None:
            return upload
        try:
            return replace(upload, file=await self._files.get(principal, upload.file_id))
        except FileNotFound:
            return upload

    async def add_part(
        self,
        principal: Principal,
        upload_id: str,
        chunks: AsyncIterator[bytes],
        remember: Remember[PartRecord] | None = None,
    ) -> PartRecord:
        """Store the bytes of a part as they arrive; parts may come at the same time.

        Args:
            principal: who uploads.
            upload_id: which upload.
            chunks: the bytes; when it raises, nothing is left.
            remember: what else to write in the same unit.

        Raises:
            InvalidFileId, UploadNotFound: as `get`.
            UploadClosed: the upload ended, before or while the part came; nothing is left.
            TooLarge: more bytes or parts than there may be; nothing is left.
            StorageFull: the blob store or the database has no room; nothing is left.
        """
        upload_id = _checked(upload_id)
        async with self._database.read() as session:
            upload = await rows.find(session, principal, upload_id, self._clock())
            meter = Meter(await rows.room(session, upload))
        part_id = new_id()
        key = f"{principal.org_id}/parts/{part_id[-2:]}/{part_id}"  # few folders
        await self._blobs.put(key, meter.pass_through(chunks))
        row = UploadPartRow(
            id=part_id,
            upload_id=upload.id,
            bytes=meter.size,
            sha256=meter.sha256(),
            blob_key=key,
            created_at=seconds_of(part_id),
        )
        part = part_of(row)
        await finished(self._keep_part(principal, row, remember and remember(part)))
        return part

    async def measure_part(self, _principal: Principal, chunks: AsyncIterator[bytes]) -> str:
        """Return the hash of a part as `add_part` would keep it, and store nothing.

        Raises:
            TooLarge: it has more bytes than a part may have.
        """
        meter = Meter(MAX_PART_BYTES)
        async for _ in meter.pass_through(chunks):
            pass
        return meter.sha256()

    async def complete(
        self,
        principal: Principal,
        upload_id: str,
        part_ids: Sequence[str],
        md5: str | None = None,
    ) -> UploadRecord:
        """Make the parts, in the order of their ids, a file; the parts that are not named go.

        A completed upload is returned as it is: what it became does not change, and a client
        that lost the answer asks again.

        Args:
            principal: who uploads.
            upload_id: which upload.
            part_ids: which parts; their sizes add up to what was declared.
            md5: of the whole content, in hexadecimal, when it is to be checked.

        Raises:
            InvalidFileId, UploadNotFound: as `get`.
            UploadClosed: the upload is cancelled or expired, or was while it was put together.
            UploadIncomplete: the parts do not make up the file; they stay.
            QuotaExceeded: the organisation's quota was lowered below what it has; they stay.
            StorageFull: the blob store or the database has no room; they stay.
        """
        upload_id = _checked(upload_id)
        async with self._turns.of(upload_id):
            async with self._database.read() as session:
                upload = await rows.find(session, principal, upload_id, self._clock())
                parts = await rows.parts(session, upload)
            if upload.status != "completed":
                rows.check_open(upload)
                try:
                    ordered = chosen(parts, part_ids, upload.bytes)
                except UploadIncomplete:
                    # Its parts are gone, too, where another process ended it between the two looks.
                    if not await self._was_completed(principal, upload_id):
                        raise
                else:
                    await self._put_together(principal, upload, ordered, md5)
        return await self.get(principal, upload_id)

    async def cancel(self, principal: Principal, upload_id: str) -> UploadRecord:
        """End an upload and remove its parts; one that is cancelled already is fine.

        Raises:
            InvalidFileId, UploadNotFound: as `get`.
            UploadClosed: it is completed or expired.
        """
        upload_id = _checked(upload_id)
        async with self._turns.of(upload_id):
            upload = await self.get(principal, upload_id)
            if upload.status == "pending":
                await finished(self._end(upload, "cancelled"))
                upload = await self.get(principal, upload_id)
        if upload.status != "cancelled":
            rows.check_open(upload)
        return upload

    async def expire(self, batch: int = 100, org_id: str | None = None) -> int:
        """End the uploads whose time has passed, and remove their parts; return how many.

        Uploads that ended, and whose time passed more than a week ago, are forgotten. ``batch``
        are looked up at once; ``org_id`` None means everybody's.
        """
        count, place = 0, ""
        while overdue := await self._overdue(place, batch, org_id):
            for upload in overdue:
                async with self._turns.of(upload.id):  # it may be being put together
                    count += await finished(self._end(upload, "expired"))
            place = overdue[-1].id
        async with self._database.unit() as session:
            await rows.forget(session, self._clock() - _KEPT_SECONDS)
        return count

    async def _insert(self, row: UploadRow, remember: InUnit | None) -> None:
        async with self._database.unit() as session:
            await self._quota.take(session, row.org_id, row.bytes)
            session.add(row)
            if remember:
                await remember(session)

    async def _keep_part(
        self, principal: Principal, row: UploadPartRow, remember: InUnit | None
    ) -> None:
        """Write a part's row; remove its blob when the row is known not to be there."""
        try:
            await rows.insert_part(self._database, principal, row, self._clock, remember)
        except rows.UnsureError as unsure:
            # The commit may have gone through: an unseen blob is better than a lost part.
            log(__name__, "blob_left", level=WARNING, blob=row.blob_key)
            raise unsure.__cause__ or unsure from None
        except Exception:
            await self._delete_blobs([row.blob_key])
            raise

    async def _was_completed(self, principal: Principal, upload_id: str) -> bool:
        """Tell whether an upload is completed now; raise `UploadClosed` if it ended otherwise."""
        now = await self.get(principal, upload_id)
        if now.status != "completed":
            rows.check_open(now)
        return now.status == "completed"

    async def _put_together(
        self,
        principal: Principal,
        upload: UploadRecord,
        parts: Sequence[PartRecord],
        md5: str | None,
    ) -> None:
        """Copy the parts into one blob and make it the upload's file.

        Another process may end the upload meanwhile: its parts vanish while they are read, or it
        is found ended in the end. That it was completed there is no error.
        """
        try:
            async with aclosing(joined(self._blobs, parts, md5)) as chunks:
                received = await self._files.receive(principal, chunks, upload.bytes)
            await finished(self._make_file(principal, upload, received))
        except (BlobMissing, UploadClosed) as error:
            if await self._was_completed(principal, upload.id):
                return
            raise UploadIncomplete(
                "The bytes of a part are lost; send the parts again.", param="part_ids"
            ) from error

    async def _make_file(
        self, principal: Principal, upload: UploadRecord, received: Received
    ) -> None:
        """Make the file and end the upload in one unit, then remove the parts.

        Raises:
            UploadClosed: the upload ended meanwhile; the bytes are removed.
        """
        parts: list[str] = []

        async def end(session: AsyncSession) -> None:
            parts.extend(await rows.close(session, upload, "completed", received.id))
            await self._quota.give_back(session, upload.org_id, upload.bytes)

        await self._files.keep(
            principal,
            received,
            upload.filename,
            upload.purpose,
            expires_in=upload.file_expires_in,
            within=end,
        )
        await self._delete_blobs(parts)

    async def _end(self, upload: UploadRecord, status: Status) -> bool:
        """End an upload without a file; tell whether it was pending until now."""
        try:
            async with self._database.unit() as session:
                await self._quota.lock(session, [upload.org_id])
                parts = await rows.close(session, upload, status)
                await self._quota.give_back(session, upload.org_id, upload.bytes)
        except UploadClosed:
            return False
        await self._delete_blobs(parts)
        return True

    async def _overdue(self, place: str, limit: int, org_id: str | None) -> list[UploadRecord]:
        async with self._database.read() as session:
            return await rows.overdue(session, self._clock(), place, limit, org_id)

    async def _delete_blobs(self, keys: Sequence[str]) -> None:
        """Remove blobs that no row knows; a failure is logged, not raised."""
        places = asyncio.Semaphore(_DELETED_AT_ONCE)

        async def remove(key: str) -> None:
            async with places:
                try:
                    await self._blobs.delete(key)
                except AppError as error:
                    log(__name__, "blob_left", level=WARNING, blob=key, code=error.code)

        await asyncio.gather(*map(remove, keys))


def _checked(upload_id: str) -> str:
    try:
        return check_id(upload_id)
    except InvalidFileId:
        message = "An upload id is a UUID, as the upload's creation answered it."
        raise InvalidFileId(message, param="upload_id") from None
