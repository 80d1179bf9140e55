"""The table of finished pages, and what is done to it, each in one unit of work or one look.

Times are unix seconds, UTC. Every function raises `StorageUnavailable`, and those that write
`StorageFull`. Each takes an organisation, but for the sweeps, which look at time and files only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from sqlalchemy import (
    Column,
    ColumnElement,
    ForeignKey,
    Index,
    LargeBinary,
    Select,
    String,
    Table,
    and_,
    bindparam,
    delete,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from files_api.kit.db import Base, Database
from files_api.tables import StoredFileRow
from ocr_api.ledger.records import Place

LOOKED_UP: Final = 256
"""Keys in one look: far below the variables that a statement may have, and little memory."""
SWEPT: Final = 500
"""Rows or files that a sweep takes on at a time, so that other writers get their turn."""


class LedgerRow(Base):
    """A page that was read, kept so that nobody pays for it twice."""

    __tablename__ = "ledger_pages"
    __table_args__ = (
        Index(None, "org_id", "document"),
        Index(None, "org_id", "file_id"),
        Index(None, "expires_at"),
    )

    org_id: Mapped[str] = mapped_column(
        String(36), ForeignKey("organisations.id"), primary_key=True
    )
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    """`key_of` the page."""
    document: Mapped[str] = mapped_column(String(64))
    """SHA-256 of the document's content, in hexadecimal."""
    page: Mapped[int]
    """From 0."""
    card: Mapped[str] = mapped_column(String(200))
    file_id: Mapped[str | None] = mapped_column(String(36))
    """The stored file that was read, which may be gone by now; null for other documents."""
    created_at: Mapped[int]
    expires_at: Mapped[int]
    kept: Mapped[bytes] = mapped_column(LargeBinary)
    """As `codec` writes it."""


_TABLE = cast("Table", LedgerRow.__table__)
_ROW = _TABLE.c
_KEY = ("org_id", "key")


@dataclass(frozen=True, slots=True)
class Sheet:
    """A page about to be written."""

    place: Place
    kept: bytes
    created_at: int
    expires_at: int


async def known(database: Database, org_id: str, keys: Sequence[str], now: int) -> set[str]:
    """Return which of the keys have a page of the organisation's that has not expired."""
    found: set[str] = set()
    async with database.read() as session:
        for part in parts(keys):
            found.update(await session.scalars(_KNOWN, _asked(org_id, part, now)))
    return found


async def fetch(
    database: Database, org_id: str, keys: Sequence[str], now: int
) -> list[tuple[str, bytes]]:
    """Return keys and pages of the organisation's that have not expired."""
    async with database.read() as session:
        found = await session.execute(_FETCH, _asked(org_id, keys, now))
        return [(key, kept) for key, kept in found]


async def write(database: Database, sheets: Sequence[Sheet]) -> int:
    """Write pages in one unit; return how many.

    One that is there already is replaced. One whose stored file is gone is not written.
    """
    named = {sheet.place.file_id for sheet in sheets if sheet.place.file_id is not None}
    async with database.unit() as session:
        stored = await _stored(session, named)
        rows = [
            _values(sheet)
            for sheet in sheets
            if sheet.place.file_id is None or (sheet.place.org_id, sheet.place.file_id) in stored
        ]
        if rows:
            # In one order everywhere, so that two processes never wait for each other.
            rows.sort(key=lambda row: (row["org_id"], row["key"]))
            await session.execute(_UPSERT[database.is_sqlite], rows)
    return len(rows)


async def content_of(database: Database, org_id: str, file_id: str) -> str | None:
    """Return the SHA-256 of a file of the organisation's; None where there is no such file.

    One that has expired is found until its row is deleted.
    """
    async with database.read() as session:
        query = select(StoredFileRow.sha256).where(
            StoredFileRow.org_id == org_id, StoredFileRow.id == file_id
        )
        return cast("str | None", await session.scalar(query))


async def forget(database: Database, org_id: str, file_id: str, document: str | None) -> None:
    """Delete the organisation's pages of a file, and of its content.

    Where there are none, nothing is written, so that a full disk hinders no deletion.
    """
    # One after the other, as SQLite uses one index for a statement.
    which = [_ROW.file_id == file_id] + ([_ROW.document == document] if document else [])
    mine = [and_(_ROW.org_id == org_id, one) for one in which]
    async with database.read() as session:
        looks = [await session.scalar(select(_ROW.key).where(one).limit(1)) for one in mine]
    if any(looks):
        async with database.unit() as session:
            for one in mine:
                await session.execute(delete(_TABLE).where(one))


async def sweep_expired(database: Database, now: int) -> int:
    """Delete some pages whose time has passed; return how many."""
    old = _ROW.expires_at <= now
    names = await _search(database, (_ROW.org_id, _ROW.key), old)
    if names:
        # Each by its key: all in one statement, SQLite would look at every old row each time.
        async with database.unit() as session:
            mine = (_ROW.org_id == bindparam("its_org"), _ROW.key == bindparam("its_key"))
            values = [{"its_org": org_id, "its_key": key} for org_id, key in names]
            await session.execute(delete(_TABLE).where(*mine, old), values)
    return len(names)


async def sweep_fileless(database: Database) -> int:
    """Delete the pages of some stored files that are gone; return how many."""
    there = select(StoredFileRow.id).where(StoredFileRow.id == _ROW.file_id).exists()
    names = await _search(database, (_ROW.org_id, _ROW.file_id), _ROW.file_id.is_not(None), ~there)
    count = 0
    for org_id, file_id in names:
        mine = (_ROW.org_id == org_id, _ROW.file_id == file_id)
        gone = delete(_TABLE).where(*mine, ~there).returning(_ROW.page)
        async with database.unit() as session:
            count += len((await session.execute(gone)).all())
    return count


def parts(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    """Return the keys in parts of `LOOKED_UP`."""
    for start in range(0, len(keys), LOOKED_UP):
        yield keys[start : start + LOOKED_UP]


def _live(*columns: Any) -> Select[Any]:
    """Return a query for pages of one organisation (org) by keys, that have not expired (now)."""
    return select(*columns).where(
        _ROW.org_id == bindparam("org"),
        _ROW.key.in_(bindparam("keys", expanding=True)),
        _ROW.expires_at > bindparam("now"),
    )


async def _stored(session: AsyncSession, file_ids: set[str]) -> set[tuple[str, str]]:
    """Return organisation and id of those of the files that are still there."""
    if not file_ids:
        return set()
    query = select(StoredFileRow.org_id, StoredFileRow.id).where(StoredFileRow.id.in_(file_ids))
    return {(org_id, file_id) for org_id, file_id in await session.execute(query)}


def _values(sheet: Sheet) -> dict[str, object]:
    place = sheet.place
    return {
        "org_id": place.org_id,
        "key": place.key,
        "document": place.document,
        "page": place.page,
        "card": place.card,
        "file_id": place.file_id,
        "created_at": sheet.created_at,
        "expires_at": sheet.expires_at,
        "kept": sheet.kept,
    }


async def _search(
    database: Database, what: tuple[Column[Any], Column[Any]], *which: ColumnElement[bool]
) -> list[tuple[str, str]]:
    """Look for what is to be deleted, outside of the unit, so that no writer waits for it."""
    async with database.read() as session:
        found = await session.execute(select(*what).where(*which).distinct().limit(SWEPT))
        return sorted((first, second) for first, second in found)


def _upsert(insert: Any) -> Any:
    new = insert(_TABLE)
    later = {
        name: new.excluded[name] for column in _TABLE.columns if (name := column.name) not in _KEY
    }
    return new.on_conflict_do_update(index_elements=_KEY, set_=later)


_UPSERT: Final = {True: _upsert(sqlite.insert), False: _upsert(postgresql.insert)}
"""By whether the database is SQLite."""


def _asked(org_id: str, keys: Sequence[str], now: int) -> dict[str, object]:
    return {"org": org_id, "keys": list(keys), "now": now}


# Made once: to build a statement costs a quarter of asking it.
_KNOWN = _live(_ROW.key)
_FETCH = _live(_ROW.key, _ROW.kept)
