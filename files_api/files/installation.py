"""Whose blob store this is: only the database that a marker in the store names may sweep there.

Why: to a database that does not know them, all blobs of another one look left over. A database
has a random id (table ``installation``), which a backup keeps. The start, or else the first sweep,
writes the id into the store, as the blob ``recto/installation``. A store that has blobs and no
marker is taken only by a database that knows more than half of them. A database that finds another
one's marker writes ``recto/shared``, and from then on nobody sweeps there: what it stores is
unknown to the owner.

Where a sweep is refused, the log says ``orphans_not_swept`` with the reason. Files are served as
ever; only what crashes leave stays. An operator ends it: give each database a store of its own,
and delete ``recto/shared``, or both markers where the database is new on purpose.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import suppress
from logging import ERROR

from sqlalchemy import select

from files_api.accounts import LOCAL_ORG_ID, ensure_local
from files_api.blobs import BlobExists, BlobMissing, BlobStore
from files_api.files import known
from files_api.kit.db import Database
from files_api.kit.ids import new_id
from files_api.kit.observe import log
from files_api.quota import Quota
from files_api.tables import Installation

OWNER_KEY = "recto/installation"
SHARED_KEY = "recto/shared"
MARKERS = frozenset({OWNER_KEY, SHARED_KEY})
"""Blobs that are no files: never swept."""
_BATCH = 500


async def may_sweep(database: Database, blobs: BlobStore, quota: Quota) -> bool:
    """Tell whether the store is this database's alone; take it where it is nobody's.

    Raises:
        StorageUnavailable, StorageFull: the database or the store does not answer.
    """
    own = await own_id(database, quota)
    owner = await _content(blobs, OWNER_KEY)
    if owner is None:
        if not await _is_ours(database, blobs):
            return _refuse("the store holds blobs that this database does not know")
        owner = await _write(blobs, OWNER_KEY, own)
    if owner != own:
        await _write(blobs, SHARED_KEY, own)
        return _refuse("the store is another database's")
    if await _content(blobs, SHARED_KEY) is not None:
        return _refuse("another database used the store")
    return True


async def own_id(database: Database, quota: Quota) -> str:
    """Return the database's id; make it on the first call."""
    query = select(Installation.id).limit(1)
    async with database.read() as session:
        found = await session.scalar(query)
    if found is None:
        await ensure_local(database)
        async with database.unit() as session:
            await quota.lock(session, [LOCAL_ORG_ID])  # one at a time, where writers are many
            found = await session.scalar(query)
            if found is None:
                found = new_id()
                session.add(Installation(id=found, created_at=int(time.time())))
    return found


async def _is_ours(database: Database, blobs: BlobStore) -> bool:
    """Tell whether rows name more than half of the blobs, or there are none."""
    ours, count = 0, 0
    waiting: list[str] = []
    async for blob in blobs.blobs():
        if blob.key not in MARKERS:  # another process may write one now
            waiting.append(blob.key)
        if len(waiting) >= _BATCH:
            ours, count = ours + await _known(database, waiting), count + len(waiting)
            waiting = []
    ours, count = ours + await _known(database, waiting), count + len(waiting)
    return not count or ours * 2 > count


async def _known(database: Database, keys: list[str]) -> int:
    async with database.read() as session:
        found = await known.named(session, keys)
        return len(found | await known.named_otherwise(session, set(keys) - found))


async def _content(blobs: BlobStore, key: str) -> str | None:
    try:
        return b"".join([chunk async for chunk in blobs.read(key)]).decode("ascii", "replace")
    except BlobMissing:
        return None


async def _write(blobs: BlobStore, key: str, own: str) -> str | None:
    """Write a marker unless it is there; return what it says then."""

    async def content() -> AsyncIterator[bytes]:
        yield own.encode()

    with suppress(BlobExists):  # another process was first
        await blobs.put(key, content())
    return await _content(blobs, key)


def _refuse(reason: str) -> bool:
    log(__name__, "orphans_not_swept", level=ERROR, reason=reason)
    return False
