"""One suite for every blob store that stands in the street."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from files_api import blobs
from files_api.blobs import BlobExists, BlobMissing, BlobStore, open_store
from files_api.blobs import file as file_store
from files_api.kit import named
from files_api.kit.disk import make_folders
from files_api.kit.errors import StorageFull, StorageUnavailable

KEY = "0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b/5b/0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"
BIG = bytes(range(256)) * 4096 * 3 + b"tail"
URLS: dict[str, Callable[[Path], str]] = {"file": lambda folder: (folder / "a b%").as_uri()}
"""A leaf that is missing here fails the suite: it has no backend to be tried on."""


@pytest.fixture(params=named.names(blobs.__name__))
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BlobStore]:
    made = open_store(URLS[request.param](tmp_path))
    yield made
    await made.close()


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def whole(store: BlobStore, key: str, start: int = 0) -> bytes:
    return b"".join([chunk async for chunk in store.read(key, start)])


@pytest.mark.parametrize("size", [0, 1, 1024 * 1024, len(BIG)])
async def test_what_was_put_is_read(store: BlobStore, size: int) -> None:
    await store.put(KEY, stream(BIG[: size // 2], b"", BIG[size // 2 : size]))
    assert await whole(store, KEY) == BIG[:size]
    assert await whole(store, KEY, size // 3) == BIG[size // 3 : size]
    assert await whole(store, KEY, size + 5) == b""
    async with store.local(KEY) as path:
        assert path.read_bytes() == BIG[:size]


async def test_a_missing_blob(store: BlobStore) -> None:
    with pytest.raises(BlobMissing):
        await whole(store, KEY)
    with pytest.raises(BlobMissing):
        async with store.local(KEY):
            pass
    await store.delete(KEY)


async def test_a_deleted_blob_is_gone(store: BlobStore) -> None:
    await store.put(KEY, stream(b"x"))
    await store.delete(KEY)
    with pytest.raises(BlobMissing):
        await whole(store, KEY)
    await store.put(KEY, stream(b"y"))
    assert await whole(store, KEY) == b"y"


async def test_a_blob_never_changes(store: BlobStore) -> None:
    await store.put(KEY, stream(b"first"))
    with pytest.raises(BlobExists):
        await store.put(KEY, stream(b"second"))
    assert await whole(store, KEY) == b"first"


async def test_one_of_many_writers_wins(store: BlobStore) -> None:
    writers = [store.put(KEY, stream(b"%d" % number)) for number in range(8)]
    results = await asyncio.gather(*writers, return_exceptions=True)
    assert sum(result is None for result in results) == 1
    winner = results.index(None)
    assert await whole(store, KEY) == b"%d" % winner


async def test_an_aborted_write_leaves_nothing(store: BlobStore) -> None:
    """R2."""

    async def breaks() -> AsyncIterator[bytes]:
        yield BIG
        raise RuntimeError("the client left")

    with pytest.raises(RuntimeError):
        await store.put(KEY, breaks())
    with pytest.raises(BlobMissing):
        await whole(store, KEY)
    assert await store.sweep() == 0


async def test_a_cancelled_write_leaves_nothing(store: BlobStore) -> None:
    """R2."""
    begun = asyncio.Event()

    async def hangs() -> AsyncIterator[bytes]:
        yield BIG
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(store.put(KEY, hangs()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(BlobMissing):
        await whole(store, KEY)
    assert await store.sweep() == 0


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


async def test_check_answers(store: BlobStore) -> None:
    await store.check()
    assert await store.sweep() == 0


def test_an_unknown_scheme_names_those_that_exist() -> None:
    with pytest.raises(named.UnknownLeafError, match="file"):
        open_store("ftp://somewhere")


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


# What follows is about the local disk alone.


async def test_files_are_for_our_eyes_only(tmp_path: Path) -> None:
    root = tmp_path / "blobs"
    await open_store(root.as_uri()).put(KEY, stream(b"x"))
    for path in [root, *root.rglob("*")]:
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


async def test_the_sweep_spares_living_writers_and_takes_dead_ones(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    writing = file_store._Writing(tmp_path)
    writing.open()
    (tmp_path / ".tmp" / "left-by-a-dead-process").write_bytes(b"x")
    assert await store.sweep() == 1
    writing.write(bytearray(b"x"))
    writing.publish(tmp_path / "a")
    writing.close()
    assert (tmp_path / "a").read_bytes() == b"x"
    assert list((tmp_path / ".tmp").iterdir()) == []


@pytest.mark.parametrize("call", ["write", "fsync", "link"])
@pytest.mark.parametrize(
    ("number", "error"), [(28, StorageFull), (122, StorageFull), (5, StorageUnavailable)]
)
async def test_a_failing_disk_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    number: int,
    error: type[Exception],
) -> None:
    """R7."""
    store = open_store(tmp_path.as_uri())

    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(file_store.os, call, fail)
        with pytest.raises(error):
            await store.put(KEY, stream(BIG))
    assert files_in(tmp_path) == []
    await store.put(KEY, stream(BIG))
    assert await whole(store, KEY) == BIG


async def test_disks_without_hard_links_work_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(1, "not permitted")

    monkeypatch.setattr(file_store.os, "link", fail)
    store = open_store(tmp_path.as_uri())
    await store.put(KEY, stream(b"x"))
    with pytest.raises(BlobExists):
        await store.put(KEY, stream(b"y"))
    assert await whole(store, KEY) == b"x"


async def test_what_is_acknowledged_was_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R1."""
    synced: list[str] = []
    real_sync, real_link = os.fsync, os.link

    def fsync(handle: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{handle}").readlink()).removeprefix(str(tmp_path)))
        real_sync(handle)

    def link(source: Path, target: Path) -> None:
        synced.append("link")
        real_link(source, target)

    monkeypatch.setattr(file_store.os, "fsync", fsync)
    monkeypatch.setattr(file_store.os, "link", link)
    await open_store((tmp_path / "store").as_uri()).put("org/5b/id", stream(b"x"))
    at = synced.index("link")
    assert synced[at - 1 - synced[:at][::-1].index("")] == ""  # the root was made durably
    assert any(name.startswith("/store/.tmp/") for name in synced[:at])
    assert synced[at + 1 :] == ["/store/org/5b", "/store/org", "/store"]


async def test_a_folder_that_vanished_is_not_made_again(tmp_path: Path) -> None:
    """R1: what a new folder took would be in no backup and under no mount."""
    root = tmp_path / "data" / "blobs"
    store = open_store(root.as_uri())
    await store.put(KEY, stream(b"x"))
    shutil.rmtree(tmp_path / "data")

    async def local() -> None:
        async with store.local(KEY):
            pass

    for use in (
        lambda: store.put("another", stream(b"x")),
        lambda: whole(store, KEY),
        lambda: store.delete(KEY),
        local,
        store.check,
        store.sweep,
    ):
        with pytest.raises(StorageUnavailable):
            await use()
    assert list(tmp_path.iterdir()) == []
    root.mkdir(parents=True)  # it came back, say with its mount
    await store.put(KEY, stream(b"y"))
    assert await whole(store, KEY) == b"y"


def test_no_folder_is_made_above_the_one_that_is_named(tmp_path: Path) -> None:
    within = tmp_path / "a" / "b"
    with pytest.raises(FileNotFoundError):
        make_folders(within / "c" / "d", within)
    assert list(tmp_path.iterdir()) == []
    within.mkdir(parents=True)
    make_folders(within / "c" / "d", within)
    assert (within / "c" / "d").is_dir()


async def test_a_folder_that_vanishes_during_a_write_fails_it(tmp_path: Path) -> None:
    """R1."""
    store = open_store((tmp_path / "blobs").as_uri())

    async def chunks() -> AsyncIterator[bytes]:
        yield BIG
        shutil.rmtree(tmp_path / "blobs")
        yield b"tail"

    with pytest.raises(StorageUnavailable):
        await store.put(KEY, chunks())
    assert list(tmp_path.iterdir()) == []
