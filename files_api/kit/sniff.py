"""Tell what a file is from its first bytes; names and declared types are never believed.

Why: clients send `application/octet-stream` for everything, whole PDFs labelled `image/jpeg`,
and error pages named `.pdf`. Only the content says what a reader will meet.
"""

from __future__ import annotations

import codecs
import re

HEAD_BYTES = 4096
"""How many bytes of a file the functions here want to see; fewer are fine."""

PDF = "application/pdf"

DOCUMENT_TYPES: frozenset[str] = frozenset(
    {PDF, "image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp", "image/tiff"}
)
"""Media types that can be read as documents."""

# ISO 32000-1, annex H, note 13: readers accept the header anywhere in the first 1,024 bytes.
_PDF_WINDOW = 1024

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    # BigTIFF: version 43, offsets of 8 bytes, a zero.
    (b"II+\x00\x08\x00\x00\x00", "image/tiff"),
    (b"MM\x00+\x00\x08\x00\x00", "image/tiff"),
)
_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")

_BMP_CORE_HEADER = 12
# Sizes that a header after the 14 bytes of the file header has: OS/2 1 and 2, Windows 3, 4, 5.
_BMP_HEADERS = frozenset({_BMP_CORE_HEADER, 16, 40, 52, 56, 64, 108, 124})
_BMP_FILE_HEADER = 14

_HTML = re.compile(rb"\s*(?:<\?xml[^>]*>\s*|<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b")
_JSON = re.compile(r'\s*(?:\{\s*["}]|\[\s*[\[{"\]])')
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")


def media_type(head: bytes) -> str | None:
    """Return which of `DOCUMENT_TYPES` the file is, or None.

    Args:
        head: the first `HEAD_BYTES` bytes of the file, or all of a shorter one.
    """
    for magic, found in _MAGIC:
        if head.startswith(magic):
            return found
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    if _is_bmp(head):
        return "image/bmp"
    return PDF if b"%PDF-" in head[:_PDF_WINDOW] else None


def guess(head: bytes) -> str:
    """Return the best media type for any file, for its row and for error messages.

    Args:
        head: the first `HEAD_BYTES` bytes of the file, or all of a shorter one.

    Returns:
        One of `DOCUMENT_TYPES`, or text/html, application/zip (Office files too),
        application/json, text/plain (printable UTF-8), else application/octet-stream.
    """
    if known := media_type(head):
        return known
    if head.startswith(_ZIP):
        return "application/zip"
    bare = head.removeprefix(codecs.BOM_UTF8)
    text = _printable(bare)
    if _HTML.match(bare.lower()):
        return "text/html"
    if not text:
        return "application/octet-stream"
    return "application/json" if _JSON.match(text) else "text/plain"


def _is_bmp(head: bytes) -> bool:
    """Tell a bitmap from text that starts with BM: its header has a known size and one plane."""
    if not head.startswith(b"BM"):
        return False
    size = int.from_bytes(head[14:18], "little")
    planes_at = 22 if size == _BMP_CORE_HEADER else 26
    planes = int.from_bytes(head[planes_at : planes_at + 2], "little")
    pixels_at = int.from_bytes(head[10:14], "little")
    return size in _BMP_HEADERS and planes == 1 and pixels_at >= _BMP_FILE_HEADER + size


def _printable(head: bytes) -> str:
    """Return the head as text, or nothing where it is not UTF-8 or holds control characters."""
    try:
        # Not final: the head may end inside a character.
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return ""
    return "" if _CONTROL.search(text) else text
