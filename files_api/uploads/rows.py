"""The rows of uploads and parts: found, locked, written, ended.

Why the row of an upload is locked where it matters: a part must not come to an upload that is
just being ended, and two parts must not both find room for one (PostgreSQL; SQLite has one writer).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from files_api.accounts import Principal
from files_api.idempotency import InUnit
from files_api.kit.db import Database
from files_api.kit.errors import TooLarge, UploadClosed, UploadNotFound
from files_api.tables import UploadPartRow, UploadRow
from files_api.uploads.assembly import check_room
from files_api.uploads.records import PartRecord, Status, UploadRecord, part_of, upload_of

MAX_PARTS = 10_000
"""Most parts of an upload, as S3's multipart uploads have it."""
_ENDED = ("completed", "cancelled", "expired")
_LOOK_SECONDS = 10.0
"""Longest wait for a commit that was not answered."""


class UnsureError(Exception):
    """The commit was asked for and not answered: the row may be there or not."""


async def find(
    session: AsyncSession, principal: Principal, upload_id: str, now: float, *, lock: bool = False
) -> UploadRecord:
    """Return an upload as it is at this time; ``lock`` keeps it so until the unit ends.

    Raises:
        UploadNotFound: there is no such upload for this caller.
    """
    query = select(UploadRow).where(UploadRow.id == upload_id, UploadRow.org_id == principal.org_id)
    if lock:
        query = query.with_for_update()
    row = (await session.execute(query)).scalar_one_or_none()
    if row is None:
        raise UploadNotFound(param="upload_id")
    return upload_of(row).at(now)


async def parts(session: AsyncSession, upload: UploadRecord) -> dict[str, PartRecord]:
    """Return the parts of an upload by id."""
    query = select(UploadPartRow).where(UploadPartRow.upload_id == upload.id)
    return {row.id: part_of(row) for row in (await session.execute(query)).scalars()}


async def room(session: AsyncSession, upload: UploadRecord) -> int:
    """Return how many bytes more the parts of an upload may have; below 0 there are too many.

    Twice what was declared: a client that lost the answer to a part sends it again.

    Raises:
        UploadClosed: the upload takes no parts any more.
        TooLarge: it has all the parts it may have.
    """
    check_open(upload)
    query = select(func.count(), func.sum(UploadPartRow.bytes)).where(
        UploadPartRow.upload_id == upload.id
    )
    count, size = (await session.execute(query)).one()
    if count >= MAX_PARTS:
        raise TooLarge(f"An upload has at most {MAX_PARTS} parts.", param="data")
    return 2 * upload.bytes - int(size or 0)


async def insert_part(
    database: Database,
    principal: Principal,
    row: UploadPartRow,
    clock: Callable[[], float],
    within: InUnit | None,
) -> None:
    """Write a part's row in a unit; a commit that went through unheard is a success.

    Args:
        database: where.
        principal: whose upload it is.
        row: the part's.
        clock: the time, in unix seconds.
        within: what else to write in the same unit.

    Raises:
        UnsureError: the row may be there; its cause says what failed.
        UploadNotFound, UploadClosed, TooLarge: the upload takes no such part. As with every other
            error, the row is not there.
    """
    asked = False
    try:
        async with database.unit() as session:
            upload = await find(session, principal, row.upload_id, clock(), lock=True)
            check_room(await room(session, upload) - row.bytes)
            if within:
                await within(session)
            session.add(row)
            await session.flush()
            asked = True
    except Exception as error:
        if not asked or not await _is_there(database, row, error):
            raise


async def close(
    session: AsyncSession, upload: UploadRecord, status: Status, file_id: str | None = None
) -> list[str]:
    """End a pending upload and delete the rows of its parts; return the keys of their blobs.

    Raises:
        UploadClosed: it has ended already; roll the unit back.
    """
    ended = (
        update(UploadRow)
        .where(UploadRow.id == upload.id, UploadRow.status == "pending")
        .values(status=status, file_id=file_id)
        .returning(UploadRow.id)
    )
    if (await session.execute(ended)).scalar_one_or_none() is None:
        raise UploadClosed
    gone = delete(UploadPartRow).where(UploadPartRow.upload_id == upload.id)
    return list((await session.execute(gone.returning(UploadPartRow.blob_key))).scalars())


async def overdue(
    session: AsyncSession, now: float, place: str, limit: int, org_id: str | None = None
) -> list[UploadRecord]:
    """Return pending uploads whose time has passed, in the order of ids, from after ``place``.

    Of one organisation, or of all.
    """
    late = UploadRow.status == "pending", UploadRow.expires_at <= now, UploadRow.id > place
    query = select(UploadRow).where(*late).order_by(UploadRow.id).limit(limit)
    if org_id is not None:
        query = query.where(UploadRow.org_id == org_id)
    return [upload_of(row) for row in (await session.execute(query)).scalars()]


async def forget(session: AsyncSession, before: float) -> None:
    """Delete the uploads that ended and whose time passed before; they have no parts."""
    old = delete(UploadRow).where(UploadRow.status.in_(_ENDED), UploadRow.expires_at <= before)
    await session.execute(old)


def check_open(upload: UploadRecord) -> None:
    """Raise `UploadClosed`, saying why, unless the upload is pending."""
    if upload.status != "pending":
        raise UploadClosed(f"The upload is {upload.status}; it takes nothing more.")


async def _is_there(database: Database, row: UploadPartRow, error: Exception) -> bool:
    """Tell whether a part's row was committed, although ``error`` came instead of the answer.

    Under the upload's lock, which the failed unit had too: a server that lost its client may
    still be at work on the commit.
    """
    locked = select(UploadRow.id).where(UploadRow.id == row.upload_id).with_for_update()
    try:
        async with asyncio.timeout(_LOOK_SECONDS), database.unit() as session:
            await session.execute(locked)
            return await session.get(UploadPartRow, row.id) is not None
    except Exception:  # noqa: BLE001 - whatever it is, nobody knows now
        raise UnsureError from error
