"""Blobs that no row knows, as a crash leaves them, are found and removed.

An orphan is old, belongs to an organisation of this database, and is named by no file and no part
of an upload. That alone would make every blob of another database an orphan (the local
organisation has one id everywhere), so the store must be this database's by its marker, too: see
`files_api.files.installation`.

An orphan is removed under its organisation's lock, in which a file's row is written too: a file
whose bytes came so slowly that they looked left over finds that they are gone, and is refused
(`Files.keep`).
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import select

from files_api.blobs import BlobStore
from files_api.files import installation, known
from files_api.kit.db import Database
from files_api.quota import Quota
from files_api.tables import Organisation

GRACE_SECONDS = 3600
"""Younger blobs may be about to get their row."""
_BATCH = 500


async def sweep(
    database: Database, blobs: BlobStore, quota: Quota, clock: Callable[[], float]
) -> int:
    """Remove orphans; return how many. Stops at the first failure; none where it may not.

    Raises:
        StorageUnavailable, StorageFull: the database or the store does not answer.
    """
    if not await installation.may_sweep(database, blobs, quota):
        return 0
    removed = 0
    waiting: list[str] = []
    async for blob in blobs.blobs():
        if blob.key not in installation.MARKERS and blob.modified < clock() - GRACE_SECONDS:
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
        suspects -= await known.named(session, suspects)
        suspects -= await known.named_otherwise(session, suspects)
    removed = 0
    for key in sorted(suspects):
        async with database.unit() as session:
            await quota.lock(session, [_org_of(key)])
            if not await known.named(session, [key]):
                await blobs.delete(key)
                removed += 1
    return removed


def _org_of(key: str) -> str:
    return key.split("/", 1)[0]
