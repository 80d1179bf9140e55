"""The tables of the files service. Times are unix seconds, UTC; a limit of null is the setting's.

Migrations follow expand and contract: what a running older version reads stays, and new columns
are null or have a default that the database itself fills in.
"""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from files_api.kit.db import Base


class Organisation(Base):
    """A tenant: everything that is stored belongs to one."""

    __tablename__ = "organisations"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[int]
    stored_bytes: Mapped[int] = mapped_column(default=0, server_default="0")
    """Of its files, and what its pending uploads declared; changed with them, in one unit."""
    stored_files: Mapped[int] = mapped_column(default=0, server_default="0")
    """Its files and pending uploads."""
    max_bytes: Mapped[int | None]
    """Most bytes stored."""
    max_files: Mapped[int | None]
    requests_per_minute: Mapped[int | None]
    pages_per_minute: Mapped[int | None]
    bytes_per_minute: Mapped[int | None]
    """Most bytes uploaded in a minute."""
    weight: Mapped[int | None]
    """Its share of what all compete for, beside the others'; null is 100."""


class Installation(Base):
    """Which database this is: one row. A copy from a backup is the same installation."""

    __tablename__ = "installation"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    """Made at random; the blob store's marker names it."""
    created_at: Mapped[int]


class ApiKeyRow(Base):
    """An API key. The secret is not here: only what checks it. Rows are never deleted."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    """The part of the key that is no secret: 16 hexadecimal digits."""
    org_id: Mapped[str] = mapped_column(String(36), ForeignKey("organisations.id"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    mac: Mapped[str] = mapped_column(String(64))
    """HMAC-SHA256 of the secret under the pepper, in hexadecimal."""
    pepper: Mapped[str] = mapped_column(String(12))
    """Which pepper: it changes with the master secret."""
    scopes: Mapped[str] = mapped_column(String(200))
    """Separated by spaces."""
    service: Mapped[bool]
    """Whether it may act for any organisation."""
    created_at: Mapped[int]
    expires_at: Mapped[int | None]
    revoked_at: Mapped[int | None]
    last_used_at: Mapped[int | None]
    """Within some minutes."""


class StoredFileRow(Base):
    """A file whose bytes are in the blob store. The row is written after the blob."""

    __tablename__ = "files"
    __table_args__ = (Index(None, "org_id", "created_at", "id"), Index(None, "expires_at"))

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


class UploadRow(Base):
    """A large upload that comes in parts. Until it is completed there is no file."""

    __tablename__ = "uploads"
    __table_args__ = (Index(None, "status", "expires_at"),)

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    org_id: Mapped[str] = mapped_column(String(36), ForeignKey("organisations.id"))
    key_id: Mapped[str | None] = mapped_column(String(36))
    filename: Mapped[str] = mapped_column(String(255))
    declared_type: Mapped[str] = mapped_column(String(127))
    """As the client declared it; the file's own is sniffed."""
    purpose: Mapped[str] = mapped_column(String(64))
    bytes: Mapped[int]
    """As declared: what the parts must add up to. Counted in the quota from the beginning."""
    created_at: Mapped[int]
    expires_at: Mapped[int]
    """When the upload ends if it is not completed."""
    file_expires_in: Mapped[int | None]
    """Seconds that the file will live."""
    status: Mapped[str] = mapped_column(String(16))
    """``pending``, ``completed``, ``cancelled`` or ``expired``."""
    file_id: Mapped[str | None] = mapped_column(String(36))
    """The file it became, which may be deleted by now."""


class UploadPartRow(Base):
    """A part of a large upload; its bytes are a blob of their own until the upload ends."""

    __tablename__ = "upload_parts"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    upload_id: Mapped[str] = mapped_column(String(36), ForeignKey("uploads.id"), index=True)
    bytes: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    blob_key: Mapped[str] = mapped_column(String(255))
    created_at: Mapped[int]


class IdempotencyRow(Base):
    """What a POST with an ``Idempotency-Key`` answered, or that one is being worked on."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index(None, "claimed_at"),)

    org_id: Mapped[str] = mapped_column(
        String(36), ForeignKey("organisations.id"), primary_key=True
    )
    route: Mapped[str] = mapped_column(String(200), primary_key=True)
    """Method and path, with the ids in it."""
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    claim: Mapped[str] = mapped_column(String(36))
    """Who is working on it: only the claim that stands here may write the answer."""
    claimed_at: Mapped[int]
    fingerprint: Mapped[str | None] = mapped_column(String(64))
    """SHA-256 of what was asked, in hexadecimal; null while it is being worked on."""
    answer: Mapped[str | None] = mapped_column(Text)
    """The JSON of the answer; null while it is being worked on."""
