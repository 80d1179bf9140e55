"""The database: an async engine from a URL, the base class of all tables, one unit of work.

Why: SQLite allows one writer. Writing units therefore queue on a lock of ours, where waiting is
fair and free of `database is locked`, and begin with ``BEGIN IMMEDIATE`` so that a unit that
reads before it writes never fails half-way. PostgreSQL needs neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import Any, ClassVar, TypeVar

from sqlalchemy import BigInteger, Connection, Double, MetaData, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase

from files_api.kit.db import sqlite
from files_api.kit.db.sqlite import UnfitDatabase
from files_api.kit.errors import StorageFull, StorageUnavailable

__all__ = ["Base", "Database", "UnfitDatabase", "async_url"]

Answer = TypeVar("Answer")

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
}


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
        """Take a SQLAlchemy URL: ``sqlite:///file`` or ``postgresql://host/name``.

        PostgreSQL's may have libpq's options (``?sslmode=require``) and the server's settings.
        """
        parsed = async_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        path = sqlite.path_of(parsed) if self.is_sqlite else None
        self._file = sqlite.OneFile(path)
        self._server = sqlite.OneServer(path)
        self._turn = asyncio.Lock()
        if self.is_sqlite:
            self.engine = self._sqlite_engine(parsed)
            self._writer = self.engine.execution_options(**{sqlite.WRITES: True})
            self._migrator = self._writer
            self._is_full, self._is_outage = sqlite.is_full, sqlite.is_outage
        else:
            # Its driver is an extra, which not everybody has installed.
            from files_api.kit.db import postgres  # noqa: PLC0415

            self._writer = self.engine = postgres.make_engine(parsed)
            self._migrator = postgres.make_unhurried_engine(parsed)
            self._is_full, self._is_outage = postgres.is_full, postgres.is_outage

    def reserve(self) -> None:
        """Be the one process that serves from a SQLite file, until `close`.

        Nothing for PostgreSQL, which many serve from. Commands that read or write a little beside
        a running server do not call this.

        Raises:
            UnfitDatabase: another process is, or the file lies on a network file system.
            OSError: the lock's file cannot be made.
        """
        self._server.take()

    @asynccontextmanager
    async def unit(self) -> AsyncIterator[AsyncSession]:
        """Open one unit of work: commits at the end, rolls back on any error.

        Raises:
            StorageFull: the disk of the database is full.
            StorageUnavailable: the database does not answer, has no connection to spare, or was
                too slow or locked; what the unit did is undone, save when a commit was cut off.
        """
        async with self._writers_turn():
            with self._as_app_errors():
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
        with self._as_app_errors():
            self._file.check()
            async with AsyncSession(self.engine, expire_on_commit=False) as session:
                yield session

    async def run_sync(self, work: Callable[[Connection], Answer]) -> Answer:
        """Run blocking SQLAlchemy code (migrations) in one writing transaction, unhurried."""
        async with self._writers_turn():
            with self._as_app_errors():
                self._file.check()
                async with self._migrator.begin() as connection:
                    return await connection.run_sync(work)

    async def check(self) -> None:
        """Ask the database for an answer.

        Raises:
            StorageUnavailable: there is none, or its SQLite file is no longer the opened one.
        """
        async with self.read() as session:
            await session.execute(text("SELECT 1"))

    async def close(self) -> None:
        """Close all connections; let another process serve from the file."""
        await self.engine.dispose()
        self._server.give_back()

    def _sqlite_engine(self, url: URL) -> AsyncEngine:
        engine = create_async_engine(url, hide_parameters=True)
        event.listen(engine.sync_engine, "connect", sqlite.prepare)
        event.listen(engine.sync_engine, "connect", self._file.note)
        event.listen(engine.sync_engine, "begin", sqlite.begin)
        return engine

    def _writers_turn(self) -> AbstractAsyncContextManager[None]:
        return self._turn if self.is_sqlite else nullcontext()

    @contextmanager
    def _as_app_errors(self) -> Iterator[None]:
        """Turn what a failing database raises into errors that a client can see."""
        try:
            yield
        except DBAPIError as error:
            if self._is_full(error):
                raise StorageFull from error
            if self._is_outage(error):
                raise StorageUnavailable from error
            raise
        except (PoolTimeoutError, OSError) as error:
            # A server that refuses connections or is too slow is an OSError of the driver's.
            raise StorageUnavailable from error
