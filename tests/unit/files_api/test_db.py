"""The database: units of work, one writer, errors that clients can see."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from files_api.accounts import LOCAL_ORG_ID, ensure_local
from files_api.kit.db import Base, Database, async_url
from files_api.kit.errors import StorageFull, StorageUnavailable
from files_api.tables import Organisation


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'a b.db'}")
    await made.run_sync(Base.metadata.create_all)
    yield made
    await made.close()


async def write(database: Database, name: str, *, then: str = "SELECT 1") -> None:
    """Add a row, run a statement, commit."""
    async with database.unit() as session:
        await session.execute(text(then))
        session.add(Organisation(id=name[:36], name=name, created_at=1))
        await session.flush()
        if name == "bad":
            raise RuntimeError


async def count(database: Database) -> int:
    async with database.read() as session:
        return (await session.execute(text("SELECT count(*) FROM organisations"))).scalar_one()


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("sqlite:///x.db", "sqlite+aiosqlite"),
        ("sqlite+aiosqlite:///x.db", "sqlite+aiosqlite"),
        ("postgresql://u:p@h/d", "postgresql+asyncpg"),
        ("postgres://h/d", "postgresql+asyncpg"),
        ("postgresql+psycopg://h/d", "postgresql+psycopg"),
    ],
)
def test_urls_get_their_async_driver(given: str, driver: str) -> None:
    assert async_url(given).drivername == driver


async def test_a_connection_is_set_up_for_durability(database: Database) -> None:
    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}
    async with database.read() as session:
        for pragma, value in wanted.items():
            found = (await session.execute(text(f"PRAGMA {pragma}"))).scalar_one()
            assert found == value, pragma


async def test_a_unit_commits_or_rolls_back(database: Database) -> None:
    async with database.unit() as session:
        session.add(Organisation(id="1", name="a", created_at=1))
    with pytest.raises(RuntimeError):
        await write(database, "bad")
    async with database.read() as session:
        session.add(Organisation(id="3", name="c", created_at=1))
        await session.flush()
    assert await count(database) == 1


async def test_units_that_read_before_they_write_queue(database: Database) -> None:
    async def rise() -> None:
        async with database.unit() as session:
            number = (await session.execute(text("SELECT count(*) FROM organisations"))).scalar()
            session.add(Organisation(id=str(number), name="x", created_at=1))

    await asyncio.gather(*(rise() for _ in range(40)))
    assert await count(database) == 40


async def test_readers_do_not_wait_for_a_writer(database: Database) -> None:
    async with database.unit() as session:
        session.add(Organisation(id="1", name="a", created_at=1))
        await session.flush()
        assert await count(database) == 0


async def test_a_cancelled_unit_lets_the_next_one_in(database: Database) -> None:
    begun = asyncio.Event()

    async def hang() -> None:
        async with database.unit() as session:
            session.add(Organisation(id="1", name="a", created_at=1))
            await session.flush()
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hang())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with database.unit() as session:
        session.add(Organisation(id="2", name="b", created_at=1))
    assert await count(database) == 1


async def test_a_full_disk_is_storage_full_and_heals(database: Database) -> None:
    """R7."""
    with pytest.raises(StorageFull):
        await write(database, "x" * 1_000_000, then="PRAGMA max_page_count = 20")
    await write(database, "y", then="PRAGMA max_page_count = 1000000")
    assert await count(database) == 1


async def test_a_database_that_does_not_answer(tmp_path: Path) -> None:
    """R7."""
    for url in (f"sqlite:///{tmp_path}/no/such/folder/x.db", f"sqlite:///{tmp_path}"):
        database = Database(url)
        with pytest.raises(StorageUnavailable):
            await database.check()
        await database.close()
    await _ended()


async def _ended() -> None:
    """Wait for aiosqlite's threads: one whose connection failed says so to the loop at its end."""
    for thread in threading.enumerate():
        if "_connection_worker_thread" in thread.name:
            await asyncio.to_thread(thread.join, 10)


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_file_that_was_deleted_or_replaced_takes_nothing(
    database: Database, tmp_path: Path, replaced: bool
) -> None:
    """R1: SQLite itself would go on, and all of it would be gone after a restart."""
    await write(database, "before")
    path = tmp_path / "a b.db"
    kept = path.rename(tmp_path / "moved.db")
    if replaced:
        path.write_bytes(kept.read_bytes())
    for use in (database.check(), write(database, "after"), database.run_sync(lambda _: None)):
        with pytest.raises(StorageUnavailable):
            await use
    assert path.exists() == replaced
    kept.replace(path)
    await database.check()
    await write(database, "again")
    assert await count(database) == 2


async def test_a_database_in_memory_has_no_file() -> None:
    database = Database("sqlite://")
    await database.check()
    await database.close()


async def test_a_violated_rule_stays_what_it_is(database: Database) -> None:
    with pytest.raises(IntegrityError):
        async with database.unit() as session:
            session.add(Organisation(id="1", name=None, created_at=1))  # type: ignore[arg-type]
    await database.check()


async def test_the_local_organisation_is_made_once(database: Database) -> None:
    made = await asyncio.gather(*(ensure_local(database) for _ in range(5)))
    assert {principal.org_id for principal in made} == {LOCAL_ORG_ID}
    assert await count(database) == 1
