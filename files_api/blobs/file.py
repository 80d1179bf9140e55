"""Blobs as files on a local disk, at ``file:///folder``.

A write goes to a temporary file, fsync, a link under its final name, fsync of the folders: what
is acknowledged survives a crash and a power cut, and no half-written blob has a name.

Why not obstore's local store: it renames, but never calls fsync (traced with strace).

Why the folder is made only once: when it vanishes from a running process (deleted, unmounted), a
new one would take uploads that nobody finds again.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import ParamSpec, TypeVar
from urllib.parse import unquote, urlsplit

from files_api.blobs import BlobExists, BlobMissing, BlobStore, StoredBlob, check_key
from files_api.kit.disk import make_folders, sync_folder
from files_api.kit.errors import StorageFull, StorageUnavailable
from files_api.kit.ids import new_id
from files_api.kit.tasks import finished

_CHUNK = 1024 * 1024
_TEMPORARY = ".tmp"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


class FileBlobs(BlobStore):
    """A folder: blobs by key, and ``.tmp`` for what is being written."""

    def __init__(self, url: str) -> None:
        """Take ``file:///absolute/folder``, percent-encoded where needed."""
        parts = urlsplit(url)
        if parts.netloc not in {"", "localhost"} or not parts.path:
            raise ValueError("a file URL has three slashes: file:///folder")
        self._root = Path(unquote(parts.path))
        self._opened = False

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> None:
        """Write a blob; see `BlobStore.put`."""
        final = self._path(key)
        writing = _Writing(self._root)
        try:
            await self._in_thread(writing.open)
            waiting = bytearray()
            async for chunk in chunks:
                waiting += chunk
                if len(waiting) >= _CHUNK:
                    await self._in_thread(writing.write, waiting)
                    waiting = bytearray()
            await self._in_thread(writing.write, waiting)
            await self._in_thread(writing.publish, final)
        except BaseException:
            writing.take_back()
            raise
        finally:
            writing.close()

    async def read(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Yield a blob's bytes; see `BlobStore.read`."""
        reading = _Reading(self._path(key))
        try:
            await self._in_thread(reading.open)
            while chunk := await self._in_thread(reading.read, start, stop):
                start += len(chunk)
                yield chunk
        finally:
            reading.close()

    @asynccontextmanager
    async def local(self, key: str) -> AsyncIterator[Path]:
        """Give the blob's own path; see `BlobStore.local`."""
        path = self._path(key)
        if not await self._in_thread(path.is_file):
            raise BlobMissing(key)
        yield path

    async def delete(self, key: str) -> None:
        """Delete a blob; see `BlobStore.delete`."""
        await self._in_thread(_delete, self._path(key))

    async def presign(self, key: str, seconds: int, *, filename: str, media_type: str) -> None:
        """Return nothing: only a server can serve links; see `BlobStore.presign`."""

    async def check(self) -> None:
        """Write one byte to a temporary file and remove it."""
        await self._in_thread(_try_writing, self._root)

    async def blobs(self) -> AsyncIterator[StoredBlob]:
        """Yield every blob; see `BlobStore.blobs`."""
        for folder in await self._in_thread(_folders, self._root):
            for blob in await self._in_thread(_blobs_in, self._root, folder):
                yield blob

    async def sweep(self) -> int:
        """Remove temporary files that no living process writes."""
        return await self._in_thread(_sweep, self._root)

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    async def _in_thread(
        self,
        work: Callable[Arguments, Answer],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Answer:
        def guarded() -> Answer:
            with _as_app_errors():
                self._find_root()
                return work(*args, **kwargs)

        return await finished(asyncio.to_thread(guarded))

    def _find_root(self) -> None:
        """Make the folder at the first use; after that, only look whether it is there."""
        if not self._opened:
            make_folders(self._root)
            self._opened = True
        elif not self._root.is_dir():
            raise FileNotFoundError(errno.ENOENT, "the folder of the blob store is gone")


class _Writing:
    """A temporary file on its way to its final name. All methods block."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._handle: int | None = None
        self._names: list[Path] = []

    def open(self) -> None:
        folder = self._root / _TEMPORARY
        make_folders(folder, self._root)
        while self._handle is None:
            path = folder / new_id()
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
            handle = os.open(path, flags, 0o600)
            # The lock says "alive" to sweepers and goes with the process, however it ends.
            fcntl.flock(handle, fcntl.LOCK_EX)
            if os.fstat(handle).st_nlink:
                self._handle = handle
                self._names = [path]
            else:  # a sweeper came between creating and locking
                os.close(handle)

    def write(self, data: bytearray) -> None:
        assert self._handle is not None  # noqa: S101 - for the type checker
        view = memoryview(data)
        while view:
            view = view[os.write(self._handle, view) :]

    def publish(self, final: Path) -> None:
        assert self._handle is not None  # noqa: S101 - for the type checker
        os.fsync(self._handle)
        make_folders(final.parent, self._root)
        _name(self._names[0], final)
        self._names.append(final)
        # Up to the root each time: another writer may have made a folder and not synced it yet.
        for folder in final.parents:
            sync_folder(folder)
            if folder == self._root:
                break

    def take_back(self) -> None:
        """Remove every name that the file has."""
        for path in self._names:
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the temporary name and close the file."""
        for path in self._names[:1]:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        if self._handle is not None:
            os.close(self._handle)


class _Reading:
    """A blob that is being read. All methods block."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None

    def open(self) -> None:
        try:
            self._handle = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise BlobMissing(self._path.name) from None

    def read(self, start: int, stop: int | None) -> bytes:
        assert self._handle is not None  # noqa: S101 - for the type checker
        size = _CHUNK if stop is None else min(_CHUNK, max(0, stop - start))
        return os.pread(self._handle, size, start)

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)


@contextmanager
def _as_app_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise (StorageFull if error.errno in _FULL else StorageUnavailable) from error


def _name(temporary: Path, final: Path) -> None:
    """Give the file its final name, unless that is taken."""
    try:
        os.link(temporary, final)
    except FileExistsError:
        raise BlobExists(final.name) from None
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        # Keys are unique ids of ours, so a look before the rename is good enough here.
        if final.exists():
            raise BlobExists(final.name) from None
        temporary.rename(final)


def _delete(path: Path) -> None:
    try:
        path.unlink()
    except FileNotFoundError:
        return
    sync_folder(path.parent)


def _try_writing(root: Path) -> None:
    writing = _Writing(root)
    try:
        writing.open()
        writing.write(bytearray(b"\0"))
    finally:
        writing.close()


def _sweep(root: Path) -> int:
    folder, swept = root / _TEMPORARY, 0
    for path in folder.iterdir() if folder.is_dir() else ():
        with suppress(FileNotFoundError):
            handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                swept += 1
            except BlockingIOError:
                pass  # its writer lives
            finally:
                os.close(handle)
    return swept


def _folders(root: Path) -> list[Path]:
    """Return the folders that may hold blobs; paths only, so that a large store fits in memory."""
    return [Path(folder) for folder, _, _ in os.walk(root) if not Path(folder).name.startswith(".")]


def _blobs_in(root: Path, folder: Path) -> list[StoredBlob]:
    found = []
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            with suppress(FileNotFoundError, ValueError):  # gone meanwhile, or no blob of ours
                if path.is_file():
                    facts, key = path.stat(), check_key(path.relative_to(root).as_posix())
                    found.append(StoredBlob(key, facts.st_size, facts.st_mtime))
    return found
