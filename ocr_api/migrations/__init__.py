"""The history of the database: numbered steps in ``versions``.

They are applied at start for SQLite, and by ``recto db upgrade`` for PostgreSQL, where several
processes start side by side and old ones still run. So steps only expand what is there; what a
step takes away (contracts), no running version may need any more.

Why no ini file: everything that Alembic needs is known here, and its logging set-up would
replace ours. To write a step by hand, copy the last one, raise the number, and let
``tests/unit/test_migrations.py`` compare the result with the tables in the code.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from files_api.kit.db import Database, UnfitDatabase

FOLDER = Path(__file__).resolve().parent


class WrongRevision(UnfitDatabase):
    """The database is not at the revision that this program works with."""


def head() -> str:
    """Return the newest revision: the number that the last file's name begins with."""
    return max(path.stem for path in (FOLDER / "versions").glob("[0-9]*.py")).split("_")[0]


async def current(database: Database) -> str | None:
    """Return the revision that a database is at; None for one that is new."""
    async with database.read() as session:
        connection = await session.connection()
        return await connection.run_sync(_current)


async def prepare(database: Database) -> None:
    """Make sure that a service may use a database: SQLite is upgraded, PostgreSQL must be so.

    Raises:
        WrongRevision: it is newer than this program, or PostgreSQL and older.
        StorageUnavailable, StorageFull: the database does not answer, or cannot be changed.
    """
    if database.is_sqlite:
        await upgrade(database)
        return
    found = await current(database)
    if found == head():
        return
    _refuse_newer(found)
    state = f"at revision {found}" if found else "empty"
    raise WrongRevision(
        f"the database is {state}, and this program needs revision {head()}: "
        "run `recto db upgrade` once, from any host"
    )


async def upgrade(database: Database) -> None:
    """Bring a database to the newest revision, all steps in one transaction.

    Side by side, the first one does the work and the others wait for it.

    Raises:
        StorageUnavailable, StorageFull: the database cannot be changed; it is as before.
        WrongRevision: the database is newer than this program.
    """
    found = await current(database)
    if found == head():
        return
    _refuse_newer(found)
    # Alembic takes half a second to import, and at most starts there is nothing for it to do.
    from ocr_api.migrations import steps  # noqa: PLC0415

    await database.run_sync(steps.apply)


def _refuse_newer(found: str | None) -> None:
    # Numbers of four digits: their order is that of their texts.
    if found and found > head():
        raise WrongRevision(
            f"the database was made by a newer Recto (revision {found}, here {head()}); "
            "update this one"
        )


def _current(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(
        text("SELECT version_num FROM alembic_version")
    ).scalar_one_or_none()
    return revision
