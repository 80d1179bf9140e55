"""Which files to list, in which order: two ways of paging over one query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, case, false, func, or_, select, tuple_

from files_api.accounts import Principal
from files_api.files.records import OTHER_SAMPLE_TYPE, SAMPLE_TYPES, SOURCE, FileRecord, record_of
from files_api.kit.db import Database
from files_api.kit.ids import check_id, seconds_of
from files_api.tables import StoredFileRow as Row


@dataclass(frozen=True, slots=True)
class Filters:
    """Which files to list; None means all."""

    purpose: str | None = None
    search: str | None = None
    """Part of the file name, in any case."""
    sample_types: Sequence[str] | None = None
    sources: Sequence[str] | None = None
    media_types: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """A part of the list of files."""

    records: list[FileRecord]
    has_more: bool
    total: int | None
    """How many files match in all; None when not asked for."""


def visible(principal: Principal, now: float) -> Select[Row]:
    """Return the query of all files that the principal can see at a time."""
    alive = or_(Row.expires_at.is_(None), Row.expires_at > int(now))
    return select(Row).where(Row.org_id == principal.org_id, alive)


def expired(now: float, place: str, limit: int, org_id: str | None = None) -> Select[Row]:
    """Return the query of files whose time has passed, by id, behind the id ``place``.

    Of one organisation, or of all.
    """
    query = select(Row).where(Row.expires_at <= int(now), Row.id > place)
    if org_id is not None:
        query = query.where(Row.org_id == org_id)
    return query.order_by(Row.id).limit(limit)


def after(query: Select[Row], place: str | None, *, newest_first: bool) -> Select[Row]:
    """Return the query in order, from behind the file ``place`` on, which may be gone by now.

    Raises:
        InvalidFileId: ``place`` is no UUID.
    """
    order = (Row.created_at, Row.id)
    if place is not None:
        edge = (seconds_of(check_id(place)), check_id(place))
        here = tuple_(*order)
        query = query.where(here < edge if newest_first else here > edge)
    return query.order_by(*((column.desc() for column in order) if newest_first else order))


async def fetch(
    database: Database, query: Select[Row], limit: int, count: Select[Row] | None
) -> Listing:
    """Run a query for at most ``limit`` files, and count what another one finds."""
    total = None
    async with database.read() as session:
        rows = (await session.execute(query.limit(limit + 1))).scalars().all()
        if count is not None:
            counting = select(func.count()).select_from(count.subquery())
            total = (await session.execute(counting)).scalar_one()
    return Listing([record_of(row) for row in rows[:limit]], len(rows) > limit, total)


def filtered(query: Select[Row], filters: Filters | None) -> Select[Row]:
    """Return the query with the filters applied."""
    if filters is None:
        return query
    if filters.purpose is not None:
        query = query.where(Row.purpose == _plain(filters.purpose))
    if filters.search:
        query = query.where(Row.filename.icontains(_plain(filters.search), autoescape=True))
    if filters.sample_types:
        query = query.where(_sample_type().in_(map(_plain, filters.sample_types)))
    if filters.media_types:
        query = query.where(Row.media_type.in_(map(_plain, filters.media_types)))
    if filters.sources and SOURCE not in filters.sources:
        query = query.where(false())
    return query


def _plain(text: str) -> str:
    # PostgreSQL takes no NUL in a text; no stored text has one.
    return text.replace("\0", "\ufffd")


def _sample_type() -> ColumnElement[str]:
    return case(SAMPLE_TYPES, value=Row.purpose, else_=OTHER_SAMPLE_TYPE)
