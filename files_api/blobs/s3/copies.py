"""Copies of blobs in this machine's temporary folder; those of dead processes are swept."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

_PREFIX = "recto-blob-"
_YOUNG_SECONDS = 3600
"""So old must a copy be that nobody is about to lock it any more."""


class Copy:
    """A copy that is being made, locked while its process lives. All methods block."""

    path: Path
    """Where it is, once it is open."""

    def __init__(self) -> None:
        self._handle: int | None = None

    def open(self) -> None:
        """Make the file, empty and for our eyes only (0600)."""
        self._handle, name = tempfile.mkstemp(prefix=_PREFIX)
        self.path = Path(name)
        fcntl.flock(self._handle, fcntl.LOCK_EX)

    def write(self, data: bytes) -> None:
        """Add bytes at the end."""
        assert self._handle is not None  # noqa: S101 - for the type checker
        view = memoryview(data)
        while view:
            view = view[os.write(self._handle, view) :]

    def remove(self) -> None:
        """Remove the file, where there is one."""
        if self._handle is not None:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
            os.close(self._handle)


def sweep() -> int:
    """Remove the copies of dead processes; return how many."""
    swept = 0
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # somebody else's, gone meanwhile, or its process lives
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - os.fstat(handle).st_mtime > _YOUNG_SECONDS:
                    path.unlink()
                    swept += 1
            finally:
                os.close(handle)
    return swept
