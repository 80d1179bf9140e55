"""What is known about files: records, bytes that just came in, files that are open."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from files_api.kit import filenames
from files_api.kit.ids import seconds_of
from files_api.links import ParsedLink
from files_api.tables import StoredFileRow

Visibility = Literal["workspace", "user"]
SAMPLE_TYPES = {"batch": "batch_request", "fine-tune": "instruct"}
"""Mistral's ``sample_type`` by purpose; `OTHER_SAMPLE_TYPE` for every other purpose."""
OTHER_SAMPLE_TYPE = "ocr_input"
SOURCE = "upload"
"""Mistral's ``source`` of every file here."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What is known about a stored file. Times are unix seconds."""

    id: str
    org_id: str
    filename: str
    media_type: str
    purpose: str
    bytes: int
    sha256: str
    visibility: str
    created_at: int
    expires_at: int | None
    blob_key: str = field(repr=False)

    @property
    def sample_type(self) -> str:
        """Return Mistral's kind of sample."""
        return SAMPLE_TYPES.get(self.purpose, OTHER_SAMPLE_TYPE)


@dataclass(frozen=True, slots=True)
class Received:
    """Bytes that are stored under a fresh id and not yet a file: `keep` or `discard` them."""

    id: str
    blob_key: str
    """Empty when the bytes were only measured."""
    bytes: int
    sha256: str
    """Of the content, in hexadecimal."""
    media_type: str
    """Sniffed from the content."""
    began: float = 0.0
    """When the first byte was awaited, in unix seconds; 0 when nobody knows."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that is open for reading on this machine's disk."""

    id: str
    path: Path
    size: int
    """Bytes."""
    filename: str
    media_type: str
    """Sniffed from the content."""
    sha256: str
    """Of the content, in hexadecimal."""


@dataclass(frozen=True, slots=True)
class Download:
    """A file that somebody was let in to read."""

    record: FileRecord
    link: ParsedLink | None = field(default=None, repr=False)
    """The signed link that let them in."""


def new_record(
    org_id: str,
    received: Received,
    filename: str,
    purpose: str,
    visibility: Visibility = "workspace",
    expires_in: int | None = None,
) -> FileRecord:
    """Return the record of a file to be made of received bytes; pure, see `Files.keep`."""
    created = seconds_of(received.id)
    return FileRecord(
        id=received.id,
        org_id=org_id,
        filename=filenames.clean(filename),
        media_type=received.media_type,
        purpose=purpose,
        bytes=received.bytes,
        sha256=received.sha256,
        visibility=visibility,
        created_at=created,
        expires_at=None if expires_in is None else created + expires_in,
        blob_key=received.blob_key,
    )


def row_of(record: FileRecord, key_id: str | None) -> StoredFileRow:
    """Return the row of a record; ``key_id`` is the API key that uploaded the file."""
    return StoredFileRow(
        id=record.id,
        org_id=record.org_id,
        filename=record.filename,
        media_type=record.media_type,
        purpose=record.purpose,
        bytes=record.bytes,
        sha256=record.sha256,
        blob_key=record.blob_key,
        visibility=record.visibility,
        created_at=record.created_at,
        expires_at=record.expires_at,
        key_id=key_id,
    )


def record_of(row: StoredFileRow) -> FileRecord:
    """Return the record of a row."""
    return FileRecord(
        id=row.id,
        org_id=row.org_id,
        filename=row.filename,
        media_type=row.media_type,
        purpose=row.purpose,
        bytes=row.bytes,
        sha256=row.sha256,
        visibility=row.visibility,
        created_at=row.created_at,
        expires_at=row.expires_at,
        blob_key=row.blob_key,
    )
