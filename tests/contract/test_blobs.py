"""One suite for every blob store that stands in the street, each on a real backend."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from files_api import blobs
from files_api.blobs import BlobExists, BlobMissing, BlobStore, StoredBlob, open_store
from files_api.kit import named
from tests import conftest, s3server

KEY = "0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b/5b/0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"
MIB = 1024 * 1024
BIG = bytes(range(256)) * 4096 * 3 + b"tail"
HUGE = random.Random(0).randbytes(20 * MIB + 7)
"""Some parts, where a store writes in parts."""


@pytest.fixture
async def store(blob_url: str) -> AsyncIterator[BlobStore]:
    made = open_store(blob_url)
    yield made
    await made.close()


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def whole(store: BlobStore, key: str, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in store.read(key, start, stop)])


def remains(url: str) -> list[str]:
    """Return all that a store holds, finished or not."""
    if urlsplit(url).scheme == "s3":
        return s3server.objects(url) + s3server.open_uploads(url)
    root = Path(unquote(urlsplit(url).path))
    return [path.name for path in root.rglob("*") if path.is_file()]


def test_every_store_has_a_backend_here() -> None:
    kinds = conftest.blob_url._fixture_function_marker.params  # type: ignore[attr-defined]
    assert sorted(kinds) == named.names(blobs.__name__)


@pytest.mark.parametrize("size", [0, 1, MIB, len(BIG)])
async def test_what_was_put_is_read(store: BlobStore, size: int) -> None:
    await store.put(KEY, stream(BIG[: size // 2], b"", BIG[size // 2 : size]))
    assert await whole(store, KEY) == BIG[:size]
    assert await whole(store, KEY, size // 3) == BIG[size // 3 : size]
    assert await whole(store, KEY, size + 5) == b""
    async with store.local(KEY) as path:
        assert path.read_bytes() == BIG[:size]


@pytest.mark.parametrize("size", [8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 16 * MIB, len(HUGE)])
async def test_sizes_around_those_of_parts(store: BlobStore, blob_url: str, size: int) -> None:
    await store.put(
        KEY, stream(*(HUGE[at : min(size, at + 65_536)] for at in range(0, size, 65_536)))
    )
    assert await whole(store, KEY) == HUGE[:size]
    assert await whole(store, KEY, size - 3, size + 3) == HUGE[size - 3 : size]
    assert len(remains(blob_url)) == 1


async def test_one_chunk_may_hold_all(store: BlobStore) -> None:
    await store.put(KEY, stream(HUGE))
    async with store.local(KEY) as path:
        assert path.read_bytes() == HUGE


async def test_every_range(store: BlobStore) -> None:
    data = HUGE[: 2 * MIB + 5]
    edges = [0, 1, MIB - 1, MIB, MIB + 1, len(data) - 1, len(data), len(data) + 1, 10 * MIB]
    await store.put(KEY, stream(data))
    for start in edges:
        for stop in [None, *edges]:
            chunks = [chunk async for chunk in store.read(KEY, start, stop)]
            assert b"".join(chunks) == data[start:stop], (start, stop)
            assert all(0 < len(chunk) <= MIB for chunk in chunks), (start, stop)


@pytest.mark.parametrize(("start", "stop"), [(0, None), (0, 0), (0, 1), (1, None), (5, 3)])
async def test_ranges_of_nothing(store: BlobStore, start: int, stop: int | None) -> None:
    with pytest.raises(BlobMissing):
        await whole(store, KEY, start, stop)
    await store.put(KEY, stream())
    assert await whole(store, KEY, start, stop) == b""


async def test_a_missing_blob(store: BlobStore) -> None:
    with pytest.raises(BlobMissing):
        await whole(store, KEY)
    with pytest.raises(BlobMissing):
        async with store.local(KEY):
            pass
    await store.delete(KEY)


async def test_a_deleted_blob_is_gone(store: BlobStore, blob_url: str) -> None:
    await store.put(KEY, stream(b"x"))
    await store.delete(KEY)
    assert remains(blob_url) == []
    with pytest.raises(BlobMissing):
        await whole(store, KEY)
    await store.put(KEY, stream(b"y"))
    assert await whole(store, KEY) == b"y"


@pytest.mark.parametrize("size", [0, 5, len(HUGE)])
async def test_a_blob_never_changes(store: BlobStore, size: int) -> None:
    await store.put(KEY, stream(b"first"))
    for again in (HUGE[:size], b"first"):
        with pytest.raises(BlobExists):
            await store.put(KEY, stream(again))
    assert await whole(store, KEY) == b"first"


async def test_one_of_many_writers_wins(store: BlobStore) -> None:
    writers = [store.put(KEY, stream(b"%d" % number)) for number in range(8)]
    results = await asyncio.gather(*writers, return_exceptions=True)
    assert sum(result is None for result in results) == 1
    assert sum(isinstance(result, BlobExists) for result in results) == 7
    winner = results.index(None)
    assert await whole(store, KEY) == b"%d" % winner


async def test_fifty_at_once(store: BlobStore) -> None:
    dice = random.Random(4)
    sizes = [dice.randrange(dice.choice([10, MIB, 2 * MIB])) for _ in range(50)]
    keys = [f"org/{number}" for number in range(50)]

    async def put(key: str, size: int) -> None:
        await store.put(
            key, stream(*(HUGE[at : min(size, at + 99_999)] for at in range(0, size, 99_999)))
        )

    await asyncio.gather(*map(put, keys, sizes))
    found = await asyncio.gather(*(whole(store, key) for key in keys))
    assert [len(data) for data in found] == sizes
    assert all(HUGE.startswith(data) for data in found)
    assert {blob.key: blob.size async for blob in store.blobs()} == dict(
        zip(keys, sizes, strict=True)
    )
    await asyncio.gather(*(store.delete(key) for key in keys))
    assert [blob async for blob in store.blobs()] == []


@pytest.mark.parametrize("data", [BIG, HUGE], ids=["whole", "in parts"])
async def test_an_aborted_write_leaves_nothing(
    store: BlobStore, blob_url: str, data: bytes
) -> None:
    """R2."""

    async def breaks() -> AsyncIterator[bytes]:
        yield data
        raise RuntimeError("the client left")

    with pytest.raises(RuntimeError, match="the client left"):
        await store.put(KEY, breaks())
    with pytest.raises(BlobMissing):
        await whole(store, KEY)
    assert remains(blob_url) == []
    assert await store.sweep() == 0


@pytest.mark.parametrize("data", [BIG, HUGE], ids=["whole", "in parts"])
async def test_a_cancelled_write_leaves_nothing(
    store: BlobStore, blob_url: str, data: bytes
) -> None:
    """R2."""
    begun = asyncio.Event()

    async def hangs() -> AsyncIterator[bytes]:
        yield data
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(store.put(KEY, hangs()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(BlobMissing):
        await whole(store, KEY)
    assert remains(blob_url) == []
    assert await store.sweep() == 0


async def test_writes_that_break_at_any_byte_leave_nothing(store: BlobStore, blob_url: str) -> None:
    """R2: half of the writers raise, half are cancelled; some others finish among them."""
    dice = random.Random(2)

    async def broken(number: int) -> None:
        size, at = dice.choice([dice.randrange(len(HUGE)), int(len(HUGE) ** dice.random())]), 0
        step, cancelled = dice.randrange(1, 300_000), number % 2

        async def chunks() -> AsyncIterator[bytes]:
            nonlocal at
            while at < size:
                yield HUGE[at : min(size, at + step)]
                at += step
            if cancelled:
                task.cancel()
                await asyncio.Event().wait()
            raise RuntimeError("the client left")

        task = asyncio.create_task(store.put(f"broken/{number}", chunks()))
        with pytest.raises(asyncio.CancelledError if cancelled else RuntimeError):
            await task

    for number in range(0, 40, 4):
        await asyncio.gather(
            *map(broken, range(number, number + 4)), store.put(f"kept/{number}", stream(BIG))
        )
    assert {blob.key async for blob in store.blobs()} == {f"kept/{n}" for n in range(0, 40, 4)}
    assert len(remains(blob_url)) == 10


async def test_a_reader_that_leaves_early(store: BlobStore) -> None:
    await store.put(KEY, stream(HUGE))
    for _ in range(20):
        reading = store.read(KEY)
        assert HUGE.startswith(await anext(reading))
        await reading.aclose()  # type: ignore[attr-defined]
    assert await whole(store, KEY) == HUGE


@pytest.mark.parametrize(
    "key", ["", "/a", "../a", "a/../b", "A", "a//b", "a/", ".tmp/a", "a\n", "a/b/c/d/e", "a" * 65]
)
async def test_malformed_keys(store: BlobStore, key: str) -> None:
    with pytest.raises(ValueError, match="malformed"):
        await store.put(key, stream(b"x"))
    with pytest.raises(ValueError, match="malformed"):
        await whole(store, key)
    with pytest.raises(ValueError, match="malformed"):
        await store.delete(key)
    with pytest.raises(ValueError, match="malformed"):
        async with store.local(key):
            pass


async def test_check_answers(store: BlobStore, blob_url: str) -> None:
    await store.check()
    assert remains(blob_url) == []
    assert await store.sweep() == 0


async def test_all_blobs_are_listed(store: BlobStore) -> None:
    keys = ["a", "b/c", "b/d", "org/5b/id", "org/5b/id-2", "w/x/y/z"]
    before = time.time()
    for number, key in enumerate(keys):
        await store.put(key, stream(b"x" * number))
    found = sorted([blob async for blob in store.blobs()], key=lambda blob: blob.key)
    assert [(blob.key, blob.size) for blob in found] == list(zip(keys, range(6), strict=True))
    assert all(isinstance(blob, StoredBlob) for blob in found)
    # Stores tell whole seconds.
    assert all(before - 2 < blob.modified < time.time() + 2 for blob in found)


async def test_links_to_the_store_itself(store: BlobStore, blob_url: str) -> None:
    link = await store.presign(KEY, 60, filename="a.pdf", media_type="application/pdf")
    assert (link is None) == blob_url.startswith("file:")


def test_an_unknown_scheme_names_those_that_exist() -> None:
    with pytest.raises(named.UnknownLeafError, match="file, s3"):
        open_store("ftp://somewhere")
