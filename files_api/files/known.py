"""Which blobs the rows of the database know, and which files are there yet."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from files_api.kit.db import Database
from files_api.tables import StoredFileRow, UploadPartRow


async def named(session: AsyncSession, keys: Collection[str]) -> set[str]:
    """Return those of the keys that a row names: a blob's name is the id of its row."""
    ids = [key.rsplit("/", 1)[-1] for key in keys]
    files = select(StoredFileRow.blob_key).where(StoredFileRow.id.in_(ids))
    parts = select(UploadPartRow.blob_key).where(UploadPartRow.id.in_(ids))
    return set((await session.execute(files.union_all(parts))).scalars()) & set(keys)


async def named_otherwise(session: AsyncSession, keys: Collection[str]) -> set[str]:
    """Return those of the keys that any row names; for the few left, since no index helps."""
    if not keys:
        return set()
    files = select(StoredFileRow.blob_key).where(StoredFileRow.blob_key.in_(keys))
    parts = select(UploadPartRow.blob_key).where(UploadPartRow.blob_key.in_(keys))
    return set((await session.execute(files.union_all(parts))).scalars())


async def alive(database: Database, ids: Collection[str], now: float) -> set[str]:
    """Return those of the file ids that a row names which has not expired."""
    query = select(StoredFileRow.id).where(
        StoredFileRow.id.in_(ids),
        or_(StoredFileRow.expires_at.is_(None), StoredFileRow.expires_at > int(now)),
    )
    async with database.read() as session:
        return set((await session.execute(query)).scalars())
