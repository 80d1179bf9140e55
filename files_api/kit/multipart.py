"""multipart/form-data (RFC 7578) as a stream of events; holds one chunk of the body at most.

Why not FastAPI's ``UploadFile``: it spools the whole body to a temporary file before the route
runs. Here the first byte of a file is hashed and stored while the last one is still on its way.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from files_api.kit.errors import InvalidRequest

MAX_FIELD_BYTES = 64 * 1024
"""Longest value of a field that is not a file."""
MAX_PARTS = 100
MAX_HEADERS = 16
"""Most headers of one part."""
MAX_HEADER_BYTES = 8 * 1024
"""Longest headers of one part, names and values together."""

# RFC 2046, 5.1.1
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
_QUOTED = re.compile(rb'"(?:\\.|[^"\\])*"')
# RFC 8187 (was 5987): charset'language'percent-encoded. RFC 7578 forbids it here, clients send it.
_EXTENDED_NAME = re.compile(rb";\s*filename\*\s*=\s*([A-Za-z0-9-]+)'[^']*'([^;\s]*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Field:
    """A whole part without a file name."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class FileStart:
    """A part with a file name begins; `FileData` and one `FileEnd` follow."""

    name: str
    filename: str
    """As the client sent it, not cleaned; may be empty."""
    content_type: str
    """As the client declared it, or empty."""


@dataclass(frozen=True, slots=True)
class FileData:
    """The next bytes of the file, never empty."""

    data: bytes


@dataclass(frozen=True, slots=True)
class FileEnd:
    """The file is complete."""


Event = Field | FileStart | FileData | FileEnd


async def parts(chunks: AsyncIterator[bytes], content_type: str) -> AsyncGenerator[Event, None]:
    """Yield what a form holds, in the order it arrives.

    Args:
        chunks: the body, cut anywhere.
        content_type: the request's Content-Type, with the boundary.

    Raises:
        InvalidRequest: not a form, no boundary, broken or cut short, or beyond a limit.
    """
    reader = _Reader(_boundary(content_type))
    async for chunk in chunks:
        for event in reader.feed(chunk):
            yield event
    if not reader.ended:
        raise InvalidRequest("The multipart body ends before its last boundary.")


def _boundary(content_type: str) -> bytes:
    try:
        kind, options = parse_options_header(content_type)
    except ValueError:  # characters beyond latin-1
        kind, options = b"", {}
    if kind != b"multipart/form-data":
        raise InvalidRequest("The Content-Type must be multipart/form-data.")
    boundary = options.get(b"boundary", b"")
    if not _BOUNDARY.fullmatch(boundary):
        raise InvalidRequest("The Content-Type names no valid multipart boundary.")
    return boundary


class _Reader:
    """Turns the push parser's callbacks into events."""

    def __init__(self, boundary: bytes) -> None:
        self.ended = False
        self._events: list[Event] = []
        self._parts = 0
        self._headers: dict[bytes, bytes] = {}
        self._header_name = self._header_value = b""
        self._header_bytes = 0
        self._in_file = False
        self._field_name = ""
        self._value = bytearray()
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._add_to_header_name,
                "on_header_value": self._add_to_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._add_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Yield the events that the next chunk completes."""
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise InvalidRequest("The multipart body is malformed.") from None
        events, self._events = self._events, []
        yield from events

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise InvalidRequest(f"The form has more than {MAX_PARTS} parts.")
        self._headers = {}
        self._header_name = self._header_value = b""
        self._header_bytes = 0

    def _add_to_header_name(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._header_name += data[start:end]

    def _add_to_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._header_value += data[start:end]

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > MAX_HEADER_BYTES:
            raise InvalidRequest("A part of the form has headers that are too long.")

    def _end_header(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""
        if len(self._headers) > MAX_HEADERS:
            raise InvalidRequest("A part of the form has too many headers.")

    def _end_headers(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"")
        kind, options = parse_options_header(disposition)
        if kind != b"form-data" or b"name" not in options:
            raise InvalidRequest("A part of the form has no name.")
        self._field_name = _text(options[b"name"])
        self._value = bytearray()
        filename = _extended_name(disposition)
        if filename is None and b"filename" in options:
            filename = _text(options[b"filename"])
        self._in_file = filename is not None
        if filename is not None:
            declared = _text(self._headers.get(b"content-type", b""))
            self._events.append(FileStart(self._field_name, filename, declared))

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if start == end:
            return
        if self._in_file:
            self._events.append(FileData(data[start:end]))
            return
        self._value += data[start:end]
        if len(self._value) > MAX_FIELD_BYTES:
            raise InvalidRequest(
                f"The field {self._field_name[:64]!r} is longer than {MAX_FIELD_BYTES} bytes; "
                "a file needs a filename.",
            )

    def _end_part(self) -> None:
        if self._in_file:
            self._events.append(FileEnd())
        else:
            self._events.append(Field(self._field_name, _text(bytes(self._value))))

    def _end(self) -> None:
        self.ended = True


def _text(raw: bytes) -> str:
    """Return text that should be UTF-8, and is latin-1 where it is not."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _extended_name(disposition: bytes) -> str | None:
    """Return the ``filename*=`` of a Content-Disposition, or None."""
    bare = _QUOTED.sub(b'""', disposition)
    match = _EXTENDED_NAME.search(bare)
    if match is None or match[1].lower() not in {b"utf-8", b"iso-8859-1"}:
        return None
    try:
        return unquote_to_bytes(match[2]).decode(match[1].decode())
    except UnicodeDecodeError:
        return None
