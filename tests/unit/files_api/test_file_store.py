"""The one door to files: order of blob and row, tenancy, expiry, links, deletion."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from files_api.accounts import Principal, ensure_local
from files_api.blobs import BlobStore, open_store
from files_api.files import FileRecord, Files, Filters
from files_api.kit.db import Base, Database
from files_api.kit.errors import (
    FileNotFound,
    InvalidFileId,
    InvalidLink,
    LinkForbidden,
    StorageUnavailable,
    TooLarge,
)
from files_api.links import Links
from files_api.quota import Quota
from files_api.tables import Organisation, StoredFileRow

STRANGER = Principal("0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b")
NOBODY = Principal("0193ffff-c3d4-7e5f-8a9b-0c1d2e3f4a5b")
BASE = "http://recto.test"


@dataclass
class Store:
    files: Files
    database: Database
    blobs: BlobStore
    folder: Path
    me: Principal
    now: float = 0

    def blob_files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    await database.run_sync(Base.metadata.create_all)
    async with database.unit() as session:
        session.add(Organisation(id=STRANGER.org_id, name="other", created_at=1))
    folder = tmp_path / "blobs"
    blobs = open_store(folder.as_uri())
    files = Files(database, blobs, Links(b"s" * 32), Quota(), 1000, clock=lambda: made.now)
    made = Store(files, database, blobs, folder, await ensure_local(database))
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
    assert b"".join([chunk async for chunk in download.chunks]) == content


async def test_the_limit_is_inclusive(store: Store) -> None:
    await put(store, b"x" * 1000)
    with pytest.raises(TooLarge, match="1000"):
        await put(store, b"x" * 1001)
    assert len(store.blob_files()) == 1


async def test_when_the_row_fails_the_blob_goes(store: Store) -> None:
    with pytest.raises(IntegrityError):
        await keep(store, b"x", who=NOBODY)
    assert store.blob_files() == []


async def test_when_the_database_is_gone_the_blob_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R1, R7: the commit may have gone through, so its bytes must not go."""
    received = await store.files.receive(store.me, stream(b"x"))

    def gone() -> None:
        raise StorageUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(store.database, "unit", gone)
        patch.setattr(store.database, "read", gone)
        with pytest.raises(StorageUnavailable):
            await store.files.keep(store.me, received, "a.pdf", "ocr")
    assert len(store.blob_files()) == 1


async def test_a_commit_that_went_through_unheard_is_a_success(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R1."""
    real = store.database.unit

    class Unheard:
        def __init__(self) -> None:
            self.inner = real()

        async def __aenter__(self) -> object:
            return await self.inner.__aenter__()

        async def __aexit__(self, *error: object) -> None:
            await self.inner.__aexit__(None, None, None)
            raise StorageUnavailable

    monkeypatch.setattr(store.database, "unit", Unheard)
    record = await keep(store, b"x")
    assert await store.files.get(store.me, record.id) == record


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
    async with store.files.open_link(url.replace("recto.test", "10.0.0.1:8000")) as file:
        assert file is not None
        assert file.path.read_bytes() == b"%PDF-1.7"
    async with store.files.open_link("https://example.org/a.pdf") as file:
        assert file is None
    altered = url[:-1] + ("A" if url[-1] != "A" else "B")
    with pytest.raises(InvalidLink):
        async with store.files.open_link(altered):
            pass
    with pytest.raises(LinkForbidden):
        await store.files.read_link(altered)
    store.now += 60
    with pytest.raises(InvalidLink):
        async with store.files.open_link(url):
            pass


async def test_a_deleted_file_ends_its_links(store: Store) -> None:
    file_id = await put(store)
    url, _ = await store.files.sign(store.me, file_id, BASE, 60)
    assert await store.files.delete(store.me, file_id) == file_id
    assert store.blob_files() == []
    with pytest.raises(InvalidLink):
        async with store.files.open_link(url):
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
        async with store.files.open_link(url):
            pass
    assert asked == 1


async def test_an_error_of_who_reads_a_link_is_not_the_links(store: Store) -> None:
    url, _ = await store.files.sign(store.me, await put(store), BASE, 60)
    with pytest.raises(FileNotFound):
        async with store.files.open_link(url):
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
        await store.files.read(store.me, file_id)
    with pytest.raises(FileNotFound):
        async with store.files.open_file(store.me, file_id):
            pass


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
