"""The table of what was used."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from files_api.kit.db import Base


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
