"""What was used, by whom: one row per request."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from files_api.accounts import Principal
from files_api.kit.db import Base, Database
from files_api.kit.ids import new_id
from ocr_api.result import Usage

Outcome = Literal["ok", "partial", "failed", "cancelled"]


class UsageRow(Base):
    """One request that reached an engine."""

    __tablename__ = "usage"
    __table_args__ = (Index("ix_usage_org_id_created_at", "org_id", "created_at"),)

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    org_id: Mapped[str] = mapped_column(String(36), ForeignKey("organisations.id"))
    key_id: Mapped[str | None] = mapped_column(String(36))
    request_id: Mapped[str] = mapped_column(String(128))
    created_at: Mapped[int]
    """Unix seconds, UTC."""
    model: Mapped[str] = mapped_column(String(200))
    """The public name that was asked for."""
    card: Mapped[str] = mapped_column(String(200))
    """The card that answered."""
    outcome: Mapped[str] = mapped_column(String(16))
    pages: Mapped[int]
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    document_bytes: Mapped[int]
    seconds: Mapped[float]
    """Wall-clock time of the whole request."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What one request used."""

    request_id: str
    model: str
    card: str
    outcome: Outcome
    pages: int
    """Pages that were read, also where the request failed later."""
    tokens: Usage
    document_bytes: int
    seconds: float


class UsageBook:
    """Writes usage rows, each in a unit of work of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, principal: Principal, entry: Entry) -> None:
        """Write one row for the caller's organisation.

        Raises:
            StorageUnavailable, StorageFull: the row could not be written.
        """
        row = UsageRow(
            id=new_id(),
            org_id=principal.org_id,
            key_id=principal.key_id,
            request_id=entry.request_id,
            created_at=int(time.time()),
            model=entry.model,
            card=entry.card,
            outcome=entry.outcome,
            pages=entry.pages,
            prompt_tokens=entry.tokens.prompt_tokens,
            completion_tokens=entry.tokens.completion_tokens,
            document_bytes=entry.document_bytes,
            seconds=round(entry.seconds, 3),
        )
        async with self._database.unit() as session:
            session.add(row)
