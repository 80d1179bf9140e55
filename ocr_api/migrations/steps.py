"""Alembic, run on a connection that is open already."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from ocr_api.migrations import FOLDER


def config(connection: Connection) -> Config:
    """Return Alembic's configuration for one connection."""
    made = Config(attributes={"connection": connection})
    made.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    return made


def apply(connection: Connection) -> None:
    """Run all steps that the database lacks."""
    command.upgrade(config(connection), "head")
