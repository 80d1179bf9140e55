"""The quota of organisations: counted in the unit that stores or removes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import update

from files_api.accounts import LOCAL_ORG_ID as ORG
from files_api.accounts import Principal, ensure_local
from files_api.kit.db import Base, Database
from files_api.kit.errors import QuotaExceeded
from files_api.quota import Quota
from files_api.tables import Organisation


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    made = Database(database_url)
    await made.run_sync(Base.metadata.create_all)
    await ensure_local(made)
    yield made
    await made.close()


async def take(database: Database, quota: Quota, size: int, files: int = 1) -> None:
    async with database.unit() as session:
        await quota.take(session, ORG, size, files)


async def counted(database: Database) -> tuple[int, int]:
    async with database.read() as session:
        row = await session.get(Organisation, ORG)
        assert row
        return row.stored_bytes, row.stored_files


async def limit(database: Database, **limits: int | None) -> None:
    async with database.unit() as session:
        await session.execute(update(Organisation).values(**limits))


async def test_the_last_byte_and_the_last_file_fit(database: Database) -> None:
    quota = Quota(max_bytes=10, max_files=2)
    await take(database, quota, 10)
    with pytest.raises(QuotaExceeded, match="10 bytes"):
        await take(database, quota, 1)
    await take(database, quota, 0)
    with pytest.raises(QuotaExceeded, match="2 files"):
        await take(database, quota, 0)
    assert await counted(database) == (10, 2)


async def test_what_is_given_back_has_room_again(database: Database) -> None:
    quota = Quota(max_bytes=10, max_files=1)
    await take(database, quota, 10)
    async with database.unit() as session:
        await quota.give_back(session, ORG, 4)
    await take(database, quota, 4)
    await take(database, quota, -2, 0)  # smaller than declared: never refused
    assert await counted(database) == (8, 1)


async def test_an_organisations_own_limits_come_first(database: Database) -> None:
    quota = Quota(max_bytes=10, max_files=10)
    await limit(database, max_bytes=20)
    await take(database, quota, 20)
    await limit(database, max_bytes=0, max_files=2)
    await take(database, quota, 10**12)
    with pytest.raises(QuotaExceeded):
        await take(database, quota, 0)
    await limit(database, max_bytes=None, max_files=None)
    with pytest.raises(QuotaExceeded):
        await take(database, quota, 1)


async def test_no_limit_is_no_limit(database: Database) -> None:
    await take(database, Quota(), 10**15, 10**9)


async def test_the_early_look_counts_nothing(database: Database) -> None:
    quota, who = Quota(max_bytes=10), Principal(ORG)
    await quota.check(database, who, 10)
    with pytest.raises(QuotaExceeded):
        await quota.check(database, who, 11)
    assert await counted(database) == (0, 0)


async def test_of_many_at_once_as_many_as_fit_are_taken(database: Database) -> None:
    quota = Quota(max_bytes=50)
    results = await asyncio.gather(
        *(take(database, quota, 10) for _ in range(12)), return_exceptions=True
    )
    assert results.count(None) == 5
    assert sum(isinstance(result, QuotaExceeded) for result in results) == 7
    assert await counted(database) == (50, 5)


async def test_a_unit_that_fails_counts_nothing(database: Database) -> None:
    quota = Quota()

    async def fail() -> None:
        async with database.unit() as session:
            await quota.lock(session, [ORG])
            await quota.take(session, ORG, 5)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await counted(database) == (0, 0)
