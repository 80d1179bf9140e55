"""What is known about large uploads and their parts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, cast

from files_api.files import FileRecord
from files_api.tables import UploadPartRow, UploadRow

Status = Literal["pending", "completed", "cancelled", "expired"]


@dataclass(frozen=True, slots=True)
class UploadRecord:
    """What is known about an upload. Times are unix seconds."""

    id: str
    org_id: str
    filename: str
    purpose: str
    bytes: int
    """As declared."""
    created_at: int
    expires_at: int
    """When the upload ends if it is not completed."""
    file_expires_in: int | None
    """Seconds that the file will live."""
    status: Status
    file_id: str | None
    """The file it became, which may be deleted by now."""
    file: FileRecord | None = None
    """The file it became, while it is there."""

    def at(self, now: float) -> UploadRecord:
        """Return the record as it is now: its time ends it, whether it was swept or not."""
        late = self.status == "pending" and self.expires_at <= now
        return replace(self, status="expired") if late else self


@dataclass(frozen=True, slots=True)
class PartRecord:
    """What is known about a part of an upload. Times are unix seconds."""

    id: str
    upload_id: str
    bytes: int
    sha256: str
    """In hexadecimal."""
    created_at: int
    blob_key: str = field(repr=False)


def upload_of(row: UploadRow) -> UploadRecord:
    """Return the record of a row."""
    return UploadRecord(
        id=row.id,
        org_id=row.org_id,
        filename=row.filename,
        purpose=row.purpose,
        bytes=row.bytes,
        created_at=row.created_at,
        expires_at=row.expires_at,
        file_expires_in=row.file_expires_in,
        status=cast(Status, row.status),
        file_id=row.file_id,
    )


def part_of(row: UploadPartRow) -> PartRecord:
    """Return the record of a row."""
    return PartRecord(
        id=row.id,
        upload_id=row.upload_id,
        bytes=row.bytes,
        sha256=row.sha256,
        created_at=row.created_at,
        blob_key=row.blob_key,
    )
