"""The history of the database: numbered steps in ``versions``.

They are applied at start for SQLite, and by ``recto db upgrade`` for PostgreSQL, where several
processes start side by side and old ones still run. So steps only expand what is there, and an
older program works with what newer ones added: it starts there, too, after an upgrade.

A revision is four digits: two of the generation, two of the step. A step that takes away what an
earlier program may need (contracts) begins a generation, of which earlier programs keep out.

Why no ini file: everything that Alembic needs is known here, and its logging set-up would
replace ours. To write a step by hand, copy the last one, raise the number, and let
``tests/unit/test_migrations.py`` compare the result with the tables in the code.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from files_api.kit.db import Database, UnfitDatabase

FOLDER = Path(__file__).resolve().parent
_GENERATION = 2
"""Digits of a revision that name its generation."""


class WrongRevision(UnfitDatabase):
    """The database is not at the revision that this program works with."""


def head() -> str:
    """Return the newest revision: the number that the last file's name begins with."""
    return max(path.stem for path in (FOLDER / "versions").glob("[0-9]*.py")).split("_")[0]


async def current(database: Database) -> str | None:
    """Return the revision that a database is at; None for one that is new."""
    async with database.read() as session:
        connection = await session.connection()
        return await connection.run_sync(revision_of)


def problem(found: str | None, *, is_sqlite: bool) -> str | None:
    """Return why a database at this revision cannot be served, as the end of a sentence.

    Args:
        found: its revision; None for one that is new.
        is_sqlite: it is upgraded at start.
    """
    if found and found > head():
        return None if _knows(found) else _too_new(found)
    if found == head() or is_sqlite:
        return None
    state = f"at revision {found}" if found else "empty"
    return (
        f"is {state}, and this program needs revision {head()}: "
        "run `recto db upgrade` once, from any host"
    )


async def prepare(database: Database) -> None:
    """Make sure that a service may use a database: SQLite is upgraded, PostgreSQL must be so.

    Raises:
        WrongRevision: it is of a newer generation than this program, or PostgreSQL and older.
        StorageUnavailable, StorageFull: the database does not answer, or cannot be changed.
    """
    why = problem(await current(database), is_sqlite=database.is_sqlite)
    if why is not None:
        raise WrongRevision(f"the database {why}")
    if database.is_sqlite:
        await upgrade(database)


async def upgrade(database: Database) -> None:
    """Bring a database to the newest revision, all steps in one transaction.

    One that newer programs of this generation upgraded stays as it is. Side by side, the first
    one does the work and the others wait for it.

    Raises:
        StorageUnavailable, StorageFull: the database cannot be changed; it is as before.
        WrongRevision: the database is of a newer generation than this program.
    """
    if not is_older(await current(database)):
        return
    # Alembic takes half a second to import, and at most starts there is nothing for it to do.
    from ocr_api.migrations import steps  # noqa: PLC0415

    await database.run_sync(steps.apply)


def is_older(found: str | None) -> bool:
    """Tell whether a database at this revision lacks steps of this program.

    Raises:
        WrongRevision: it is of a newer generation.
    """
    if found is None or found < head():
        return True
    if not _knows(found):
        raise WrongRevision(f"the database {_too_new(found)}")
    return False


def _knows(found: str) -> bool:
    """Tell whether this program can work with what a newer one added."""
    return found[:_GENERATION] == head()[:_GENERATION]


def _too_new(found: str) -> str:
    return f"was made by a newer Recto (revision {found}, here {head()}); update this one"


def revision_of(connection: Connection) -> str | None:
    """Return the revision that the database of a connection is at; None for one that is new."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(
        text("SELECT version_num FROM alembic_version")
    ).scalar_one_or_none()
    return revision
