"""The usage row tells what was charged, what was reused and what was wasted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import select

from files_api.accounts import ensure_local
from files_api.kit.db import Base, Database
from ocr_api.result import Usage
from ocr_api.usage import BATCH, Entry, UsageBook, UsageRow


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    made = Database(database_url)
    await made.run_sync(Base.metadata.create_all)
    yield made
    await made.close()


async def test_charged_reused_and_wasted_are_apart(database: Database) -> None:
    local, book = await ensure_local(database), UsageBook(database)
    plain = Entry("r1", "m", "c", "ok", 2, Usage(2**40, 7), 5, 0.25)
    reused = Entry(
        "r2", "m", "c", "partial", 1, Usage(1, 2), 5, 0.25,
        pages_reused=3, pages_failed=4, reused=Usage(5, 2**40), wasted=Usage(8, 9),
    )  # fmt: skip
    for entry in (plain, reused):
        await book.record(local, entry)
    await book.flush()
    async with database.read() as session:
        first, second = await session.scalars(select(UsageRow).order_by(UsageRow.request_id))
    assert counts(first) == (2, 0, 0, 2**40, 7, 0, 0, 0, 0)
    assert counts(second) == (1, 3, 4, 1, 2, 5, 2**40, 8, 9)
    assert {first.org_id, second.org_id} == {local.org_id}


async def test_rows_are_on_disk_when_the_book_is_closed(database: Database) -> None:
    local, book = await ensure_local(database), UsageBook(database)
    await book.start()
    names = [f"r{number:04}" for number in range(BATCH + 40)]
    for name in names:
        await book.record(local, Entry(name, "m", "c", "ok", 1, Usage(1, 2), 5, 0.25))
    await book.close()
    assert await rows(database) == names


async def test_rows_are_written_soon(database: Database) -> None:
    local, book = await ensure_local(database), UsageBook(database)
    await book.start()
    await book.record(local, Entry("r1", "m", "c", "ok", 1, Usage(1, 2), 5, 0.25))
    async with asyncio.timeout(20):
        found: list[str] = []
        while not found:
            found = await rows(database)
    assert found == ["r1"]
    await book.close()


async def test_rows_wait_while_the_database_is_away(tmp_path: Path) -> None:
    """R7."""
    database = Database(f"sqlite:///{tmp_path / 'a.db'}")
    await database.run_sync(Base.metadata.create_all)
    local, book = await ensure_local(database), UsageBook(database)
    (tmp_path / "a.db").rename(tmp_path / "away.db")
    for name in ("r1", "r2"):
        await book.record(local, Entry(name, "m", "c", "ok", 1, Usage(1, 2), 5, 0.25))
    assert not await book.flush()
    (tmp_path / "away.db").rename(tmp_path / "a.db")
    assert await book.flush()
    assert await rows(database) == ["r1", "r2"]
    await database.close()


async def test_rows_that_cannot_be_written_are_logged_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = Database(f"sqlite:///{tmp_path / 'a.db'}")
    await database.run_sync(Base.metadata.create_all)
    local, book = await ensure_local(database), UsageBook(database)
    (tmp_path / "a.db").unlink()
    await book.record(local, Entry("r1", "m", "c", "ok", 2, Usage(1, 2), 5, 0.25))
    await book.close()
    (line,) = [record for record in caplog.records if record.message == "usage_lost"]
    facts = vars(line)["facts"]
    assert (facts["request_id"], facts["pages"], facts["org_id"]) == ("r1", 2, local.org_id)
    await database.close()


async def rows(database: Database) -> list[str]:
    async with database.read() as session:
        found = await session.scalars(select(UsageRow.request_id).order_by(UsageRow.request_id))
        return list(found)


def counts(row: UsageRow) -> tuple[int, ...]:
    return (
        row.pages, row.pages_reused, row.pages_failed,
        row.prompt_tokens, row.completion_tokens,
        row.reused_prompt_tokens, row.reused_completion_tokens,
        row.wasted_prompt_tokens, row.wasted_completion_tokens,
    )  # fmt: skip
