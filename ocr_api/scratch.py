"""A folder for temporary files that is one process's own, and goes with it.

Why: processes that share a data folder start and end as they please. Each holds a lock, which the
kernel takes from it however it ends; a folder whose lock is free is nobody's, and the next process
that starts removes it. A lock lies beside its folder, not in it, so that it is there first.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from files_api.kit.ids import new_id


class Scratch:
    """A folder below ``root``, there while the context is open; its path is known before."""

    def __init__(self, root: Path) -> None:
        """Make nothing yet."""
        self.path = root / new_id()
        """The folder."""
        self._lock = _lock_of(self.path)
        self._handle: int | None = None

    def __enter__(self) -> Path:
        """Remove what dead processes left, and make the folder.

        Raises:
            OSError: the root cannot be written to.
        """
        root = self.path.parent
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for lock in root.glob("*.lock"):
            _sweep(lock)
        while self._handle is None:
            self._handle = _hold(self._lock)
        self.path.mkdir(mode=0o700)
        return self.path

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the folder and whatever is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):
            self._lock.unlink(missing_ok=True)
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _hold(lock: Path) -> int | None:
    """Return a descriptor that holds the lock, or None if a sweeper came in between."""
    handle = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    if os.fstat(handle).st_nlink:
        return handle
    os.close(handle)
    return None


def _sweep(lock: Path) -> None:
    """Remove a lock that nobody holds, and first the folder it is for."""
    with suppress(FileNotFoundError, PermissionError):
        handle = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink()
        except BlockingIOError:
            pass  # its process lives
        finally:
            os.close(handle)
