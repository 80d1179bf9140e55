"""Blobs that no row knows, as a crash leaves them, are found and removed.

An orphan is old, belongs to an organisation of this database (the store may hold another
deployment's blobs, by mistake), and is named by no file and no part of an upload. It is removed
under its organisation's lock, in which a file's row is written too: a file whose bytes came so
slowly that they looked left over finds that they are gone, and is refused (`Files.keep`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from files_api.blobs import BlobStore
from files_api.kit.db import Database
from files_api.quota import Quota
from files_api.tables import Organisation, StoredFileRow, UploadPartRow

GRACE_SECONDS = 3600
"""Younger blobs may be about to get their row."""
_BATCH = 500


async def sweep(
    database: Database, blobs: BlobStore, quota: Quota, clock: Callable[[], float]
) -> int:
    """Remove orphans; return how many. Stops at the first failure.

    Raises:
        StorageUnavailable, StorageFull: the database or the store does not answer.
    """
    removed = 0
    waiting: list[str] = []
    async for blob in blobs.blobs():
        if blob.modified < clock() - GRACE_SECONDS:
            waiting.append(blob.key)
        if len(waiting) >= _BATCH:
            removed += await _sweep(database, blobs, quota, waiting)
            waiting = []
    return removed + await _sweep(database, blobs, quota, waiting)


async def _sweep(database: Database, blobs: BlobStore, quota: Quota, keys: list[str]) -> int:
    async with database.read() as session:
        ours = select(Organisation.id).where(Organisation.id.in_({_org_of(key) for key in keys}))
        org_ids = set((await session.execute(ours)).scalars())
        suspects = {key for key in keys if _org_of(key) in org_ids}
        suspects -= await _named(session, suspects)
        suspects -= await _named_otherwise(session, suspects)
    removed = 0
    for key in sorted(suspects):
        async with database.unit() as session:
            await quota.lock(session, [_org_of(key)])
            if not await _named(session, [key]):
                await blobs.delete(key)
                removed += 1
    return removed


async def _named(session: AsyncSession, keys: Collection[str]) -> set[str]:
    """Return those of the keys that a row names: a blob's name is the id of its row."""
    ids = [key.rsplit("/", 1)[-1] for key in keys]
    files = select(StoredFileRow.blob_key).where(StoredFileRow.id.in_(ids))
    parts = select(UploadPartRow.blob_key).where(UploadPartRow.id.in_(ids))
    return set((await session.execute(files.union_all(parts))).scalars()) & set(keys)


async def _named_otherwise(session: AsyncSession, keys: Collection[str]) -> set[str]:
    """Return those of the keys that any row names; for the few left, since no index helps."""
    if not keys:
        return set()
    files = select(StoredFileRow.blob_key).where(StoredFileRow.blob_key.in_(keys))
    parts = select(UploadPartRow.blob_key).where(UploadPartRow.blob_key.in_(keys))
    return set((await session.execute(files.union_all(parts))).scalars())


def _org_of(key: str) -> str:
    return key.split("/", 1)[0]
