"""Organisations, and who is calling: the principal that every function with tenant data takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Final, Literal, get_args

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from files_api.kit.db import Database
from files_api.kit.ids import is_id, new_id
from files_api.tables import Organisation

LOCAL_ORG_ID: Final = "00000000-0000-7000-8000-000000000001"
"""The one organisation while no keys are configured; a UUIDv7 of the first second of 1970."""
LONGEST_NAME: Final = 200
"""Characters in the name of an organisation or of a key."""

Scope = Literal["files:read", "files:write", "ocr", "admin"]
"""What a key may do; ``admin`` is all of it, and what concerns every organisation."""
ALL_SCOPES: Final[frozenset[Scope]] = frozenset(get_args(Scope))


USUAL_WEIGHT: Final = 100
LEAST_WEIGHT: Final = 1
MOST_WEIGHT: Final = 10_000


class AccountError(ValueError):
    """An operator asked for what cannot be; the text says why. No client ever sees one."""


@dataclass(frozen=True, slots=True)
class OrgLimits:
    """What an organisation may store and do; None is the setting's limit, 0 no limit.

    But a weight has no setting, and is never 0.
    """

    max_bytes: int | None = None
    """Most bytes stored."""
    max_files: int | None = None
    requests_per_minute: int | None = None
    pages_per_minute: int | None = None
    bytes_per_minute: int | None = None
    """Most bytes uploaded in a minute."""
    weight: int | None = None
    """Its share of the engines where organisations compete, `LEAST_WEIGHT` to `MOST_WEIGHT`; None
    is `USUAL_WEIGHT`."""


LIMITS: Final = tuple(limit.name for limit in fields(OrgLimits))
"""The names of the limits, which are columns of the table, too."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling, and for which organisation."""

    org_id: str
    key_id: str | None = None
    """The API key that was shown; None for the local caller and for a signed link."""
    service: bool = False
    """Whether the key may act for any organisation."""
    scopes: frozenset[Scope] = frozenset()
    """What the key may do; checked where a request comes in, not by the functions behind it."""
    limits: OrgLimits = field(default=OrgLimits(), repr=False)


@dataclass(frozen=True, slots=True)
class OrgRecord:
    """An organisation, and what it has stored."""

    id: str
    name: str
    created_at: int
    """Unix seconds."""
    stored_bytes: int
    stored_files: int
    limits: OrgLimits


class Organisations:
    """Makes, finds and lists organisations: an operator's work, so no method takes a principal.

    Every method raises `StorageUnavailable` or `StorageFull` when the database does not answer.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def create(self, name: str, limits: OrgLimits | None = None) -> OrgRecord:
        """Make an organisation.

        Raises:
            AccountError: the name is taken, empty, too long, or looks like an id; or the weight
                cannot be.
        """
        name = checked_name(name)
        _check_weight(limits.weight if limits else None)
        if not name or is_id(name.lower()):
            raise AccountError("The name of an organisation is neither empty nor an id.")
        row = Organisation(
            id=new_id(),
            name=name,
            created_at=int(self._clock()),
            stored_bytes=0,
            stored_files=0,
            **asdict(limits or OrgLimits()),
        )
        await ensure_local(self._database)
        async with self._database.unit() as session:
            # One at a time, also where there are many writers: no index refuses a second name.
            first = select(Organisation.id).where(Organisation.id == LOCAL_ORG_ID)
            await session.execute(first.with_for_update(key_share=True))
            same = select(Organisation.id).where(Organisation.name == name).limit(1)
            if await session.scalar(same):
                raise AccountError(f"There is an organisation {name!r} already.")
            session.add(row)
        return org_record(row)

    async def find(self, id_or_name: str) -> OrgRecord:
        """Return the organisation that an id or a name means.

        Raises:
            AccountError: there is none.
        """
        lowered = id_or_name.lower()
        column, value = (
            (Organisation.id, lowered)
            if is_id(lowered)
            else (Organisation.name, checked_name(id_or_name))
        )
        async with self._database.read() as session:
            row = await session.scalar(select(Organisation).where(column == value).limit(1))
        if row is None:
            raise AccountError(f"There is no organisation {value!r}; see: recto orgs list")
        return org_record(row)

    async def list(self) -> list[OrgRecord]:
        """Return all organisations, oldest first."""
        async with self._database.read() as session:
            query = select(Organisation).order_by(Organisation.created_at, Organisation.id)
            return [org_record(row) for row in await session.scalars(query)]

    async def set_limits(self, org_id: str, changes: Mapping[str, int | None]) -> None:
        """Change some limits of an organisation; running servers feel it within 30 s.

        Args:
            org_id: the organisation, as `find` gave it.
            changes: by the names in `LIMITS`; None is the setting's limit, 0 no limit.

        Raises:
            AccountError: the weight cannot be.
        """
        if changes.keys() - set(LIMITS):
            raise KeyError("no such limit")
        _check_weight(changes.get("weight"))
        where = Organisation.id == org_id
        async with self._database.unit() as session:
            await session.execute(update(Organisation).where(where).values(dict(changes)))


def checked_name(name: str) -> str:
    """Return the name of an organisation or key without blanks around it.

    Raises:
        AccountError: it is too long, or has characters that cannot be printed.
    """
    name = name.strip()
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise AccountError(f"A name has at most {LONGEST_NAME} characters, all printable.")
    return name


def _check_weight(weight: int | None) -> None:
    if weight is not None and not LEAST_WEIGHT <= weight <= MOST_WEIGHT:
        raise AccountError(f"A weight is a number from {LEAST_WEIGHT} to {MOST_WEIGHT}.")


def org_record(row: Organisation) -> OrgRecord:
    """Return what a row says."""
    return OrgRecord(
        row.id, row.name, row.created_at, row.stored_bytes, row.stored_files, limits_of(row)
    )


def limits_of(row: Organisation) -> OrgLimits:
    """Return the limits that a row sets."""
    return OrgLimits(**{name: getattr(row, name) for name in LIMITS})


async def read_limits(database: Database, org_id: str) -> OrgLimits | None:
    """Return an organisation's limits as they are now; None when there is no such organisation.

    Raises:
        StorageUnavailable: the database does not answer.
    """
    async with database.read() as session:
        row = await session.get(Organisation, org_id)
    return limits_of(row) if row else None


async def ensure_local(database: Database) -> Principal:
    """Return the local organisation's principal; make the organisation on the first call.

    Raises:
        StorageUnavailable, StorageFull: the database cannot be read or written.
    """
    async with database.read() as session:
        known = await session.get(Organisation, LOCAL_ORG_ID)
    if known is not None:
        return Principal(LOCAL_ORG_ID, scopes=ALL_SCOPES, limits=limits_of(known))
    row = Organisation(id=LOCAL_ORG_ID, name="local", created_at=int(time.time()))
    try:
        async with database.unit() as session:
            session.add(row)
    except IntegrityError:
        pass  # another process was first
    return Principal(LOCAL_ORG_ID, scopes=ALL_SCOPES)
