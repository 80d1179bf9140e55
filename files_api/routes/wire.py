"""The JSON of the Files API: one superset that every known client parses, all keys present."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from files_api.files import FileRecord, Filters, Listing
from files_api.files.records import SOURCE
from files_api.kit.errors import InvalidFileId
from files_api.kit.ids import check_id

Text = Annotated[str, Field(max_length=255)]
_MOST_PAGES = 10**9


class _Wire(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class FileObject(_Wire):
    """A file."""

    id: str
    """UUIDv7."""
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    """Unix seconds."""
    expires_at: int | None
    """Unix seconds."""
    filename: str
    purpose: str
    status: Literal["complete", "processed"]
    """`complete` in the answer to an upload for OCR, else `processed`."""
    status_details: None = None
    sample_type: str
    source: str
    num_lines: int | None = None
    mimetype: str
    """Sniffed from the content."""
    signature: str
    """SHA-256 of the content, in hexadecimal."""
    visibility: str
    deleted: Literal[False] = False


class FileList(_Wire):
    """A part of the list of files."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    total: int | None
    """How many files match in all; null when it was not asked for."""
    has_more: bool
    first_id: str | None
    last_id: str | None


class DeletedFile(_Wire):
    """What is left of a file."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class SignedUrl(_Wire):
    """A link that downloads a file without a key."""

    url: str
    expires_at: int
    """Unix seconds."""


class ListQuery(_Wire):
    """Which files to list."""

    page: Annotated[int, Field(ge=0, le=_MOST_PAGES)] | None = None
    """Number of the page, from 0 (Mistral)."""
    page_size: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Files on a page; 100 when only `page` is given (Mistral)."""
    include_total: bool | None = None
    """Whether to count all files that match; by default with numbered pages only."""
    after: str | None = None
    """The id before the first file that is wanted (OpenAI)."""
    limit: Annotated[int, Field(ge=1, le=10_000)] = 10_000
    """Most files to return (OpenAI)."""
    order: Literal["asc", "desc"] = "desc"
    """By time of upload (OpenAI)."""
    purpose: Text | None = None
    search: Text | None = None
    """Part of the file name."""
    sample_type: list[Text] | None = None
    source: list[Text] | None = None
    mimetypes: list[Text] | None = None

    @field_validator("after")
    @classmethod
    def _check_after(cls, value: str | None) -> str | None:
        try:
            return None if value is None else check_id(value)
        except InvalidFileId as error:
            raise ValueError(error.message) from None

    def filters(self) -> Filters:
        """Return the filters."""
        return Filters(
            purpose=self.purpose,
            search=self.search,
            sample_types=self.sample_type,
            sources=self.source,
            media_types=self.mimetypes,
        )


def file_object(
    record: FileRecord, status: Literal["complete", "processed"] = "processed"
) -> FileObject:
    """Return a record as clients see it."""
    return FileObject(
        id=record.id,
        bytes=record.bytes,
        created_at=record.created_at,
        expires_at=record.expires_at,
        filename=record.filename,
        purpose=record.purpose,
        status=status,
        sample_type=record.sample_type,
        source=SOURCE,
        mimetype=record.media_type,
        signature=record.sha256,
        visibility=record.visibility,
    )


def file_list(listing: Listing) -> FileList:
    """Return a listing as clients see it."""
    data = [file_object(record) for record in listing.records]
    return FileList(
        data=data,
        total=listing.total,
        has_more=listing.has_more,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
    )
