"""What is known about files: records, bytes that just came in, files that are open."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

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
    bytes: int
    sha256: str
    media_type: str


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that is open for reading on this machine's disk."""

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
    """A file and its bytes."""

    record: FileRecord
    chunks: AsyncIterator[bytes]


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
