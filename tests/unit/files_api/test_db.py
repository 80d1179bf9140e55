"""The database: units of work, one writer, errors that clients can see."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from files_api.accounts import LOCAL_ORG_ID, ensure_local
from files_api.kit.db import Base, Database, UnfitDatabase, async_url
from files_api.kit.db import sqlite as sqlite_module
from files_api.kit.db.sqlite import network_filesystem
from files_api.kit.errors import StorageFull, StorageUnavailable
from files_api.tables import Organisation


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with opened(database_url) as database:
        yield database


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[Database]:
    async with opened(f"sqlite:///{tmp_path / 'a b.db'}") as database:
        yield database


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    """Make the tables, close the pool at the end."""
    made = Database(url)
    try:
        await made.run_sync(Base.metadata.create_all)
        yield made
    finally:
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


async def test_a_connection_is_set_up_for_durability(sqlite: Database) -> None:
    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}
    async with sqlite.read() as session:
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


async def test_units_that_read_before_they_write_queue(sqlite: Database) -> None:
    async def rise() -> None:
        async with sqlite.unit() as session:
            number = (await session.execute(text("SELECT count(*) FROM organisations"))).scalar()
            session.add(Organisation(id=str(number), name="x", created_at=1))

    await asyncio.gather(*(rise() for _ in range(40)))
    assert await count(sqlite) == 40


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


async def test_a_full_disk_is_storage_full_and_heals(sqlite: Database) -> None:
    """R7."""
    with pytest.raises(StorageFull):
        await write(sqlite, "x" * 1_000_000, then="PRAGMA max_page_count = 20")
    await write(sqlite, "y", then="PRAGMA max_page_count = 1000000")
    assert await count(sqlite) == 1


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
    sqlite: Database, tmp_path: Path, replaced: bool
) -> None:
    """R1: SQLite itself would go on, and all of it would be gone after a restart."""
    await write(sqlite, "before")
    path = tmp_path / "a b.db"
    kept = path.rename(tmp_path / "moved.db")
    if replaced:
        path.write_bytes(kept.read_bytes())
    for use in (sqlite.check(), write(sqlite, "after"), sqlite.run_sync(lambda _: None)):
        with pytest.raises(StorageUnavailable):
            await use
    assert path.exists() == replaced
    kept.replace(path)
    await sqlite.check()
    await write(sqlite, "again")
    assert await count(sqlite) == 2


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


async def test_what_is_raised_inside_leaves_no_connection_behind(database: Database) -> None:
    """A pool that loses a connection to each error is empty after some."""
    for _ in range(40):
        with pytest.raises(RuntimeError):
            await write(database, "bad")
    assert await count(database) == 0


# --- one server on a file -------------------------------------------------------------------------


async def test_one_process_serves_from_a_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a b.db'}"
    first, second, command = Database(url), Database(url), Database(url)
    first.reserve()
    with pytest.raises(UnfitDatabase, match=r"another process serves from .*/a b\.db: stop it"):
        second.reserve()
    await command.check()  # what does not serve asks nobody
    await first.close()
    second.reserve()
    for database in (second, command):
        await database.close()


def test_the_right_to_serve_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    code = (
        "import sys; from files_api.kit.db import Database;"
        "Database(sys.argv[1]).reserve(); print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        with pytest.raises(UnfitDatabase):
            Database(url).reserve()
        process.kill()
        process.wait(10)
        later = Database(url)
        later.reserve()
        later._server.give_back()


def test_databases_that_have_no_file_are_not_reserved() -> None:
    for url in ("sqlite://", "postgresql://u@127.0.0.1/x"):
        Database(url).reserve()
        Database(url).reserve()


def test_a_file_on_a_network_is_told_by_its_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/vda / ext4 rw 0 0\n"
        "host:/export /srv/my\\040data nfs4 rw 0 0\n"
        "tmpfs /srv/my\\040data/fast tmpfs rw 0 0\n"
        "//host/share /mnt/share cifs rw 0 0\n"
    )
    kinds = {
        "/srv/my data/x.db": "nfs4",
        "/srv/my data/fast/x.db": None,
        "/srv/my databases/x.db": None,
        "/mnt/share/a/b/x.db": "cifs",
        "/x.db": None,
    }
    assert {path: network_filesystem(path, mounts) for path in kinds} == kinds
    assert network_filesystem("/x.db", tmp_path / "absent") is None
    assert network_filesystem(str(tmp_path / "x.db")) is None


async def test_a_file_on_a_network_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_module, "_MOUNTS", mounts := tmp_path / "mounts")
    mounts.write_text("host:/export / nfs rw 0 0\n")
    with pytest.raises(UnfitDatabase, match=r"network file system \(nfs\)"):
        Database(f"sqlite:///{tmp_path / 'x.db'}").reserve()
