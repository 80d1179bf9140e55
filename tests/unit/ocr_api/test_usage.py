"""The usage row tells what was charged, what was reused and what was wasted."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import select

from files_api.accounts import ensure_local
from files_api.kit.db import Base, Database
from ocr_api.result import Usage
from ocr_api.usage import Entry, UsageBook, UsageRow


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
    async with database.read() as session:
        first, second = await session.scalars(select(UsageRow).order_by(UsageRow.request_id))
    assert counts(first) == (2, 0, 0, 2**40, 7, 0, 0, 0, 0)
    assert counts(second) == (1, 3, 4, 1, 2, 5, 2**40, 8, 9)
    assert {first.org_id, second.org_id} == {local.org_id}


def counts(row: UsageRow) -> tuple[int, ...]:
    return (
        row.pages, row.pages_reused, row.pages_failed,
        row.prompt_tokens, row.completion_tokens,
        row.reused_prompt_tokens, row.reused_completion_tokens,
        row.wasted_prompt_tokens, row.wasted_completion_tokens,
    )  # fmt: skip
