"""Room on a disk that is set aside, so that a full disk can be emptied.

Why: SQLite needs room to delete, too. Without this, a disk that is full to the last byte would
answer every deletion with 507 for ever.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from files_api.kit.errors import StorageFull
from files_api.kit.tasks import finished

_BYTES = 2 * 1024 * 1024
"""A deletion writes some ten pages of 4 KiB to SQLite's log, which then may grow a little."""

Answer = TypeVar("Answer")


class Spare:
    """A file without a content, beside the database's; None where there is no such disk."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    async def keep(self) -> None:
        """Set the room aside, unless it is; where there is none, the next time may find some."""
        if self._path:
            await finished(asyncio.to_thread(_reserve, self._path))

    async def run(self, work: Callable[[], Awaitable[Answer]]) -> Answer:
        """Do work that frees room; where the disk is full, once more with the spare room.

        Raises:
            StorageFull: that did not help, or there is no spare room.
        """
        try:
            return await work()
        except StorageFull:
            if not self._path or not await finished(asyncio.to_thread(_release, self._path)):
                raise
        try:
            return await work()
        finally:
            await self.keep()


def _reserve(path: Path) -> None:
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError:
        return  # it is there, or nothing can be made here
    try:
        os.posix_fallocate(handle, 0, _BYTES)
    except OSError:
        _release(path)  # half of it would be taken for the whole
    finally:
        os.close(handle)


def _release(path: Path) -> bool:
    """Give the room back; tell whether there was any."""
    with suppress(OSError):
        path.unlink()
        return True
    return False
