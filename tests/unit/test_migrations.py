"""The steps of the database lead to the tables that the code declares, and lose nothing.

Each test runs on SQLite and on PostgreSQL.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, column, insert, inspect, table, text
from sqlalchemy.exc import ProgrammingError

from files_api.kit.db import Base, Database, UnfitDatabase
from files_api.kit.errors import StorageUnavailable
from ocr_api import migrations
from ocr_api.migrations import steps

for module in ("files_api.tables", "ocr_api.ledger", "ocr_api.usage"):
    import_module(module)

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ScriptDirectory(str(migrations.FOLDER))
REVISIONS = sorted(revision.revision for revision in SCRIPT.walk_revisions())

Row = dict[str, Any]

# What a database of each revision holds: rows in the columns that the revision had.
ORGS = ("org-1", "org-2", "org-3")
FILE: Row = {
    "filename": "ä b.pdf",
    "media_type": "application/pdf",
    "purpose": "ocr",
    "sha256": "0" * 64,
    "visibility": "workspace",
    "created_at": 1_700_000_000,
    "expires_at": None,
    "key_id": None,
}
USAGE: Row = {
    "key_id": None,
    "request_id": "r",
    "created_at": 1_700_000_000,
    "model": "m",
    "card": "c",
    "outcome": "ok",
    "pages": 2,
    "prompt_tokens": 2**40,
    "completion_tokens": 0,
    "document_bytes": 5 * 10**9,
    "seconds": 0.25,
}
FIRST: dict[str, list[Row]] = {
    "organisations": [{"id": org, "name": org, "created_at": 1_600_000_000} for org in ORGS],
    "files": [
        {"id": f"file-{number}", "org_id": org, "bytes": size, "blob_key": f"b{number}"} | FILE
        for number, (org, size) in enumerate(
            [("org-1", 0), ("org-1", 7), ("org-1", 5 * 10**9), ("org-2", 11)]
        )
    ],
    "usage": [{"id": f"use-{org}", "org_id": org} | USAGE for org in ORGS],
}
STORED = {"org-1": (5 * 10**9 + 7, 3), "org-2": (11, 1), "org-3": (0, 0)}
"""Bytes and files of each organisation."""
SECOND: dict[str, list[Row]] = FIRST | {
    "organisations": [
        row | {"stored_bytes": STORED[row["id"]][0], "stored_files": STORED[row["id"]][1]}
        | {"max_bytes": 2**50, "max_files": None, "requests_per_minute": 0}
        | {"pages_per_minute": None, "bytes_per_minute": 1}
        for row in FIRST["organisations"]
    ],
    "api_keys": [
        {"id": "0" * 16, "org_id": "org-1", "name": "n", "mac": "0" * 64, "pepper": "0" * 12}
        | {"scopes": "ocr admin", "service": True, "created_at": 1, "expires_at": None}
        | {"revoked_at": 2, "last_used_at": None}
    ],
    "uploads": [
        {"id": "upload-1", "org_id": "org-2", "key_id": None, "filename": "x", "bytes": 2**33}
        | {"declared_type": "text/plain", "purpose": "batch", "created_at": 1, "expires_at": 2}
        | {"file_expires_in": None, "status": "pending", "file_id": None}
    ],
    "upload_parts": [
        {"id": "part-1", "upload_id": "upload-1", "bytes": 1, "sha256": "0" * 64}
        | {"blob_key": "p", "created_at": 1}
    ],
    "idempotency_keys": [
        {"org_id": "org-1", "route": "POST /v1/files", "key": "k", "claim": "c", "claimed_at": 1}
        | {"fingerprint": None, "answer": "{}"}
    ],
    "installation": [{"id": "installation-1", "created_at": 1}],
}  # fmt: skip
THIRD: dict[str, list[Row]] = SECOND | {
    "organisations": [row | {"weight": 10_000} for row in SECOND["organisations"]],
    "usage": [
        row | {"pages_reused": 1, "pages_failed": 2, "reused_prompt_tokens": 2**40}
        | {"reused_completion_tokens": 3, "wasted_prompt_tokens": 4}
        | {"wasted_completion_tokens": 5}
        for row in SECOND["usage"]
    ],
    "ledger_pages": [
        {"org_id": "org-1", "key": "0" * 64, "document": "1" * 64, "page": 0, "card": "c"}
        | {"file_id": None, "created_at": 1, "expires_at": 2**33, "kept": b"\x01\x00\xff"}
    ],
}  # fmt: skip
ROWS = {"0001": FIRST, "0002": SECOND, "0003": THIRD}

NEVER_DELETED = {"organisations"}
CONTRACTS: dict[str, set[str]] = {}
"""What a step takes away on purpose, since no version that is still in use needs it; by step."""


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    made = Database(database_url)
    yield made
    await made.close()


async def upgrade_to(database: Database, revision: str) -> None:
    await database.run_sync(lambda made: command.upgrade(steps.config(made), revision))


async def tables(database: Database) -> list[str]:
    return await database.run_sync(lambda connection: inspect(connection).get_table_names())


def reflected(connection: Connection) -> dict[str, Any]:
    """Return all that the database knows of its tables, by name."""
    seen = inspect(connection)
    known = {}
    for name in set(seen.get_table_names()) - {"alembic_version"}:
        columns = {
            one["name"]: (str(one["type"]), one["nullable"], one["default"])
            for one in seen.get_columns(name)
        }
        keys = {tuple(key["constrained_columns"]): _end(key) for key in seen.get_foreign_keys(name)}
        indexes = {
            index["name"]: (tuple(index["column_names"]), bool(index["unique"]))
            for index in seen.get_indexes(name)
        }
        unique = {tuple(found["column_names"]) for found in seen.get_unique_constraints(name)}
        primary = seen.get_pk_constraint(name)
        known[name] = {
            "columns": columns,
            "foreign": keys,
            "indexes": indexes,
            "unique": unique,
            "primary": (primary["name"], tuple(primary["constrained_columns"])),
        }
    return known


def _end(key: Mapping[str, Any]) -> tuple[Any, ...]:
    ondelete = (key.get("options") or {}).get("ondelete")
    return key["name"], key["referred_table"], tuple(key["referred_columns"]), ondelete


async def fill(database: Database, rows: Mapping[str, list[Row]]) -> None:
    """Add rows, as a program did that knew no other columns."""

    def add(connection: Connection) -> None:
        for name, found in rows.items():
            known = Base.metadata.tables[name].columns
            # Not the table itself, which would fill in defaults of its own.
            bare = table(name, *(column(key, known[key].type) for key in found[0]))
            connection.execute(insert(bare), found)

    await database.run_sync(add)


async def kept(database: Database, rows: Mapping[str, list[Row]]) -> dict[str, list[Row]]:
    """Return the rows in the columns that they had."""
    found = {}
    async with database.read() as session:
        for name, before in rows.items():
            columns = ", ".join(f'"{key}"' for key in before[0])
            result = await session.execute(text(f'SELECT {columns} FROM "{name}" ORDER BY 1'))
            found[name] = [dict(row) for row in result.mappings()]
    return found


# --- where the steps lead -------------------------------------------------------------------------


async def test_the_steps_lead_to_the_declared_tables(database: Database) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        return list(compare_metadata(context, Base.metadata))

    await migrations.upgrade(database)
    assert await database.run_sync(differences) == []


async def test_the_steps_lead_to_what_the_code_would_make(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    """To the last name of a constraint, some of which Alembic does not compare."""
    await migrations.upgrade(database)
    if database.is_sqlite:
        other = Database(f"sqlite:///{tmp_path / 'declared.db'}")
    else:
        async with database.unit() as session:
            await session.execute(text("CREATE SCHEMA declared"))
        other = Database(f"{database_url}?search_path=declared")
    try:
        await other.run_sync(Base.metadata.create_all)
        assert await database.run_sync(reflected) == await other.run_sync(reflected)
    finally:
        await other.close()


async def test_an_upgrade_is_done_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await migrations.current(database) is None
    await migrations.upgrade(database)
    assert await migrations.current(database) == migrations.head()

    def fail(_: Connection) -> None:
        raise AssertionError("there was nothing to do")

    monkeypatch.setattr(steps, "apply", fail)
    await migrations.upgrade(database)


def test_the_head_is_alembics() -> None:
    assert SCRIPT.get_heads() == [migrations.head()]
    assert all(len(revision) == 4 and revision.isdecimal() for revision in REVISIONS)


async def test_steps_go_back_too(database: Database) -> None:
    await migrations.upgrade(database)
    await database.run_sync(lambda connection: command.downgrade(steps.config(connection), "base"))
    assert await migrations.current(database) is None
    await migrations.upgrade(database)
    assert await migrations.current(database) == migrations.head()


# --- nothing is lost ------------------------------------------------------------------------------


def test_every_revision_has_rows() -> None:
    """Who writes a step says here what its database may hold."""
    assert sorted(ROWS) == REVISIONS
    assert set(ROWS[migrations.head()]) == set(Base.metadata.tables)


@pytest.mark.parametrize("revision", REVISIONS)
async def test_an_upgrade_keeps_every_row(database: Database, revision: str) -> None:
    """R22."""
    await upgrade_to(database, revision)
    rows = ROWS[revision]
    await fill(database, rows)
    await migrations.upgrade(database)
    assert await migrations.current(database) == migrations.head()
    assert await kept(database, rows) == rows
    async with database.read() as session:
        counted = await session.execute(
            text("SELECT id, stored_bytes, stored_files FROM organisations")
        )
        assert {row[0]: (row[1], row[2]) for row in counted} == STORED
        if database.is_sqlite:
            assert (await session.execute(text("PRAGMA foreign_key_check"))).all() == []
            assert (await session.execute(text("PRAGMA integrity_check"))).scalar() == "ok"


@pytest.mark.parametrize("revision", REVISIONS)
async def test_an_older_program_writes_to_a_newer_database(
    database: Database, revision: str
) -> None:
    """R22: the ones that still run while the database is upgraded know nothing of new columns."""
    await migrations.upgrade(database)
    await fill(database, ROWS[revision])
    assert await kept(database, ROWS[revision]) == ROWS[revision]


def breaks(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Return what a step does that a program of the revision before it would not survive."""
    found = {f"table {name} is gone" for name in before.keys() - after.keys()}
    found |= _holders(before, after)
    for name in before.keys() & after.keys():
        old, new = before[name]["columns"], after[name]["columns"]
        found |= {f"column {name}.{key} is gone" for key in old.keys() - new.keys()}
        for key in new.keys() - old.keys():
            _, nullable, default = new[key]
            if not nullable and default is None:
                found.add(f"column {name}.{key} is new, not null and has no default")
        for key in old.keys() & new.keys():
            if old[key][0] != new[key][0]:
                found.add(f"column {name}.{key} has another type")
            if old[key][1] and not new[key][1]:
                found.add(f"column {name}.{key} may no longer be null")
            if old[key][2] is not None and new[key][2] is None:
                found.add(f"column {name}.{key} lost its default")
        if after[name]["foreign"].items() - before[name]["foreign"].items():
            found.add(f"{name} has a new foreign key")
        if _unique(after[name]) - _unique(before[name]):
            found.add(f"{name} has a new rule of uniqueness")
    return found


def _holders(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Return which new tables keep an older program, that does not know them, from deleting."""
    return {
        f"rows of {name} would keep rows of {other} from going"
        for name in after.keys() - before.keys()
        for _, other, _, ondelete in after[name]["foreign"].values()
        if other in before.keys() - NEVER_DELETED and not ondelete
    }


def _unique(table: dict[str, Any]) -> set[tuple[str, ...]]:
    indexes = {columns for columns, unique in table["indexes"].values() if unique}
    return table["unique"] | indexes


async def broken_by(database: Database, before: str | None, revision: str) -> set[str]:
    if before:
        await upgrade_to(database, before)
    old = await database.run_sync(reflected)
    await upgrade_to(database, revision)
    return breaks(old, await database.run_sync(reflected))


@pytest.mark.parametrize("revision", REVISIONS)
async def test_a_step_only_expands(database: Database, revision: str) -> None:
    """R22: what a step takes away stands in `CONTRACTS`, a release after it was last used."""
    before = SCRIPT.get_revision(revision).down_revision
    assert before is None or isinstance(before, str)
    assert await broken_by(database, before, revision) == CONTRACTS.get(revision, set())
    begins_a_generation = before is not None and before[:2] != revision[:2]
    assert begins_a_generation == (revision in CONTRACTS)


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("DROP TABLE usage", "table usage is gone"),
        ("ALTER TABLE usage RENAME TO used", "table usage is gone"),
        ("ALTER TABLE usage DROP COLUMN seconds", "column usage.seconds is gone"),
        ("ALTER TABLE usage RENAME COLUMN card TO model_card", "column usage.card is gone"),
        (
            "ALTER TABLE usage ADD COLUMN more INTEGER DEFAULT 1 NOT NULL",
            None,
        ),
        ("ALTER TABLE usage ADD COLUMN more INTEGER", None),
        ("CREATE UNIQUE INDEX one ON usage (request_id)", "usage has a new rule of uniqueness"),
        ("CREATE TABLE more (id INTEGER NOT NULL)", None),
        (
            "CREATE TABLE more (file_id VARCHAR(36) REFERENCES files (id))",
            "rows of more would keep rows of files from going",
        ),
        (
            "CREATE TABLE more (f TEXT, FOREIGN KEY (f) REFERENCES files (id) ON DELETE CASCADE)",
            None,
        ),
    ],
)
async def test_a_step_that_contracts_is_found(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    statement: str,
    problem: str | None,
) -> None:
    add_step(monkeypatch, tmp_path, statement)
    found = await broken_by(database, migrations.head(), "9998")
    assert problem in found if problem else found == set()


async def test_what_only_postgresql_can_do_to_a_column_is_found(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """SQLite refuses even the first, for a table without rows."""
    add_step(
        monkeypatch,
        tmp_path,
        "ALTER TABLE usage ADD COLUMN more INTEGER NOT NULL",
        "ALTER TABLE usage ALTER COLUMN key_id SET NOT NULL",
        "ALTER TABLE usage ALTER COLUMN card TYPE varchar(10)",
        "ALTER TABLE organisations ALTER COLUMN stored_bytes DROP DEFAULT",
    )
    database = Database(postgres_url)
    try:
        assert await broken_by(database, migrations.head(), "9998") == {
            "column usage.more is new, not null and has no default",
            "column usage.key_id may no longer be null",
            "column usage.card has another type",
            "column organisations.stored_bytes lost its default",
        }
    finally:
        await database.close()


def add_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *statements: str, name: str = "9998"
) -> None:
    """Let the history go one step further, in a copy."""
    folder = tmp_path / "migrations"
    shutil.copytree(migrations.FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / f"{name}_more.py").write_text(
        "from alembic import op\n"
        f"revision, down_revision = '{name}', '{migrations.head()}'\n"
        "def upgrade():\n" + "".join(f"    op.execute({line!r})\n" for line in statements)
    )
    monkeypatch.setattr(steps, "FOLDER", folder)


# --- failing, and side by side --------------------------------------------------------------------


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
    assert await tables(database) == []


async def test_all_steps_are_one_transaction(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The last step fails half-way: the tables of the first one go too."""
    add_step(
        monkeypatch,
        tmp_path,
        "CREATE TABLE half (id INTEGER)",
        "INSERT INTO no_such_table VALUES (1)",
    )
    with pytest.raises((StorageUnavailable, ProgrammingError)) as caught:
        await migrations.upgrade(database)
    assert "no_such_table" in f"{caught.value} {caught.value.__cause__}"
    assert await tables(database) == []


async def test_upgrades_side_by_side_wait_for_each_other(database_url: str) -> None:
    """R22: two hosts that upgrade at once do not hinder each other."""
    many = [Database(database_url) for _ in range(4)]
    try:
        await asyncio.gather(*(migrations.upgrade(database) for database in many))
        assert await migrations.current(many[0]) == migrations.head()
    finally:
        for database in many:
            await database.close()


async def test_a_new_file_that_somebody_else_is_writing_to(tmp_path: Path) -> None:
    """R22: the switch to write-ahead logging is refused at once, and waits none the less."""
    path = tmp_path / "new.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("CREATE TABLE begun (x)")
    asyncio.get_running_loop().call_later(0.2, other.execute, "COMMIT")
    database = Database(f"sqlite:///{path}")
    try:
        await database.check()
        async with database.read() as session:
            assert (await session.execute(text("PRAGMA journal_mode"))).scalar_one() == "wal"
    finally:
        await database.close()
        other.close()


async def test_processes_that_upgrade_at_once(database: Database, database_url: str) -> None:
    """R22."""
    code = (
        "import asyncio, sys\n"
        "from files_api.kit.db import Database\n"
        "from ocr_api import migrations\n"
        "async def main():\n"
        "    database = Database(sys.argv[1])\n"
        "    print('ready', flush=True); sys.stdin.readline()\n"
        "    await migrations.upgrade(database)\n"
        "    await database.close()\n"
        "asyncio.run(main())\n"
    )
    line = [sys.executable, "-c", code, database_url]
    many = [_started(line) for _ in range(2)]
    for process in many:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
    for process in many:
        assert process.stdin
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in many:
        process.communicate(timeout=30)
        assert process.returncode == 0
    assert await migrations.current(database) == migrations.head()
    assert set(await tables(database)) == {*Base.metadata.tables, "alembic_version"}


def _started(line: list[str]) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(line, stdin=pipe, stdout=pipe, cwd=ROOT)


# --- which databases a service takes --------------------------------------------------------------


async def test_a_newer_database_of_this_generation_is_served(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """R22: of an older program a process starts again while others are replaced, or for good."""
    newer = next_step(migrations.head())
    add_step(monkeypatch, tmp_path, "ALTER TABLE usage ADD COLUMN more INTEGER", name=newer)
    await upgrade_to(database, newer)
    monkeypatch.undo()
    for _ in range(2):
        await migrations.prepare(database)
        await migrations.upgrade(database)
        assert await migrations.current(database) == newer
    assert migrations.problem(newer, is_sqlite=database.is_sqlite) is None
    monkeypatch.setattr(migrations, "current", before_its_turn)
    await migrations.upgrade(database)
    monkeypatch.undo()
    await fill(database, ROWS[migrations.head()])
    assert await kept(database, ROWS[migrations.head()]) == ROWS[migrations.head()]


async def before_its_turn(_: Database) -> str | None:
    """What was found when somebody newer was about to upgrade."""
    return None


def next_step(revision: str) -> str:
    """Return the number of the next step of a generation."""
    return f"{revision[:2]}{int(revision[2:]) + 1:02}"


async def test_a_database_of_a_newer_generation_is_refused(database: Database) -> None:
    """R22."""
    await migrations.upgrade(database)
    async with database.unit() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for refuse in (migrations.upgrade, migrations.prepare):
        with pytest.raises(UnfitDatabase, match=r"newer Recto \(revision 9999, here \d{4}\)"):
            await refuse(database)


@pytest.mark.parametrize("revision", [None, *REVISIONS])
async def test_what_is_older_is_upgraded_or_refused(
    database: Database, revision: str | None
) -> None:
    """At start, SQLite is upgraded; PostgreSQL is not, since others may be using it."""
    if revision:
        await upgrade_to(database, revision)
    if database.is_sqlite or revision == migrations.head():
        await migrations.prepare(database)
        assert await migrations.current(database) == migrations.head()
        return
    state = f"at revision {revision}" if revision else "empty"
    with pytest.raises(migrations.WrongRevision, match=f"{state}.*`recto db upgrade`"):
        await migrations.prepare(database)
    assert await migrations.current(database) == revision
    await migrations.upgrade(database)
    await migrations.prepare(database)


async def test_log_settings_are_left_alone(database: Database) -> None:
    before = (logging.root.level, list(logging.root.handlers))
    await migrations.upgrade(database)
    assert (logging.root.level, list(logging.root.handlers)) == before
