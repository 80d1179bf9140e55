"""Alembic, run on a connection that is open already."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from ocr_api.migrations import FOLDER, is_older, revision_of

_LOCK = 0x726563746F  # "recto" in ASCII: one number for all, within PostgreSQL's bigint


def config(connection: Connection) -> Config:
    """Return Alembic's configuration for one connection."""
    made = Config(attributes={"connection": connection})
    made.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    return made


def apply(connection: Connection) -> None:
    """Run all steps that the database lacks, when nobody else does."""
    if connection.dialect.name == "postgresql":
        _take_turn(connection)
    if not is_older(revision_of(connection)):
        return  # who had the turn before was newer, or as new
    command.upgrade(config(connection), "head")


def _take_turn(connection: Connection) -> None:
    """Wait until no other host upgrades; the lock goes with the transaction.

    The limit on waiting for a lock is for tables, which a step that waits for them blocks.
    """
    connection.execute(text("SET LOCAL lock_timeout = 0"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    connection.execute(text("SET LOCAL lock_timeout TO DEFAULT"))
