"""Large uploads: parts, one file in the end or nothing, tenancy, quota, races, expiry."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select

from files_api.accounts import Principal, ensure_local
from files_api.blobs import BlobStore, open_store
from files_api.blobs.file import FileBlobs
from files_api.files import Files
from files_api.kit.db import Base, Database
from files_api.kit.errors import (
    AppError,
    FileNotFound,
    InvalidFileId,
    QuotaExceeded,
    StorageUnavailable,
    TooLarge,
    UploadClosed,
    UploadIncomplete,
    UploadNotFound,
)
from files_api.kit.ids import new_id
from files_api.links import Links
from files_api.quota import Quota
from files_api.tables import Organisation, StoredFileRow, UploadPartRow, UploadRow
from files_api.uploads import MAX_PART_BYTES, MAX_PARTS, PartRecord, UploadRecord, Uploads, rows

STRANGER = Principal("0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b")
NOBODY = Principal("0193ffff-c3d4-7e5f-8a9b-0c1d2e3f4a5b")
MOST = 256 * 2**20
PDF = b"%PDF-1.7\n" + bytes(range(256)) * 4
NOON = 1_790_000_000


@dataclass
class Store:
    uploads: Uploads
    files: Files
    database: Database
    blobs: BlobStore
    me: Principal
    now: float = NOON
    quota: Quota = field(default_factory=Quota)

    def another(self, blobs: BlobStore | None = None) -> Uploads:
        """The uploads of another process on the same database and store."""
        files = Files(
            self.database, blobs or self.blobs, Links(b"s" * 32), self.quota, 1000, self.clock
        )
        return Uploads(
            self.database, blobs or self.blobs, files, self.quota, MOST, clock=self.clock
        )

    def clock(self) -> float:
        return self.now

    async def keys(self) -> set[str]:
        """The keys of all blobs."""
        return {blob.key async for blob in self.blobs.blobs()}

    async def parts(self) -> set[str]:
        """The keys of the parts' blobs; they are the ones that the rows know."""
        async with self.database.read() as session:
            known = set((await session.execute(select(UploadPartRow.blob_key))).scalars())
        there = {key for key in await self.keys() if "/parts/" in key}
        assert there == known
        return there

    async def counted(self, who: Principal | None = None) -> tuple[int, int]:
        """What is counted in the quota: bytes and files."""
        async with self.database.read() as session:
            row = await session.get(Organisation, (who or self.me).org_id)
        assert row
        return row.stored_bytes, row.stored_files

    async def content(self, upload: UploadRecord) -> bytes:
        assert upload.file
        chunks = await self.files.content(await self.files.read(self.me, upload.file.id))
        return b"".join([chunk async for chunk in chunks])

    async def nothing_visible(self) -> bool:
        async with self.database.read() as session:
            rows = (await session.execute(select(func.count(StoredFileRow.id)))).scalar_one()
        return rows == 0 and await self.keys() == await self.parts()


async def make(database_url: str, blob_url: str, quota: Quota | None = None) -> Store:
    database = Database(database_url)
    await database.run_sync(Base.metadata.create_all)
    async with database.unit() as session:
        session.add(Organisation(id=STRANGER.org_id, name="other", created_at=1))
    blobs, quota = open_store(blob_url), quota or Quota()
    made: Store

    def clock() -> float:
        return made.now

    # Files may be smaller than uploads.
    files = Files(database, blobs, Links(b"s" * 32), quota, 1000, clock)
    uploads = Uploads(database, blobs, files, quota, MOST, clock)
    made = Store(uploads, files, database, blobs, await ensure_local(database), quota=quota)
    return made


@pytest.fixture
async def each(database_url: str, blob_url: str) -> AsyncIterator[Store]:
    """On every database with every blob store."""
    made = await make(database_url, blob_url)
    yield made
    await made.blobs.close()
    await made.database.close()


@pytest.fixture
async def store(database_url: str, tmp_path: Path) -> AsyncIterator[Store]:
    """On every database, for what no blob store does differently."""
    made = await make(database_url, (tmp_path / "blobs").as_uri())
    yield made
    await made.database.close()


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[Store]:
    """On SQLite and this disk, for what is the same everywhere or counts steps."""
    made = await make(f"sqlite:///{tmp_path / 'x.db'}", (tmp_path / "blobs").as_uri())
    yield made
    await made.database.close()


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def begin(store: Store, size: int = len(PDF), **facts: Any) -> UploadRecord:
    wanted: dict[str, Any] = {
        "filename": "../ä.pdf",
        "mime_type": "application/x-declared",
        "purpose": "user_data",
        **facts,
    }
    return await store.uploads.open(store.me, size, **wanted)


async def add(store: Store, upload: UploadRecord, *chunks: bytes) -> PartRecord:
    return await store.uploads.add_part(store.me, upload.id, stream(*chunks))


async def whole(store: Store, content: bytes = PDF) -> tuple[UploadRecord, list[str]]:
    """An upload whose two parts have come."""
    upload, middle = await begin(store, len(content)), len(content) // 2
    parts = [await add(store, upload, piece) for piece in (content[:middle], content[middle:])]
    return upload, [part.id for part in parts]


class Gated(FileBlobs):
    """A local store whose reads of parts wait for a gate, so that a race can be led."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.reached, self.gate = asyncio.Event(), asyncio.Event()
        self.puts = 0

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> None:
        self.puts += 1
        await super().put(key, chunks)

    async def read(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        self.reached.set()
        await self.gate.wait()
        async for chunk in super().read(key, start, stop):
            yield chunk


class Gate:
    """The bytes of a part that stops after the first chunk until it is let go on."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = chunks
        self.reached, self.go = asyncio.Event(), asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._chunks[0]
        self.reached.set()
        await self.go.wait()
        for chunk in self._chunks[1:]:
            yield chunk


# --- the whole way --------------------------------------------------------------------------------


async def test_parts_become_a_file_in_the_order_that_is_given(each: Store) -> None:
    upload = await begin(each, file_expires_in=7200)
    assert (upload.filename, upload.purpose, upload.bytes) == ("ä.pdf", "user_data", len(PDF))
    assert (upload.status, upload.file) == ("pending", None)
    assert (upload.created_at, upload.expires_at) == (NOON, NOON + 3600)
    assert await each.counted() == (len(PDF), 1)
    pieces = {3: PDF[700:], 1: PDF[:300], 2: PDF[300:700]}
    found = await asyncio.gather(*(add(each, upload, piece) for piece in pieces.values()))
    ids = {place: part.id for place, part in zip(pieces, found, strict=True)}
    assert [part.upload_id for part in found] == [upload.id] * 3
    assert [part.bytes for part in found] == [len(piece) for piece in pieces.values()]
    assert await each.nothing_visible()
    assert len(await each.parts()) == 3

    md5 = hashlib.md5(PDF).hexdigest().upper()
    done = await each.uploads.complete(each.me, upload.id, [ids[1], ids[2], ids[3]], md5)

    assert done.status == "completed"
    assert done.file
    assert (done.file.filename, done.file.purpose) == ("ä.pdf", "user_data")
    assert done.file.media_type == "application/pdf"  # sniffed
    assert (done.file.bytes, done.file.sha256) == (len(PDF), hashlib.sha256(PDF).hexdigest())
    assert done.file.expires_at == done.file.created_at + 7200
    each.now = done.file.created_at
    assert await each.content(done) == PDF
    assert await each.uploads.get(each.me, upload.id) == done
    assert await each.keys() == {done.file.blob_key}
    assert await each.parts() == set()
    assert await each.counted() == (len(PDF), 1)


async def test_another_order_is_another_content(store: Store) -> None:
    upload, (first, second) = await whole(store)
    done = await store.uploads.complete(store.me, upload.id, [second.upper(), first])
    middle = len(PDF) // 2
    assert await store.content(done) == PDF[middle:] + PDF[:middle]


async def test_parts_that_are_not_named_go(store: Store) -> None:
    """A client that lost the answer to a part sends it again."""
    upload, (first, second) = await whole(store)
    await add(store, upload, PDF[:10])
    done = await store.uploads.complete(store.me, upload.id, [first, second])
    assert done.file
    assert await store.keys() == {done.file.blob_key}
    assert await store.content(done) == PDF


async def test_a_part_has_64_mib_and_the_file_more_than_other_files(local: Store) -> None:
    chunk = bytes(2**20)
    upload = await begin(local, MAX_PART_BYTES + 1)
    with pytest.raises(TooLarge, match="67108864"):
        await add(local, upload, *[chunk] * 64, b"x")
    assert await local.keys() == set()
    parts = [await add(local, upload, *[chunk] * 64), await add(local, upload, b"x")]
    done = await local.uploads.complete(local.me, upload.id, [part.id for part in parts])
    assert done.file
    assert done.file.bytes == MAX_PART_BYTES + 1
    assert done.file.sha256 == hashlib.sha256(chunk * 64 + b"x").hexdigest()


# --- what does not make a file --------------------------------------------------------------------


async def test_what_does_not_make_up_the_file_is_said(each: Store) -> None:
    upload, (first, second) = await whole(each)
    _, (foreign, _) = await whole(each)
    wrong: list[tuple[list[str], str | None, str]] = [
        ([first, NOBODY.org_id], None, NOBODY.org_id),
        ([first, foreign], None, foreign),
        ([first, "x" * 500], None, "no part 'x{36}'"),
        ([first, first.upper()], None, "named twice"),
        ([first], None, f"have {len(PDF) // 2} bytes together; .* with {len(PDF)}"),
        ([], None, "have 0 bytes"),
        ([first, second], hashlib.md5(b"x").hexdigest(), "md5"),
    ]
    there = await each.keys()
    for part_ids, md5, words in wrong:
        with pytest.raises(UploadIncomplete, match=words) as caught:
            await each.uploads.complete(each.me, upload.id, part_ids, md5)
        assert caught.value.param == ("md5" if md5 else "part_ids")
        assert await each.nothing_visible()
        assert await each.keys() == there
    done = await each.uploads.complete(each.me, upload.id, [first, second])
    assert await each.content(done) == PDF


async def test_a_part_that_was_damaged_in_the_store_is_found(local: Store, tmp_path: Path) -> None:
    """R1: what was acknowledged is what the file is made of."""
    upload, (first, second) = await whole(local)
    for path in (tmp_path / "blobs").rglob(first):
        path.write_bytes(bytes(len(PDF) // 2))
    with pytest.raises(UploadIncomplete, match=f"{first}.*damaged"):
        await local.uploads.complete(local.me, upload.id, [first, second])
    await local.blobs.delete(next(key for key in await local.keys() if key.endswith(second)))
    with pytest.raises(UploadIncomplete, match="lost"):
        await local.uploads.complete(local.me, upload.id, [second, first])
    assert (await local.files.list_after(local.me)).records == []
    assert len(await local.keys()) == 1


async def test_the_parts_come_to_twice_the_upload_at_most(store: Store) -> None:
    upload = await begin(store, 10)
    await add(store, upload, b"x" * 10)
    with pytest.raises(TooLarge, match="twice"):
        await add(store, upload, b"x" * 6, b"x" * 5)
    gates = Gate(b"x" * 5, b"x"), Gate(b"x" * 5, b"x")
    racing = [
        asyncio.create_task(store.uploads.add_part(store.me, upload.id, aiter(gate)))
        for gate in gates
    ]
    for gate in gates:
        await gate.reached.wait()
    for gate in gates:  # both have seen room for ten bytes
        gate.go.set()
    results = await asyncio.gather(*racing, return_exceptions=True)
    assert sorted(type(result) for result in results if isinstance(result, AppError)) == [TooLarge]
    assert len(await store.parts()) == 2


async def test_there_are_so_many_parts_at_most(local: Store) -> None:
    upload = await begin(local)
    row = {"upload_id": upload.id, "bytes": 0, "sha256": "", "blob_key": "", "created_at": 1}
    rows = [{**row, "id": new_id()} for _ in range(MAX_PARTS - 1)]
    async with local.database.unit() as session:
        await session.execute(insert(UploadPartRow), rows)
    await add(local, upload, b"")
    with pytest.raises(TooLarge, match="10000"):
        await add(local, upload, b"")
    assert len(await local.keys()) == 1


async def test_an_upload_has_a_largest_size(local: Store) -> None:
    await begin(local, MOST)
    with pytest.raises(TooLarge, match=str(MOST)) as caught:
        await begin(local, MOST + 1)
    assert caught.value.param == "bytes"
    assert await local.counted() == (MOST, 1)


async def test_unknown_foreign_and_malformed_ids(store: Store) -> None:
    """R12: another organisation's upload is like one that never was."""
    upload, parts = await whole(store)
    uploads = store.uploads
    for door in (
        uploads.get,
        uploads.cancel,
        lambda who, which: uploads.add_part(who, which, stream(b"x")),
        lambda who, which: uploads.complete(who, which, parts),
    ):
        for who, which in ((STRANGER, upload.id), (store.me, NOBODY.org_id), (NOBODY, upload.id)):
            with pytest.raises(UploadNotFound) as missing:
                await door(who, which)
            assert missing.value.message == UploadNotFound.default_message()
            assert missing.value.param == "upload_id"
        with pytest.raises(InvalidFileId, match="upload id") as malformed:
            await door(store.me, "x")
        assert malformed.value.param == "upload_id"
    assert len(await store.parts()) == 2
    assert (await uploads.complete(store.me, upload.id.upper(), parts)).status == "completed"
    with pytest.raises(UploadNotFound):
        await uploads.complete(STRANGER, upload.id, parts)


# --- the quota ------------------------------------------------------------------------------------


async def test_what_is_declared_counts_and_a_race_has_one_winner(
    database_url: str, tmp_path: Path
) -> None:
    blobs = (tmp_path / "blobs").as_uri()
    store = await make(database_url, blobs, Quota(max_bytes=100, max_files=3))
    results = await asyncio.gather(*(begin(store, 60) for _ in range(5)), return_exceptions=True)
    opened = [result for result in results if isinstance(result, UploadRecord)]
    assert len(opened) == 1
    assert [type(result) for result in results if result not in opened] == [QuotaExceeded] * 4
    assert await store.counted() == (60, 1)
    # The file of an upload that takes the last byte does not need the room twice.
    content = b"x" * 60
    part = await add(store, opened[0], content)
    last = await begin(store, 40)
    done = await store.uploads.complete(store.me, opened[0].id, [part.id])
    assert await store.content(done) == content
    assert await store.counted() == (100, 2)
    await store.uploads.cancel(store.me, last.id)
    assert await store.counted() == (60, 1)
    store.now = NOON + 10
    assert done.file
    await store.files.delete(store.me, done.file.id)
    assert await store.counted() == (0, 0)
    await store.database.close()


# --- the end of an upload -------------------------------------------------------------------------


async def test_cancelled_is_gone(each: Store) -> None:
    upload, parts = await whole(each)
    cancelled = await each.uploads.cancel(each.me, upload.id)
    assert (cancelled.id, cancelled.status, cancelled.file) == (upload.id, "cancelled", None)
    assert await each.keys() == set()
    assert await each.counted() == (0, 0)
    assert await each.uploads.cancel(each.me, upload.id) == cancelled
    with pytest.raises(UploadClosed, match="cancelled"):
        await each.uploads.complete(each.me, upload.id, parts)
    with pytest.raises(UploadClosed, match="cancelled"):
        await add(each, upload, b"x")
    assert await each.keys() == set()
    assert await each.counted() == (0, 0)


async def test_completed_stays_as_it_is(store: Store) -> None:
    """R20: clients send a request again when they lose its answer."""
    upload, parts = await whole(store)
    done = await store.uploads.complete(store.me, upload.id, parts)
    assert await store.uploads.complete(store.me, upload.id, parts) == done
    with pytest.raises(UploadClosed, match="completed"):
        await store.uploads.cancel(store.me, upload.id)
    with pytest.raises(UploadClosed, match="completed"):
        await add(store, upload, b"x")
    store.now += 7200
    assert await store.uploads.get(store.me, upload.id) == done
    assert done.file
    await store.files.delete(store.me, done.file.id)
    again = await store.uploads.complete(store.me, upload.id, parts)
    assert (again.status, again.file) == ("completed", None)


async def test_an_upload_whose_time_has_passed_is_expired_at_once(store: Store) -> None:
    """Swept or not, and swept once."""
    upload, parts = await whole(store)
    late, _ = await whole(store)
    store.now += 3599.9
    assert (await store.uploads.get(store.me, upload.id)).status == "pending"
    assert await store.uploads.expire() == 0
    store.now = NOON + 3600
    for swept in (False, True):
        assert (await store.uploads.get(store.me, upload.id)).status == "expired"
        with pytest.raises(UploadClosed, match="expired"):
            await store.uploads.complete(store.me, upload.id, parts)
        with pytest.raises(UploadClosed, match="expired"):
            await add(store, upload, b"x")
        with pytest.raises(UploadClosed, match="expired"):
            await store.uploads.cancel(store.me, upload.id)
        assert len(await store.parts()) == (0 if swept else 4)
        assert await store.counted() == ((0, 0) if swept else (2 * len(PDF), 2))
        assert await store.uploads.expire(batch=1) == (0 if swept else 2)
    assert (await store.uploads.get(store.me, late.id)).status == "expired"


async def test_ended_uploads_are_forgotten_after_a_week(store: Store) -> None:
    done, parts = await whole(store)
    await store.uploads.complete(store.me, done.id, parts)
    cancelled = await begin(store)
    await store.uploads.cancel(store.me, cancelled.id)
    await begin(store)
    store.now += 3600 + 7 * 24 * 3600 - 1
    assert await store.uploads.expire() == 1
    pending = await begin(store)
    assert (await store.uploads.get(store.me, done.id)).status == "completed"
    store.now += 1
    assert await store.uploads.expire() == 0
    async with store.database.read() as session:
        assert (await session.execute(select(UploadRow.id))).scalars().all() == [pending.id]
    assert len((await store.files.list_after(store.me)).records) == 1
    assert await store.counted() == (2 * len(PDF), 2)


async def test_the_upload_ends_while_a_part_comes(store: Store) -> None:
    """R2: the part is removed, whatever ended the upload."""

    async def complete(upload: UploadRecord, part: PartRecord) -> None:
        await store.uploads.complete(store.me, upload.id, [part.id])

    async def cancel(upload: UploadRecord, part: PartRecord) -> None:
        await store.uploads.cancel(store.me, upload.id)

    async def expire(upload: UploadRecord, part: PartRecord) -> None:
        store.now += 3600

    for end in (complete, cancel, expire):
        upload = await begin(store, 10)
        part = await add(store, upload, b"x" * 10)
        late = Gate(b"y" * 5, b"y" * 5)
        coming = asyncio.create_task(store.uploads.add_part(store.me, upload.id, aiter(late)))
        await late.reached.wait()
        before = await store.keys()
        await end(upload, part)
        late.go.set()
        with pytest.raises(UploadClosed):
            await coming
        assert await store.keys() <= before | {
            record.blob_key for record in (await store.files.list_after(store.me)).records
        }
    assert len(await store.parts()) == 1  # of the one that is not swept yet


# --- races ----------------------------------------------------------------------------------------


async def test_completes_at_the_same_time_put_it_together_once(local: Store) -> None:
    """R20."""
    upload, parts = await whole(local)
    blobs = Gated(f"file://{local.blobs._root}")  # type: ignore[attr-defined]
    uploads = local.another(blobs)
    racing = [
        asyncio.create_task(uploads.complete(local.me, upload.id, parts, None)) for _ in range(5)
    ]
    await blobs.reached.wait()
    blobs.gate.set()
    results = await asyncio.gather(*racing)
    assert blobs.puts == 1
    assert len({result.file.id for result in results if result.file}) == 1
    assert await local.content(results[0]) == PDF
    assert len(await local.keys()) == 1
    assert uploads._turns._locks == {}


@pytest.mark.parametrize("parts_gone", [False, True])
@pytest.mark.parametrize("end", ["complete", "cancel", "expire"])
async def test_another_process_is_faster(local: Store, end: str, parts_gone: bool) -> None:
    """The loser removes its bytes and answers what the winner made."""
    upload, parts = await whole(local)
    blobs = Gated(f"file://{local.blobs._root}")  # type: ignore[attr-defined]
    slow = asyncio.create_task(local.another(blobs).complete(local.me, upload.id, parts))
    await blobs.reached.wait()
    kept = {key: await read(local.blobs, key) for key in await local.keys()}
    if end == "complete":
        done = await local.uploads.complete(local.me, upload.id, parts)
    elif end == "cancel":
        await local.uploads.cancel(local.me, upload.id)
    else:
        local.now += 3600
        await local.uploads.expire()
    if not parts_gone:  # the slow one had read them before they went
        for key, content in kept.items():
            await local.blobs.put(key, stream(content))
    blobs.gate.set()
    if end == "complete":
        assert await slow == done
        assert await local.content(done) == PDF
    else:
        with pytest.raises(UploadClosed, match="cancelled" if end == "cancel" else "expired"):
            await slow
    for key in kept if not parts_gone else ():
        await local.blobs.delete(key)
    assert len(await local.keys()) == (1 if end == "complete" else 0)
    assert await local.counted() == ((len(PDF), 1) if end == "complete" else (0, 0))


@pytest.mark.parametrize("ends", ["completed", "cancelled"])
async def test_an_upload_may_end_between_two_looks_at_it(
    store: Store, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """Its row was found open, and its parts are gone: another process was quicker."""
    other = store.another()
    upload, parts = await whole(store)

    async def late(*_: object) -> dict[str, PartRecord]:
        monkeypatch.undo()
        if ends == "completed":
            await other.complete(store.me, upload.id, parts)
        else:
            await other.cancel(store.me, upload.id)
        return {}

    monkeypatch.setattr(rows, "parts", late)
    if ends == "completed":
        assert (await store.uploads.complete(store.me, upload.id, parts)).status == "completed"
    else:
        with pytest.raises(UploadClosed):
            await store.uploads.complete(store.me, upload.id, parts)


async def test_processes_race_and_one_file_comes_of_it(store: Store) -> None:
    """Complete, cancel and parts at the same time, from three processes."""
    others = [store.another() for _ in range(3)]
    for _ in range(5):
        upload, parts = await whole(store)
        results = await asyncio.gather(
            others[0].complete(store.me, upload.id, parts),
            others[1].complete(store.me, upload.id, parts),
            others[2].cancel(store.me, upload.id),
            others[2].add_part(store.me, upload.id, stream(b"x")),
            return_exceptions=True,
        )
        for result in results:
            assert isinstance(result, UploadRecord | PartRecord | UploadClosed), result
        end = await store.uploads.get(store.me, upload.id)
        assert end.status in {"completed", "cancelled"}
        for result in results[:2]:
            assert (result == end) == (end.status == "completed")
    assert await store.parts() == set()
    files = (await store.files.list_after(store.me)).records
    assert await store.keys() == {file.blob_key for file in files}
    assert await store.counted() == (len(PDF) * len(files), len(files))


async def read(blobs: BlobStore, key: str) -> bytes:
    return b"".join([chunk async for chunk in blobs.read(key)])


# --- what breaks ----------------------------------------------------------------------------------


async def test_a_part_that_breaks_off_leaves_nothing(each: Store) -> None:
    """R2."""
    upload = await begin(each)

    async def broken() -> AsyncIterator[bytes]:
        yield PDF[:500]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await each.uploads.add_part(each.me, upload.id, broken())
    gate = Gate(PDF[:500], PDF[500:])
    coming = asyncio.create_task(each.uploads.add_part(each.me, upload.id, aiter(gate)))
    await gate.reached.wait()
    coming.cancel()
    await asyncio.gather(coming, return_exceptions=True)
    assert await each.keys() == set()
    assert await each.parts() == set()


async def test_each_cancelled_step_is_whole_or_nothing(local: Store) -> None:
    """R2: cancelled after any number of steps, rows, blobs and quota agree."""
    made = 0
    for steps in range(0, 600, 40):
        upload, parts = await whole(local)
        work = local.uploads.complete(local.me, upload.id, parts)
        task = asyncio.create_task(work)
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        end = await local.uploads.get(local.me, upload.id)
        if end.file:
            made += 1
            assert await local.content(end) == PDF
        else:
            assert end.status == "pending"
            await local.uploads.cancel(local.me, upload.id)
        assert await local.parts() == set()
        assert len(await local.keys()) == made
        assert await local.counted() == (made * len(PDF), made)


class Commits:
    """Makes the units of a database fail at their commit: before it, or after it, unheard."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.before = self.after = 0
        """How many of the next units fail."""
        real, commits = database.unit, self

        class Unit:
            def __init__(self) -> None:
                self.inner = real()

            async def __aenter__(self) -> object:
                return await self.inner.__aenter__()

            async def __aexit__(self, *error: Any) -> bool | None:
                if commits.before and error[0] is None:
                    commits.before -= 1
                    failure = StorageUnavailable()
                    await self.inner.__aexit__(StorageUnavailable, failure, None)
                    raise failure
                ended = await self.inner.__aexit__(*error)
                if commits.after:
                    commits.after -= 1
                    raise StorageUnavailable
                return ended

        monkeypatch.setattr(database, "unit", Unit)


async def test_a_commit_that_fails_leaves_no_bytes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R8."""
    upload, parts = await whole(store)
    commits = Commits(store.database, monkeypatch)
    for broken in (
        lambda: add(store, upload, b"x"),
        lambda: store.uploads.complete(store.me, upload.id, parts),
        lambda: store.uploads.cancel(store.me, upload.id),
        lambda: begin(store, 10),
    ):
        commits.before = 1
        with pytest.raises(StorageUnavailable):
            await broken()
        assert commits.before == 0
        assert await store.nothing_visible()
        assert len(await store.parts()) == 2
        assert await store.counted() == (len(PDF), 1)
    done = await store.uploads.complete(store.me, upload.id, parts)
    assert await store.content(done) == PDF


async def test_a_commit_that_went_through_unheard_is_a_success(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R1."""
    upload = await begin(store)
    commits = Commits(store.database, monkeypatch)
    commits.after = 1
    part = await add(store, upload, PDF)
    assert len(await store.parts()) == 1
    commits.after = 1
    done = await store.uploads.complete(store.me, upload.id, [part.id])
    assert commits.after == 0
    assert await store.content(done) == PDF
    assert len(await store.keys()) == 1
    assert await store.counted() == (len(PDF), 1)


async def test_where_the_database_cannot_tell_the_bytes_stay(
    local: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R1, R7: the commit may have gone through."""
    upload, parts = await whole(local)
    commits = Commits(local.database, monkeypatch)
    commits.before = 2  # the one that writes, the one that looks
    with pytest.raises(StorageUnavailable):
        await add(local, upload, b"x")
    assert len(await local.keys()) == 3
    commits.before = 2
    with pytest.raises(StorageUnavailable):
        await local.uploads.complete(local.me, upload.id, parts)
    assert len(await local.keys()) == 4
    done = await local.uploads.complete(local.me, upload.id, parts)
    assert await local.content(done) == PDF


async def test_blobs_that_cannot_be_removed_do_not_fail_what_is_done(local: Store) -> None:
    class Stuck(FileBlobs):
        async def delete(self, key: str) -> None:
            raise StorageUnavailable(key)

    uploads = local.another(Stuck(f"file://{local.blobs._root}"))  # type: ignore[attr-defined]
    upload, parts = await whole(local)
    done = await uploads.complete(local.me, upload.id, parts)
    assert await local.content(done) == PDF
    upload, _ = await whole(local)
    assert (await uploads.cancel(local.me, upload.id)).status == "cancelled"
    assert len(await local.keys()) == 5  # four wait for the sweep of orphans


async def test_an_expired_file_is_gone_and_its_upload_says_completed(store: Store) -> None:
    upload = await begin(store, file_expires_in=3600)
    part = await add(store, upload, PDF)
    done = await store.uploads.complete(store.me, upload.id, [part.id])
    assert done.file
    assert done.file.expires_at
    store.now = done.file.expires_at
    with pytest.raises(FileNotFound):
        await store.files.get(store.me, done.file.id)
    again = await store.uploads.get(store.me, upload.id)
    assert (again.status, again.file) == ("completed", None)
