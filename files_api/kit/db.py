"""The database: an async engine from a URL, the base class of all tables, one unit of work.

Why: SQLite allows one writer. Writing units therefore queue on a lock of ours, where waiting is
fair and free of `database is locked`, and begin with ``BEGIN IMMEDIATE`` so that a unit that
reads before it writes never fails half-way. PostgreSQL needs neither.

A SQLite file that is deleted or replaced while it is open keeps taking writes, which nobody sees
after a restart. So its inode is noted at the first connection and looked at before each session.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import Any, ClassVar, TypeVar

from sqlalchemy import BigInteger, Connection, Double, MetaData, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase

from files_api.kit.errors import StorageFull, StorageUnavailable

Answer = TypeVar("Answer")

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
}
_PRAGMAS = (
    "PRAGMA busy_timeout = 5000",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
)
_POSTGRES_FULL = frozenset({"53100"})  # SQLSTATE disk_full


class Base(DeclarativeBase):
    """Base of all tables; constraint names follow one rule so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    # Bytes and unix seconds outgrow the 32 bits of PostgreSQL's INTEGER.
    type_annotation_map: ClassVar[dict[Any, Any]] = {int: BigInteger(), float: Double()}


def async_url(url: str) -> URL:
    """Return the URL with the async driver of its database; a driver that is named stays."""
    parsed = make_url(url)
    return parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername))


class Database:
    """One database and its pool of connections; connects on first use."""

    def __init__(self, url: str) -> None:
        """Take a SQLAlchemy URL: ``sqlite:///file`` or ``postgresql://host/name``."""
        parsed = async_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self.engine: AsyncEngine = create_async_engine(
            parsed, hide_parameters=True, pool_pre_ping=not self.is_sqlite
        )
        self._writer = self.engine.execution_options(recto_writes=True)
        self._turn = asyncio.Lock()
        self._file = _OneFile(_sqlite_path(parsed) if self.is_sqlite else None)
        if self.is_sqlite:
            event.listen(self.engine.sync_engine, "connect", _prepare_sqlite)
            event.listen(self.engine.sync_engine, "connect", self._file.note)
            event.listen(self.engine.sync_engine, "begin", _begin_sqlite)

    @asynccontextmanager
    async def unit(self) -> AsyncIterator[AsyncSession]:
        """Open one unit of work: commits at the end, rolls back on any error.

        Raises:
            StorageFull: the disk of the database is full.
            StorageUnavailable: the database does not answer, or is locked for 5 s.
        """
        async with self._writers_turn():
            with _as_app_errors():
                self._file.check()
                async with (
                    AsyncSession(self._writer, expire_on_commit=False) as session,
                    session.begin(),
                ):
                    yield session

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """Open a session for reading; nothing it does is kept.

        Raises:
            StorageUnavailable: the database does not answer.
        """
        with _as_app_errors():
            self._file.check()
            async with AsyncSession(self.engine, expire_on_commit=False) as session:
                yield session

    async def run_sync(self, work: Callable[[Connection], Answer]) -> Answer:
        """Run blocking SQLAlchemy code (migrations) in one writing transaction."""
        async with self._writers_turn():
            with _as_app_errors():
                self._file.check()
                async with self._writer.begin() as connection:
                    return await connection.run_sync(work)

    async def check(self) -> None:
        """Ask the database for an answer.

        Raises:
            StorageUnavailable: there is none, or its SQLite file is no longer the opened one.
        """
        async with self.read() as session:
            await session.execute(text("SELECT 1"))

    async def close(self) -> None:
        """Close all connections."""
        await self.engine.dispose()

    def _writers_turn(self) -> AbstractAsyncContextManager[None]:
        return self._turn if self.is_sqlite else nullcontext()


class _OneFile:
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


def _sqlite_path(url: URL) -> str | None:
    """Return the path of the file; None for a database in memory or a SQLite URI."""
    path = url.database or ":memory:"
    return None if path == ":memory:" or path.startswith("file:") else path


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # Python's sqlite3 would begin transactions by itself, late and never IMMEDIATE.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(pragma)
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("recto_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def _as_app_errors() -> Iterator[None]:
    """Turn what a failing database raises into errors that a client can see."""
    try:
        yield
    except DBAPIError as error:
        if _is_full(error):
            raise StorageFull from error
        if error.connection_invalidated or isinstance(error, OperationalError | InterfaceError):
            raise StorageUnavailable from error
        raise
    except (PoolTimeoutError, OSError) as error:
        # A server that refuses connections is an OSError of the driver, not a DBAPIError.
        raise StorageUnavailable from error


def _is_full(error: DBAPIError) -> bool:
    state = getattr(error.orig, "sqlstate", None)
    return state in _POSTGRES_FULL or "disk is full" in str(error.orig)
