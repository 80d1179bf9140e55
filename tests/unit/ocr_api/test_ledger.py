"""The ledger on both databases: what is kept, for whom, how long, and what becomes of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, event, func, select, update

from files_api.accounts import Principal
from files_api.kit.db import Base, Database
from files_api.kit.errors import StorageUnavailable
from files_api.kit.ids import new_id
from files_api.tables import Organisation, StoredFileRow
from ocr_api.ledger import Kept, Ledger, Place, key_of, queue, rows
from ocr_api.result import Reading, Token
from tests.keys_desk import Clock

DAY = 24 * 3600.0
A, B = Principal(new_id()), Principal(new_id())
CONTENT, OTHER = "c" * 64, "d" * 64


@dataclass
class Room:
    """A database with two organisations, and ledgers on it."""

    database: Database
    clock: Clock = field(default_factory=Clock)

    def ledger(self, seconds: float = DAY) -> Ledger:
        return Ledger(self.database, seconds, self.clock)

    async def store(self, owner: Principal, content: str = CONTENT) -> str:
        """Store a file's row; return its id."""
        row = StoredFileRow(
            id=new_id(), org_id=owner.org_id, filename="a.pdf", media_type="application/pdf",
            purpose="ocr", bytes=1, sha256=content, blob_key="k", visibility="workspace",
            created_at=1,
        )  # fmt: skip
        async with self.database.unit() as session:
            session.add(row)
        return row.id

    async def remove(self, file_id: str) -> None:
        async with self.database.unit() as session:
            await session.execute(delete(StoredFileRow).where(StoredFileRow.id == file_id))

    async def count(self) -> int:
        async with self.database.read() as session:
            return await session.scalar(select(func.count()).select_from(rows.LedgerRow)) or 0

    async def damage(self, key: str, data: bytes) -> None:
        which = rows.LedgerRow.key == key
        async with self.database.unit() as session:
            await session.execute(update(rows.LedgerRow).where(which).values(kept=data))

    def count_commits(self) -> list[None]:
        """Return a list that grows with each unit of work that is committed."""
        commits: list[None] = []
        event.listen(self.database.engine.sync_engine, "commit", lambda _: commits.append(None))
        return commits


@pytest.fixture
async def room(database_url: str) -> AsyncIterator[Room]:
    database = Database(database_url)
    await database.run_sync(Base.metadata.create_all)
    async with database.unit() as session:
        session.add_all(Organisation(id=one.org_id, name="o", created_at=1) for one in (A, B))
    yield Room(database)
    await database.close()


@pytest.fixture
async def lite(tmp_path: Path) -> AsyncIterator[Room]:
    """For what does not depend on the database."""
    database = Database(f"sqlite:///{tmp_path / 'lite.db'}")
    await database.run_sync(Base.metadata.create_all)
    async with database.unit() as session:
        session.add(Organisation(id=A.org_id, name="o", created_at=1))
    yield Room(database)
    await database.close()


def at(
    page: int = 0, owner: Principal = A, file_id: str | None = None, content: str = CONTENT
) -> Place:
    key = key_of(owner.org_id, content, page, {"card": "c"})
    return Place(key, owner.org_id, content, page, "c", file_id)


def said(text: str = "read", tokens: int = 0) -> Kept:
    return Kept(Reading(text, tokens=(Token("t", 0.5),) * tokens), 100, 200, 72, False, ())


def facts(caplog: pytest.LogCaptureFixture) -> list[tuple[str, Any]]:
    """Return what our parts logged: events, and how many pages."""
    ours = [record for record in caplog.records if record.name.startswith("ocr_api")]
    return [(record.message, record.facts.get("pages")) for record in ours]  # type: ignore[attr-defined]


async def keys_of(ledger: Ledger, places: Collection[Place], owner: Principal = A) -> list[int]:
    """Return the pages of those that the ledger has, which `known` and `get` must agree on."""
    wanted = [place.key for place in places]
    found = await ledger.get(owner.org_id, wanted)
    assert await ledger.known(owner.org_id, wanted) == found.keys()
    return sorted(place.page for place in places if place.key in found)


# --- kept and found -------------------------------------------------------------------------------


async def test_a_page_is_found_at_once_and_by_another_process(room: Room) -> None:
    ledger, other = room.ledger(), room.ledger()
    places = [at(page) for page in range(600)]
    for place in places:
        ledger.keep(place, said(f"page {place.page}"))
    wanted = [place.key for place in places] + ["0" * 64]
    pages = {place.key: said(f"page {place.page}") for place in places}
    assert await ledger.get(A.org_id, wanted) == pages
    assert await ledger.known(A.org_id, wanted) == pages.keys()
    assert await other.get(A.org_id, wanted) == {}
    await ledger.flush()
    for one in (ledger, other):
        assert await one.get(A.org_id, wanted) == pages
        assert await one.known(A.org_id, wanted) == pages.keys()
        assert await one.get(A.org_id, []) == {}
        assert await one.known(A.org_id, []) == frozenset()


async def test_the_last_reading_counts(room: Room) -> None:
    """A request that skips the ledger writes over what is there."""
    ledger = room.ledger()
    for text in ("first", "second", "third"):
        ledger.keep(at(), said(text))
        ledger.keep(at(), said(text.upper()))
        await ledger.flush()
        assert await room.ledger().get(A.org_id, [at().key]) == {at().key: said(text.upper())}
    assert await room.count() == 1


async def test_large_pages_come_back(room: Room) -> None:
    ledger = room.ledger()
    pages = {at(page).key: said("é" * 100_000, 3000) for page in range(3)}
    for page in range(3):
        ledger.keep(at(page), pages[at(page).key])
    await ledger.flush()
    assert await room.ledger().get(A.org_id, list(pages)) == pages


async def test_nothing_is_kept_for_no_time(room: Room) -> None:
    ledger, off = room.ledger(), room.ledger(0)
    assert (ledger.on, off.on) == (True, False)
    ledger.keep(at(), said())
    await ledger.flush()
    await off.start()
    off.keep(at(1), said())
    assert await keys_of(off, [at(), at(1)]) == []
    await off.close()
    assert await room.count() == 1
    await off.forget_file(A, await room.store(A))
    assert await room.count() == 0


async def test_a_page_ends_with_its_time(room: Room) -> None:
    ledger = room.ledger(60)
    ledger.keep(at(0), said("old"))
    await ledger.flush()
    room.clock.now += 30
    ledger.keep(at(1), said())
    room.clock.now += 29
    assert await keys_of(ledger, [at(0), at(1)]) == [0, 1]
    room.clock.now += 1
    assert await keys_of(ledger, [at(0), at(1)]) == [1]
    room.clock.now += 30
    assert await keys_of(ledger, [at(0), at(1)]) == []
    ledger.keep(at(0), said("new"))
    await ledger.flush()
    assert await room.ledger().get(A.org_id, [at(0).key]) == {at(0).key: said("new")}


async def test_what_cannot_be_read_is_missing(room: Room) -> None:
    ledger = room.ledger()
    for page in range(4):
        ledger.keep(at(page), said())
    await ledger.flush()
    await room.damage(at(0).key, b"\x01 damaged")
    await room.damage(at(1).key, b"\x02 of a newer program")
    await room.damage(at(2).key, b"")
    found = await ledger.get(A.org_id, [at(page).key for page in range(4)])
    assert found == {at(3).key: said()}


async def test_a_page_that_is_no_text_is_not_written(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a surrogate pair: the pages beside it are written, and the log holds no text."""
    ledger = room.ledger()
    for page, text in enumerate(["a", "b\ud800", "c"]):
        ledger.keep(at(page), said(text))
    with caplog.at_level(logging.INFO):
        await ledger.flush()
    assert facts(caplog) == [("ledger_pages_unfit", 1)]
    assert await keys_of(ledger, [at(0), at(1), at(2)]) == [0, 2]


# --- whose it is ----------------------------------------------------------------------------------


async def test_r12_a_page_is_its_organisations_alone(room: Room) -> None:
    """R12: whatever key another organisation asks for, written or on its way."""
    ledger = room.ledger()
    ledger.keep(at(), said("A's"))
    for _ in range(2):
        assert await ledger.get(B.org_id, [at().key]) == {}
        assert await ledger.known(B.org_id, [at().key]) == frozenset()
        await ledger.flush()
    ledger.keep(replace(at(), org_id=B.org_id), said("B's"))
    await ledger.flush()
    assert await ledger.get(A.org_id, [at().key]) == {at().key: said("A's")}
    assert await ledger.get(B.org_id, [at().key]) == {at().key: said("B's")}
    assert at().key != at(owner=B).key


async def test_r12_nobody_forgets_what_is_anothers(room: Room) -> None:
    """R12: the same content, and even the other one's file id, in both states of a page."""
    ledger = room.ledger()
    mine, theirs = await room.store(A), await room.store(B)
    for page, flushed in ((0, True), (1, False)):
        ledger.keep(at(page, A, mine), said())
        if flushed:
            await ledger.flush()
    await ledger.forget_file(B, theirs)
    await ledger.forget_file(B, mine)
    ledger.keep(at(2, A, mine), said())
    await ledger.flush()
    assert await keys_of(ledger, [at(page) for page in range(3)]) == [0, 1, 2]


async def test_r12_a_page_of_anothers_file_is_not_written(room: Room) -> None:
    """R12."""
    ledger = room.ledger()
    ledger.keep(at(0, A, await room.store(B)), said())
    await ledger.flush()
    assert await room.count() == 0


# --- deletion with the file -----------------------------------------------------------------------


async def test_a_files_pages_go_with_it(room: Room) -> None:
    """Written ones, queued ones, those of the same content however it came; no others."""
    ledger = room.ledger()
    first, twin = await room.store(A), await room.store(A)
    other = await room.store(A, OTHER)
    gone = [at(0, A, first), at(1, A, twin), at(2, A, None), at(3, A, first), at(4, A, None)]
    for number, place in enumerate(gone):
        if number == 3:
            await ledger.flush()
        ledger.keep(place, said())
    stays = at(0, A, other, OTHER)
    ledger.keep(stays, said())
    await ledger.forget_file(A, first)
    assert await keys_of(ledger, [*gone, stays]) == [0]
    await ledger.flush()
    assert await keys_of(room.ledger(), [*gone, stays]) == [0]
    assert await room.count() == 1


async def test_pages_that_are_being_written_go_too(room: Room) -> None:
    ledger = room.ledger()
    file_id = await room.store(A)
    for page in range(100):
        ledger.keep(at(page, A, file_id), said())
    writing = asyncio.create_task(ledger.flush())
    await asyncio.sleep(0)
    await asyncio.gather(writing, ledger.forget_file(A, file_id))
    assert await room.count() == 0
    assert await keys_of(ledger, [at(page) for page in range(100)]) == []


async def test_a_page_that_is_read_while_its_file_goes_is_not_kept(room: Room) -> None:
    """Between the hook and the end of the row; where the row stays, for a minute."""
    ledger = room.ledger()
    file_id, twin = await room.store(A), await room.store(A)
    await ledger.forget_file(A, file_id)
    ledger.keep(at(0, A, file_id), said())
    ledger.keep(at(1, A, twin), said())
    await ledger.flush()
    assert await keys_of(ledger, [at(0), at(1)]) == [1]
    room.clock.now += 61
    ledger.keep(at(0, A, file_id), said())
    await ledger.flush()
    assert await keys_of(ledger, [at(0), at(1)]) == [0, 1]


async def test_no_page_is_written_for_a_file_that_is_gone(room: Room) -> None:
    """Another process deleted it; the pages beside it are written."""
    ledger = room.ledger()
    gone, there = await room.store(A), await room.store(A, OTHER)
    ledger.keep(at(0, A, gone), said())
    ledger.keep(at(1, A, there, OTHER), said())
    await room.remove(gone)
    await ledger.flush()
    assert await room.count() == 1
    assert await keys_of(ledger, [at(0), at(1, content=OTHER)]) == [1]


async def test_forgetting_a_file_without_pages_writes_nothing(room: Room) -> None:
    """So that a disk that is full hinders no deletion."""
    ledger = room.ledger()
    ledger.keep(at(0, A, None, OTHER), said())
    await ledger.flush()
    file_id, commits = await room.store(A), room.count_commits()
    await ledger.forget_file(A, file_id)
    await ledger.forget_file(A, new_id())
    assert commits == []
    assert await room.count() == 1


async def test_the_sweep_takes_what_is_old_or_lost_and_nothing_else(room: Room) -> None:
    ledger = room.ledger(60)
    gone, there = await room.store(A), await room.store(A)
    many = rows.SWEPT + 10
    for number in range(2 * many):
        ledger.keep(at(number, A, gone if number % 2 else None), said())
        if number % 500 == 0:
            await ledger.flush()
    await ledger.flush()
    assert await ledger.sweep() == 0
    room.clock.now += 59
    ledger.keep(at(1, A, there, OTHER), said())
    ledger.keep(at(2, B, None, OTHER), said())
    await ledger.flush()
    assert await room.count() == 2 * many + 2
    await room.remove(gone)
    assert await ledger.sweep() == many
    room.clock.now += 1
    assert await room.ledger(0).sweep() == many
    assert await keys_of(ledger, [at(1, content=OTHER)]) == [1]
    assert await keys_of(ledger, [at(2, B, content=OTHER)], B) == [2]
    assert await ledger.sweep() == 0


# --- writing --------------------------------------------------------------------------------------


async def test_many_pages_are_one_unit_of_work(room: Room) -> None:
    ledger, commits = room.ledger(), room.count_commits()
    await ledger.start()
    for page in range(3 * queue.BATCH):
        ledger.keep(at(page), said())
    await soon(lambda: len(commits) == 3)
    await ledger.close()
    assert len(commits) == 3
    assert await room.count() == 3 * queue.BATCH


async def test_a_page_alone_is_written_soon(room: Room) -> None:
    """And the next one too: the task goes on."""
    ledger, commits = room.ledger(), room.count_commits()
    await ledger.start()
    await ledger.start()
    for page in range(2):
        ledger.keep(at(page), said())
        begun = asyncio.get_running_loop().time()
        await soon(partial(written, commits, page + 1))
        # Part of its time may have passed: it is counted from when the writer was ready.
        assert asyncio.get_running_loop().time() - begun >= 0.25 * queue.SECONDS
    assert await room.count() == 2
    await ledger.close()
    await ledger.close()


async def test_closing_writes_what_waits(room: Room) -> None:
    """A thousand pages, also while a batch is under way, and without a start."""
    ledger = room.ledger()
    await ledger.start()
    for page in range(1000):
        ledger.keep(at(page), said())
    await asyncio.sleep(0)
    await ledger.close()
    assert await room.count() == 1000
    ledger.keep(at(1000), said())
    await ledger.close()
    assert await room.count() == 1001


async def test_a_batch_is_written_whoever_is_cancelled(room: Room) -> None:
    ledger, commits = room.ledger(), room.count_commits()
    for page in range(100):
        ledger.keep(at(page), said())
    flushing = asyncio.create_task(ledger.flush())
    while not commits:
        await asyncio.sleep(0)
        flushing.cancel()
        if flushing.done():
            break
    with suppress(asyncio.CancelledError):
        await flushing
    await ledger.flush()
    assert await keys_of(ledger, [at(page) for page in range(100)]) == list(range(100))


async def test_what_the_database_refuses_is_lost_and_the_task_goes_on(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    ledger, nobody = room.ledger(), Principal(new_id())
    await ledger.start()
    ledger.keep(at(0, nobody), said())
    await soon(lambda: facts(caplog) == [("ledger_failed", None), ("ledger_pages_lost", 1)])
    commits = room.count_commits()
    ledger.keep(at(), said())
    await soon(lambda: len(commits) == 1)
    await ledger.close()
    assert await keys_of(room.ledger(), [at()]) == [0]


async def test_too_many_that_wait_are_dropped_and_counted(
    lite: Room, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = lite.ledger()
    for page in range(queue.MOST + 7):
        ledger.keep(at(page), said())
    places = [at(page) for page in range(queue.MOST + 7)]
    assert await keys_of(ledger, places) == list(range(queue.MOST))
    ledger.keep(at(0), said("anew"))  # takes no room of its own
    assert (await ledger.get(A.org_id, [at(0).key]))[at(0).key] == said("anew")
    with caplog.at_level(logging.WARNING):
        await ledger.flush()
    assert facts(caplog) == [("ledger_pages_dropped", 7)]
    assert await keys_of(lite.ledger(), places) == list(range(queue.MOST))


async def test_the_memory_of_those_that_wait_is_bounded(
    lite: Room, caplog: pytest.LogCaptureFixture
) -> None:
    ledger, heavy = lite.ledger(), said("x" * 2**20)
    for _ in range(2):
        for page in range(100):
            ledger.keep(at(page), heavy)
        assert await keys_of(ledger, [at(page) for page in range(100)]) == list(range(63))
        with caplog.at_level(logging.WARNING):
            await ledger.flush()
        async with lite.database.unit() as session:
            await session.execute(delete(rows.LedgerRow))
    assert facts(caplog) == [("ledger_pages_dropped", 37)] * 2


# --- outages --------------------------------------------------------------------------------------


@dataclass
class Fault:
    """Takes the database away and gives it back."""

    begin: Callable[[], object]
    end: Callable[[], object]


@pytest.fixture
def fault(request: pytest.FixtureRequest, room: Room, tmp_path: Path) -> Fault:
    url = room.database.engine.url
    if room.database.is_sqlite:
        path = Path(str(url.database))
        away = tmp_path / "away.db"
        return Fault(lambda: path.rename(away), lambda: away.rename(path))
    cluster = request.getfixturevalue("postgres_cluster")
    allow = f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS"
    close = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname='{url.database}'"

    def begin() -> None:
        cluster.execute(f"{allow} false")
        cluster.execute(close)

    return Fault(begin, lambda: cluster.execute(f"{allow} true"))


async def test_r7_reading_goes_on_without_the_database(
    room: Room, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    """R7: nothing is found then, but for what waits; one line at the beginning, one at the end."""
    caplog.set_level(logging.INFO)
    ledger = room.ledger()
    ledger.keep(at(0), said())
    await ledger.flush()
    ledger.keep(at(1), said())
    fault.begin()
    places = [at(page) for page in range(3)]
    for _ in range(3):
        assert await keys_of(ledger, places) == [1]
    assert facts(caplog) == [("ledger_out", None)]
    await ledger.flush()
    assert await keys_of(ledger, places) == []
    assert facts(caplog) == [("ledger_out", None), ("ledger_pages_lost", 1)]
    with pytest.raises(StorageUnavailable):
        await ledger.forget_file(A, new_id())
    with pytest.raises(StorageUnavailable):
        await ledger.sweep()
    fault.end()
    assert await keys_of(ledger, places) == [0]
    ledger.keep(at(2), said())
    await ledger.flush()
    assert await keys_of(room.ledger(), places) == [0, 2]
    assert facts(caplog)[2:] == [("ledger_back", None)]


async def test_r7_the_task_lives_through_an_outage(
    room: Room, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    """R7: what is kept after it is written without a restart, within a second."""
    caplog.set_level(logging.INFO)
    ledger = room.ledger()
    await ledger.start()
    fault.begin()
    for page in range(10):
        ledger.keep(at(page), said())
    await soon(lambda: ("ledger_pages_lost", 10) in facts(caplog))
    fault.end()
    commits = room.count_commits()
    ledger.keep(at(10), said())
    await soon(lambda: len(commits) > 0)
    await ledger.close()
    assert await keys_of(room.ledger(), [at(page) for page in range(11)]) == [10]


async def test_r7_a_short_outage_loses_nothing(
    room: Room, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    """R7: the second try finds the database again."""
    caplog.set_level(logging.INFO)
    ledger = room.ledger()
    ledger.keep(at(), said())
    fault.begin()
    flushing = asyncio.create_task(ledger.flush())
    await soon(lambda: facts(caplog) == [("ledger_out", None)])
    fault.end()
    await flushing
    assert await keys_of(room.ledger(), [at()]) == [0]


async def test_r7_closing_does_not_wait_for_the_database(
    room: Room, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    """R7: one batch is tried, and the rest is given up."""
    ledger = room.ledger()
    await ledger.start()
    for page in range(1000):
        ledger.keep(at(page), said())
    fault.begin()
    async with asyncio.timeout(5):
        await ledger.close()
    fault.end()
    lost = [pages for name, pages in facts(caplog) if name == "ledger_pages_lost"]
    assert lost in ([64, 936], [64, 64, 872])
    assert await keys_of(ledger, [at(page) for page in range(1000)]) == []


def written(commits: list[None], many: int) -> bool:
    return len(commits) == many


async def soon(is_so: Callable[[], bool]) -> None:
    """Return when it is so, which is another task's work."""
    async with asyncio.timeout(30):
        while not is_so():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)
