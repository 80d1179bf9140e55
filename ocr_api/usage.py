"""What was used, by whom: one row per request."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
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
    """Pages that were read for this request."""
    prompt_tokens: Mapped[int]
    """Charged, as the next."""
    completion_tokens: Mapped[int]
    document_bytes: Mapped[int]
    seconds: Mapped[float]
    """Wall-clock time of the whole request."""
    pages_reused: Mapped[int] = mapped_column(default=0, server_default="0")
    """Pages that were read before, and not again."""
    pages_failed: Mapped[int] = mapped_column(default=0, server_default="0")
    reused_prompt_tokens: Mapped[int] = mapped_column(default=0, server_default="0")
    """What the reused pages took when they were read, as the next."""
    reused_completion_tokens: Mapped[int] = mapped_column(default=0, server_default="0")
    wasted_prompt_tokens: Mapped[int] = mapped_column(default=0, server_default="0")
    """Of answers that were thrown away, as the next."""
    wasted_completion_tokens: Mapped[int] = mapped_column(default=0, server_default="0")


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
    """Charged: of the answers that the pages read are made of."""
    document_bytes: int
    seconds: float
    pages_reused: int = 0
    """Pages that were read before, and not again."""
    pages_failed: int = 0
    reused: Usage = field(default=Usage())
    """What the reused pages took when they were read."""
    wasted: Usage = field(default=Usage())
    """Of answers that were thrown away."""


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
            pages_reused=entry.pages_reused,
            pages_failed=entry.pages_failed,
            reused_prompt_tokens=entry.reused.prompt_tokens,
            reused_completion_tokens=entry.reused.completion_tokens,
            wasted_prompt_tokens=entry.wasted.prompt_tokens,
            wasted_completion_tokens=entry.wasted.completion_tokens,
        )
        async with self._database.unit() as session:
            session.add(row)
