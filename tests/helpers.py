"""What the tests of the whole service share: documents, a web server, the usage rows."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from files_api.kit.room import Room
from tests import samples


def room(total: int = 1 << 40) -> Room:
    """Return room for so many bytes, of which one owner has half."""
    return Room("documents", total, total // 2, refusal="Too much.")


def pages_pdf(count: int) -> bytes:
    """Return a PDF with one short page for each number below ``count``."""
    return samples.text_pdf([f"This is page {number}." for number in range(count)])


def blank_pdf() -> bytes:
    """Return a PDF with one page and nothing on it."""
    return samples.page_pdf(b"")


def two_pictures_pdf() -> bytes:
    """Return a page with text, a red picture above it and a blue one below."""
    red, blue = (samples.colour_jpeg((400, 200), rgb) for rgb in ((220, 30, 30), (30, 30, 220)))
    return samples.picture_pdf(
        [(red, (400, 200), (50, 600, 200, 100)), (blue, (400, 200), (50, 100, 200, 100))],
        content=samples.line("Two pictures.", 72, 400),
    )


def bad_middle_pdf() -> bytes:
    """Return three pages; the second takes PDFium longer than any limit."""
    good = samples.line("Good page.", 72, 700)
    bomb = b"/N Do " * 20
    last = samples.stream(b"0 0 600 800 re f", b"/Type /XObject /Subtype /Form /BBox [0 0 600 800]")
    forms = [
        samples.stream(
            bomb,
            b"/Type /XObject /Subtype /Form /BBox [0 0 600 800]"
            b" /Resources << /XObject << /N %d 0 R >> >>" % (10 + level + 1),
        )
        for level in range(8)
    ]
    page = (
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R"
        b" /Resources << /Font << /F 8 0 R >> /XObject << /N 10 0 R >> >> >>"
    )
    return samples.pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R 4 0 R 5 0 R] /Count 3 >>",
            page % 6,
            page % 7,
            page % 6,
            samples.stream(good),
            samples.stream(bomb),
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
            b"null",
            *forms,
            last,
        ]
    )


@asynccontextmanager
async def serving(files: Mapping[str, bytes]) -> AsyncIterator[str]:
    """Serve these paths over HTTP on loopback; give the base URL."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
        body = files.get(path)
        status = b"200 OK" if body is not None else b"404 Not Found"
        head = b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        writer.write(head % (status, len(body or b"")) + (body or b""))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def usage_rows(database: Path) -> list[dict[str, Any]]:
    """Return the usage rows of a SQLite file, oldest first."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("SELECT * FROM usage ORDER BY id")]


def wait_for_usage(
    database: Path, wanted: Callable[[dict[str, Any]], bool], seconds: float = 20
) -> list[dict[str, Any]]:
    """Return the rows that are wanted, once there is one.

    Another process writes it, and tells nobody: looking again is all that can be done.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if rows := [row for row in usage_rows(database) if wanted(row)]:
            return rows
        time.sleep(0.05)
    raise AssertionError("no usage row came")
