"""The tables of the files service: organisations and files. Times are unix seconds, UTC."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from files_api.kit.db import Base


class Organisation(Base):
    """A tenant: everything that is stored belongs to one."""

    __tablename__ = "organisations"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[int]


class StoredFileRow(Base):
    """A file whose bytes are in the blob store. The row is written after the blob."""

    __tablename__ = "files"
    __table_args__ = (Index(None, "org_id", "created_at", "id"),)

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    org_id: Mapped[str] = mapped_column(String(36), ForeignKey("organisations.id"))
    filename: Mapped[str] = mapped_column(String(255))
    """As the client named it, cleaned; never part of a path or key."""
    media_type: Mapped[str] = mapped_column(String(127))
    """Sniffed from the content, not what the client declared."""
    purpose: Mapped[str] = mapped_column(String(64))
    bytes: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    """Of the content, in hexadecimal."""
    blob_key: Mapped[str] = mapped_column(String(255))
    visibility: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[int]
    """The second that the id carries, so that an id alone is a place in the list."""
    expires_at: Mapped[int | None]
    key_id: Mapped[str | None] = mapped_column(String(36))
    """The API key that uploaded the file."""
