"""Content tells the type, whatever anybody declares."""

from __future__ import annotations

import io
import struct

import pytest
from PIL import Image

from files_api.kit import sniff


def drawn(kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (3, 2), "white").save(out, kind, **options)
    return out.getvalue()[: sniff.HEAD_BYTES]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("PDF", "application/pdf"),
        ("PNG", "image/png"),
        ("JPEG", "image/jpeg"),
        ("WEBP", "image/webp"),
        ("GIF", "image/gif"),
        ("BMP", "image/bmp"),
        ("TIFF", "image/tiff"),
    ],
)
def test_real_files(kind: str, expected: str) -> None:
    head = drawn(kind)
    assert sniff.media_type(head) == expected
    assert sniff.guess(head) == expected
    assert expected in sniff.DOCUMENT_TYPES


def test_big_tiff() -> None:
    assert sniff.media_type(drawn("TIFF", big_tiff=True)) == "image/tiff"


def bitmap(header: int, planes: int = 1, pixels_at: int | None = None) -> bytes:
    sizes = "<HHHH" if header == 12 else "<iiHH"
    start = 14 + header if pixels_at is None else pixels_at
    head = b"BM" + struct.pack("<IHHI", 100, 0, 0, start) + struct.pack("<I", header)
    return (head + struct.pack(sizes, 3, 2, planes, 24)).ljust(200, b"\0")


@pytest.mark.parametrize("header", [12, 40, 52, 56, 64, 108, 124])
def test_every_bitmap_header(header: int) -> None:
    assert sniff.media_type(bitmap(header)) == "image/bmp"


@pytest.mark.parametrize(
    "head",
    [
        b"BM",
        b"BMW builds cars, and this is a plain text about them.",
        bitmap(41),
        bitmap(40, planes=0),
        bitmap(40, pixels_at=3),
        b"BM" + bytes(100),
    ],
)
def test_no_bitmaps(head: bytes) -> None:
    assert sniff.media_type(head) is None


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"%PDF-1.4", "application/pdf"),
        (b"\xef\xbb\xbf\r\n%PDF-1.7", "application/pdf"),
        (b"x" * 1019 + b"%PDF-", "application/pdf"),
        (b"x" * 1020 + b"%PDF-", None),
        (b"%PDX-1.4", None),
        (b"\x89PNG\r\n\x1a\n%PDF-1.4", "image/png"),
        (b"\x89PNG\n\x1a\n", None),
        (b"RIFF\x00\x00\x00\x00WAVE", None),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"GIF86a", None),
        (b"MM\x00*\x00\x00\x00\x08", "image/tiff"),
        (b"MM\x00+\x00\x08\x00\x00", "image/tiff"),
        (b"", None),
    ],
)
def test_magic(head: bytes, expected: str | None) -> None:
    assert sniff.media_type(head) == expected


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"", "application/octet-stream"),
        (b"\x00\x01\x02", "application/octet-stream"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/octet-stream"),
        (b"PK\x03\x04\x14\x00word/document.xml", "application/zip"),
        (b"PK\x05\x06" + bytes(18), "application/zip"),
        (b"<!DOCTYPE html><html>", "text/html"),
        (b"\xef\xbb\xbf \n<HTML lang='de'>", "text/html"),
        (b"<!-- a -->\n<!-- b -->\n<html>", "text/html"),
        (b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "x">', "text/html"),
        (b"<!doctype html><p>caf\xe9", "text/html"),
        (b"<svg xmlns='x'/>", "text/plain"),
        (b"<htmlx>", "text/plain"),
        (b'{"error": "expired"}', "application/json"),
        (b'  [\n {"a": 1}]', "application/json"),
        (b"{}", "application/json"),
        (b"{not json}", "text/plain"),
        (b"[1] A reference", "text/plain"),
        ("Grüße, 世界".encode(), "text/plain"),
        (("x" * 4095 + "ü").encode()[: sniff.HEAD_BYTES], "text/plain"),
        ("Grüße".encode("latin-1"), "application/octet-stream"),
        (b"tab\tline\r\nform\x0cfeed \x1b[0m", "text/plain"),
        (b"bell \x07", "application/octet-stream"),
    ],
)
def test_guess(head: bytes, expected: str) -> None:
    assert sniff.guess(head) == expected
