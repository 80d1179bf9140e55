"""PostgreSQL: how a connection is made, how long anything may take, which errors are outages.

Why not the driver's defaults: they wait a minute for a server and for ever for an answer. And
why no ping before each unit of work: it costs three trips. asyncpg hears at once when a server
closes a connection; what only looks open (a server that hangs, a firewall that forgot) shows at
BEGIN, which has a short deadline of its own.

Times are in seconds, save where the server's settings want milliseconds.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlencode

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import NullPool, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

POOL_SIZE: Final = 8
"""Connections that a process keeps; as many again when busy, below the server's usual 100."""
POOL_SECONDS: Final = 5.0
"""Longest wait for a connection of ours that another unit of work holds."""
CONNECT_SECONDS: Final = 5.0
BEGIN_SECONDS: Final = 5.0
STATEMENT_SECONDS: Final = 30
ANSWER_SECONDS: Final = 35.0
"""Longer than the server's own limit, so that it is the server that gives up, where it can."""
IDLE_SECONDS: Final = 60.0
"""A connection unused for longer is made anew: firewalls forget quiet ones without a word."""

_SERVER_SETTINGS: Final = {
    "application_name": "recto",
    "statement_timeout": str(STATEMENT_SECONDS * 1000),
    # What hangs in a unit of work must not keep its locks.
    "idle_in_transaction_session_timeout": str(STATEMENT_SECONDS * 1000),
}
_UNHURRIED: Final = {
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    # Waiting for a table, a migration makes everybody behind it wait, too.
    "lock_timeout": str(STATEMENT_SECONDS * 1000),
}
_NUMBERS: Final = frozenset({"statement_cache_size", "max_cached_statement_lifetime"})
"""What asyncpg takes, and libpq does not know; a pooler in front may need it to be 0."""

# SQLSTATE classes and codes, PostgreSQL's documentation, appendix A.
_FULL: Final = "53100"  # disk_full
_OUTAGE_CLASSES: Final = (
    "08",  # connection exception
    "28",  # the password was changed
    "3D",  # there is no such database (any more)
    "40",  # deadlock, serialization failure
    "53",  # insufficient resources: memory, connections
    "55",  # not in the state for it: a lock, a database in use
    "57",  # operator intervention: shutdown, starting up, statement timeout
    "58",  # system error, such as I/O
    "XX",  # internal error, corrupted data
    "25006",  # read-only transaction: the server became a standby
    "25P03",  # idle_in_transaction_session_timeout
)


class _Connection(asyncpg.Connection):  # type: ignore[misc]
    """A connection that is found dead in `BEGIN_SECONDS`, not in those of a statement."""

    async def execute(self, query: str, *args: object, **options: Any) -> str:
        """Run a command; one that begins a transaction has to be answered soon.

        Raises:
            asyncpg.InterfaceError: it was not; the connection is closed.
        """
        if not query.startswith("BEGIN"):
            return str(await super().execute(query, *args, **options))
        try:
            return str(await super().execute(query, *args, timeout=BEGIN_SECONDS))
        except TimeoutError as error:
            self.terminate()
            raise asyncpg.InterfaceError("the server did not answer to BEGIN") from error


def make_engine(url: URL) -> AsyncEngine:
    """Return an engine whose connections, waits and statements are all bounded.

    Raises:
        ArgumentError: the URL names a driver that is not asyncpg.
    """
    if url.get_driver_name() != "asyncpg":
        raise ArgumentError("the driver of PostgreSQL is asyncpg; write postgresql://...")
    engine = create_async_engine(
        url.set(query={}),
        hide_parameters=True,
        async_creator=_creator(url, _SERVER_SETTINGS, ANSWER_SECONDS),
        pool_size=POOL_SIZE,
        max_overflow=POOL_SIZE,
        pool_timeout=POOL_SECONDS,
        # Those that are not needed then stay unused, and none of them is nearly idle too long.
        pool_use_lifo=True,
    )
    event.listen(engine.sync_engine, "checkin", _note_use)
    event.listen(engine.sync_engine, "checkout", _refuse_dead)
    return engine


def make_unhurried_engine(url: URL) -> AsyncEngine:
    """Return an engine for migrations: no pool, and a statement takes the time it takes."""
    return create_async_engine(
        url.set(query={}),
        hide_parameters=True,
        async_creator=_creator(url, _SERVER_SETTINGS | _UNHURRIED, None),
        poolclass=NullPool,
    )


def is_full(error: DBAPIError) -> bool:
    """Tell whether an error says that the server's disk is full."""
    return getattr(error.orig, "sqlstate", None) == _FULL


def is_outage(error: DBAPIError) -> bool:
    """Tell whether the server is why a statement failed, and not the statement."""
    cause = error.orig.__cause__ if error.orig else None
    if error.connection_invalidated or isinstance(cause, asyncpg.InvalidCachedStatementError):
        return True  # the latter when somebody else changed a table: the next try prepares anew
    if isinstance(cause, asyncpg.InterfaceError | asyncpg.InternalClientError):
        return not isinstance(cause, ValueError)  # values and settings that the driver refuses
    state = getattr(error.orig, "sqlstate", None) or ""
    return state.startswith(_OUTAGE_CLASSES)


def _creator(
    url: URL, server_settings: dict[str, str], answer_seconds: float | None
) -> Callable[[], Awaitable[Any]]:
    """Return what opens one connection, with the options of the URL spelt as libpq does."""
    options = dict(url.query)
    given: dict[str, Any] = url.translate_connect_args(username="user")
    given["timeout"] = float(str(options.pop("connect_timeout", CONNECT_SECONDS)))
    for name in _NUMBERS & options.keys():
        given[name] = int(str(options.pop(name)))
    if "ssl" in options:  # as asyncpg and SQLAlchemy spell it
        options.setdefault("sslmode", options.pop("ssl"))
    settings = {name: value for name, value in server_settings.items() if name not in options}
    dsn = f"postgresql://?{urlencode(options, doseq=True)}" if options else None

    async def connect() -> Any:
        return await asyncpg.connect(
            dsn,
            **given,
            command_timeout=answer_seconds,
            server_settings=settings,
            connection_class=_Connection,
        )

    return connect


def _note_use(_connection: object, record: Any) -> None:
    record.info["used"] = time.monotonic()


def _refuse_dead(connection: Any, record: Any, _proxy: object) -> None:
    """Let the pool replace a connection that is closed, or idle for so long that it may be."""
    used = record.info.get("used")
    if used is None:
        return  # new: should even this one be closed, its first statement says so
    if time.monotonic() - used > IDLE_SECONDS or connection.driver_connection.is_closed():
        raise DisconnectionError
