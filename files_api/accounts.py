"""Organisations, and who is calling: the principal that every function with tenant data takes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from sqlalchemy.exc import IntegrityError

from files_api.kit.db import Database
from files_api.tables import Organisation

LOCAL_ORG_ID: Final = "00000000-0000-7000-8000-000000000001"
"""The one organisation while no keys are configured; a UUIDv7 of the first second of 1970."""

Scope = Literal["files:read", "files:write", "ocr", "admin"]
"""What a key may do; ``admin`` is all of it, and what concerns every organisation."""
ALL_SCOPES: Final[frozenset[Scope]] = frozenset(get_args(Scope))


@dataclass(frozen=True, slots=True)
class OrgLimits:
    """What an organisation may store and do; None is the setting's limit, 0 no limit."""

    max_bytes: int | None = None
    """Most bytes stored."""
    max_files: int | None = None
    requests_per_minute: int | None = None
    pages_per_minute: int | None = None
    bytes_per_minute: int | None = None
    """Most bytes uploaded in a minute."""


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


async def ensure_local(database: Database) -> Principal:
    """Return the local organisation's principal; make the organisation on the first call.

    Raises:
        StorageUnavailable, StorageFull: the database cannot be read or written.
    """
    async with database.read() as session:
        known = await session.get(Organisation, LOCAL_ORG_ID)
    if known is None:
        row = Organisation(id=LOCAL_ORG_ID, name="local", created_at=int(time.time()))
        try:
            async with database.unit() as session:
                session.add(row)
        except IntegrityError:
            pass  # another process was first
    return Principal(LOCAL_ORG_ID, scopes=ALL_SCOPES)
