"""A source becomes a local file and a type: fetched, decoded, or the caller's own.

Why a file and not bytes: PDFium reads it from other processes, and a large document should not
stand in the memory of the process that answers requests.
"""

from __future__ import annotations

import asyncio
import binascii
import errno
import hashlib
import os
import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass
from io import BufferedWriter, FileIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

import pybase64

from files_api.accounts import Principal
from files_api.files import StoredFile
from files_api.kit import sniff
from files_api.kit.errors import (
    DocumentEmpty,
    FetchRefused,
    InvalidBase64,
    InvalidRequest,
    NotFound,
    StorageFull,
    StorageUnavailable,
    TooLarge,
    UnsupportedFormat,
)
from files_api.kit.room import Hold, Room
from ocr_api.outbound import Outbound
from ocr_api.request import FileSource, InlineSource, PathSource, Source, UrlSource

if TYPE_CHECKING:
    from typing_extensions import Buffer

_MAX_NAME = 255

# RFC 2397: data:[type][;params];base64,body. A quoted parameter may hold a comma.
_DATA_HEAD = re.compile(r'data:((?:[^",]|"[^"]*")*+),', re.IGNORECASE)
_IN_BASE64 = re.compile(r";\s*base64\s*$", re.IGNORECASE)
_PEEK_CHARS = 4096  # no head of a URI is longer; nor is more needed to tell a document
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)

_WHITE = " \t\r\n\f\v"
# The URL-safe alphabet (RFC 4648, section 5) is read like the usual one, white space is skipped
# (RFC 2045, section 6.8).
_USUAL = bytes.maketrans(b"-_", b"+/")
_UNUSUAL = tuple(f"-_{_WHITE}".encode())
# What encoders of URIs escape in base64; nothing else in it needs it.
_ESCAPED = {"%2B": "+", "%2F": "/", "%3D": "=", "%2D": "-", "%5F": "_"}
_ESCAPED_WHITE = ("%0A", "%0D", "%20", "%09")
_PIECE = 1 << 20  # characters decoded at once; the event loop can run in between

_LOOKS = {
    "text/html": "an HTML page",
    "application/zip": "a ZIP archive or an Office file",
    "application/json": "JSON",
    "text/plain": "plain text",
}
_SUPPORTED = "PDF, PNG, JPEG, WEBP, GIF, BMP, TIFF"


@dataclass(frozen=True, slots=True)
class Document:
    """A document on local disk, of a type that can be read."""

    path: Path
    media_type: str
    """One of `sniff.DOCUMENT_TYPES`, told from the content."""
    size: int
    """The document's true size in bytes."""
    name: str
    file_id: str | None = None
    """The stored file that it is, where it is one."""
    sha256: str | None = None
    """Of the content, in hexadecimal, where that is known; else see `digest`."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What a source names, before anybody looked into it."""

    path: Path
    size: int
    name: str
    file_id: str | None = None
    sha256: str | None = None
    head: bytes = b""
    """Its first bytes, where they are known."""


class OpensFiles(Protocol):
    """What documents need of the files service."""

    def open_file(
        self, principal: Principal, file_id: str
    ) -> AbstractAsyncContextManager[StoredFile]:
        """Open a file of the principal's organisation.

        Raises:
            InvalidFileId: the id is not a UUID.
            FileNotFound: the organisation has no such file.
        """
        ...

    def open_link(
        self, reader: Principal, url: str
    ) -> AbstractAsyncContextManager[StoredFile | None]:
        """Open the file behind one of our own signed links; None for anybody else's URL.

        Raises:
            InvalidLink: it is our link, but expired, altered, or its file is gone.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Visit:
    """What goes when a document is closed."""

    stack: AsyncExitStack
    hold: Hold
    """What its temporary files hold of the room."""


class _CountedFile(BufferedWriter):
    """A new file whose bytes are counted before they are written."""

    def __init__(self, descriptor: int, hold: Hold) -> None:
        super().__init__(FileIO(descriptor, "wb"))
        self._hold = hold

    def write(self, data: Buffer, /) -> int:
        self._hold.take(memoryview(data).nbytes)
        return super().write(data)


class Documents:
    """Opens what a request names.

    Args:
        files: the files service, for ids and our own links.
        outbound: the way out, for all other URLs.
        scratch: folder for temporary files; made where it is missing.
        max_bytes: largest document, in bytes.
        room: for the bytes of all temporary files.
    """

    def __init__(
        self, files: OpensFiles, outbound: Outbound, scratch: Path, max_bytes: int, room: Room
    ) -> None:
        self._files = files
        self._outbound = outbound
        self._scratch = scratch
        self._max_bytes = max_bytes
        self._room = room

    @asynccontextmanager
    async def open(self, source: Source, principal: Principal) -> AsyncIterator[Document]:
        """Give the document while the context is open; temporary files go when it closes.

        Raises:
            InvalidBase64: an inline document cannot be decoded.
            InvalidRequest: a file on this machine cannot be read.
            InvalidFileId: the file id is not a UUID.
            FileNotFound: the caller has no such file.
            InvalidLink: one of our own links is expired, altered, or its file is gone.
            FetchRefused: the URL is not allowed.
            FetchFailed: the URL cannot be fetched.
            DocumentEmpty: there are no bytes.
            TooLarge: there are more bytes than the limit.
            UnsupportedFormat: the content is not of a type that can be read.
            RateLimited, Overloaded: there is no room for its bytes.
        """
        async with AsyncExitStack() as stack:
            hold = stack.enter_context(self._room.hold(principal.org_id))
            try:
                found = await self._reach(source, principal, _Visit(stack, hold))
                document = await self._check(found)
            except (InvalidRequest, NotFound, TooLarge) as error:
                error.param = source.param
                raise
            del source  # what came inside a request is on disk now
            yield document

    async def _reach(self, source: Source, principal: Principal, visit: _Visit) -> _Found:
        """Return what the source names."""
        match source:
            case UrlSource(url):
                return await self._reach_url(url.strip(), principal, visit)
            case InlineSource(text):
                return await self._decode(text, visit)
            case FileSource(file_id):
                opening = self._files.open_file(principal, file_id)
                return _stored(await visit.stack.enter_async_context(opening))
            case PathSource(path):
                return _Found(path, await asyncio.to_thread(_size, path), path.name)

    async def _reach_url(self, url: str, principal: Principal, visit: _Visit) -> _Found:
        if url[:5].lower() == "data:":
            return await self._decode(url, visit)
        own = await visit.stack.enter_async_context(self._files.open_link(principal, url))
        if own is not None:
            return _stored(own)
        if not _SCHEME.match(url):
            if _is_bare_base64(url):
                return await self._decode(url, visit)
            raise FetchRefused("The document URL is not one: send an http, https or data: URL.")
        with self._temporary(visit) as (path, file):
            size = await self._outbound.fetch(url, file)
        return _Found(path, size, _name_in(url))

    async def _decode(self, text: str, visit: _Visit) -> _Found:
        with self._temporary(visit) as (path, file):
            return await asyncio.to_thread(_decode_to, path, text, file, self._max_bytes)

    @contextmanager
    def _temporary(self, visit: _Visit) -> Iterator[tuple[Path, BinaryIO]]:
        """Open a temporary file for writing; it is removed when the visit ends."""
        try:
            # Not its parents: a data folder that is gone must not come back half.
            self._scratch.mkdir(mode=0o700, exist_ok=True)
            # On the event loop: a cancelled thread could make a file that nobody removes.
            descriptor, name = tempfile.mkstemp(prefix="recto-", dir=self._scratch)
            path = Path(name)
            visit.stack.callback(path.unlink, missing_ok=True)
            with _CountedFile(descriptor, visit.hold) as file:
                yield path, file
        except OSError as error:
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            raise (StorageFull if full else StorageUnavailable)() from error

    async def _check(self, found: _Found) -> Document:
        """Return the document, or raise for what cannot be read."""
        path, size = found.path, found.size
        if size == 0:
            raise DocumentEmpty("The document is empty: it has 0 bytes.")
        _check_size(size, self._max_bytes)
        head = found.head or await asyncio.to_thread(_head, path)
        media_type = sniff.media_type(head)
        if media_type is None:
            looks = _LOOKS.get(sniff.guess(head), "something else")
            raise UnsupportedFormat(
                f"The document looks like {looks}. Supported formats: {_SUPPORTED}."
            )
        return Document(path, media_type, size, found.name, found.file_id, found.sha256)


async def digest(document: Document) -> str:
    """Return the SHA-256 of the content, in hexadecimal; found in a thread where it is not known.

    Raises:
        StorageUnavailable: the file cannot be read.
    """
    if document.sha256 is not None:
        return document.sha256
    return await asyncio.to_thread(_digest, document.path)


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StorageUnavailable from error


def _stored(file: StoredFile) -> _Found:
    return _Found(file.path, file.size, file.filename, file.id, file.sha256)


def _size(path: Path) -> int:
    """Return the size in bytes of a file that the person at the command line named."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_size
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}.") from error


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(sniff.HEAD_BYTES)
    except OSError as error:
        raise StorageUnavailable from error


def _name_in(url: str) -> str:
    """Return the last part of the URL's path as a name to show."""
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    return "".join(filter(str.isprintable, name))[:_MAX_NAME] or "document"


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise TooLarge(f"The document is larger than the {limit / 1_000_000:.4g} MB allowed.")


def _is_bare_base64(text: str) -> bool:
    """Tell whether the text begins like a document in base64, without reading the rest."""
    try:
        head = _clean(text[:_PEEK_CHARS])
        return sniff.media_type(_decode_piece(head[: len(head) // 4 * 4])) is not None
    except InvalidBase64:
        return False


def _decode_into(text: str, file: BinaryIO, limit: int) -> int:
    """Write what the ``data:`` URI or bare base64 holds; return the number of bytes.

    Strict in the alphabet, tolerant of line breaks, of the URL-safe alphabet and of missing
    padding. Nothing in an error repeats the text.
    """
    body = _body(text)
    if len(body) * 3 // 4 > limit:
        # Before any copy is made: a lower bound, so that white space and escapes cost nobody.
        skipped = sum(map(body.count, _WHITE)) + 3 * body.count("%")
        _check_size((len(body) - skipped) * 3 // 4 - 2, limit)
    body = _unescape(body).rstrip(_WHITE)
    bare = body.rstrip("=" + _WHITE)
    if "=" in bare:
        raise InvalidBase64  # padding in the middle: four characters of it may pass as the end
    total, carry = 0, b""
    for start in range(0, len(bare), _PIECE):
        piece = carry + _clean(bare[start : start + _PIECE])
        whole = len(piece) // 4 * 4
        carry = piece[whole:]
        _check_size(total + whole // 4 * 3, limit)
        total += file.write(_decode_piece(piece[:whole]))
    pads = body[len(bare) :].count("=")
    if len(carry) == 1 or pads not in {0, -len(carry) % 4}:
        raise InvalidBase64("The inline document is not valid base64: it is cut off.")
    _check_size(total + len(carry) * 3 // 4, limit)
    return total + file.write(_decode_piece(carry + b"=" * (-len(carry) % 4)))


def _decode_to(path: Path, text: str, file: BinaryIO, limit: int) -> _Found:
    """Write a document that came inside a request, and look at it: one visit to a thread."""
    size = _decode_into(text, file, limit)
    file.flush()
    return _Found(path, size, "document", sha256=_digest(path), head=_head(path))


def _body(text: str) -> str:
    """Return the base64 of a ``data:`` URI, or the text itself."""
    start = text[:_PEEK_CHARS].lstrip()
    if start[:5].lower() == "data:":
        head = _DATA_HEAD.match(start)
        if head is None or not _IN_BASE64.search(head[1]):
            raise InvalidBase64(
                "The data: URI is not in base64: send data:<type>;base64,<document>."
            )
        return text[min(len(text), _PEEK_CHARS) - len(start) + head.end() :]
    if start[:8].lower().startswith(("http://", "https://")):
        raise InvalidBase64("The inline document is a URL: send it as document_url.")
    return text


def _unescape(body: str) -> str:
    if "%" not in body:
        return body
    for escape, meant in (*_ESCAPED.items(), *((escape, "") for escape in _ESCAPED_WHITE)):
        body = body.replace(escape, meant).replace(escape.lower(), meant)
    return body


def _clean(piece: str) -> bytes:
    """Return the piece in the usual alphabet, without white space."""
    try:
        plain = piece.encode("ascii")
    except UnicodeEncodeError:
        raise InvalidBase64 from None
    if not any(mark in plain for mark in _UNUSUAL):
        return plain  # looking for each costs a tenth of a translation
    return plain.translate(_USUAL, _WHITE.encode())


def _decode_piece(piece: bytes) -> bytes:
    try:
        return pybase64.b64decode(piece, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidBase64 from None
