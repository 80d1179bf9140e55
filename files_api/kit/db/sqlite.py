"""SQLite: how a connection is set up, and who may write to the file.

A SQLite file that is deleted or replaced while it is open keeps taking writes, which nobody sees
after a restart. So its inode is noted at the first connection and looked at before each session.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

WRITES = "recto_writes"
"""The execution option of a connection that begins with the right to write."""

_PRAGMAS = (
    "PRAGMA busy_timeout = 5000",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
)
_WAL = "PRAGMA journal_mode = WAL"
_WAL_SECONDS, _WAL_PAUSE = 5.0, 0.02
# The second: no room for the index of the log (the file `-shm`).
_FULL = frozenset({"SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"})
_MOUNTS = Path("/proc/self/mounts")
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs"})


class UnfitDatabase(RuntimeError):
    """The service must not serve from this database; the message tells its operator why."""


class OneFile:
    """Tells whether the file at a path is still the one that was opened first."""

    def __init__(self, path: str | None) -> None:
        """Take the path; None, where there is no file, makes every check pass."""
        self._path = path
        self._seen: tuple[int, int] | None = None

    def note(self, *_: object) -> None:
        """Remember the file, once; called after each new connection."""
        if self._path and self._seen is None:
            self._seen = self._identity(self._path)

    def check(self) -> None:
        """Raise `FileNotFoundError` when the remembered file is gone or another one."""
        if self._path and self._seen and self._identity(self._path) != self._seen:
            raise FileNotFoundError("the database's file was replaced")

    @staticmethod
    def _identity(path: str) -> tuple[int, int]:
        found = os.stat(path)  # noqa: PTH116 - on the event loop; microseconds, no bytes read
        return found.st_dev, found.st_ino


class OneServer:
    """The right of one process to serve from a file: a lock on the file beside it, ``.lock``.

    Why: what is only in a process's memory (its counters, the queue of its writers, which claims
    are alive) would be wrong with a second one beside it. The system gives the lock back when the
    process ends, however it does.
    """

    def __init__(self, path: str | None) -> None:
        """Take the database's path; None, where there is no file, is never in use."""
        self._path = f"{path}.lock" if path else None
        self._handle: int | None = None

    def take(self) -> None:
        """Take the lock; the file stays when it is given back.

        Raises:
            UnfitDatabase: another process, or another object of this one, has it, or the file
                lies on a network file system.
            OSError: the file cannot be made.
        """
        if self._path is None:
            return
        if kind := network_filesystem(self._path):
            raise UnfitDatabase(
                f"{self._path.removesuffix('.lock')} lies on a network file system ({kind}), "
                "where SQLite loses data: use a local disk, or PostgreSQL (RECTO_DATABASE_URL)"
            )
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise UnfitDatabase(
                f"another process serves from {self._path.removesuffix('.lock')}: stop it, or "
                "use PostgreSQL (RECTO_DATABASE_URL), which several processes may share"
            ) from None
        except OSError:
            os.close(handle)
            raise
        self._handle = handle

    def give_back(self) -> None:
        """Let go, where it is held."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def path_of(url: URL) -> str | None:
    """Return the path of the file; None for a database in memory or a SQLite URI."""
    path = url.database or ":memory:"
    return None if path == ":memory:" or path.startswith("file:") else path


def network_filesystem(path: str, mounts: Path | None = None) -> str | None:
    """Return the kind of the network file system that holds a file, where that can be told.

    Why: write-ahead logging needs memory that all processes share, and locks that hold; over a
    network there are neither, and databases get corrupted (sqlite.org/wal.html).
    """
    try:
        lines = (mounts or _MOUNTS).read_text("utf-8", "replace").splitlines()
    except OSError:
        return None  # not Linux
    place = os.path.realpath(path)
    best, kind = "", ""
    for line in lines:
        folder, found = (_unescaped(word) for word in line.split(" ")[1:3])
        if len(folder) >= len(best) and _is_below(place, folder):
            best, kind = folder, found
    return kind if kind in _NETWORK else None


def prepare(connection: Any, _record: object) -> None:
    """Set up a new connection for durability."""
    # Python's sqlite3 would begin transactions by itself, late and never IMMEDIATE.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(pragma)
    _keep_a_log(connection, cursor)
    cursor.close()


def begin(connection: Connection) -> None:
    """Begin a transaction, at once as the writer where it will write."""
    writes = connection.get_execution_options().get(WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def is_full(error: DBAPIError) -> bool:
    """Tell whether an error says that the disk is full."""
    return getattr(error.orig, "sqlite_errorname", None) in _FULL


def is_outage(error: DBAPIError) -> bool:
    """Tell whether the file is why a statement failed: locked, gone, damaged."""
    return error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)


def _keep_a_log(connection: Any, cursor: Any) -> None:
    """Turn on write-ahead logging; several connections may do so to a new file at once.

    Two that both read and both want to write would wait for each other for ever, so that SQLite
    refuses one of them at once, whatever its ``busy_timeout`` (sqlite.org/c3ref/busy_handler.html).
    """
    end = time.monotonic() + _WAL_SECONDS
    while True:
        try:
            cursor.execute(_WAL)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            connection.run_async(lambda _: asyncio.sleep(_WAL_PAUSE))
        else:
            return


def _is_below(place: str, folder: str) -> bool:
    return place == folder or place.startswith(folder.rstrip("/") + "/")


def _unescaped(word: str) -> str:
    r"""Return a word of the table of mounts, where a space is ``\040``."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), word)
