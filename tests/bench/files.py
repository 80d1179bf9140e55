"""Bytes through the server over a plain copy of a file, and how fast one file's record is told.

Expected before the first run: an upload costs 3 times the CPU of a copy that hashes (the form is
taken apart in Python, and bytes cross the kernel twice more) and goes half as fast; a download
costs no more than the copy and is as fast, since it neither hashes nor syncs; PostgreSQL answers
0.7 times as many requests a second as SQLite, for its network and its second round trip.

Found: the first two are so. PostgreSQL answers 1.3 times as many where nothing else runs.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests import postgres
from tests.bench.processes import cpu_seconds
from tests.bench.table import Row
from tests.durability.process import Recto

MIB = 2**20
SIZE = 100 * 10**6
ROUNDS = 5
REQUESTS, AT_ONCE = 3000, 16
_BOUNDARY = "a-boundary-of-the-bench"

Times = tuple[float, float]
"""Seconds of the wall clock and of CPU."""


def measure(folder: Path) -> list[Row]:
    """Measure uploads, downloads, and requests on both databases."""
    source = folder / "source.bin"
    source.write_bytes(os.urandom(MIB) * (SIZE // MIB) + bytes(SIZE % MIB))
    with running(folder / "files") as recto:
        rows = _bytes(recto, source, folder)
        told = _requests_per_second(recto)
    return [*rows, _on_postgresql(folder, told)]


@contextmanager
def running(folder: Path, **settings: str) -> Iterator[Recto]:
    """Run a server with the fake engine alone."""
    recto = Recto(folder, LOG_LEVEL="ERROR", **settings)
    try:
        recto.upgrade()
        recto.start()
        yield recto
        recto.stop()
    finally:
        recto.close()


def _bytes(recto: Recto, source: Path, folder: Path) -> list[Row]:
    """Compare in turns, so that a busy machine changes all alike; medians of the rounds."""
    ups, downs, copies = [], [], []
    for _ in range(ROUNDS):
        copies.append(_timed(os.getpid(), lambda: copy(source, folder / "copy.bin")))
        ids: list[str] = []
        ups.append(_timed(recto.pid, lambda: ids.append(upload(recto.base, source))))  # noqa: B023
        downs.append(_timed(recto.pid, lambda: download(recto.base, ids[0])))  # noqa: B023
        _ask(recto.base, "DELETE", f"/v1/files/{ids[0]}")
    bare = _medians(copies)
    return [*_rows("upload", _medians(ups), bare), *_rows("download", _medians(downs), bare)]


def _rows(what: str, ours: Times, bare: Times) -> list[Row]:
    speed, bare_speed = (SIZE / 1e6 / wall for wall in (ours[0], bare[0]))
    return [
        Row(
            f"{what}, MB/s, over read + SHA-256 + write + fsync",
            f"{speed:.0f}",
            f"{bare_speed:.0f}",
            f"{speed / bare_speed:.2f}",
            "report",
        ),
        Row(
            f"{what}, CPU ms of the API process per 100 MB",
            f"{ours[1] * 1000:.0f}",
            f"{bare[1] * 1000:.0f}",
            f"{ours[1] / bare[1]:.2f}",
            "report",
        ),
    ]


def copy(source: Path, target: Path) -> None:
    """Read, hash, write, sync: what an upload cannot do without."""
    digest = hashlib.sha256()
    with source.open("rb") as reading, target.open("wb") as writing:
        while chunk := reading.read(MIB):
            digest.update(chunk)
            writing.write(chunk)
        writing.flush()
        os.fsync(writing.fileno())
    target.unlink()


def upload(base: str, source: Path) -> str:
    """Upload a file with as little work in the client as can be; return its id."""
    where = urlsplit(base)
    form = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    end = f"\r\n--{_BOUNDARY}--\r\n"
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: {where.netloc}\r\n"
        f"Content-Type: multipart/form-data; boundary={_BOUNDARY}\r\n"
        f"Content-Length: {len(form) + source.stat().st_size + len(end)}\r\n\r\n"
    )
    with socket.create_connection((where.hostname, where.port)) as line, source.open("rb") as file:
        line.sendall((head + form).encode())
        line.sendfile(file)
        line.sendall(end.encode())
        answer = http.client.HTTPResponse(line)
        answer.begin()
        assert answer.status == 200
        return str(json.loads(answer.read())["id"])


def download(base: str, file_id: str) -> None:
    """Download a file and forget it."""
    connection = http.client.HTTPConnection(urlsplit(base).netloc)
    connection.request("GET", f"/v1/files/{file_id}/content")
    answer = connection.getresponse()
    room, size = bytearray(MIB), 0
    while count := answer.readinto(room):
        size += count
    connection.close()
    assert (answer.status, size) == (200, SIZE)


def _ask(base: str, method: str, path: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(base).netloc)
    connection.request(method, path)
    assert connection.getresponse().status == 200
    connection.close()


def _timed(pid: int, work: Callable[[], object]) -> Times:
    cpu, wall = cpu_seconds(pid), time.perf_counter()
    work()
    return time.perf_counter() - wall, cpu_seconds(pid) - cpu


def _medians(times: list[Times]) -> Times:
    walls, cpus = zip(*times, strict=True)
    return statistics.median(walls), statistics.median(cpus)


def _on_postgresql(folder: Path, on_sqlite: float) -> Row:
    figure = f"GET /v1/files/{{id}} per second, {AT_ONCE} at a time, PostgreSQL over SQLite"
    try:
        with (
            postgres.for_session() as cluster,
            cluster.database() as url,
            running(folder / "postgresql", DATABASE_URL=url) as recto,
        ):
            told = _requests_per_second(recto)
    except pytest.skip.Exception:
        return Row(figure, "no PostgreSQL here", f"{on_sqlite:.0f}", "–", "report")
    return Row(figure, f"{told:.0f}", f"{on_sqlite:.0f}", f"{told / on_sqlite:.2f}", "report")


def _requests_per_second(recto: Recto) -> float:
    """Return the median of the rounds."""
    small = recto.data / "small.bin"
    small.write_bytes(b"small")
    path = f"/v1/files/{upload(recto.base, small)}"
    asyncio.run(_ask_often(recto.base, path, REQUESTS // 10))  # warm
    rates = [REQUESTS / asyncio.run(_ask_often(recto.base, path, REQUESTS)) for _ in range(3)]
    return statistics.median(rates)


async def _ask_often(base: str, path: str, times: int) -> float:
    """Ask over connections that stay open; return the seconds that it took."""
    where = urlsplit(base)
    request = f"GET {path} HTTP/1.1\r\nHost: {where.netloc}\r\n\r\n".encode()
    left = iter(range(times))

    async def one() -> None:
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        for _ in left:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            length = head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]
            await reader.readexactly(int(length))
        writer.close()
        await writer.wait_closed()

    begun = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(AT_ONCE)))
    return time.perf_counter() - begun
