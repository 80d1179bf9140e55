"""The history of the database: numbered steps in ``versions``, applied at start for SQLite.

Why no ini file: everything that Alembic needs is known here, and its logging set-up would
replace ours. To write a step by hand, copy the last one, raise the number, and let
``tests/unit/test_migrations.py`` compare the result with the tables in the code.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from files_api.kit.db import Database

FOLDER = Path(__file__).resolve().parent


def head() -> str:
    """Return the newest revision: the number that the last file's name begins with."""
    return max(path.stem for path in (FOLDER / "versions").glob("[0-9]*.py")).split("_")[0]


async def current(database: Database) -> str | None:
    """Return the revision that a database is at; None for one that is new."""
    async with database.read() as session:
        connection = await session.connection()
        return await connection.run_sync(_current)


async def upgrade(database: Database) -> None:
    """Bring a database to the newest revision, all steps in one transaction.

    Raises:
        StorageUnavailable, StorageFull: the database cannot be changed; it is as before.
        alembic.util.CommandError: the database is newer than this program.
    """
    if await current(database) == head():
        return
    # Alembic takes half a second to import, and at most starts there is nothing for it to do.
    from ocr_api.migrations import steps  # noqa: PLC0415

    await database.run_sync(steps.apply)


def _current(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(
        text("SELECT version_num FROM alembic_version")
    ).scalar_one_or_none()
    return revision
