"""Sums of usage rows by day, hour and group, the same on SQLite and on PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, text
from sqlalchemy.dialects import sqlite

from files_api.accounts import ALL_SCOPES, Organisations, Principal, ensure_local
from files_api.kit.db import Base, Database
from files_api.kit.errors import OrganisationRefused, StorageUnavailable, ValidationFailed
from files_api.kit.ids import new_id
from ocr_api.result import Usage
from ocr_api.usage import Entry, Question, UsageBook, UsageReader, UsageRow, report
from ocr_api.usage.period import DAY, Period, period_of
from ocr_api.usage.report import Used

START = 1_795_305_600
"""2026-11-22, the first second."""
WEEK = Period(START, START + 7 * DAY, DAY)
NONE: dict[str, Any] = {
    **dict.fromkeys(("pages_reused", "pages_failed"), 0),
    **dict.fromkeys(("reused_prompt_tokens", "reused_completion_tokens"), 0),
    **dict.fromkeys(("wasted_prompt_tokens", "wasted_completion_tokens"), 0),
}


def row(org_id: str, at: int, **other: Any) -> dict[str, Any]:
    """Return the columns of a row that was written so many seconds after `START`."""
    usual = {"model": "m", "card": "c", "outcome": "ok", "key_id": "k", "pages": 1}
    counted = {"prompt_tokens": 10, "completion_tokens": 1, "document_bytes": 100, "seconds": 0.25}
    made = {"id": new_id(), "org_id": org_id, "request_id": "r", "created_at": START + at}
    return made | usual | counted | NONE | other


async def add(database: Database, *rows: dict[str, Any]) -> None:
    async with database.unit() as session:
        await session.execute(insert(UsageRow), list(rows))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    made = Database(database_url)
    await made.run_sync(Base.metadata.create_all)
    yield made
    await made.close()


@pytest.fixture
async def who(database: Database) -> Principal:
    return Principal((await ensure_local(database)).org_id, "key", scopes=frozenset({"ocr"}))


def requests(buckets: list[report.Bucket]) -> list[int]:
    return [sum(used.requests for used in bucket.results) for bucket in buckets]


async def test_sums_are_whole_numbers_of_any_size(database: Database, who: Principal) -> None:
    large = {name: 2**40 + number for number, name in enumerate(NONE)}
    huge = {"prompt_tokens": 2**50, "completion_tokens": 2**51, "document_bytes": 2**60}
    many = large | huge | {"pages": 7, "seconds": 0.1}
    await add(database, row(who.org_id, 5, **many), row(who.org_id, 6, **many | {"seconds": 0.2}))
    first, *rest = await UsageReader(database).page(who, Question(who.org_id), WEEK)
    twice = [2 * (2**40 + number) for number in range(6)]
    (used,) = first.results
    assert used == Used(2, 14, *twice[:2], 2**51, 2**52, *twice[2:], 2**61, 0.3)
    assert {type(getattr(used, name)) for name in ("requests", "pages", "document_bytes")} == {int}
    assert used.total_tokens == 2**51 + 2**52
    assert [bucket.results for bucket in rest] == [[]] * 6


async def test_the_last_second_of_a_day_is_that_days(database: Database, who: Principal) -> None:
    times = (-1, 0, DAY - 1, DAY, 7 * DAY - 1, 7 * DAY)
    await add(database, *(row(who.org_id, at) for at in times))
    reader, asked = UsageReader(database), Question(who.org_id)
    assert requests(await reader.page(who, asked, WEEK)) == [2, 1, 0, 0, 0, 0, 1]
    cut = Period(START + 1, START + DAY + 1, DAY)
    assert requests(await reader.page(who, asked, cut)) == [1, 1]
    short = Period(START, START + DAY - 1, DAY)
    assert requests(await reader.page(who, asked, short)) == [1]
    hours = Period(START + DAY - 3600, START + DAY + 3600, 3600)
    assert requests(await reader.page(who, asked, hours)) == [1, 1]


async def test_groups_and_models(database: Database, who: Principal) -> None:
    await add(
        database,
        row(who.org_id, 0, model="b", card="x", outcome="failed", pages=2),
        row(who.org_id, 1, model="a", card="x", key_id=None, pages=3),
        row(who.org_id, 2, model="a", card="y", pages=5),
        row(who.org_id, 3, model="B", card="x", pages=7),
    )
    reader, day = UsageReader(database), Period(START, START + DAY, DAY)

    async def told(*groups: str, models: tuple[str, ...] = ()) -> list[tuple[Any, ...]]:
        (bucket,) = await reader.page(who, Question(who.org_id, groups, models), day)
        names = [report.GROUPS[name] for name in groups]
        return [(*(getattr(used, name) for name in names), used.pages) for used in bucket.results]

    assert await told() == [(17,)]
    assert await told("model") == [("B", 7), ("a", 8), ("b", 2)]  # the same order everywhere
    assert await told("card", "key") == [("x", None, 3), ("x", "k", 9), ("y", "k", 5)]
    assert await told("outcome", models=("a", "b")) == [("failed", 2), ("ok", 8)]
    assert await told(models=("none",)) == []
    assert await told("org") == [(who.org_id, 17)]


async def test_r12_an_organisation_is_asked_about_by_itself_or_by_admins(
    database: Database, who: Principal
) -> None:
    other = (await Organisations(database).create("other")).id
    await add(database, row(who.org_id, 0), row(other, 0), row(other, 0))
    reader = UsageReader(database)
    admin = Principal(who.org_id, "key", scopes=frozenset({"admin"}))
    service = Principal(who.org_id, "key", service=True, scopes=ALL_SCOPES - {"admin"})
    for caller in (who, service):
        assert requests(await reader.page(caller, Question(who.org_id), WEEK))[0] == 1
        for named in (other, None):
            with pytest.raises(OrganisationRefused):
                await reader.page(caller, Question(named), WEEK)
            with pytest.raises(OrganisationRefused):
                await reader.organisation(caller, named)
    for named, count in ((who.org_id, 1), (other.upper(), 2), (None, 3)):
        meant = await reader.organisation(admin, named)
        assert requests(await reader.page(admin, Question(meant), WEEK))[0] == count
    for unknown in ("", "x", new_id(), "\0", "Ä", other + " "):
        with pytest.raises(OrganisationRefused) as caught:
            await reader.organisation(admin, unknown)
        assert caught.value.param == "org_id"
    (bucket, *_) = await reader.page(admin, Question(None, ("org",)), WEEK)
    assert {used.org_id: used.requests for used in bucket.results} == {who.org_id: 1, other: 2}


async def test_a_page_ends_before_the_bucket_that_has_too_much(
    database: Database, who: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "MOST_RESULTS", 3)
    per_day = {0: "ab", 2: "a", 3: "abc", 4: "abcd"}
    rows = [
        row(who.org_id, day * DAY, model=name) for day, names in per_day.items() for name in names
    ]
    await add(database, *rows)
    reader, asked, left = UsageReader(database), Question(who.org_id, ("model",)), WEEK
    seen = []
    for _ in range(2):
        found = await reader.page(who, asked, left)
        seen.append(requests(found))
        left = left.behind(found[-1].end)
    assert seen == [[2, 0, 1], [3]]
    with pytest.raises(ValidationFailed, match="more than 3 results") as caught:
        await reader.page(who, asked, left)
    assert caught.value.param == "group_by"
    assert requests(await reader.page(who, Question(who.org_id), left)) == [4, 0, 0]


async def test_rows_that_wait_are_counted(database: Database, who: Principal) -> None:
    book = UsageBook(database)
    await book.record(who, Entry("r", "m", "c", "ok", 1, Usage(1, 2), 5, 0.25))
    month = period_of(None, None, DAY, time.time())
    found = await UsageReader(database, book).page(who, Question(who.org_id), month)
    assert sum(requests(found)) == 1


@pytest.mark.parametrize("org_id", ["one", None])
async def test_sqlite_finds_rows_by_organisation_and_time(
    tmp_path: Path, org_id: str | None
) -> None:
    """R12 is no reason to read everybody's rows, and neither is a question about everybody."""
    database = Database(f"sqlite:///{tmp_path / 'a.db'}")
    await database.run_sync(Base.metadata.create_all)
    query = report._query(Question(org_id), WEEK, WEEK.end)
    sql = str(query.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}))
    async with database.read() as session:
        plan = [step[-1] for step in await session.execute(text(f"EXPLAIN QUERY PLAN {sql}"))]
    assert plan[0] == (
        "SEARCH usage USING INDEX ix_usage_org_id_created_at"
        " (org_id=? AND created_at>? AND created_at<?)"
    )
    await database.close()


async def test_a_database_that_is_away(tmp_path: Path) -> None:
    """R7: waiting rows are kept, and the reader is told that the store does not answer."""
    database = Database(f"sqlite:///{tmp_path / 'a.db'}")
    await database.run_sync(Base.metadata.create_all)
    local, book = await ensure_local(database), UsageBook(database)
    (tmp_path / "a.db").rename(tmp_path / "away.db")
    await book.record(local, Entry("r", "m", "c", "ok", 1, Usage(1, 2), 5, 0.25))
    reader, now = UsageReader(database, book), WEEK
    for _ in range(report.AT_ONCE + 1):
        with pytest.raises(StorageUnavailable):
            await reader.page(local, Question(local.org_id), now)
    (tmp_path / "away.db").rename(tmp_path / "a.db")
    assert await book.flush()
    await database.close()
