"""The one door to files: order of blob and row, tenancy, expiry, links, deletion."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, event, select, text, update
from sqlalchemy.exc import NoResultFound
from sqlalchemy.ext.asyncio import AsyncSession

from files_api.accounts import Principal, ensure_local
from files_api.blobs import BlobStore, open_store
from files_api.files import Download, FileRecord, Files, Filters, installation, orphans
from files_api.files.spare import Spare
from files_api.kit.db import Base, Database
from files_api.kit.errors import (
    BodyTimeout,
    FileNotFound,
    InvalidFileId,
    InvalidLink,
    LinkForbidden,
    QuotaExceeded,
    StorageFull,
    StorageUnavailable,
    TooLarge,
)
from files_api.links import Links
from files_api.quota import Quota
from files_api.tables import Organisation, StoredFileRow, UploadPartRow, UploadRow

STRANGER = Principal("0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b")
NOBODY = Principal("0193ffff-c3d4-7e5f-8a9b-0c1d2e3f4a5b")
BASE = "http://recto.test"


@dataclass
class Store:
    files: Files
    quota: Quota
    database: Database
    blobs: BlobStore
    folder: Path
    me: Principal
    now: float = 0

    def blob_files(self) -> list[Path]:
        """All but the store's own marker."""
        files = {path for path in self.folder.rglob("*") if path.is_file()}
        return sorted(files - {self.folder / installation.OWNER_KEY})


@pytest.fixture
async def store(tmp_path: Path, database_url: str) -> AsyncIterator[Store]:
    database = Database(database_url)
    await database.run_sync(Base.metadata.create_all)
    async with database.unit() as session:
        session.add(Organisation(id=STRANGER.org_id, name="other", created_at=1))
    folder = tmp_path / "blobs"
    blobs = open_store(folder.as_uri())
    quota = Quota(max_bytes=100_000, max_files=1000)
    files = Files(database, blobs, Links(b"s" * 32), quota, 1000, clock=lambda: made.now)
    made = Store(files, quota, database, blobs, folder, await ensure_local(database))
    await made.files.sweep_orphans()  # as every start: from now on the store is this database's
    yield made
    await database.close()


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def keep(
    store: Store,
    *chunks: bytes,
    who: Principal | None = None,
    name: str = "a.pdf",
    expires_in: int | None = None,
) -> FileRecord:
    who = who or store.me
    received = await store.files.receive(who, stream(*chunks))
    return await store.files.keep(who, received, name, "ocr", expires_in=expires_in)


async def put(store: Store, content: bytes = b"%PDF-1.7", expires_in: int | None = None) -> str:
    record = await keep(store, content, expires_in=expires_in)
    store.now = max(store.now, record.created_at)
    return record.id


async def read(store: Store, download: Download, start: int = 0, stop: int | None = None) -> bytes:
    chunks = await store.files.content(download, start, stop)
    return b"".join([chunk async for chunk in chunks])


async def stored(store: Store, who: Principal | None = None) -> tuple[int, int]:
    """The organisation's counters: bytes and files."""
    async with store.database.read() as session:
        row = await session.get(Organisation, (who or store.me).org_id)
        assert row
        return row.stored_bytes, row.stored_files


async def test_a_file_that_is_too_large_to_be_read_is_not_copied(store: Store) -> None:
    """One that came in parts may be: its row says so before its bytes are touched."""
    record = await keep(store, b"x" * 900)
    for path in store.blob_files():
        path.unlink()  # whoever touched them would notice
    store.files.max_bytes = 899
    with pytest.raises(TooLarge):
        await store.files.open_file(store.me, record.id).__aenter__()


async def test_a_stored_file_is_read_back(store: Store) -> None:
    chunks = [b"%P", b"DF-", b"x" * 900]
    record = await keep(store, *chunks, name="../ä.pdf")
    content = b"".join(chunks)
    assert (record.filename, record.media_type) == ("ä.pdf", "application/pdf")
    assert (record.bytes, record.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert await store.files.get(store.me, record.id.upper()) == record
    async with store.files.open_file(store.me, record.id) as file:
        assert file.path.read_bytes() == content
        assert (file.size, file.filename, file.media_type, file.sha256) == (
            record.bytes,
            record.filename,
            record.media_type,
            record.sha256,
        )
    download = await store.files.read(store.me, record.id)
    assert await read(store, download) == content
    assert await read(store, download, 2, 5) == content[2:5]
    assert await read(store, download, 890) == content[890:]


async def test_the_limit_is_inclusive(store: Store) -> None:
    await put(store, b"x" * 1000)
    with pytest.raises(TooLarge, match="1000"):
        await put(store, b"x" * 1001)
    assert len(store.blob_files()) == 1


async def test_when_the_row_fails_the_blob_goes(store: Store) -> None:
    with pytest.raises(NoResultFound):
        await keep(store, b"x", who=NOBODY)
    assert store.blob_files() == []


async def test_when_the_database_fails_before_the_commit_the_blob_goes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R7: no commit was asked for, so nothing is left, and there is nothing to look up."""

    def no_unit() -> None:
        raise StorageUnavailable

    async def gone(_: AsyncSession) -> None:
        monkeypatch.setattr(store.database, "unit", no_unit)
        raise StorageUnavailable

    received = await store.files.receive(store.me, stream(b"x"))
    with pytest.raises(StorageUnavailable):
        await store.files.keep(store.me, received, "a.pdf", "ocr", within=gone)
    assert store.blob_files() == []
    assert await stored(store) == (0, 0)


class Unheard:
    """A unit whose commit goes through, or not, and is not answered."""

    def __init__(self, real: Callable[[], Any], commits: bool) -> None:
        self.inner = real()
        self.commits = commits

    async def __aenter__(self) -> object:
        return await self.inner.__aenter__()

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is None and not self.commits:
            error = StorageUnavailable()
            kind = type(error)
        with suppress(StorageUnavailable):
            await self.inner.__aexit__(kind, error, trace)
        raise StorageUnavailable


async def test_when_nobody_knows_of_the_commit_the_blob_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R1, R7: the commit may have gone through, so its bytes must not go."""
    real = store.database.unit
    monkeypatch.setattr(store.database, "unit", lambda: Unheard(real, commits=True))
    with pytest.raises(StorageUnavailable):
        await keep(store, b"x")
    assert len(store.blob_files()) == 1


@pytest.mark.parametrize("commits", [True, False])
async def test_a_commit_that_was_not_answered_is_looked_up(
    store: Store, monkeypatch: pytest.MonkeyPatch, commits: bool
) -> None:
    """R1: a file whose row is there is a success, and one whose row is not leaves nothing."""
    real, units = store.database.unit, 0

    def unit() -> object:
        nonlocal units
        units += 1
        return Unheard(real, commits) if units == 1 else real()

    with monkeypatch.context() as patch:
        patch.setattr(store.database, "unit", unit)
        if commits:
            record = await keep(store, b"x")
            assert await store.files.get(store.me, record.id) == record
        else:
            with pytest.raises(StorageUnavailable):
                await keep(store, b"x")
    assert len(store.blob_files()) == commits
    assert await stored(store) == (commits, commits)


async def test_each_cancelled_upload_is_whole_or_nothing(store: Store) -> None:
    """R2: cancelled after any number of steps, rows and blobs agree."""
    for steps in range(0, 600, 20):
        task = asyncio.create_task(put(store, b"x" * 10))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    rows = (await store.files.list_after(store.me)).records
    assert len(store.blob_files()) == len(rows)
    for row in rows:
        async with store.files.open_file(store.me, row.id) as file:
            assert file.path.stat().st_size == 10


async def test_unknown_foreign_and_malformed_ids(store: Store) -> None:
    """R12: another organisation's file is like one that never was."""
    mine = await put(store)
    doors = (
        store.files.get,
        store.files.read,
        store.files.delete,
        lambda who, which: store.files.sign(who, which, BASE, 60),
        lambda who, which: store.files.open_file(who, which).__aenter__(),
    )
    for door in doors:
        for who, which in ((STRANGER, mine), (store.me, NOBODY.org_id), (NOBODY, mine)):
            with pytest.raises(FileNotFound) as caught:
                await door(who, which)
            assert caught.value.message == FileNotFound.default_message()
        with pytest.raises(InvalidFileId):
            await door(store.me, "x")
    assert (await store.files.list_after(STRANGER)).records == []
    assert (await store.files.list_page(STRANGER, count=True)).total == 0
    assert (await store.files.get(store.me, mine)).id == mine


async def test_an_expired_file_is_gone_everywhere(store: Store) -> None:
    file_id = await put(store, expires_in=3600)
    await put(store)
    url, _ = await store.files.sign(store.me, file_id, BASE, 7200)
    store.now = (await store.files.get(store.me, file_id)).created_at + 3600
    for door in (store.files.get, store.files.read, store.files.delete):
        with pytest.raises(FileNotFound):
            await door(store.me, file_id)
    assert (await store.files.list_page(store.me)).total == 1
    with pytest.raises(FileNotFound):
        await store.files.read_link(url)


async def test_expired_files_are_deleted_with_all_that_hangs_on_them(store: Store) -> None:
    short = [await put(store, expires_in=3600) for _ in range(5)]
    other = (await keep(store, b"x", who=STRANGER, expires_in=3600)).id
    stays = [await put(store), await put(store, expires_in=7200)]
    # A second may pass between the first file and the last.
    store.now = (await store.files.get(store.me, short[0])).created_at + 3599
    assert await store.files.expire() == 0
    seen: set[tuple[str, str]] = set()

    async def hook(principal: Principal, which: str) -> None:
        seen.add((principal.org_id, which))

    store.files.on_delete.append(hook)
    store.now = (await store.files.get(STRANGER, other)).created_at + 3600
    assert await store.files.expire(batch=2) == 6
    assert seen == {(STRANGER.org_id, other), *((store.me.org_id, which) for which in short)}
    assert sorted(path.name for path in store.blob_files()) == sorted(stays)
    async with store.database.read() as session:
        assert set((await session.execute(select(StoredFileRow.id))).scalars()) == set(stays)
    assert await store.files.expire() == 0


async def test_an_expired_file_whose_hook_fails_waits_and_holds_up_none(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    stuck, *others = [await put(store, expires_in=60) for _ in range(3)]
    broken = True

    async def hook(_: Principal, which: str) -> None:
        if broken and which == stuck:
            raise StorageUnavailable

    store.files.on_delete.append(hook)
    store.now += 60
    assert await store.files.expire(batch=1) == len(others)
    assert [path.name for path in store.blob_files()] == [stuck]
    assert [record.facts for record in caplog.records] == [  # type: ignore[attr-defined]
        {"file_id": stuck, "code": "storage_unavailable"}
    ]
    broken = False
    assert await store.files.expire(batch=1) == 1
    assert store.blob_files() == []


async def test_links_that_are_given_back(store: Store) -> None:
    file_id = await put(store)
    url, expires_at = await store.files.sign(store.me, file_id, BASE, 60)
    assert expires_at == int(store.now) + 60
    async with store.files.open_link(STRANGER, url.replace("recto.test", "10.0.0.1:8000")) as file:
        assert file is not None
        assert file.path.read_bytes() == b"%PDF-1.7"
    async with store.files.open_link(STRANGER, "https://example.org/a.pdf") as file:
        assert file is None
    altered = url[:-1] + ("A" if url[-1] != "A" else "B")
    with pytest.raises(InvalidLink):
        async with store.files.open_link(STRANGER, altered):
            pass
    with pytest.raises(LinkForbidden):
        await store.files.read_link(altered)
    store.now += 60
    with pytest.raises(InvalidLink):
        async with store.files.open_link(STRANGER, url):
            pass


async def test_a_deleted_file_ends_its_links(store: Store) -> None:
    file_id = await put(store)
    url, _ = await store.files.sign(store.me, file_id, BASE, 60)
    assert await store.files.delete(store.me, file_id) == file_id
    assert store.blob_files() == []
    with pytest.raises(InvalidLink):
        async with store.files.open_link(STRANGER, url):
            pass
    with pytest.raises(FileNotFound):
        await store.files.delete(store.me, file_id)


async def test_a_link_whose_file_goes_while_it_is_opened(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_id = await put(store)
    url, _ = await store.files.sign(store.me, file_id, BASE, 60)
    real, asked = store.files.get, 0

    async def get(principal: Principal, which: str) -> FileRecord:
        nonlocal asked
        asked += 1
        record = await real(principal, which)
        store.blob_files()[0].unlink()
        return record

    monkeypatch.setattr(store.files, "get", get)
    with pytest.raises(InvalidLink):
        async with store.files.open_link(STRANGER, url):
            pass
    assert asked == 1


async def test_an_error_of_who_reads_a_link_is_not_the_links(store: Store) -> None:
    url, _ = await store.files.sign(store.me, await put(store), BASE, 60)
    with pytest.raises(FileNotFound):
        async with store.files.open_link(STRANGER, url):
            raise FileNotFound


async def test_what_hangs_on_a_file_goes_before_it(store: Store) -> None:
    file_id = await put(store)
    seen: list[tuple[str, str]] = []
    broken = True

    async def hook(principal: Principal, which: str) -> None:
        await store.files.get(principal, which)
        if broken:
            raise StorageUnavailable
        seen.append((principal.org_id, which))

    store.files.on_delete.append(hook)
    with pytest.raises(StorageUnavailable):
        await store.files.delete(store.me, file_id)
    broken = False
    await store.files.delete(store.me, file_id)
    assert seen == [(store.me.org_id, file_id)]


async def test_of_many_deletions_one_succeeds(store: Store) -> None:
    file_id = await put(store)
    results = await asyncio.gather(
        *(store.files.delete(store.me, file_id) for _ in range(5)), return_exceptions=True
    )
    assert results.count(file_id) == 1
    assert sum(isinstance(result, FileNotFound) for result in results) == 4


async def test_a_blob_that_cannot_be_deleted_does_not_bring_the_file_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_id = await put(store)

    async def fail(_: str) -> None:
        raise StorageUnavailable

    monkeypatch.setattr(store.blobs, "delete", fail)
    await store.files.delete(store.me, file_id)
    with pytest.raises(FileNotFound):
        await store.files.get(store.me, file_id)


async def test_a_lost_blob_is_not_found(store: Store) -> None:
    file_id = await put(store)
    store.blob_files()[0].unlink()
    with pytest.raises(FileNotFound):
        await store.files.content(await store.files.read(store.me, file_id))
    with pytest.raises(FileNotFound):
        async with store.files.open_file(store.me, file_id):
            pass


async def test_a_lost_blob_is_told_from_a_file_that_is_just_deleted(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """R1: the alarm rings for a row without bytes, and not for a download beside a deletion."""
    deleted, lost = await put(store), await put(store)
    downloads = [await store.files.read(store.me, file_id) for file_id in (deleted, lost)]
    await store.files.delete(store.me, deleted)
    store.blob_files()[0].unlink()
    for download in downloads:
        with pytest.raises(FileNotFound):
            await store.files.content(download)
    alarms = [record for record in caplog.records if record.message == "blob_missing"]
    assert [(record.levelname, record.facts) for record in alarms] == [  # type: ignore[attr-defined]
        ("ERROR", {"file_id": lost})
    ]


async def test_what_has_expired_makes_room(store: Store) -> None:
    """R8: before a file's bytes come, and when it is kept; nobody else's files go."""
    await keep(store, b"s" * 100, who=STRANGER, expires_in=60)
    async with store.database.unit() as session:
        await session.execute(update(Organisation).values(max_bytes=100))
    first = await put(store, b"x" * 100, expires_in=60)
    with pytest.raises(QuotaExceeded):
        await store.files.check_room(store.me)
    assert (await store.files.get(store.me, first)).bytes == 100
    store.now += 60
    await store.files.check_room(store.me, 100)
    assert await stored(store) == (0, 0)
    await put(store, b"y" * 100, expires_in=60)
    received = [await store.files.receive(store.me, stream(b"z" * 50)) for _ in range(3)]
    store.now += 120
    results = await asyncio.gather(
        *(store.files.keep(store.me, one, "a", "ocr") for one in received), return_exceptions=True
    )
    assert sum(isinstance(result, FileRecord) for result in results) == 2
    assert sum(isinstance(result, QuotaExceeded) for result in results) == 1
    assert (await stored(store), await stored(store, STRANGER)) == ((100, 2), (100, 1))
    assert len(store.blob_files()) == 3


async def test_filters_hold_in_both_ways_of_paging(store: Store) -> None:
    await put(store)
    for filters, found in (
        (Filters(purpose="ocr", search="A.P"), 1),
        (Filters(search="_"), 0),
        (Filters(media_types=["image/png"]), 0),
        (Filters(sources=[]), 1),
    ):
        assert len((await store.files.list_after(store.me, filters=filters)).records) == found
        assert (await store.files.list_page(store.me, filters=filters)).total == found


async def test_what_is_stored_is_counted(store: Store) -> None:
    """R8: the counters are the sums of the rows, whatever came in which order."""
    short = [await put(store, b"x" * size, expires_in=60) for size in (1, 20, 300)]
    await keep(store, b"yy", who=STRANGER, expires_in=60)
    stays = await put(store, b"x" * 500)
    assert await stored(store) == (821, 4)
    await asyncio.gather(
        *(store.files.delete(store.me, short[1]) for _ in range(4)), return_exceptions=True
    )
    assert await stored(store) == (801, 3)
    store.now += 60
    assert await store.files.expire() == 3
    assert await stored(store) == (500, 1)
    assert await stored(store, STRANGER) == (0, 0)
    await store.files.delete(store.me, stays)
    assert await stored(store) == (0, 0)


@pytest.mark.parametrize("limits", [{"max_files": 4}, {"max_bytes": 40}])
async def test_a_race_for_the_last_place_has_one_winner(
    store: Store, limits: dict[str, int]
) -> None:
    """Of two uploads that both saw room, one is refused, and leaves nothing."""
    async with store.database.unit() as session:
        await session.execute(update(Organisation).values(**limits))
    for size in (10, 9, 11):
        await put(store, b"x" * size)
    received = [await store.files.receive(store.me, stream(b"x" * 10)) for _ in range(6)]
    for _ in received:
        await store.files.check_room(store.me, 10)
    results = await asyncio.gather(
        *(store.files.keep(store.me, one, "a", "ocr") for one in received), return_exceptions=True
    )
    assert sum(isinstance(result, FileRecord) for result in results) == 1
    assert sum(isinstance(result, QuotaExceeded) for result in results) == 5
    assert len(store.blob_files()) == 4
    assert await stored(store) == (40, 4)
    with pytest.raises(QuotaExceeded):
        await store.files.check_room(store.me)


async def until_it_waits(store: Store) -> None:
    """Let the other tasks run until one waits for a lock of the database."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    for _ in range(1000):
        await asyncio.sleep(0)
        if store.database.is_sqlite:
            continue  # there, units queue: what comes second waits, whether it has begun or not
        async with store.database.read() as session:
            if (await session.execute(waiting)).scalar_one():
                return
    assert store.database.is_sqlite, "nothing waits"


async def test_a_deletion_waits_for_its_organisation_before_its_rows(store: Store) -> None:
    """R8: the other way round PostgreSQL would see a deadlock, and one of the two would fail."""
    file_id = await put(store)
    async with store.database.unit() as session:
        await store.quota.lock(session, [store.me.org_id])
        task = asyncio.create_task(store.files.delete(store.me, file_id))
        await until_it_waits(store)
        await session.execute(delete(StoredFileRow).where(StoredFileRow.id == file_id))
        await store.quota.give_back(session, store.me.org_id, 8)
    with pytest.raises(FileNotFound):
        await task
    assert await stored(store) == (0, 0)


async def test_deletions_and_uploads_of_many_organisations_go_side_by_side(store: Store) -> None:
    others = [Principal(f"0193a1b2-c3d4-7e5f-8a9b-00000000000{number}") for number in range(4)]
    async with store.database.unit() as session:
        session.add_all(Organisation(id=who.org_id, name="x", created_at=1) for who in others)
    for _ in range(3):
        for who in others:
            await keep(store, b"x", who=who, expires_in=-10_000_000_000)
    results = await asyncio.gather(
        *(store.files.expire(batch=5) for _ in range(3)),
        *(keep(store, b"x", who=who) for who in others for _ in range(3)),
    )
    assert sum(results[:3]) == 12
    assert [await stored(store, who) for who in others] == [(3, 3)] * 4


async def orphan(store: Store, key: str, age: float = 3601, content: bytes = b"x") -> Path:
    await store.blobs.put(key, stream(content))
    path = store.folder / key
    os.utime(path, (store.now - age, store.now - age))
    return path


async def test_orphans_are_swept_and_nothing_else(store: Store) -> None:
    """R1, R2: what a crash left goes, within one sweep; what may be in use stays."""
    kept = await put(store)
    store.now += 10_000
    os.utime(store.blob_files()[0], (1, 1))
    me, upload, part = store.me.org_id, NOBODY.org_id, kept[:-4] + "ffff"
    async with store.database.unit() as session:
        session.add(
            UploadRow(
                id=upload,
                org_id=me,
                filename="a",
                declared_type="",
                purpose="ocr",
                bytes=1,
                created_at=1,
                expires_at=2,
                status="pending",
            )
        )
        await session.flush()
        rows = ((part, f"{me}/parts/{upload}/{part}"), (upload, f"{me}/parts/elsewhere/x"))
        session.add_all(
            UploadPartRow(id=row, upload_id=upload, bytes=1, sha256="", blob_key=key, created_at=1)
            for row, key in rows
        )
    stay = [
        await orphan(store, rows[0][1]),
        await orphan(store, rows[1][1]),
        await orphan(store, f"{me}/aa/{kept[:-4]}0000", age=3599),
        await orphan(store, f"{NOBODY.org_id}/aa/{kept}"),
        await orphan(store, "recto/other"),
    ]
    go = [
        await orphan(store, f"{me}/aa/{kept}"),
        await orphan(store, f"{me}/parts/{upload}/{kept}"),
        await orphan(store, f"{STRANGER.org_id}/{kept[-2:]}/{kept}"),
    ]
    assert await store.files.sweep_orphans() == 3
    assert not any(path.exists() for path in go)
    assert all(path.exists() for path in stay)
    assert await read(store, await store.files.read(store.me, kept)) == b"%PDF-1.7"
    assert await store.files.sweep_orphans() == 0


async def test_many_orphans_are_swept_in_batches(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "_BATCH", 3)
    kept = [await put(store) for _ in range(4)]
    store.now += 10_000
    for path in store.blob_files():
        os.utime(path, (1, 1))
    for number in range(7):
        await orphan(store, f"{store.me.org_id}/aa/{number}")
    assert await store.files.sweep_orphans() == 7
    assert sorted(path.name for path in store.blob_files()) == sorted(kept)


async def test_when_the_database_fails_the_sweep_of_orphans_stops(store: Store) -> None:
    """R7: a blob that nobody can ask about is not removed."""
    store.now += 10_000
    for number in range(3):
        await orphan(store, f"{store.me.org_id}/aa/{number}")
    asked = 0

    def fail(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        nonlocal asked
        asked += not statement.startswith("BEGIN")
        if asked > 6:  # who we are, three for the batch, two for the first orphan
            raise StorageUnavailable

    event.listen(store.database.engine.sync_engine, "before_cursor_execute", fail)
    with pytest.raises(StorageUnavailable):
        await store.files.sweep_orphans()
    assert len(store.blob_files()) == 2
    event.remove(store.database.engine.sync_engine, "before_cursor_execute", fail)
    assert await store.files.sweep_orphans() == 2


async def test_a_file_whose_bytes_were_swept_is_refused(store: Store) -> None:
    """R1: no row without bytes: whose bytes came so slowly that they looked left over."""
    received = await store.files.receive(store.me, stream(b"x"))
    slow = await store.files.receive(store.me, stream(b"y"))
    store.now += 3601
    for path in store.blob_files():
        os.utime(path, (0, 0))
    assert (await store.files.keep(store.me, slow, "slow", "ocr")).bytes == 1
    assert await store.files.sweep_orphans() == 1
    with pytest.raises(BodyTimeout):
        await store.files.keep(store.me, received, "a", "ocr")
    assert [row.filename for row in (await store.files.list_after(store.me)).records] == ["slow"]
    assert await stored(store) == (1, 1)


async def test_a_file_whose_bytes_are_just_being_swept_is_refused(store: Store) -> None:
    """R1: the look at the bytes and the row are one with the lock that the sweep holds."""
    slow = await store.files.receive(store.me, stream(b"y"))
    store.now += 3601
    async with store.database.unit() as session:
        await store.quota.lock(session, [store.me.org_id])
        task = asyncio.create_task(store.files.keep(store.me, slow, "slow", "ocr"))
        await until_it_waits(store)
        await store.blobs.delete(slow.blob_key)
    with pytest.raises(BodyTimeout):
        await task
    assert (await store.files.list_after(store.me)).records == []


async def test_measured_bytes_are_not_stored(store: Store) -> None:
    measured = await store.files.measure(store.me, stream(b"%P", b"DF-"))
    received = await store.files.receive(store.me, stream(b"%PDF-"))
    assert (measured.sha256, measured.bytes, measured.media_type, measured.blob_key) == (
        received.sha256,
        5,
        received.media_type,
        "",
    )
    with pytest.raises(TooLarge):
        await store.files.measure(store.me, stream(b"x" * 1001))
    assert len(store.blob_files()) == 1


@pytest.mark.parametrize("what", ["deleted", "expired"])
async def test_a_full_disk_can_be_emptied(store: Store, tmp_path: Path, what: str) -> None:
    """R7: a deletion needs room, too: it gets what was set aside, which is set aside again."""
    path = tmp_path / "spare"
    store.files._spare = store.files.expiry._spare = Spare(path)
    await store.files.expire()
    assert path.stat().st_blocks * 512 >= 2**20
    ids = [await put(store, expires_in=60) for _ in range(3)]
    room = True

    def full(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("DELETE") and (path.exists() or not room):
            raise StorageFull

    engine = store.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", full)
    if what == "deleted":
        for file_id in ids:
            assert await store.files.delete(store.me, file_id) == file_id
    else:
        store.now += 60
        assert await store.files.expire(batch=2) == 3
    assert store.blob_files() == []
    assert path.exists()
    room, last = False, await put(store)
    with pytest.raises(StorageFull):
        await store.files.delete(store.me, last)
    assert len(store.blob_files()) == 1
    assert path.exists()
    event.remove(engine, "before_cursor_execute", full)


async def test_without_spare_room_a_full_disk_says_so(store: Store) -> None:
    file_id = await put(store)

    async def hook(_: Principal, __: str) -> None:
        raise StorageFull

    store.files.on_delete.append(hook)
    with pytest.raises(StorageFull):
        await store.files.delete(store.me, file_id)
