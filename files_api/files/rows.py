"""File rows written and deleted, each together with its organisation's counters, in one unit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy import delete

from files_api.files.records import FileRecord
from files_api.idempotency import InUnit
from files_api.kit.db import Database
from files_api.quota import Quota
from files_api.tables import StoredFileRow as Row

_LOOK_SECONDS = 10.0
"""Longest wait for a commit that was not answered."""


class UnsureError(Exception):
    """The commit was asked for and not answered: the row may be there or not."""


async def insert(
    database: Database,
    quota: Quota,
    row: Row,
    ready: Callable[[], Awaitable[None]],
    within: InUnit | None,
) -> None:
    """Write a file's row; a commit that went through unheard is a success.

    Args:
        database: where.
        quota: what the file is counted in.
        row: the file's.
        ready: called while the organisation is locked, before anything is written.
        within: as `Files.keep` has it.

    Raises:
        UnsureError: the row may be there; its cause says what failed.
        QuotaExceeded: there is no room. As with every other error, the row is not there.
    """
    decided = False
    try:
        async with database.unit() as session:
            await quota.lock(session, [row.org_id])
            await ready()
            if within:
                await within(session)
            await quota.take(session, row.org_id, row.bytes)
            session.add(row)
            await session.flush()
            decided = True
    except Exception as error:
        if not decided or not await _is_there(database, quota, row, error):
            raise


async def remove(database: Database, quota: Quota, records: Sequence[FileRecord]) -> set[str]:
    """Delete rows in one unit; return the ids of those that were still there."""
    org_ids = sorted({record.org_id for record in records})
    gone = delete(Row).where(Row.id.in_([record.id for record in records]))
    gone = gone.execution_options(synchronize_session=False)
    async with database.unit() as session:
        await quota.lock(session, org_ids)
        found = await session.execute(gone.returning(Row.id, Row.org_id, Row.bytes))
        removed = found.all()
        for org_id in org_ids:
            sizes = [size for _, owner, size in removed if owner == org_id]
            if sizes:
                await quota.give_back(session, org_id, sum(sizes), len(sizes))
    return {file_id for file_id, _, _ in removed}


async def _is_there(database: Database, quota: Quota, row: Row, error: Exception) -> bool:
    """Tell whether a row was committed, although ``error`` came instead of the answer.

    Under the organisation's lock, which the failed unit had too: a server that lost its client
    may still be at work on the commit.
    """
    try:
        async with asyncio.timeout(_LOOK_SECONDS), database.unit() as session:
            await quota.lock(session, [row.org_id])
            return await session.get(Row, row.id) is not None
    except Exception:  # noqa: BLE001 - whatever it is, nobody knows now
        raise UnsureError from error
