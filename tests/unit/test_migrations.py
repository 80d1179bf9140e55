"""The steps of the database lead to the tables that the code declares."""

from __future__ import annotations

import logging
import shutil
from collections.abc import AsyncIterator
from importlib import import_module
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text

from files_api.kit.db import Base, Database
from files_api.kit.errors import StorageUnavailable
from ocr_api import migrations
from ocr_api.migrations import steps

for module in ("files_api.tables", "ocr_api.usage"):
    import_module(module)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'x.db'}")
    yield made
    await made.close()


async def test_the_steps_lead_to_the_declared_tables(database: Database) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, Base.metadata))

    await migrations.upgrade(database)
    assert await database.run_sync(differences) == []


async def test_an_upgrade_is_done_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await migrations.current(database) is None
    await migrations.upgrade(database)
    assert await migrations.current(database) == migrations.head()

    def fail(_: Connection) -> None:
        raise AssertionError("there was nothing to do")

    monkeypatch.setattr(steps, "apply", fail)
    await migrations.upgrade(database)


async def test_the_head_is_alembics() -> None:
    script = ScriptDirectory(str(migrations.FOLDER))
    assert script.get_heads() == [migrations.head()]


async def test_steps_go_back_too(database: Database) -> None:
    await migrations.upgrade(database)
    await database.run_sync(lambda connection: command.downgrade(steps.config(connection), "base"))
    assert await migrations.current(database) is None
    await migrations.upgrade(database)
    assert await migrations.current(database) == migrations.head()


async def test_a_step_that_fails_leaves_the_database_as_it_was(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE half (id INTEGER)"))
        raise RuntimeError

    monkeypatch.setattr(steps, "apply", half)
    with pytest.raises(RuntimeError):
        await migrations.upgrade(database)
    monkeypatch.undo()
    async with database.read() as session:
        tables = (await session.execute(text("SELECT name FROM sqlite_master"))).scalars().all()
    assert tables == []


async def test_all_steps_are_one_transaction(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The last step fails half-way: the tables of the first one go too."""
    folder = tmp_path / "migrations"
    shutil.copytree(migrations.FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "9998_half.py").write_text(
        "from alembic import op\n"
        f"revision, down_revision = '9998', '{migrations.head()}'\n"
        "def upgrade():\n"
        "    op.execute('CREATE TABLE half (id INTEGER)')\n"
        "    op.execute('INSERT INTO no_such_table VALUES (1)')\n"
    )
    monkeypatch.setattr(steps, "FOLDER", folder)
    with pytest.raises(StorageUnavailable) as caught:
        await migrations.upgrade(database)
    assert "no_such_table" in str(caught.value.__cause__)
    async with database.read() as session:
        tables = (await session.execute(text("SELECT name FROM sqlite_master"))).scalars().all()
    assert tables == []


async def test_a_newer_database_is_refused(database: Database) -> None:
    await migrations.upgrade(database)
    async with database.unit() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(CommandError, match="9999"):
        await migrations.upgrade(database)


async def test_log_settings_are_left_alone(database: Database) -> None:
    before = (logging.root.level, list(logging.root.handlers))
    await migrations.upgrade(database)
    assert (logging.root.level, list(logging.root.handlers)) == before
