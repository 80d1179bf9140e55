"""What only blobs on the local disk promise; the rest is in ``test_blobs``."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from files_api.blobs import BlobExists, open_store
from files_api.blobs import file as file_store
from files_api.kit.disk import make_folders
from files_api.kit.errors import StorageFull, StorageUnavailable
from tests.contract.test_blobs import BIG, KEY, stream, whole


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


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
